import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { compileCacheVariable, messageOf } from '@shoal/core';
import type { CaseMessage, CaseOutcome } from '../case-process/outcome.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import { blackened, secretsOf } from '../plan/secrets.ts';
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
/** What a case printed last may still be on its way when it has ended. */
const DRAIN_MS = 300;
const TAIL_CHARACTERS = 4_000;

/** Variables under which numeric libraries of a module would take more than one core. */
const ONE_THREAD = { OMP_NUM_THREADS: '1', OPENBLAS_NUM_THREADS: '1', MKL_NUM_THREADS: '1' };

/** Signals a case and everything it started, which outlives it in its process group. */
function signalGroup({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // Nothing of it is left.
  }
}

function isOver({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

/** Lines of a stream as they come, the unfinished last one too when it ends. */
function onLines(stream: Readable, take: (line: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('error', () => undefined);
  stream.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) take(line);
  });
  stream.once('end', () => {
    if (rest !== '') take(rest);
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
  // A full disk takes the log, not the case.
  file.on('error', () => undefined);
  let tail = '';
  for (const stream of streams)
    onLines(stream, (line) => {
      const text = `${blackened(line, secrets)}\n`;
      file.write(text);
      tail = (tail + text).slice(-TAIL_CHARACTERS);
    });
  return () => {
    file.end();
    return tail;
  };
}

/** What went wrong: how it ended, and the line that says why rather than the frames below it. */
function reasonOf(tail: string, code: number | null, signal: string | null): string {
  const how = signal === null ? `ended with code ${code}` : `was ended by ${signal}`;
  const lines = tail.split('\n').filter((l) => l.trim() !== '' && !/^\s+at /.test(l));
  const why = signal === null ? lines.findLast((l) => /\b\w*error\b/i.test(l)) : undefined;
  const said = (why ?? lines.at(-1))?.trim();
  return said === undefined ? `the case ${how} and said nothing` : `${said} (the case ${how})`;
}

function started(): ChildProcess {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN], {
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    detached: true,
    env: { ...process.env, ...ONE_THREAD, ...compileCacheVariable() },
  });
  // Told to whoever runs a case in it; one that waits just ends.
  child.on('error', () => undefined);
  for (const stream of child.stdio ?? []) stream?.on('error', () => undefined);
  return child;
}

/** Processes that have loaded what cases need before their case comes. Each runs one case. */
export class CaseProcesses {
  readonly #spare: ChildProcess[] = [];

  /** A process for a case. @param more Whether another will be asked for: it begins to load now. */
  take(more: boolean): ChildProcess {
    let child = this.#spare.shift();
    while (child && (isOver(child) || child.pid === undefined)) child = this.#spare.shift();
    child ??= started();
    if (more && this.#spare.length === 0) this.#spare.push(started());
    return child;
  }

  close(): void {
    for (const child of this.#spare.splice(0)) signalGroup(child, 'SIGKILL');
  }
}

/** Resolves when a process has ended, whatever holds its pipes; it and all it started are gone then. */
function ended(child: ChildProcess): Promise<{ code: number | null; signal: string | null }> {
  return new Promise((resolve) => {
    const finish = (): void => {
      signalGroup(child, 'SIGKILL');
      const { exitCode: code, signalCode: signal } = child;
      const drained = setTimeout(() => {
        for (const stream of child.stdio ?? []) stream?.destroy();
        resolve({ code, signal });
      }, DRAIN_MS);
      child.once('close', () => {
        clearTimeout(drained);
        resolve({ code, signal });
      });
    };
    if (isOver(child) || child.pid === undefined) finish();
    else child.once('exit', finish);
  });
}

/** Runs a case in a process of its own. It never throws: how the case ended is the result. */
export async function runInProcess(
  planned: PlannedCase,
  options: CaseRunnerOptions,
): Promise<CaseEnd> {
  const startedAt = performance.now();
  const seconds = (): number => (performance.now() - startedAt) / 1000;
  try {
    return { ...(await run(planned, options)), seconds: seconds() };
  } catch (error) {
    const secrets = secretsOf(planned, process.env);
    const why = blackened(messageOf(error), secrets);
    return { state: 'failed', error: `no process for the case: ${why}`, seconds: seconds() };
  }
}

/** What a case says in a line; undefined for one it could not write to the end. */
function messageOfLine(line: string): CaseMessage | undefined {
  try {
    return JSON.parse(line) as CaseMessage;
  } catch {
    return undefined;
  }
}

async function run(
  planned: PlannedCase,
  options: CaseRunnerOptions,
): Promise<Omit<CaseEnd, 'seconds'>> {
  const { timeLimitSeconds, log, signal, onProgress } = options;
  const child = options.process ?? started();
  const [stdin, stdout, stderr, results] = child.stdio ?? [];
  if (child.pid === undefined || !results) throw new Error('it could not be started');
  const tail = logTo(log, [stdout, stderr] as Readable[], secretsOf(planned, process.env));
  let outcome: CaseOutcome | undefined;
  onLines(results as Readable, (line) => {
    const message = messageOfLine(line);
    if (message?.kind === 'done') outcome = message.outcome;
    else if (message) onProgress?.(message.share, message.text);
  });
  let late = false;
  const stop = (): void => {
    signalGroup(child, 'SIGTERM');
    setTimeout(() => signalGroup(child, 'SIGKILL'), GRACE_MS).unref();
  };
  const limit = setTimeout(() => {
    late = true;
    stop();
  }, timeLimitSeconds * 1000);
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  stdin?.write(`${JSON.stringify(planned)}\n`);
  const { code, signal: by } = await ended(child);
  clearTimeout(limit);
  signal.removeEventListener('abort', stop);
  const said = tail();
  if (outcome) return { state: 'done', outcome };
  if (late)
    return {
      state: 'timeout',
      error: `took longer than ${timeLimitSeconds} s; raise time_limit_seconds, or see ${log}`,
    };
  return { state: 'failed', error: reasonOf(said, code, by) };
}
