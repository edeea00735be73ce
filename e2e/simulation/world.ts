import type { CloudFrame, EdgeFrame } from '@shoal/api';
import { type Random, seededRandom, silentLogger } from '@shoal/core';
import { SimNetwork, type Wire } from './network.ts';
import { EdgeDatabase, Link } from './parts.ts';
import { noteAck, rowsOf, Violation } from './promises.ts';
import { SimCloud } from './sim-cloud.ts';
import { SimDisk } from './sim-disk.ts';
import { SimEdge } from './sim-edge.ts';
import { POISON, Truth } from './truth.ts';
import { VirtualTime } from './virtual-time.ts';

/** What one run did, for the report. */
export interface RunFigures {
  readonly seed: number;
  readonly virtualMs: number;
  readonly events: number;
  readonly frames: number;
  readonly lost: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly violation?: string;
}

/** After the last fault everything must have arrived within this time. */
const CONVERGE_MS = 400_000;
const OBJECTS = 8;
/** Every so many seeds, one run sleeps for 72 hours. */
const LONG_EVERY = 250;
const TRACE = process.env['SIMULATE_TRACE'] === '1';

/** One seeded run of EdgeLink: writers, workers and faults, then quiet, then the promises. */
export class World {
  readonly #seed: number;
  readonly #random: Random;
  readonly #time = new VirtualTime();
  readonly #network: SimNetwork;
  readonly #truth: Truth;
  readonly #edges: SimEdge[];
  readonly #cloud: SimCloud;
  readonly #faults: Record<string, number> = {};
  #violation: unknown;
  #uids = 0;
  #versions = 0;
  readonly #activeMs: number;
  readonly #isLong: boolean;

  constructor(seed: number) {
    this.#seed = seed;
    this.#random = seededRandom(seed);
    const nodes = Array.from({ length: 1 + this.#random.int(3) }, (_, i) => `edge-${i + 1}`);
    this.#isLong = seed % LONG_EVERY === 0;
    this.#activeMs = 15_000 + this.#random.int(45_000);
    this.#truth = new Truth(nodes);
    this.#network = new SimNetwork(this.#time, this.#random.fork('network'), {
      sentByEdge: (wire, frame) => {
        if (wire.isSecond) return;
        const edge = this.#edge(wire.node);
        this.#trace(() => `${wire.node}#${wire.id} → ${describe(frame)}`);
        noteAck(edge.book, frame, wire.storeId);
        if (frame.frame.case === 'hello')
          this.#cloud.noteHello(wire.node, frame.frame.value.edgeStoreId);
      },
      sentByCloud: (wire, frame) => {
        this.#trace(() => `${wire.node}#${wire.id} ← ${describe(frame)}`);
        if (wire.isSecond) return;
        if (
          frame.frame.case === 'goAway' &&
          frame.frame.value.reason.startsWith('another session') &&
          this.#network.isHealthy(wire.node)
        )
          this.#fail(new Violation('P7', `a live session of ${wire.node} was swapped out`));
        if (frame.frame.case !== 'recordAck') return;
        const { stream, seq } = frame.frame.value;
        this.#cloud.noteRecordAck(wire.node, stream, Number(seq));
        this.#checkEpoch(wire);
      },
      deliveredToEdge: (wire, frame) => {
        this.#trace(() => `${wire.node}#${wire.id} ↓ ${describe(frame)}`);
        if (frame.frame.case === 'batch' && !wire.isSecond)
          this.#edge(wire.node).book.batches.push(frame.frame.value);
      },
    });
    const ports = {
      time: this.#time,
      network: this.#network,
      truth: this.#truth,
      fail: (error: unknown) => this.#fail(error),
    };
    this.#cloud = new SimCloud({ ...ports, random: this.#random.fork('cloud') });
    this.#edges = nodes.map(
      (name) => new SimEdge(name, { ...ports, random: this.#random.fork(name) }),
    );
  }

  #edge(name: string): SimEdge {
    const edge = this.#edges.find((e) => e.name === name);
    if (!edge) throw new Error(`no edge ${name}`);
    return edge;
  }

