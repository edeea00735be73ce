import { createWriteStream } from 'node:fs';
import { Worker } from 'node:worker_threads';
import type { PlannedCase } from '../plan/planned-case.ts';
import type { CaseMessage } from './outcome.ts';

// One case in a process of its own: the case comes as a line on standard input, what it says goes to file
// descriptor 3. Standard input stays open as a leash: when whoever started the case is gone, it ends.
// A case that never comes back to the event loop would not notice: another thread does.
const WATCH = `
const parent = process.ppid;
setInterval(() => { if (process.ppid !== parent) process.kill(process.pid, 'SIGKILL'); }, 1000);
`;
new Worker(WATCH, { eval: true }).unref();

// Loaded while the case is still being waited for.
const loading = import('./run-case.ts');

const RESULT_FD = 3;
const results = createWriteStream('', { fd: RESULT_FD });

function say(message: CaseMessage): void {
  results.write(`${JSON.stringify(message)}\n`);
}

let buffered = '';
let started = false;
process.stdin.setEncoding('utf8');
process.stdin.on('data', (chunk: string) => {
  buffered += chunk;
  const end = buffered.indexOf('\n');
  if (end < 0 || started) return;
  started = true;
  void run(JSON.parse(buffered.slice(0, end)) as PlannedCase);
});
process.stdin.once('end', () => process.exit(1));

async function run(planned: PlannedCase): Promise<void> {
  const stop = new AbortController();
  process.once('SIGTERM', () => stop.abort());
  try {
    const { runCase } = await loading;
    const outcome = await runCase(planned, {
      signal: stop.signal,
      environment: process.env,
      progress: (share, what = '') => say({ kind: 'progress', share, text: what }),
    });
    say({ kind: 'done', outcome });
    results.end(() => process.exit(0));
  } catch (error) {
    process.stderr.write(
      `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    );
    process.exit(1);
  }
}
