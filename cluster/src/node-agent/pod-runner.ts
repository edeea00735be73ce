import { join } from 'node:path';
import { isShoalError, type Logger, messageOf, rfc3339 } from '@shoal/core';
import { type ApiObject, digList, digNumber, digString } from '../object.ts';
import { type ContainerContext, ContainerRunner, type Restart } from './container-runner.ts';
import type { EnvironmentContext } from './environment.ts';
import type { MemoryGuard } from './memory-guard.ts';
import type { PodStore } from './pod-store.ts';
import type { ImageSource } from './process-runtime.ts';
import { mountsOf, prepareVolumes, type ReadConfig, type VolumePaths } from './volumes.ts';

export interface PodContext {
  readonly rootfs: string;
  readonly dataDir: string;
  readonly hostIp: string;
  readonly podIp: string;
  readonly images: readonly ImageSource[];
  readonly agent: string;
  readonly onImageRuntime: () => void;
  readonly store: PodStore;
  readonly guard: MemoryGuard;
  readonly logger: Logger;
  readonly readConfig: ReadConfig;
  readonly services: () => Promise<ReadonlyMap<string, string>>;
  readonly onStatus: (status: Record<string, unknown>) => void;
  readonly onEvent: (type: 'Normal' | 'Warning', reason: string, message: string) => void;
}

/** Runs one pod on this node, from its volumes to its last exit. */
export class PodRunner {
  readonly pod: ApiObject;
  readonly done: Promise<void>;
  readonly #context: PodContext;
  readonly #stopping = new AbortController();
  #init: ContainerRunner[] = [];
  #main: ContainerRunner[] = [];
  #volumes: VolumePaths = new Map();
  #phase: 'Pending' | 'Running' | 'Succeeded' | 'Failed' = 'Pending';
  #message: string | undefined;

  constructor(pod: ApiObject, context: PodContext) {
    this.pod = pod;
    this.#context = context;
    const make = (list: string, statuses: string): ContainerRunner[] =>
      digList(pod, 'spec', list).map(
        (c) =>
          new ContainerRunner(
            c,
            this.#containerContext(),
            runsBefore(pod, statuses, digString(c, 'name')),
          ),
      );
    this.#init = make('initContainers', 'initContainerStatuses');
    this.#main = make('containers', 'containerStatuses');
    this.done = this.#run();
  }

  get ended(): boolean {
    return this.#phase === 'Succeeded' || this.#phase === 'Failed';
  }

  /** Log file of a container; undefined when there is no such container, or no earlier run of it. */
  logOf(
    container: string,
    previous: boolean,
  ): { path: string; running: () => boolean } | undefined {
    const runner = this.container(container);
    const path = runner?.logPath(previous);
    return runner && path ? { path, running: () => runner.running && !previous } : undefined;
  }

