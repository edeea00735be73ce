import { type ChildProcess, fork } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { compileCacheVariable, ShoalError } from '@shoal/core';

export interface ProcessSpec {
  readonly name: string;
  /** File to run with Node. */
  readonly entry: string;
  readonly environment: Readonly<Record<string, string>>;
  /** Options of Node itself. */
  readonly nodeOptions?: readonly string[];
}

const RESTART_BASE_MS = 200;
const RESTART_CAP_MS = 10_000;
const STABLE_MS = 30_000;
const STOP_MS = 12_000;
/** A process that fails this often right away will not come up: say so instead of trying on. */
const HOPELESS = 4;

/** One process of the cluster: started again when it dies, ended with the supervisor. */
export class SupervisedProcess {
  readonly spec: ProcessSpec;
  readonly #logDir: string;
  readonly #onHopeless: (error: ShoalError) => void;
  #child: ChildProcess | undefined;
  #stopping = false;
  #quickDeaths = 0;
  #timer: NodeJS.Timeout | undefined;
  restarts = 0;

  constructor(spec: ProcessSpec, logDir: string, onHopeless: (error: ShoalError) => void) {
    this.spec = spec;
    this.#logDir = logDir;
    this.#onHopeless = onHopeless;
    mkdirSync(logDir, { recursive: true });
  }

  get logFile(): string {
    return join(this.#logDir, `${this.spec.name}.log`);
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  start(): void {
    const log = openSync(this.logFile, 'a', 0o600);
    const startedAt = Date.now();
    // The IPC channel is how a child learns that its supervisor is gone, however it went.
    const child = fork(this.spec.entry, [], {
      env: {
        ...process.env,
        ...compileCacheVariable(),
        ...this.spec.environment,
      },
      execArgv: [...process.execArgv, ...(this.spec.nodeOptions ?? [])],
      stdio: ['ignore', log, log, 'ipc'],
      detached: true,
    });
    closeSync(log);
    this.#child = child;
    child.once('exit', (code, signal) => this.#exited(startedAt, code, signal));
  }

  #exited(startedAt: number, code: number | null, signal: string | null): void {
    this.#child = undefined;
    if (this.#stopping) return;
    this.#quickDeaths = Date.now() - startedAt > STABLE_MS ? 0 : this.#quickDeaths + 1;
    if (this.#quickDeaths >= HOPELESS && signal === null) {
      const tail = readFileSync(this.logFile, 'utf8').trimEnd().split('\n').slice(-3).join('\n  ');
      return this.#onHopeless(
        new ShoalError(
          'failed_precondition',
          `${this.spec.name} keeps ending (exit code ${code}); the end of ${this.logFile}:\n  ${tail}`,
        ),
      );
    }
    const wait = Math.min(RESTART_CAP_MS, RESTART_BASE_MS * 2 ** (this.#quickDeaths - 1));
    this.restarts++;
    this.#timer = setTimeout(() => this.start(), wait);
  }

  /** SIGTERM, then SIGKILL when it takes too long. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (!child) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
    await gone;
    clearTimeout(timer);
  }
}
