import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Clock,
  digestOf,
  fromNode,
  isShoalError,
  type KeyPair,
  type Logger,
  messageOf,
  type Random,
  rfc3339,
  superviseLoop,
} from '@shoal/core';
import type { ApiClient } from '../client/api-client.ts';
import { reflect } from '../client/reflector.ts';
import { type ApiObject, digNumber, digString } from '../object.ts';
import { createAgentServer } from './agent-server.ts';
import { MemoryGuard } from './memory-guard.ts';
import { type NodeIdentity, registerNode, renewLease } from './node-registration.ts';
import { OciRuntime } from './oci-runtime.ts';
import { PodRunner } from './pod-runner.ts';
import { PodStore } from './pod-store.ts';
import { type ImageSource, killLeftover } from './process-runtime.ts';
import { StatusWriter } from './status-writer.ts';
import { UsageMeter, usageBySession } from './usage.ts';

export interface AgentOptions {
  readonly identity: Omit<NodeIdentity, 'agentPort'>;
  /** The node's own files: `rootfs/`, logs, pods, its database. */
  readonly dataDir: string;
  /** Addresses for pods: `127.97.<podSubnet>.1` and up. */
  readonly podSubnet: number;
  readonly images: readonly ImageSource[];
  readonly client: ApiClient;
  readonly tls: KeyPair;
  readonly authority: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

const LEASE_MS = 10_000;

/** The stand-in for kubelet: registers a node and runs the pods bound to it as processes. */
export class NodeAgent {
  readonly #options: AgentOptions;
  readonly #store: PodStore;
  readonly #runners = new Map<string, PodRunner>();
  readonly #addresses = new Map<string, string>();
  readonly #stopping = new AbortController();
  readonly #status: StatusWriter;
  readonly #guard = new MemoryGuard(usageBySession);
  #loops: Promise<void>[] = [];
  #closeServer: () => void = () => undefined;

