import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { type Logger, messageOf, rfc3339, ShoalError } from '@shoal/core';
import { type ApiObject, dig, digString } from '../object.ts';
import { parseQuantity } from '../quantity.ts';
import { ContainerLog } from './container-log.ts';
import { type ExecOptions, type Prepared, prepareContainer } from './container-preparation.ts';
import type { EnvironmentContext } from './environment.ts';
import type { MemoryGuard } from './memory-guard.ts';
import type { PodStore } from './pod-store.ts';
import { watchProbe } from './probes.ts';
import {
  type Exit,
  type ImageSource,
  type RunningProcess,
  startTimeOf,
} from './process-runtime.ts';

/** A container's state as it stands in `status.containerStatuses`. */
export interface ContainerState {
  state: Record<string, unknown>;
  lastState: Record<string, unknown>;
  ready: boolean;
  started: boolean;
  restartCount: number;
}

export interface ContainerContext {
  readonly pod: ApiObject;
  readonly environment: (container: unknown) => Promise<EnvironmentContext>;
  readonly images: readonly ImageSource[];
  /** Names this agent to a container runtime. */
  readonly agent: string;
  readonly onImageRuntime: () => void;
  readonly logDir: string;
  readonly store: PodStore;
  readonly guard: MemoryGuard;
  readonly logger: Logger;
  readonly onChange: () => void;
  readonly onEvent: (type: 'Normal' | 'Warning', reason: string, message: string) => void;
}

export type Restart = 'Always' | 'OnFailure' | 'Never';

const BACKOFF_BASE_MS = 1_000;
const BACKOFF_CAP_MS = 300_000;
/** A container that ran this long starts its back-off anew. */
const STABLE_MS = 600_000;
/** How long a command of `kubectl exec` may take to end with its container or its client. */
const EXEC_GRACE_MS = 2_000;
/** How long the last output of an ended container may take. */
const DRAIN_MS = 2_000;
/** The end of a container that was stopped before it ran. */
const STOPPED: Exit = { code: 143, signal: 'SIGTERM' };

function ended(stream: Readable): Promise<void> {
  if (stream.readableEnded || stream.destroyed) return Promise.resolve();
  return new Promise((resolve) => stream.once('close', resolve));
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}

/** Runs one container: starts it, restarts it by policy with back-off, probes it, keeps its log. */
export class ContainerRunner {
  readonly name: string;
  readonly status: ContainerState;
  readonly #container: unknown;
  readonly #context: ContainerContext;
  readonly #stopping = new AbortController();
  /** True once its process has run. */
  hasRun = false;
  #process: RunningProcess | undefined;
  #prepared: Prepared | undefined;
  #log: ContainerLog | undefined;
  #outOfMemory = false;
  #graceMs = 0;
  readonly #execs = new Set<RunningProcess>();

  constructor(container: unknown, context: ContainerContext, restartCount = 0) {
    this.name = digString(container, 'name') ?? '';
    this.#container = container;
    this.#context = context;
    this.status = {
      state: { waiting: { reason: 'PodInitializing' } },
      lastState: {},
      ready: false,
      started: false,
      restartCount,
    };
  }