  #fail(error: unknown): void {
    this.#trace(() => `VIOLATION ${String(error)}`);
    this.#violation ??= error;
  }

  /** P7: only the newest session of a node has effects. */
  #checkEpoch(wire: Wire): void {
    const newest = this.#cloud.feed?.epoch(wire.node) ?? 0;
    if (wire.epoch < newest)
      this.#violation ??= new Violation(
        'P7',
        `records of ${wire.node} in epoch ${wire.epoch} took effect in epoch ${newest}`,
      );
  }

  async run(): Promise<RunFigures> {
    this.#cloud.start();
    for (const edge of this.#edges) edge.start();
    this.#plan('write', 1_500, () => this.#write());
    this.#plan('say', 700, () => this.#say());
    this.#plan('fault', 2_500, () => this.#fault());
    try {
      await this.#time.runUntil(this.#activeMs);
      if (this.#isLong) await this.#sleepThreeDays();
      if (this.#violation === undefined) {
        this.#calm();
        await this.#converge();
        await this.#time.runUntil(this.#time.now + 3_000);
      }
      if (this.#violation === undefined) this.#checkEffects();
    } catch (error) {
      this.#violation ??= error;
    }
    return this.#figures();
  }

  #trace(text: () => string): void {
    if (TRACE) console.log(`${(this.#time.now / 1000).toFixed(3).padStart(9)} ${text()}`);
  }

  #figures(): RunFigures {
    const violation = this.#violation;
    const text =
      violation instanceof Violation
        ? violation.message
        : violation instanceof Error
          ? `the simulated program failed: ${violation.stack}`
          : String(violation);
    return {
      seed: this.#seed,
      virtualMs: this.#time.now,
      events: this.#time.events,
      frames: this.#network.frames,
      lost: this.#network.lost,
      faults: this.#faults,
      ...(violation !== undefined && { violation: text }),
    };
  }

  /** 72 hours without a cloud, while workers go on talking (P5, P9). */
  async #sleepThreeDays(): Promise<void> {
    this.#cloud.kill();
    const until = this.#time.now + 72 * 3_600_000;
    while (this.#time.now < until && this.#violation === undefined) {
      await this.#time.runUntil(this.#time.now + 60_000 + this.#random.int(120_000));
      this.#say();
      if (this.#random.int(200) === 0) this.#write();
      if (this.#random.int(300) === 0) {
        const edge = this.#edges[this.#random.int(this.#edges.length)];
        edge?.kill();
        edge?.start();
      }
    }
  }

  /** Does something again and again, at random times, while the run is active. */
  #plan(label: string, meanMs: number, body: () => void): void {
    const random = this.#random.fork(label);
    const next = (): void => {
      const wait = -Math.log(1 - random.next()) * meanMs;
      this.#time.after(wait, () => {
        if (this.#time.now >= this.#activeMs) return;
        try {
          body();
        } catch (error) {
          this.#violation ??= error;
        }
        next();
      });
    };
    next();
  }

  #write(): void {
    const random = this.#random;
    const count = random.int(10) === 0 ? 1 + random.int(OBJECTS) : 1;
    for (let i = 0; i < count; i++) {
      const name = random.next() < 0.03 ? POISON : `o${random.int(OBJECTS)}`;
      const known = this.#truth.objects.get(name);
      const nodes = new Set(this.#truth.nodes.filter(() => random.next() < 0.7));
      const kind = random.next();
      if (known && kind < 0.2) this.#truth.remove(name);
      else if (known && kind < 0.3) {
        // Deleted and made again under the same name, perhaps before anybody has looked (F3).
        this.#truth.remove(name);
        if (random.int(2) === 0) this.#cloud.changed(name);
        this.#truth.put(name, `u${++this.#uids}`, nodes);
      } else this.#truth.put(name, known?.uid ?? `u${++this.#uids}`, nodes);
      const now = this.#truth.objects.get(name);
      this.#trace(
        () => `write ${name} ${now ? `v${now.version} ${now.uid} ${[...now.nodes]}` : 'removed'}`,
      );
      this.#cloud.changed(name);
    }
  }

  #say(): void {
    const random = this.#random;
    const edge = this.#edges[random.int(this.#edges.length)];
    if (!edge) return;
    if (random.next() < 0.6) edge.reportState(`k${random.int(4)}`, ++this.#versions);
    else {
      const burst = random.int(12) === 0 ? 40 : 1;
      for (let i = 0; i < burst; i++) edge.reportEvent(random.int(2) === 0);
    }
    if (edge.isAlive) edge.checkQuota();
  }

  #fault(): void {
    const random = this.#random;
    const edge = this.#edges[random.int(this.#edges.length)];
    if (!edge) return;
    const faults: [string, number, () => void][] = [
      ['edge crash', 4, () => this.#crashEdge(edge)],
      ['cloud crash', 3, () => this.#crashCloud()],
      ['connection cut', 4, () => this.#network.cut(edge.name)],
      ['network closed', 4, () => this.#close(edge.name, 'cut')],
      ['half-open', 4, () => this.#close(edge.name, 'silent')],
      ['bad network', 4, () => this.#badNetwork(edge.name)],
      ['edge disk full', 2, () => this.#fill(edge.disk)],
      ['cloud disk full', 1, () => this.#fill(this.#cloud.disk)],
      ['edge bits flip', 2, () => this.#flipEdge(edge)],
      ['cloud bits flip', 2, () => this.#flipCloud(edge)],
      ['edge clock jumps', 2, () => this.#skew(edge)],
      ['cloud clock jumps', 1, () => this.#skew(this.#cloud)],
      ['edge disk replaced', 1, () => this.#replaceEdge(edge)],
      ['cloud store lost', 1, () => this.#replaceCloud()],
      ['feed compacted', 2, () => this.#compact(edge.name)],
      ['version before', 1, () => this.#downgrade(edge.name)],
      ['manager moves', 2, () => this.#cloud.takeOver(this.#random.int(20_000))],
      ['connection swallowed', 3, () => this.#network.swallow(edge.name)],
      ['second device', 2, () => this.#impostor(edge)],
    ];
    const total = faults.reduce((sum, [, weight]) => sum + weight, 0);
    let pick = random.next() * total;
    const chosen = faults.find(([, weight]) => (pick -= weight) < 0) ?? faults[0];
    if (!chosen) return;
    this.#trace(() => `fault: ${chosen[0]} (${edge.name})`);
    this.#faults[chosen[0]] = (this.#faults[chosen[0]] ?? 0) + 1;
    chosen[2]();
  }

  #crashEdge(edge: SimEdge): void {
    // In the middle of a transaction that is still to come, or at once.
    if (this.#random.int(3) > 0) edge.disk.crashAfter = this.#random.int(30);
    else edge.kill();
    this.#time.after(1_000 + this.#random.int(20_000), () => {
      if (edge.isAlive) edge.kill();
      edge.start();
    });
  }

  #crashCloud(): void {
    if (this.#random.int(3) > 0) this.#cloud.disk.crashAfter = this.#random.int(40);
    else this.#cloud.kill();
    this.#time.after(500 + this.#random.int(10_000), () => {
      if (this.#cloud.isAlive) this.#cloud.kill();
      this.#cloud.start();
    });
  }

  #close(
    node: string,
    state: 'cut' | 'silent',
    forMs: number = 1_000 + this.#random.int(60_000),
  ): void {
    const weather = this.#network.weatherOf(node);
    weather.state = state;
    if (state === 'cut') this.#network.cut(node);
    this.#time.after(forMs, () => {
      weather.state = 'good';
    });
  }

  #badNetwork(node: string): void {
    const random = this.#random;
    const weather = this.#network.weatherOf(node);
    weather.delayMs = [1, 20, 300, 2_000][random.int(4)] ?? 20;
    weather.loss = random.int(2) * random.next() * 0.2;
    weather.duplication = random.int(2) * random.next() * 0.3;
    weather.reordering = random.int(2) * random.next() * 0.3;
    this.#time.after(5_000 + random.int(40_000), () => {
      Object.assign(weather, { delayMs: 20, loss: 0, duplication: 0, reordering: 0 });
      // Frames that were lost on a living connection come with the next session.
      this.#network.cut(node);
    });
  }

  #fill(disk: { full: boolean }): void {
    disk.full = true;
    this.#time.after(500 + this.#random.int(10_000), () => {
      disk.full = false;
    });
  }

  #flipEdge(edge: SimEdge): void {
    if (!edge.isAlive) return;
    const rows = [...rowsOf(edge.disk).values()].filter((r) => !r.deleted);
    const row = rows[this.#random.int(Math.max(1, rows.length))];
    if (!row) return;
    edge.kill();
    edge.book.damaged.add(row.name);
    edge.disk.damage(
      `UPDATE objects SET body=CAST(replace(CAST(body AS TEXT), 'xx', 'xy') AS BLOB) WHERE name='${row.name}'`,
    );
    this.#time.after(500, () => edge.start());
  }

  /** A change rots in the store of the cloud before its node has come to fetch it. */
  #flipCloud({ name }: SimEdge): void {
    if (!this.#cloud.isAlive) return;
    this.#close(name, 'cut', 2_000);
    for (let i = 0; i < 3; i++) this.#write();
    const [row] = this.#cloud.disk.look(
      "SELECT digest FROM change WHERE node=? AND op='put' ORDER BY rev DESC LIMIT 1",
      name,
    );
    if (!row) return;
    this.#cloud.disk.damage(
      `UPDATE body SET bytes=CAST(replace(CAST(bytes AS TEXT), 'xx', 'xy') AS BLOB) WHERE digest='${row['digest']}'`,
    );
    // The node comes and goes: what it says about the change may be lost on the way.
    for (let i = 0; i < 6; i++)
      this.#time.after(2_000 + this.#random.int(1_500), () => this.#network.cut(name));
  }

  #skew(machine: { skewMs: number }): void {
    machine.skewMs = (this.#random.next() - 0.5) * 4 * 24 * 3_600_000;
  }

  #replaceEdge(edge: SimEdge): void {
    edge.replaceDisk();
    for (const key of this.#cloud.taken.keys())
      if (key.startsWith(`${edge.name} `)) this.#cloud.taken.delete(key);
    this.#time.after(2_000, () => edge.start());
  }

  #replaceCloud(): void {
    this.#cloud.replaceDisk();
    // What was acknowledged and had no effect yet is lost with the disk.
    for (const edge of this.#edges)
      edge.said = edge.said.map((s) => ({ ...s, mayBeMissing: true }));
    this.#time.after(1_000, () => this.#cloud.start());
  }

  #compact(node: string): void {
    try {
      this.#cloud.feed?.compact(node, this.#random.int(2));
    } catch {
      // a full disk or a power loss: later
    }
  }

  #downgrade(node: string): void {
    const weather = this.#network.weatherOf(node);
    weather.oldVersion = true;
    this.#network.cut(node);
    this.#time.after(20_000, () => {
      weather.oldVersion = false;
      this.#network.cut(node);
    });
  }

  /** A second machine comes up under the name of a node (a cloned disk image). */
  #impostor(edge: SimEdge): void {
    const { name } = edge;
    const clock = this.#time.clock(() => 0);
    const disk = new SimDisk();
    const stop = new AbortController();
    const db = new EdgeDatabase(`second ${name}`, { open: () => disk.open(), now: () => 0 });
    const transport = this.#network.transport(name, () => !stop.signal.aborted, true);
    const random = this.#random.fork(`second ${this.#time.now}`);
    const link = new Link(db, transport, { clock, random, logger: silentLogger });
    const version = ++this.#versions;
    link.report(`Job/n/second-${version}`, { version });
    void link.run(stop.signal);
    this.#time.after(3_000 + this.#random.int(20_000), () => {
      stop.abort();
    });
  }

  /** The end of all faults. */
  #calm(): void {
    this.#cloud.disk.full = false;
    this.#cloud.disk.crashAfter = undefined;
    if (!this.#cloud.isAlive) this.#cloud.start();
    for (const edge of this.#edges) {
      edge.disk.full = false;
      edge.disk.crashAfter = undefined;
      const weather = this.#network.weatherOf(edge.name);
      const wasLossy = weather.loss > 0 || weather.reordering > 0;
      Object.assign(weather, {
        state: 'good',
        delayMs: 20,
        loss: 0,
        duplication: 0,
        reordering: 0,
        oldVersion: false,
      });
      if (wasLossy) this.#network.cut(edge.name);
      edge.start();
    }
    this.#cloud.assignPending();
  }

  async #converge(): Promise<void> {
    const end = this.#time.now + CONVERGE_MS;
    let why = this.#difference();
    while (why !== undefined && this.#violation === undefined) {
      if (this.#time.now >= end) throw new Violation(why.promise, why.text);
      await this.#time.runUntil(this.#time.now + 2_000);
      why = this.#difference();
    }
  }

  /** What is not as it should be, if anything (P1 downstream, P6 upstream). */
  #difference(): { promise: string; text: string } | undefined {
    for (const edge of this.#edges) {
      const rows = rowsOf(edge.disk);
      for (const [name, version] of this.#truth.scope(edge.name))
        if (rows.get(name)?.version !== version)
          return {
            promise: 'P1',
            text: `${edge.name} has ${name} in version ${rows.get(name)?.version}, the newest is ${version}`,
          };
      for (const [name, row] of rows) {
        const desired = this.#truth.objects.get(name);
        if (!row.deleted && !desired?.nodes.has(edge.name))
          return { promise: 'P1', text: `${edge.name} still has ${name}` };
      }
      for (const [key, version] of edge.state)
        if (this.#cloud.stateOf(edge.name, key) !== version)
          return {
            promise: 'P6',
            text: `the cloud has ${key} of ${edge.name} in version ${this.#cloud.stateOf(edge.name, key)}, said was ${version}`,
          };
      if (edge.hasWaiting)
        return { promise: 'P6', text: `${edge.name} still has records that wait` };
    }
    return undefined;
  }

  /** P6: every result took effect once, in order; events at most once. */
  #checkEffects(): void {
    const counts = new Map<string, number>();
    for (const key of this.#cloud.effects) counts.set(key, (counts.get(key) ?? 0) + 1);
    for (const edge of this.#edges) {
      for (const { key, mayBeMissing } of edge.said) {
        if (!mayBeMissing && !counts.has(key) && !this.#cloud.effectsOfLostStores.has(key))
          throw new Violation('P6', `result ${key} never took effect`);
      }
      const numbers = [...counts.keys()]
        .filter((k) => k.startsWith(`${edge.name}-`))
        .map((k) => edge.said.findIndex((s) => s.key === k));
      const twice = [...counts].find(([, n]) => n > 1);
      if (twice) throw new Violation('P6', `${twice[0]} took effect ${twice[1]} times`);
      if (numbers.some((n) => n < 0)) throw new Violation('P6', `an effect nobody asked for`);
    }
  }
}

function describe(frame: CloudFrame | EdgeFrame): string {
  const { case: kind, value } = frame.frame;
  return `${kind} ${JSON.stringify(value, (key, inner: unknown) =>
    typeof inner === 'bigint'
      ? Number(inner)
      : key === 'body' || key === '$typeName' || key === 'digest'
        ? undefined
        : inner,
  )}`;
}
