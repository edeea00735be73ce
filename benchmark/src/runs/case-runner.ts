import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import type { CaseMessage, CaseOutcome } from '../case-process/outcome.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import { REDACTED, secretsOf } from '../plan/secrets.ts';
import type { CaseState } from './store.ts';

export interface CaseEnd {
  readonly state: CaseState;
  readonly outcome?: CaseOutcome;
  readonly error?: string;
  readonly seconds: number;
}

export interface CaseRunnerOptions {
  readonly timeLimitSeconds: number;
  /** File for what the case prints. */
  readonly log: string;
  readonly signal: AbortSignal;
  readonly onProgress?: (share: number, text: string) => void;
  /** A process that has loaded already; default one made now. */
  readonly process?: ChildProcess;
}

const MAIN = join(import.meta.dirname, '../case-process/main.ts');
const GRACE_MS = 2_000;
const TAIL_CHARACTERS = 4_000;
const CACHE = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'shoal', 'compiled');

/** Variables under which numeric libraries of a module would take more than one core. */
const ONE_THREAD = { OMP_NUM_THREADS: '1', OPENBLAS_NUM_THREADS: '1', MKL_NUM_THREADS: '1' };

/** Ends a case and everything it started. */
function end(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // It has just ended.
  }
}

/** Lines of JSON as they come. */
function onMessages(stream: Readable, take: (message: CaseMessage) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) take(JSON.parse(line) as CaseMessage);
  });
}

/** What a case printed, secrets blacked out, into a file; and its last part. */
function logTo(
  path: string,
  streams: readonly Readable[],
  secrets: readonly string[],
): () => string {
  mkdirSync(dirname(path), { recursive: true });
  const file = createWriteStream(path);
  let tail = '';
  for (const stream of streams) {
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => {
      const text = secrets.reduce((t, secret) => t.replaceAll(secret, REDACTED), chunk);
      file.write(text);
      tail = (tail + text).slice(-TAIL_CHARACTERS);
    });
  }
  return () => {
    file.end();
    return tail;
  };
}

/** The line that says what went wrong: the first of a stack, not its frames. */
function reasonOf(tail: string, code: number | null, signal: string | null): string {
  const lines = tail.split('\n').filter((l) => l.trim() !== '' && !/^\s+at /.test(l));
  const said = lines.findLast((l) => /error/i.test(l)) ?? lines.at(-1);
  const how = signal === null ? `ended with code ${code}` : `was ended by ${signal}`;
  return said === undefined ? `the case ${how} and said nothing` : said.trim();
}

function started(): ChildProcess {
  return spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN], {
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    detached: true,
    env: { ...process.env, ...ONE_THREAD, SHOAL_COMPILE_CACHE: CACHE },
  });
}

/** Processes that have loaded what cases need before their case comes. Each runs one case. */
export class CaseProcesses {
  readonly #spare: ChildProcess[] = [];

  /** A process for a case. @param more Whether another will be asked for: it begins to load now. */
  take(more: boolean): ChildProcess {
    const child = this.#spare.shift() ?? started();
    if (more && this.#spare.length === 0) this.#spare.push(started());
    return child;
  }

  close(): void {
    for (const child of this.#spare.splice(0)) end(child, 'SIGKILL');
  }
}

/** Runs a case in a process of its own. It never throws: how the case ended is the result. */
export function runInProcess(planned: PlannedCase, options: CaseRunnerOptions): Promise<CaseEnd> {
  const { timeLimitSeconds, log, signal, onProgress } = options;
  const startedAt = performance.now();
  const child = options.process ?? started();
  const [stdin, stdout, stderr, results] = child.stdio;
  const secrets = secretsOf(planned).filter((s) => s.length > 3);
  const tail = logTo(log, [stdout, stderr] as Readable[], secrets);
  let outcome: CaseOutcome | undefined;
  onMessages(results as Readable, (message) => {
    if (message.kind === 'done') outcome = message.outcome;
    else onProgress?.(message.share, message.text);
  });
  let late = false;
  const stop = (): void => {
    end(child, 'SIGTERM');
    setTimeout(() => end(child, 'SIGKILL'), GRACE_MS).unref();
  };
  const limit = setTimeout(() => {
    late = true;
    stop();
  }, timeLimitSeconds * 1000);
  signal.addEventListener('abort', stop, { once: true });
  stdin?.on('error', () => undefined);
  stdin?.write(`${JSON.stringify(planned)}\n`);
  return new Promise((resolve) => {
    const finish = (code: number | null, by: string | null): void => {
      clearTimeout(limit);
      signal.removeEventListener('abort', stop);
      const said = tail();
      const seconds = (performance.now() - startedAt) / 1000;
      if (outcome) return resolve({ state: 'done', outcome, seconds });
      if (late)
        return resolve({
          state: 'timeout',
          error: `took longer than ${timeLimitSeconds} s; raise time_limit_seconds, or see ${log}`,
          seconds,
        });
      resolve({ state: 'failed', error: reasonOf(said, code, by), seconds });
    };
    child.once('error', (error) => finish(null, error.message));
    child.once('close', finish);
  });
}
