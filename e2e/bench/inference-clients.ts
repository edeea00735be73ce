import { Agent, request } from 'node:http';

/** Asks a server from many connections at once, as its parent says; see `inference.ts`. */
interface Task {
  readonly url: string;
  readonly wire: 'json' | 'tensor';
  readonly clients: number;
  readonly requests: number;
  readonly sample: readonly number[];
}

async function ask(task: Task, agent: Agent, body: Buffer): Promise<void> {
  const headers =
    task.wire === 'json'
      ? { 'Content-Type': 'application/json' }
      : {
          'Content-Type': 'application/octet-stream',
          'x-shoal-dtype': 'float32',
          'x-shoal-shape': `1,${task.sample.length}`,
        };
  await new Promise<void>((resolve, reject) => {
    const sent = request(task.url, { method: 'POST', agent, headers }, (response) => {
      response.resume();
      response.on('end', () =>
        response.statusCode === 200 ? resolve() : reject(new Error(`HTTP ${response.statusCode}`)),
      );
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

async function run(task: Task): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: task.clients });
  const body =
    task.wire === 'json'
      ? Buffer.from(JSON.stringify({ data: [task.sample] }))
      : Buffer.from(Float32Array.from(task.sample).buffer);
  const times: number[] = [];
  let next = 0;
  const startedAt = performance.now();
  const client = async (): Promise<void> => {
    while (next++ < task.requests) {
      const askedAt = performance.now();
      await ask(task, agent, body);
      times.push(performance.now() - askedAt);
    }
  };
  await Promise.all(Array.from({ length: task.clients }, client));
  const rate = (task.requests / (performance.now() - startedAt)) * 1000;
  agent.destroy();
  process.send?.({ rate, times });
}

process.once('message', (task: Task) => void run(task));
