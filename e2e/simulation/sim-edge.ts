import { type Random, silentLogger } from '@shoal/core';
import type { SimNetwork } from './network.ts';
import { EdgeDatabase, Link } from './parts.ts';
import {
  checkAfterCrash,
  checkCommit,
  type EdgeRecordBook,
  newBook,
  Violation,
} from './promises.ts';
import { isExpected, SimDisk } from './sim-disk.ts';
import type { Truth } from './truth.ts';
import type { VirtualTime } from './virtual-time.ts';

export interface EdgePorts {
  readonly time: VirtualTime;
  readonly random: Random;
  readonly network: SimNetwork;
  readonly truth: Truth;
  readonly fail: (error: unknown) => void;
}

/** Log entries an edge was told to send, and whether they may be missing. */
export interface Said {
  readonly key: string;
  readonly mayBeMissing: boolean;
}

const QUOTA = { droppableBytes: 4_000, controlBytes: 40_000 };

/** One edge machine: a disk, a clock that may be wrong, and a local controller’s link. */
export class SimEdge {
  readonly name: string;
  readonly #ports: EdgePorts;
  disk: SimDisk = new SimDisk();
  book: EdgeRecordBook = newBook();
  skewMs = 0;
  /** What was said last under each key. */
  readonly state: Map<string, number> = new Map();
  said: Said[] = [];
  #db: EdgeDatabase | undefined;
  #link: Link | undefined;
  #stop = new AbortController();
  #numbers = 0;
  isAlive = false;
  starts = 0;

  constructor(name: string, ports: EdgePorts) {
    this.name = name;
    this.#ports = ports;
    this.#attach();
  }

  #attach(): void {
    const { disk } = this;
    disk.onCommit = () => {
      try {
        checkCommit(this.name, this.book, disk, this.#ports.truth);
      } catch (error) {
        this.#ports.fail(error);
      }
    };
    disk.onCrash = () => this.#died();
  }

  #died(): void {
    if (!this.isAlive) return;
    this.isAlive = false;
    this.#stop.abort();
    this.#ports.network.cut(this.name);
    try {
      checkAfterCrash(this.name, this.book, this.disk);
    } catch (error) {
      this.#ports.fail(error);
    }
  }

  /** Starts the process; what it finds on the disk serves at once, with or without a cloud (P5). */
  start(): void {
    if (this.isAlive) return;
    const { time, random, network } = this.#ports;
    const clock = time.clock(() => this.skewMs);
    const life = ++this.starts;
    try {
      const db = new EdgeDatabase(`edge ${this.name}`, {
        open: () => this.disk.open(),
        now: () => clock.now(),
        outbox: QUOTA,
      });
      this.isAlive = true;
      const damaged = this.disk.look('SELECT name FROM objects WHERE deleted=0');
      if (this.book.damaged.size > 0)
        for (const r of damaged) this.book.damaged.add(String(r['name']));
      db.removeDamaged();
      const served = db.objects().map((o) => o.name);
      for (const [name, row] of this.book.rows)
        if (!row.deleted && !this.book.damaged.has(name) && !served.includes(name))
          throw new Violation('P5', `${this.name} does not serve ${name} after a restart`);
      this.#db = db;
      const transport = network.transport(this.name, () => this.isAlive && this.starts === life);
      this.#link = new Link(db, transport, {
        clock,
        random: random.fork(`${this.name} ${life}`),
        logger: silentLogger,
      });
      this.#stop = new AbortController();
      this.#link.run(this.#stop.signal).catch((error: unknown) => this.#guard(error));
    } catch (error) {
      this.#guard(error);
      // The process ends with the error, and a supervisor starts it again.
      this.disk.kill();
      this.isAlive = false;
      time.after(1_000, () => this.start());
    }
  }

  #guard(error: unknown): void {
    if (!this.isAlive || isExpected(error)) return;
    this.#ports.fail(error);
  }

  kill(): void {
    this.disk.kill();
  }

  /** Another machine takes the place: the disk is gone, and what waited on it. */
  replaceDisk(): void {
    this.kill();
    this.disk = new SimDisk();
    this.book = newBook();
    this.said = this.said.map((s) => ({ ...s, mayBeMissing: true }));
    this.state.clear();
    this.#attach();
  }

  /** A worker says how it is. */
  reportState(key: string, version: number): void {
    if (!this.isAlive || !this.#link) return;
    try {
      this.#link.report(`Job/n/${key}`, { version });
      this.state.set(key, version);
    } catch (error) {
      this.#guard(error);
      // It may be on the disk or not: what counts is what is said next.
      this.state.delete(key);
    }
  }

  /** Something happened that must be told once. */
  reportEvent(isDroppable: boolean): void {
    if (!this.isAlive || !this.#link) return;
    const key = `${this.name}-${++this.#numbers}`;
    try {
      this.#link.append(isDroppable ? 'events' : 'results', {
        key: `Job/n/${key}`,
        body: { n: this.#numbers, pad: 'x'.repeat(100) },
        idempotencyKey: key,
        droppable: isDroppable,
      });
      this.said.push({ key, mayBeMissing: isDroppable });
    } catch (error) {
      this.#guard(error);
      this.said.push({ key, mayBeMissing: true });
    }
  }

  get connected(): boolean {
    return this.isAlive && (this.#link?.connected ?? false);
  }

  /** Bytes of log entries that wait on the disk. */
  waitingBytes(): { droppable: number; control: number } {
    const [row] = this.disk.look(
      'SELECT TOTAL(CASE WHEN droppable=1 THEN LENGTH(body) END) AS d, TOTAL(CASE WHEN droppable=0 THEN LENGTH(body) END) AS c FROM outbox_log',
    );
    return { droppable: Number(row?.['d']), control: Number(row?.['c']) };
  }

  /** P9: what waits is bounded; what was dropped is counted, and never a result. */
  checkQuota(): void {
    const { droppable, control } = this.waitingBytes();
    if (droppable > QUOTA.droppableBytes || control > QUOTA.controlBytes)
      throw new Violation(
        'P9',
        `${this.name} keeps ${droppable} bytes of events and ${control} of results`,
      );
  }

  get hasWaiting(): boolean {
    return (this.#db?.outbox.summary().records ?? 0) > 0;
  }
}
