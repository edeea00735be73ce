import { type Random, silentLogger } from '@shoal/core';
import type { CloudEnd, SimNetwork } from './network.ts';
import { CloudStore, Feed, LinkHub, Records } from './parts.ts';
import { Violation } from './promises.ts';
import { isExpected, SimDisk } from './sim-disk.ts';
import { POISON, type Truth } from './truth.ts';
import type { VirtualTime } from './virtual-time.ts';

export interface CloudPorts {
  readonly time: VirtualTime;
  readonly random: Random;
  readonly network: SimNetwork;
  readonly truth: Truth;
  readonly fail: (error: unknown) => void;
}

interface Manager {
  isAlive: boolean;
  end: CloudEnd;
  readonly feed: Feed;
  readonly records: Records;
  readonly hub: LinkHub;
}

const KIND = 'Dataset';

/** The cloud: a disk that managers share, one of which leads; and the cluster that effects go to. */
export class SimCloud {
  readonly #ports: CloudPorts;
  disk: SimDisk = new SimDisk();
  #process: Manager | undefined;
  readonly #managers = new Set<Manager>();
  skewMs = 0;
  /** Effects of log entries, by idempotency key: how often each was made. */
  readonly effects: string[] = [];
  /** A store that is lost knows no keys: the cluster sees an effect again, under the same key. */
  readonly effectsOfLostStores: Set<string> = new Set();
  /** P6: the newest version taken, by node and key. */
  readonly taken: Map<string, number> = new Map();
  /** P3 upstream: what was acknowledged, by node and stream. */
  readonly recordAcks: Map<string, number> = new Map();
  /** Objects whose last assignment has not landed. */
  readonly #pending = new Set<string>();
  readonly #edgeStores = new Map<string, string>();

  constructor(ports: CloudPorts) {
    this.#ports = ports;
    this.disk.onCrash = () => this.#died();
  }

  get isAlive(): boolean {
    return this.#process !== undefined;
  }

  get hub(): LinkHub | undefined {
    return this.#process?.hub;
  }

  get feed(): Feed | undefined {
    return this.#process?.feed;
  }

  /** The machine of the managers loses power. */
  #died(): void {
    for (const manager of this.#managers) this.#end(manager);
    this.#process = undefined;
  }