  /** A container of this pod by its name. */
  container(name: string): ContainerRunner | undefined {
    return [...this.#init, ...this.#main].find((r) => r.name === name);
  }

  /** Containers that run now, with their processes. */
  running(): { readonly name: string; readonly pid: number }[] {
    return [...this.#init, ...this.#main].flatMap(({ name, process }) =>
      process ? [{ name, pid: process.pid }] : [],
    );
  }

  get phase(): string {
    return this.#phase;
  }

  get address(): string {
    return this.#context.podIp;
  }

  #containerContext(): ContainerContext {
    const { pod } = this;
    return {
      pod,
      images: this.#context.images,
      agent: this.#context.agent,
      onImageRuntime: this.#context.onImageRuntime,
      store: this.#context.store,
      guard: this.#context.guard,
      logger: this.#context.logger,
      logDir: join(this.#context.dataDir, 'logs', pod.metadata.uid ?? ''),
      environment: async (container) => await this.#environment(container),
      onChange: () => this.#publish(),
      onEvent: (type, reason, message) => this.#context.onEvent(type, reason, message),
    };
  }

  async #environment(container: unknown): Promise<EnvironmentContext> {
    const { rootfs, hostIp, podIp, readConfig } = this.#context;
    const hostPaths = new Map<string, string>();
    for (const mount of digList(container, 'volumeMounts')) {
      const volume = digList(this.pod, 'spec', 'volumes').find(
        (v) => digString(v, 'name') === digString(mount, 'name'),
      );
      const path = digString(volume, 'hostPath', 'path');
      if (path)
        hostPaths.set(
          (digString(mount, 'mountPath') ?? '').replace(/\/+$/, ''),
          path.replace(/\/+$/, ''),
        );
    }
    return {
      rootfs,
      hostIp,
      podIp,
      readConfig,
      hostPaths,
      mounts: mountsOf(container, this.#volumes),
      services: await this.#context.services(),
    };
  }

  async #run(): Promise<void> {
    try {
      if (!(await this.#mount())) return;
      if (!(await this.#runInit())) return;
      await this.#runMain();
    } catch (error) {
      this.#message = messageOf(error);
      this.#finish('Failed');
    }
  }

  /** Prepares volumes, again and again while something they need is missing. */
  async #mount(): Promise<boolean> {
    const { rootfs, dataDir, readConfig } = this.#context;
    const podDir = join(dataDir, 'pods', this.pod.metadata.uid ?? '');
    this.#setWaiting('ContainerCreating');
    while (!this.#stopping.signal.aborted) {
      try {
        this.#volumes = await prepareVolumes(this.pod, { rootfs, podDir, readConfig });
        return true;
      } catch (error) {
        if (isShoalError(error) && error.code === 'unsupported') throw error;
        this.#context.onEvent('Warning', 'FailedMount', messageOf(error));
        this.#setWaiting('ContainerCreating', messageOf(error));
        await this.#pause(1_000);
      }
    }
    return false;
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
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

  #setWaiting(reason: string, message?: string): void {
    for (const runner of this.#main)
      runner.status.state = { waiting: { reason, ...(message ? { message } : {}) } };
    this.#publish();
  }

  #restartPolicy(): Restart {
    const policy = digString(this.pod, 'spec', 'restartPolicy');
    return policy === 'Never' || policy === 'OnFailure' ? policy : 'Always';
  }

  async #runInit(): Promise<boolean> {
    const policy: Restart = this.#restartPolicy() === 'Never' ? 'Never' : 'OnFailure';
    for (const runner of this.#init) {
      const exit = await runner.run(policy);
      if (this.#stopping.signal.aborted) return false;
      if (exit.code !== 0) {
        this.#message = `init container ${runner.name} failed with exit code ${exit.code}`;
        this.#finish('Failed');
        return false;
      }
      runner.status.ready = true;
    }
    return true;
  }

  async #runMain(): Promise<void> {
    const exits = this.#main.map((r) => r.run(this.#restartPolicy()));
    const codes = (await Promise.all(exits)).map((e) => e.code);
    this.#finish(codes.every((c) => c === 0) ? 'Succeeded' : 'Failed');
  }

  #finish(phase: 'Succeeded' | 'Failed'): void {
    this.#phase = phase;
    this.#publish();
  }

  #condition(type: string, holds: boolean): object {
    return {
      type,
      status: holds ? 'True' : 'False',
      lastTransitionTime: rfc3339(Date.now()),
      ...(holds || !this.ended ? {} : { reason: 'PodCompleted' }),
    };
  }

  #statuses(runners: readonly ContainerRunner[], specs: string): object[] {
    return runners.map((runner, i) => {
      const { state, lastState, ready, started, restartCount } = runner.status;
      const image = digString(digList(this.pod, 'spec', specs)[i], 'image') ?? '';
      return {
        name: runner.name,
        state,
        lastState,
        ready,
        started,
        restartCount,
        image,
        imageID: '',
        containerID: `process://${this.pod.metadata.uid}/${runner.name}`,
      };
    });
  }

  #publish(): void {
    // A pod runs once each of its containers has: one that cannot be started keeps it pending.
    if (this.#phase === 'Pending' && this.#main.length > 0 && this.#main.every((r) => r.hasRun))
      this.#phase = 'Running';
    const ready =
      this.#phase === 'Running' && this.#main.length > 0 && this.#main.every((r) => r.status.ready);
    const initialized = this.#init.every((r) => r.status.ready) || this.#phase !== 'Pending';
    const { hostIp, podIp } = this.#context;
    this.#context.onStatus({
      phase: this.#phase,
      ...(this.#message ? { message: this.#message } : {}),
      hostIP: hostIp,
      hostIPs: [{ ip: hostIp }],
      podIP: podIp,
      podIPs: [{ ip: podIp }],
      startTime: digString(this.pod, 'status', 'startTime') ?? this.#startTime,
      qosClass: 'BestEffort',
      conditions: [
        this.#condition('PodScheduled', true),
        this.#condition('Initialized', initialized),
        this.#condition('ContainersReady', ready),
        this.#condition('Ready', ready),
      ],
      containerStatuses: this.#statuses(this.#main, 'containers'),
      ...(this.#init.length > 0
        ? { initContainerStatuses: this.#statuses(this.#init, 'initContainers') }
        : {}),
    });
  }

  readonly #startTime = rfc3339(Date.now());

  /** Ends every container: SIGTERM, and SIGKILL after the grace period. */
  async stop(graceSeconds?: number): Promise<void> {
    this.#stopping.abort();
    const seconds =
      graceSeconds ?? digNumber(this.pod, 'spec', 'terminationGracePeriodSeconds') ?? 30;
    await Promise.all([...this.#init, ...this.#main].map((r) => r.stop(seconds * 1000)));
    await this.done;
  }
}

/** How often a container has run under an earlier agent. */
function runsBefore(pod: ApiObject, statuses: string, container: string | undefined): number {
  const known = digList(pod, 'status', statuses).find((s) => digString(s, 'name') === container);
  return known === undefined ? 0 : (digNumber(known, 'restartCount') ?? 0) + 1;
}