  logPath(previous: boolean): string | undefined {
    // Between two runs the one that has ended is the previous one, whatever the count says.
    const between = !this.running && 'waiting' in this.status.state;
    const count = this.status.restartCount - (previous && !between ? 1 : 0);
    return count < 0 ? undefined : join(this.#context.logDir, `${this.name}.${count}.log`);
  }

  get running(): boolean {
    return this.#process !== undefined;
  }

  /** Runs until the container has ended for good (by policy or by {@link stop}); returns its last exit. */
  async run(restart: Restart): Promise<Exit> {
    let wait = BACKOFF_BASE_MS;
    for (;;) {
      const startedAt = Date.now();
      const exit = await this.#once();
      const again = restart === 'Always' || (restart === 'OnFailure' && exit.code !== 0);
      if (!again || this.#stopping.signal.aborted) return exit;
      wait = Date.now() - startedAt > STABLE_MS ? BACKOFF_BASE_MS : wait;
      await this.#backOff(wait);
      if (this.#stopping.signal.aborted) return exit;
      wait = Math.min(wait * 2, BACKOFF_CAP_MS);
      if (this.hasRun) this.status.restartCount++;
    }
  }

  async #backOff(ms: number): Promise<void> {
    if ('terminated' in this.status.state) this.status.lastState = this.status.state;
    // A container that could not even be started keeps saying why.
    if (!('waiting' in this.status.state)) {
      const message = `back-off ${Math.round(ms / 1000)}s restarting failed container=${this.name} pod=${this.#context.pod.metadata.name}`;
      this.#set({ waiting: { reason: 'CrashLoopBackOff', message } });
      this.#context.onEvent(
        'Warning',
        'BackOff',
        `Back-off restarting failed container ${this.name}`,
      );
    }
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#stopping.signal.addEventListener(
        'abort',
        () => {
          clearTimeout(timer);
          resolve();
        },
        { once: true },
      );
    });
  }

  #set(state: Record<string, unknown>): void {
    this.status.state = state;
    this.#context.onChange();
  }

  async #once(): Promise<Exit> {
    if (this.#stopping.signal.aborted) return STOPPED;
    const startedAt = rfc3339(Date.now());
    const path = this.logPath(false) ?? '';
    this.#log = new ContainerLog(path);
    const probes = new AbortController();
    let unguard: (() => void) | undefined;
    try {
      const environment = await this.#launch();
      this.hasRun = true;
      this.status.started = dig(this.#container, 'startupProbe') === undefined;
      this.status.ready =
        this.status.started && dig(this.#container, 'readinessProbe') === undefined;
      this.#set({ running: { startedAt } });
      this.#context.onEvent('Normal', 'Started', `Started container ${this.name}`);
      unguard = this.#guardMemory();
      this.#probe(environment, probes.signal);
      const exit = (await this.#process?.exited) ?? STOPPED;
      await this.#drain();
      this.#ended(exit, startedAt);
      return exit;
    } catch (error) {
      return this.#stopping.signal.aborted ? STOPPED : this.#failedToStart(error);
    } finally {
      probes.abort();
      unguard?.();
      for (const started of this.#execs) started.kill();
      if (this.#process) this.#context.store.removeProcess(this.#process.pid);
      this.#process = undefined;
      this.#log.close();
    }
  }

  /** What the container started ends with it; what it said last is kept. */
  async #drain(): Promise<void> {
    const running = this.#process;
    if (!running) return;
    running.kill();
    const output = Promise.all([ended(running.stdout), ended(running.stderr)]);
    await Promise.race([output, delay(DRAIN_MS)]);
  }

  async #launch(): Promise<Readonly<Record<string, string>>> {
    const { pod, images, agent, onImageRuntime } = this.#context;
    const environment = await this.#context.environment(this.#container);
    const context = { pod, images, agent, onImageRuntime, environment };
    const prepared = await prepareContainer(this.#container, context);
    this.#stopping.signal.throwIfAborted();
    const started = await prepared.start();
    this.#process = started;
    this.#prepared = prepared;
    // It was told to stop while it started.
    if (this.#stopping.signal.aborted) void started.stop(this.#graceMs);
    this.#log?.follow(started.stdout, 'stdout');
    this.#log?.follow(started.stderr, 'stderr');
    const { pid } = started;
    this.#context.store.addProcess({ pid, startTime: startTimeOf(pid) });
    return prepared.variables;
  }

  /** Runs one more command beside the container's own; it ends when the container is stopped. */
  async exec(words: readonly string[], options: ExecOptions): Promise<RunningProcess> {
    if (!this.#prepared) throw new Error('the container is not running');
    const started = await this.#prepared.exec(words, options);
    const { store } = this.#context;
    store.addProcess({ pid: started.pid, startTime: startTimeOf(started.pid) });
    this.#execs.add(started);
    void started.exited.then(() => {
      this.#execs.delete(started);
      store.removeProcess(started.pid);
    });
    // The container ended while it started.
    if (!this.#process || this.#stopping.signal.aborted) started.kill();
    return started;
  }

  /** Whether its input ends with the first client that attaches to it. */
  get stdinOnce(): boolean {
    return dig(this.#container, 'stdinOnce') === true;
  }

  /** The process of the container, while it runs. */
  get process(): RunningProcess | undefined {
    return this.#process;
  }

  /** Ends the container when it uses more memory than it may. */
  #guardMemory(): (() => void) | undefined {
    const limitBytes = parseQuantity(dig(this.#container, 'resources', 'limits', 'memory'));
    const running = this.#process;
    if (!running || !(limitBytes > 0)) return undefined;
    const onExceeded = (): void => {
      this.#outOfMemory = true;
      running.kill();
    };
    return this.#context.guard.watch({ pid: running.pid, limitBytes, onExceeded });
  }

  #failedToStart(error: unknown): Exit {
    const image = error instanceof ShoalError && error.code === 'unsupported';
    const reason = image ? 'ErrImagePull' : 'CreateContainerError';
    this.#log?.note(messageOf(error));
    this.status.ready = false;
    this.#context.onEvent('Warning', 'Failed', messageOf(error));
    this.#set({ waiting: { reason, message: messageOf(error) } });
    return { code: 128, signal: undefined };
  }

  #ended(exit: Exit, startedAt: string): void {
    const { code, signal } = exit;
    const ended = code === 0 ? 'Completed' : signal === 'SIGKILL' ? 'Killed' : 'Error';
    const reason = this.#outOfMemory ? 'OOMKilled' : ended;
    this.#outOfMemory = false;
    this.status.ready = false;
    this.#set({
      terminated: { exitCode: code, reason, startedAt, finishedAt: rfc3339(Date.now()) },
    });
  }

  #probe(environment: Record<string, string>, signal: AbortSignal): void {
    void this.#environmentFor(environment).then(async (target) => {
      await this.#startup(target, signal);
      const readiness = dig(this.#container, 'readinessProbe');
      const liveness = dig(this.#container, 'livenessProbe');
      if (readiness)
        void watchProbe(readiness, target, {
          signal,
          eager: true,
          onResult: (ok, why) => this.#readiness(ok, why),
        });
      if (liveness)
        void watchProbe(liveness, target, {
          signal,
          onResult: (ok, why) => this.#liveness(ok, why),
        });
    });
  }

  async #environmentFor(
    environment: Record<string, string>,
  ): Promise<{ container: unknown; host: string; environment: Record<string, string> }> {
    const { podIp } = await this.#context.environment(this.#container);
    return { container: this.#container, host: podIp, environment };
  }

  /** Readiness and liveness wait until the startup probe has passed once. */
  #startup(
    target: { container: unknown; host: string; environment: Record<string, string> },
    signal: AbortSignal,
  ): Promise<void> {
    const probe = dig(this.#container, 'startupProbe');
    if (!probe) return Promise.resolve();
    return new Promise((resolve) => {
      const inner = new AbortController();
      signal.addEventListener('abort', () => inner.abort(), { once: true });
      const onResult = (ok: boolean, why: string): void => {
        inner.abort();
        this.status.started = ok;
        if (!ok) return this.#liveness(false, why, 'Startup');
        this.status.ready = dig(this.#container, 'readinessProbe') === undefined;
        this.#context.onChange();
        resolve();
      };
      void watchProbe(probe, target, { signal: inner.signal, onResult });
    });
  }

  #readiness(ok: boolean, why: string): void {
    if (!ok) this.#context.onEvent('Warning', 'Unhealthy', `Readiness probe failed: ${why}`);
    if (this.status.ready === ok) return;
    this.status.ready = ok;
    this.#context.onChange();
  }

  #liveness(ok: boolean, why: string, probe = 'Liveness'): void {
    if (ok || !this.#process) return;
    this.#context.onEvent('Warning', 'Unhealthy', `${probe} probe failed: ${why}`);
    this.#context.onEvent(
      'Normal',
      'Killing',
      `Container ${this.name} failed ${probe.toLowerCase()} probe, will be restarted`,
    );
    void this.#process.stop(5_000);
  }

  /** Ends the container for good. */
  async stop(graceMs: number): Promise<void> {
    this.#graceMs = graceMs;
    this.#stopping.abort();
    const execs = Array.from(this.#execs, (started) => started.stop(EXEC_GRACE_MS));
    await Promise.all([this.#process?.stop(graceMs), ...execs]);
  }
}