  constructor(options: AgentOptions) {
    this.#options = options;
    mkdirSync(join(options.dataDir, 'rootfs'), { recursive: true });
    this.#store = new PodStore(join(options.dataDir, 'agent.db'));
    this.#status = new StatusWriter({
      client: options.client,
      clock: options.clock,
      random: options.random,
      logger: options.logger,
      signal: this.#stopping.signal,
    });
  }

  get rootfs(): string {
    return join(this.#options.dataDir, 'rootfs');
  }

  /** Names this agent to a container runtime, and after a restart again. */
  get #id(): string {
    return digestOf(this.#options.dataDir).slice(7, 23);
  }

  /** Its presence tells that a container runtime was used. */
  get #imageMark(): string {
    return join(this.#options.dataDir, 'image-runtime');
  }

  /** Ends what an earlier agent left, starts the pods known from disk, then follows the API server. */
  async start(): Promise<void> {
    for (const record of this.#store.processes()) {
      killLeftover(record.pid, record.startTime);
      this.#store.removeProcess(record.pid);
    }
    if (existsSync(this.#imageMark)) {
      const runtime = await OciRuntime.find();
      await runtime
        ?.removeLeftovers(this.#id)
        .catch((error: unknown) =>
          this.#options.logger.warn('containers left by an earlier agent not removed', { error }),
        );
    }
    const agentPort = await this.#serve();
    for (const pod of this.#store.pods()) this.#sync(pod);
    const { client, clock, random, logger, identity } = this.#options;
    const ports = { clock, random, logger };
    const { signal } = this.#stopping;
    const heartbeat = async (): Promise<void> => {
      await registerNode(client, { ...identity, agentPort });
      while (!signal.aborted) {
        await renewLease(client, identity.name);
        await clock.sleep(LEASE_MS, signal).catch(() => undefined);
      }
    };
    this.#loops = [
      superviseLoop('node lease', heartbeat, ports, { baseMs: 200, capMs: 5_000, signal }),
      reflect({
        client,
        ...ports,
        signal,
        path: `/api/v1/pods?fieldSelector=spec.nodeName%3D${identity.name}`,
        onList: (pods) => this.#onList(pods),
        onChange: (type, pod) =>
          type === 'DELETED' ? this.#forget(pod.metadata.uid ?? '') : this.#sync(pod),
      }),
    ];
  }

  #serve(): Promise<number> {
    const { tls, authority, identity } = this.#options;
    const find = (uid: string): PodRunner | undefined => this.#runners.get(uid);
    const { server, close } = createAgentServer({
      tls,
      authority,
      find,
      pods: () => this.#runners.values(),
      meter: new UsageMeter(),
    });
    this.#closeServer = close;
    return new Promise((resolve, reject) => {
      server.once('error', (error) =>
        reject(fromNode(error, `the agent of ${identity.name} cannot listen on ${identity.ip}`)),
      );
      server.listen(0, identity.ip, () => {
        const address = server.address();
        resolve(typeof address === 'object' && address ? address.port : 0);
      });
    });
  }

  #onList(pods: readonly ApiObject[]): void {
    const present = new Set(pods.map((p) => p.metadata.uid));
    for (const uid of this.#runners.keys()) if (!present.has(uid)) this.#forget(uid);
    for (const pod of pods) this.#sync(pod);
  }

  /** Brings one pod to where it should be. */
  #sync(pod: ApiObject): void {
    const uid = pod.metadata.uid ?? '';
    const runner = this.#runners.get(uid);
    if (pod.metadata.deletionTimestamp) {
      void this.#terminate(pod, runner);
      return;
    }
    const phase = digString(pod, 'status', 'phase');
    if (runner || phase === 'Succeeded' || phase === 'Failed') return;
    this.#store.savePod(pod);
    this.#runners.set(uid, new PodRunner(pod, this.#podContext(pod)));
  }

  #podContext(pod: ApiObject): ConstructorParameters<typeof PodRunner>[1] {
    const { dataDir, identity, images, logger } = this.#options;
    const uid = pod.metadata.uid ?? '';
    return {
      rootfs: this.rootfs,
      dataDir,
      hostIp: identity.ip,
      images,
      logger,
      agent: this.#id,
      onImageRuntime: () => writeFileSync(this.#imageMark, ''),
      store: this.#store,
      guard: this.#guard,
      podIp: pod.spec?.['hostNetwork'] === true ? identity.ip : this.#addressFor(uid),
      readConfig: async (kind, name) =>
        await this.#readConfig(pod.metadata.namespace ?? '', kind, name),
      services: async () => await this.#services(),
      onStatus: (status) => {
        // A pod that ends because the agent does is not over: it starts again with the next agent.
        if (this.#stopping.signal.aborted) return;
        this.#store.savePod({ ...pod, status: { ...pod.status, ...status } });
        this.#status.put(pod, status);
      },
      onEvent: (type, reason, message) => void this.#event(pod, { type, reason, message }),
    };
  }

  #addressFor(uid: string): string {
    const known = this.#addresses.get(uid);
    if (known) return known;
    const used = new Set(this.#addresses.values());
    for (let i = 1; i < 255; i++) {
      const address = `127.97.${this.#options.podSubnet}.${i}`;
      if (used.has(address)) continue;
      this.#addresses.set(uid, address);
      return address;
    }
    throw new Error('no free pod address on this node');
  }

  /** A ConfigMap or Secret; as it was last read when the API server is away. */
  async #readConfig(namespace: string, kind: string, name: string): Promise<ApiObject | undefined> {
    const at = { kind, namespace, name };
    try {
      const path = `/api/v1/namespaces/${namespace}/${kind}/${name}`;
      const object = (await this.#options.client.request('GET', path)) as ApiObject;
      this.#store.keepConfig(at, object);
      return object;
    } catch (error) {
      if (!isShoalError(error)) throw error;
      if (error.code === 'not_found') {
        this.#store.keepConfig(at, undefined);
        return undefined;
      }
      const known = this.#store.config(at);
      if (!known || error.code !== 'unavailable') throw error;
      this.#options.logger.warn('API server away, using what was read last', { ...at });
      return known;
    }
  }

  #knownServices: ReadonlyMap<string, string> = new Map();

  /** Services with their addresses; the last known ones when the API server is away. */
  async #services(): Promise<ReadonlyMap<string, string>> {
    try {
      const list = (await this.#options.client.request('GET', '/api/v1/services')) as {
        items: ApiObject[];
      };
      const entries = list.items.map(
        (s) =>
          [
            `${s.metadata.name}.${s.metadata.namespace}`,
            digString(s, 'spec', 'clusterIP') ?? '',
          ] as const,
      );
      this.#knownServices = new Map(
        entries.filter(([, address]) => address !== '' && address !== 'None'),
      );
    } catch (error) {
      this.#options.logger.warn('services unknown, using the last ones', {
        reason: messageOf(error),
      });
    }
    return this.#knownServices;
  }

  async #event(
    pod: ApiObject,
    text: { type: string; reason: string; message: string },
  ): Promise<void> {
    const { namespace = 'default', name, uid = '' } = pod.metadata;
    const now = rfc3339(Date.now());
    const path = `/api/v1/namespaces/${namespace}/events`;
    const source = `agent-${this.#options.identity.name}`;
    const eventName = `${name}.${digestOf(`${uid}${text.reason}${text.message}`).slice(7, 23)}`;
    const body = {
      metadata: { name: eventName },
      ...text,
      count: 1,
      firstTimestamp: now,
      lastTimestamp: now,
      involvedObject: { apiVersion: 'v1', kind: 'Pod', name, namespace, uid },
      source: { component: source },
      reportingComponent: source,
      reportingInstance: this.#options.identity.name,
    };
    try {
      await this.#options.client.request('POST', path, body);
    } catch (error) {
      if (!isShoalError(error) || error.code !== 'already_exists') return;
      const current = await this.#options.client
        .request('GET', `${path}/${eventName}`)
        .catch(() => undefined);
      const bump = { count: (digNumber(current, 'count') ?? 1) + 1, lastTimestamp: now };
      await this.#options.client
        .request('PATCH', `${path}/${eventName}`, bump, {
          contentType: 'application/merge-patch+json',
        })
        .catch(() => undefined);
    }
  }

  readonly #terminating = new Set<string>();

  async #terminate(pod: ApiObject, runner: PodRunner | undefined): Promise<void> {
    const uid = pod.metadata.uid ?? '';
    if (this.#terminating.has(uid)) return;
    this.#terminating.add(uid);
    const grace = pod.metadata.deletionGracePeriodSeconds ?? 30;
    if (runner && !runner.ended)
      await this.#event(pod, {
        type: 'Normal',
        reason: 'Killing',
        message: `Stopping pod ${pod.metadata.name}`,
      });
    await runner?.stop(grace);
    await this.#status.flush(uid);
    const path = `/api/v1/namespaces/${pod.metadata.namespace}/pods/${pod.metadata.name}`;
    const remove = async (): Promise<void> => {
      await this.#options.client
        .request('DELETE', path, { gracePeriodSeconds: 0, preconditions: { uid } })
        .catch((error: unknown) => {
          if (!isShoalError(error) || (error.code !== 'not_found' && error.code !== 'conflict'))
            throw error;
        });
      this.#forget(uid);
      done.abort();
    };
    const done = new AbortController();
    const signal = AbortSignal.any([done.signal, this.#stopping.signal]);
    const { clock, random, logger } = this.#options;
    await superviseLoop(
      'delete pod',
      remove,
      { clock, random, logger },
      { baseMs: 200, capMs: 5_000, signal },
    );
    this.#terminating.delete(uid);
  }

  /** Drops a pod that is gone from the API; whatever still runs of it is ended. */
  #forget(uid: string): void {
    const runner = this.#runners.get(uid);
    this.#runners.delete(uid);
    this.#addresses.delete(uid);
    this.#status.forget(uid);
    this.#store.removePod(uid);
    const clean = (): void => {
      for (const dir of ['logs', 'pods']) {
        const path = join(this.#options.dataDir, dir, uid);
        try {
          rmSync(path, { recursive: true, force: true });
        } catch (error) {
          // A container may leave folders nobody but root can empty.
          this.#options.logger.warn('files of a pod not removed', { path, error });
        }
      }
    };
    if (runner) void runner.stop(0).then(clean, clean);
    else clean();
  }

  /** Ends every pod gracefully and lets go; they start again with the next agent. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all([...this.#runners.values()].map((r) => r.stop(5)));
    await Promise.all(this.#loops);
    this.#closeServer();
    this.#options.client.close();
    this.#store.close();
  }
}
