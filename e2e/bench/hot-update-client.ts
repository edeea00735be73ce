import { Agent, request } from 'node:http';

/** Sends requests at fixed times, whatever the answers do; see `hot-update.ts`. */
interface Task {
  readonly url: string;
  /** Requests a second. */
  readonly rate: number;
  readonly seconds: number;
  /** When the first is due. */
  readonly startedAt: number;
  readonly sample: readonly number[];
}

async function run({ url, rate, seconds, startedAt, sample }: Task): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 });
  const body = Buffer.from(JSON.stringify({ data: [sample] }));
  const headers = { 'Content-Type': 'application/json', 'Content-Length': body.length };
  const ask = (due: number): Promise<{ due: number; ms: number; ok: boolean; label: number }> =>
    new Promise((resolve) => {
      const done = (ok: boolean, label: number): void =>
        resolve({
          due: due - startedAt,
          ms: performance.timeOrigin + performance.now() - due,
          ok,
          label,
        });
      const sent = request(url, { method: 'POST', agent, headers, timeout: 10_000 }, (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => (text += chunk.toString()));
        response.on('end', () => {
          const label = /"label":(\d+)/.exec(text)?.[1];
          done(response.statusCode === 200 && label !== undefined, Number(label));
        });
      });
      sent.on('timeout', () => sent.destroy());
      sent.on('error', () => done(false, -1));
      sent.end(body);
    });
  const answers: ReturnType<typeof ask>[] = [];
  for (let i = 0; i < rate * seconds; i++) {
    const due = startedAt + (i * 1000) / rate;
    const wait = due - (performance.timeOrigin + performance.now());
    if (wait > 0.5) await new Promise((resolve) => setTimeout(resolve, wait));
    answers.push(ask(due));
  }
  process.send?.(await Promise.all(answers));
  agent.destroy();
}

process.once('message', (task: Task) => void run(task));
