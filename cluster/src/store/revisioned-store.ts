import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { fromNode, ShoalError } from '@shoal/core';
import type { ApiObject } from '../object.ts';

/** Where an object lives: `group/plural` (core: `/pods`), namespace ('' when cluster-wide), name. */
export interface Key {
  readonly resource: string;
  readonly namespace: string;
  readonly name: string;
}

export interface ChangeEvent {
  readonly revision: number;
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly resource: string;
  readonly object: ApiObject;
  /** What the object was before; tells a filtered watch that it came into or went out of view. */
  readonly previous: ApiObject | undefined;
}

/** One write transaction. Reads see its own writes. */
export interface Transaction {
  get(key: Key): ApiObject | undefined;
  /** Stores the object under the next revision and returns it with `resourceVersion` set. */
  put(key: Key, object: ApiObject): ApiObject;
  delete(key: Key): ApiObject | undefined;
}

type Listener = (event: ChangeEvent) => void;
type PendingWrite = { run: (tx: Transaction) => void; settle: (failure?: unknown) => void };

/** Changes kept for watches that begin in the past. */
const HISTORY = 20_000;

/** The collection (resource and namespace) as one map key. */
function collectionOf(key: Key): string {
  return `${key.resource}\n${key.namespace}`;
}

/** Objects of one resource and namespace; knows their order until a name comes or goes. */
class Collection {
  readonly #objects = new Map<string, ApiObject>();
  #names: string[] | undefined;

  get(name: string): ApiObject | undefined {
    return this.#objects.get(name);
  }

  set(name: string, object: ApiObject): void {
    if (!this.#objects.has(name)) this.#names = undefined;
    this.#objects.set(name, object);
  }

  delete(name: string): void {
    if (this.#objects.delete(name)) this.#names = undefined;
  }

  list(): ApiObject[] {
    this.#names ??= [...this.#objects.keys()].toSorted();
    return this.#names.flatMap((name) => this.#objects.get(name) ?? []);
  }
}

/**
 * Objects under one global revision, as etcd keeps them: every write raises the revision by one,
 * a watch may begin at any revision still in the history. Objects are held in memory and, before
 * a write is acknowledged, on disk (SQLite, WAL, `synchronous=FULL`). Writes that arrive together
 * share one fsync.
 */
export class RevisionedStore {
  readonly #db: DatabaseSync;
  readonly #upsert: StatementSync;
  readonly #remove: StatementSync;
  readonly #setRevision: StatementSync;
  readonly #objects = new Map<string, Collection>();
  readonly #listeners = new Set<Listener>();
  readonly #historyLimit: number;
  #history: ChangeEvent[] = [];
  #revision: number;
  /** The revision on disk. */
  #persisted: number;
  #compacted: number;
  #queue: PendingWrite[] = [];
  #scheduled = false;

  /** @throws ShoalError when the file cannot be opened or is not such a database. */
  constructor(path: string, history: number = HISTORY) {
    this.#historyLimit = history;
    try {
      this.#db = new DatabaseSync(path);
      this.#db.exec(
        'PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;' +
          'CREATE TABLE IF NOT EXISTS objects(resource TEXT, namespace TEXT, name TEXT, value TEXT NOT NULL,' +
          ' PRIMARY KEY(resource, namespace, name)) WITHOUT ROWID;' +
          'CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL);' +
          "INSERT OR IGNORE INTO meta VALUES('schema', 1), ('revision', 1);",
      );
    } catch (error) {
      throw fromNode(error, `opening the cluster store ${path}`);
    }
    this.#upsert = this.#db.prepare('INSERT OR REPLACE INTO objects VALUES(?, ?, ?, ?)');
    this.#remove = this.#db.prepare(
      'DELETE FROM objects WHERE resource=? AND namespace=? AND name=?',
    );
    this.#setRevision = this.#db.prepare("UPDATE meta SET value=? WHERE key='revision'");
    this.#revision = this.#load();
    this.#persisted = this.#revision;
    this.#compacted = this.#revision;
  }