  #end(manager: Manager): void {
    manager.isAlive = false;
    this.#managers.delete(manager);
    this.#ports.network.cutFrom(manager.end);
  }

  /**
   * Another manager takes the lead. The one before does not know yet: it goes on for a while, and
   * whatever it wants to write must be refused.
   */
  takeOver(staleMs: number): void {
    const before = this.#process;
    if (!before) return;
    this.#process = undefined;
    this.start(true);
    this.#ports.time.after(staleMs, () => this.#end(before));
  }

  /** Builds a manager on the disk. */
  build(disk: SimDisk, isShared: boolean): Manager {
    const { time } = this.#ports;
    const store = new CloudStore('cloud', () => disk.open(isShared));
    const feed = new Feed(store);
    const records = new Records(store);
    const clock = time.clock(() => this.skewMs);
    const soon = (body: () => void): void => time.after(1, () => void this.#guarded(body));
    const hub = new LinkHub({ store, feed, records, clock, logger: silentLogger, soon });
    feed.onDamage(({ name }) => {
      this.#pending.add(name);
      time.after(10, () => this.assignPending());
    });
    records.onRecord((node, key) => this.#checkState(node, key, records));
    records.onLog(() => time.after(this.#ports.random.int(200), () => this.#drainLog()));
    const manager: Manager = {
      isAlive: true,
      feed,
      records,
      hub,
      end: {
        hub,
        alive: () => manager.isAlive,
        attempt: (body) => this.#guarded(body),
      },
    };
    this.#managers.add(manager);
    return manager;
  }

  start(isShared = false): void {
    if (this.#process) return;
    try {
      this.#process = this.build(this.disk, isShared);
    } catch (error) {
      this.#guarded(() => {
        throw error;
      });
      // A supervisor starts it again.
      this.#ports.time.after(1_000, () => this.start());
      return;
    }
    const process = this.#process;
    this.#checkAcks(process.records);
    this.#ports.network.cloud = process.end;
    const tick = (): void => {
      if (!process.isAlive) return;
      this.#guarded(() => process.hub.tick());
      this.#ports.time.after(1_000, tick);
    };
    tick();
    // A manager that starts looks at every object again.
    for (const name of this.#ports.truth.objects.keys()) this.#pending.add(name);
    this.assignPending();
    this.#drainLog();
  }

  kill(): void {
    this.disk.kill();
  }

  /** The store is lost: a new one begins, with nothing in it. */
  replaceDisk(): void {
    this.kill();
    this.disk = new SimDisk();
    this.disk.onCrash = () => this.#died();
    this.recordAcks.clear();
    this.taken.clear();
    for (const key of this.effects.splice(0)) this.effectsOfLostStores.add(key);
  }

  #guarded(body: () => void): boolean {
    try {
      body();
      return true;
    } catch (error) {
      if (!isExpected(error)) this.#ports.fail(error);
      return false;
    }
  }

  changed(name: string): void {
    this.#pending.add(name);
    this.assignPending();
  }

  /** What a reconciler does: tries until it has landed (F2). */
  assignPending(): void {
    const process = this.#process;
    if (!process) return;
    for (const name of this.#pending) {
      const desired = this.#ports.truth.objects.get(name);
      const key = {
        kind: name === POISON ? '' : KIND,
        namespace: 'n',
        name,
        uid: desired?.uid ?? '',
      };
      const body = { version: desired?.version ?? 0, pad: 'x'.repeat(30) };
      const bodies = new Map([...(desired?.nodes ?? [])].map((node) => [node, body]));
      try {
        process.feed.assign(key, bodies);
        this.#pending.delete(name);
      } catch (error) {
        this.#guarded(() => {
          throw error;
        });
      }
    }
    if (this.#pending.size > 0) this.#ports.time.after(500, () => this.assignPending());
  }

  #checkState(node: string, key: string, records: Records): void {
    const version = records.record<{ version: number }>(node, key)?.version ?? 0;
    const before = this.taken.get(`${node} ${key}`) ?? 0;
    if (version < before)
      this.#ports.fail(
        new Violation('P6', `${node} ${key} went back from ${before} to ${version}`),
      );
    this.taken.set(`${node} ${key}`, version);
  }

  /** Makes the effects of log entries in the cluster. */
  #drainLog(): void {
    const process = this.#process;
    if (!process) return;
    this.#guarded(() => {
      for (const entry of process.records.logEntries(20)) {
        // The cluster knows an effect by its key: a second one under the same key is none.
        process.records.logDone(entry);
        this.effects.push(entry.idempotencyKey);
      }
    });
    if (this.#process === process && process.records.logEntries(1).length > 0)
      this.#ports.time.after(200, () => this.#drainLog());
  }

  noteRecordAck(node: string, stream: string, seq: number): void {
    const key = `${node} ${this.#edgeStores.get(node) ?? ''}/${stream}`;
    this.recordAcks.set(key, Math.max(seq, this.recordAcks.get(key) ?? 0));
  }

  noteHello(node: string, edgeStore: string): void {
    this.#edgeStores.set(node, edgeStore);
  }

  /** What was acknowledged to an edge is still here (P3). */
  #checkAcks(records: Records): void {
    for (const [key, seq] of this.recordAcks) {
      const [node = '', path = ''] = key.split(' ');
      const slash = path.indexOf('/');
      const last = records.lastSeq(node, path.slice(0, slash), path.slice(slash + 1));
      if (last < seq)
        this.#ports.fail(
          new Violation('P3', `the cloud acknowledged record ${seq} of ${key} and has ${last}`),
        );
    }
  }

  stateOf(node: string, key: string): number | undefined {
    return this.#process?.records.record<{ version: number }>(node, `Job/n/${key}`)?.version;
  }
}