  #load(): number {
    for (const row of this.#db.prepare('SELECT * FROM objects').iterate()) {
      const key = {
        resource: String(row['resource']),
        namespace: String(row['namespace']),
        name: String(row['name']),
      };
      this.#collection(key).set(key.name, JSON.parse(String(row['value'])) as ApiObject);
    }
    const row = this.#db.prepare("SELECT value FROM meta WHERE key='revision'").get();
    return Number(row?.['value']);
  }

  #collection(key: Key): Collection {
    const id = collectionOf(key);
    let collection = this.#objects.get(id);
    if (!collection) {
      collection = new Collection();
      this.#objects.set(id, collection);
    }
    return collection;
  }

  /** The newest revision. */
  get revision(): number {
    return this.#revision;
  }

  get(key: Key): ApiObject | undefined {
    return this.#objects.get(collectionOf(key))?.get(key.name);
  }

  /** Objects of a resource in one namespace, or in all when none is given; ordered by name. */
  list(resource: string, namespace?: string): ApiObject[] {
    if (namespace !== undefined)
      return this.#objects.get(`${resource}\n${namespace}`)?.list() ?? [];
    const prefix = `${resource}\n`;
    const ids = [...this.#objects.keys()].filter((id) => id.startsWith(prefix));
    return ids.toSorted().flatMap((id) => this.#objects.get(id)?.list() ?? []);
  }

  /**
   * Runs `op` in a transaction and resolves with its result once it is on disk. What `op` throws
   * rejects the promise and undoes this op alone.
   */
  write<T>(op: (tx: Transaction) => T): Promise<T> {
    return new Promise((resolve, reject) => {
      let result: T;
      this.#queue.push({
        run: (tx) => {
          result = op(tx);
        },
        settle: (failure) => (failure === undefined ? resolve(result) : reject(failure)),
      });
      if (!this.#scheduled) {
        this.#scheduled = true;
        setImmediate(() => this.#flush());
      }
    });
  }

  /** One batch: runs the queued ops, commits them together, then tells the watchers. */
  #flush(): void {
    this.#scheduled = false;
    const batch = this.#queue;
    this.#queue = [];
    const committed: ChangeEvent[] = [];
    const settled: [PendingWrite, unknown][] = [];
    for (const write of batch) {
      const events: ChangeEvent[] = [];
      try {
        write.run(this.#transaction(events));
        committed.push(...events);
        settled.push([write, undefined]);
      } catch (error) {
        this.#undo(events);
        settled.push([write, error ?? new Error('write failed')]);
      }
    }
    let failure: unknown;
    // Also when every op was undone: a number that was handed out must not come again after a restart.
    if (this.#revision > this.#persisted) failure = this.#persist(committed);
    for (const [write, error] of settled) write.settle(error ?? failure);
    if (failure === undefined) this.#publish(committed);
  }

  #persist(events: readonly ChangeEvent[]): unknown {
    try {
      this.#db.exec('BEGIN IMMEDIATE');
      for (const event of events) {
        const { namespace = '', name } = event.object.metadata;
        if (event.type === 'DELETED') this.#remove.run(event.resource, namespace, name);
        else this.#upsert.run(event.resource, namespace, name, JSON.stringify(event.object));
      }
      this.#setRevision.run(this.#revision);
      this.#db.exec('COMMIT');
      this.#persisted = this.#revision;
      return undefined;
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
      this.#undo(events);
      return new ShoalError('unavailable', `the cluster store cannot write: ${String(error)}`, {
        cause: error,
      });
    }
  }

  #undo(events: readonly ChangeEvent[]): void {
    for (const event of events.toReversed()) {
      const { namespace = '', name } = event.object.metadata;
      const map = this.#collection({ resource: event.resource, namespace, name });
      if (event.previous) map.set(name, event.previous);
      else map.delete(name);
    }
    // Revisions that were handed out stay used: a number is never given to two different writes.
  }

  #transaction(events: ChangeEvent[]): Transaction {
    return {
      get: (key) => this.get(key),
      put: (key, object) => {
        const previous = this.get(key);
        const revision = ++this.#revision;
        const stored = {
          ...object,
          metadata: { ...object.metadata, resourceVersion: String(revision) },
        };
        this.#collection(key).set(key.name, stored);
        const type = previous ? 'MODIFIED' : 'ADDED';
        events.push({ revision, type, resource: key.resource, object: stored, previous });
        return stored;
      },
      delete: (key) => {
        const previous = this.get(key);
        if (!previous) return undefined;
        const revision = ++this.#revision;
        this.#collection(key).delete(key.name);
        const object = {
          ...previous,
          metadata: { ...previous.metadata, resourceVersion: String(revision) },
        };
        events.push({ revision, type: 'DELETED', resource: key.resource, object, previous });
        return object;
      },
    };
  }

  #publish(events: readonly ChangeEvent[]): void {
    this.#history.push(...events);
    if (this.#history.length > this.#historyLimit * 1.25) {
      const dropped = this.#history.length - this.#historyLimit;
      this.#compacted = this.#history[dropped - 1]?.revision ?? this.#compacted;
      this.#history = this.#history.slice(dropped);
    }
    for (const event of events) for (const listener of this.#listeners) listener(event);
  }

  /** True when a watch may begin at this revision. */
  covers(from: number): boolean {
    return from >= this.#compacted && from <= this.#revision;
  }

  /**
   * Calls `listener` for every change after `from`, first those in the history, then as they come.
   *
   * @returns A function that ends the watch, or undefined when `from` is no longer (or not yet)
   *   in the history: the caller must list again.
   */
  watch(from: number, listener: Listener): (() => void) | undefined {
    if (!this.covers(from)) return undefined;
    const start = this.#firstAfter(from);
    for (let i = start; i < this.#history.length; i++) {
      const event = this.#history[i];
      if (event) listener(event);
    }
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #firstAfter(revision: number): number {
    let low = 0;
    let high = this.#history.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#history[middle]?.revision ?? 0) > revision) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Forgets history up to a revision; watches that begin before it get "relist". */
  compact(revision: number): void {
    this.#history = this.#history.slice(this.#firstAfter(revision));
    this.#compacted = Math.max(this.#compacted, revision);
  }

  close(): void {
    if (this.#queue.length > 0) this.#flush();
    this.#db.close();
  }
}
