import { recordKey } from '@shoal/api';
import type { SqlRow } from '@shoal/core';
import type { CloudStore } from './cloud-store.ts';

/** A record as an edge sent it. */
export interface EdgeRecord {
  readonly stream: string;
  readonly seq: number;
  readonly key: string;
  readonly body: Uint8Array;
  /** Of a log record. */
  readonly idempotencyKey?: string;
  /** Of a log record: the oldest number the edge still holds. */
  readonly first?: number;
}

/** A log entry whose effect in the cluster is still to be made. */
export interface LogEntry {
  readonly id: number;
  readonly node: string;
  readonly stream: string;
  readonly idempotencyKey: string;
  readonly key: string;
  readonly body: Uint8Array;
}

/** A job, service or dataset that nodes say something about. */
export interface Work {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
}

/** A job as it is now: another one of the same name has another uid. */
export interface WorkObject extends Work {
  readonly uid: string;
}

/** Of a node: whether it works for a kind, namespace and name, given twice in this order. */
function worksFor(node: string): string {
  const named = 'kind=? AND namespace=? AND name=?';
  return `EXISTS (SELECT 1 FROM worker WHERE node=${node} AND ${named}) OR EXISTS (SELECT 1 FROM change WHERE node=${node} AND ${named} AND op='put')`;
}

const LOG = 'log/';
/** Keys of records that one node may have: more than the jobs of any machine need. */
const MAX_KEYS = 10_000;
/** They are counted when so many new ones have come. */
const COUNT_EVERY = 100;
/** Keys of log entries that are remembered per node after their effect. */
const KEPT_KEYS = 10_000;
const PRUNE_EVERY = 100;

/**
 * What each node has said: the newest record per key, and log entries in order. Stored in the same
 * transaction as the number that makes it count once.
 */
export class Records {
  readonly #store: CloudStore;
  readonly #recordListeners: ((node: string, key: string) => void)[] = [];
  readonly #logListeners: (() => void)[] = [];
  /** New keys of each node since they were counted. */
  readonly #newKeys = new Map<string, number>();

  constructor(store: CloudStore) {
    this.#store = store;
  }

  onRecord(listener: (node: string, key: string) => void): void {
    this.#recordListeners.push(listener);
  }

  /** Called when there are log entries whose effect is to be made. */
  onLog(listener: () => void): void {
    this.#logListeners.push(listener);
  }

  /** Numbers up to which records of an edge store were taken, by stream. */
  positions(node: string, edgeStore: string): { stream: string; seq: number }[] {
    const prefix = `${edgeStore}/`;
    return this.#store
      .all(
        'SELECT stream, seq FROM stream WHERE node=? AND substr(stream, 1, ?) = ?',
        node,
        prefix.length,
        prefix,
      )
      .map((r) => ({ stream: String(r['stream']).slice(prefix.length), seq: Number(r['seq']) }));
  }

  lastSeq(node: string, edgeStore: string, stream: string): number {
    const row = this.#store.get(
      'SELECT seq FROM stream WHERE node=? AND stream=?',
      node,
      `${edgeStore}/${stream}`,
    );
    return Number(row?.['seq'] ?? 0);
  }

  /**
   * Takes a record once; to be called in a transaction of the store. Duplicates change nothing.
   *
   * @param edgeStore Numbers belong to one edge database: a replaced disk begins at 1 again.
   * @param isValid False uses the number up without storing the record.
   * @returns `taken`, `known` for a duplicate, `gap` when records of the stream are missing before it.
   */
  take(
    node: string,
    edgeStore: string,
    record: EdgeRecord,
    isValid = true,
  ): 'taken' | 'known' | 'gap' {
    const last = this.lastSeq(node, edgeStore, record.stream);
    if (record.seq <= last) return 'known';
    const isLog = record.stream.startsWith(LOG);
    // What the edge gave up in between (its quota) is not waited for: sessions see to the order.
    const isHeld = record.first !== undefined && last >= record.first;
    if (isLog && record.seq !== last + 1 && record.seq !== record.first && !isHeld) return 'gap';
    if (isValid && isLog)
      this.#store.run(
        'INSERT OR IGNORE INTO log(node, stream, idempotency_key, key, body) VALUES(?, ?, ?, ?, ?)',
        node,
        record.stream,
        record.idempotencyKey ?? '',
        record.key,
        record.body,
      );
    else if (isValid) this.#keep(node, record.key, record.body);
    this.#store.run(
      'INSERT OR REPLACE INTO stream VALUES(?, ?, ?)',
      node,
      `${edgeStore}/${record.stream}`,
      record.seq,
    );
    return 'taken';
  }

  /** Whether a version of something is newer than the one seen last; remembers it. In a transaction of the store. */
  isNewer(node: string, what: string, version: number): boolean {
    const row = this.#store.get('SELECT seq FROM stream WHERE node=? AND stream=?', node, what);
    if (row && Number(row['seq']) >= version) return false;
    this.#store.run('INSERT OR REPLACE INTO stream VALUES(?, ?, ?)', node, what, version);
    return true;
  }

  /**
   * Takes what a node says under a key now, where something else keeps the order; to be called in a
   * transaction of the store. @returns False when that is what it has said.
   */
  replace(node: string, key: string, body: Uint8Array): boolean {
    const known = this.#store.get('SELECT body FROM record WHERE node=? AND key=?', node, key);
    if (known && Buffer.from(known['body'] as Uint8Array).equals(body)) return false;
    this.#keep(node, key, body);
    return true;
  }

  /** A node that says more than any does has what it said first, of what it does not work for, forgotten. */
  #keep(node: string, key: string, body: Uint8Array): void {
    const store = this.#store;
    const isKnown = store.get('SELECT 1 FROM record WHERE node=? AND key=?', node, key);
    if (!isKnown) this.#countKey(node);
    store.run('INSERT OR REPLACE INTO record VALUES(?, ?, ?)', node, key, body);
  }

  #countKey(node: string): void {
    const since = (this.#newKeys.get(node) ?? COUNT_EVERY) + 1;
    this.#newKeys.set(node, since > COUNT_EVERY ? 0 : since);
    if (since <= COUNT_EVERY) return;
    const row = this.#store.get('SELECT count(*) AS n FROM record WHERE node=?', node);
    if (Number(row?.['n']) >= MAX_KEYS - COUNT_EVERY) this.#makeRoom(node);
  }

  #makeRoom(node: string): void {
    const store = this.#store;
    const working = new Set(
      store
        .all(
          "SELECT kind, namespace, name FROM worker WHERE node=? UNION SELECT kind, namespace, name FROM change WHERE node=? AND op='put'",
          node,
          node,
        )
        .map((w) => `${String(w['kind'])}/${String(w['namespace'])}/${String(w['name'])}`),
    );
    const keys = store
      .all('SELECT key FROM record WHERE node=? ORDER BY rowid', node)
      .map((row) => String(row['key']));
    const idle = keys.filter((key) => !working.has(key.split('/').slice(0, 3).join('/')));
    for (const key of (idle.length > 0 ? idle : keys).slice(0, MAX_KEYS / 10))
      store.run('DELETE FROM record WHERE node=? AND key=?', node, key);
  }

  /** Tells those who listen about records that were taken, once they are durable. */
  announce(taken: readonly { node: string; stream: string; key: string }[]): void {
    for (const { node, key } of taken.filter((t) => !t.stream.startsWith(LOG)))
      for (const listener of this.#recordListeners) listener(node, key);
    if (taken.some((t) => t.stream.startsWith(LOG)))
      for (const listener of this.#logListeners) listener();
  }

  /** Log entries whose effect is still to be made, oldest first. */
  logEntries(limit: number): LogEntry[] {
    return this.#store
      .all('SELECT * FROM log WHERE body IS NOT NULL ORDER BY id LIMIT ?', limit)
      .map((r) => ({
        id: Number(r['id']),
        node: String(r['node']),
        stream: String(r['stream']),
        idempotencyKey: String(r['idempotency_key']),
        key: String(r['key']),
        body: r['body'] as Uint8Array,
      }));
  }

  /**
   * The effect of an entry is made; its key is remembered, so that it cannot be made again.
   *
   * @param effect What is to be stored with it, all or nothing.
   */
  logDone(entry: LogEntry, effect: () => void = () => undefined): void {
    this.#store.transaction(() => {
      effect();
      this.#store.run('UPDATE log SET body=NULL WHERE id=?', entry.id);
      if (entry.id % PRUNE_EVERY !== 0) return;
      this.#store.run(
        'DELETE FROM log WHERE node=? AND body IS NULL AND id <= (SELECT id FROM log WHERE node=? AND body IS NULL ORDER BY id DESC LIMIT 1 OFFSET ?)',
        entry.node,
        entry.node,
        KEPT_KEYS,
      );
    });
  }

  /** The newest record of a key from one node, parsed. */
  record<T>(node: string, key: string): T | undefined {
    const row = this.#store.get('SELECT body FROM record WHERE node=? AND key=?', node, key);
    return row ? parse<T>(row) : undefined;
  }

  /** Whether something else of this name was here before, and nobody has noticed that it went. */
  isSuccessor({ kind, namespace, name, uid }: WorkObject): boolean {
    return this.#workers({ kind, namespace, name }).some((w) => w.uid !== '' && w.uid !== uid);
  }

  #workers({ kind, namespace, name }: Work): { node: string; uid: string }[] {
    return this.#store
      .all(
        'SELECT node, uid FROM worker WHERE kind=? AND namespace=? AND name=?',
        kind,
        namespace,
        name,
      )
      .map((row) => ({ node: String(row['node']), uid: String(row['uid']) }));
  }

  /**
   * Remembers that nodes work for something: what they say of it counts, also after they have left.
   * Those of an earlier object of this name do not any more.
   */
  admit(work: WorkObject, nodes: readonly string[]): void {
    const { kind, namespace, name, uid } = work;
    const known = this.#workers(work);
    const own = new Set(known.filter((w) => w.uid === uid).map((w) => w.node));
    const fresh = nodes.filter((node) => !own.has(node));
    const isOld = known.some((w) => w.uid !== '' && w.uid !== uid);
    if (fresh.length === 0 && !isOld) return;
    this.#store.transaction(() => {
      this.#store.run(
        "DELETE FROM worker WHERE kind=? AND namespace=? AND name=? AND uid NOT IN ('', ?)",
        kind,
        namespace,
        name,
        uid,
      );
      for (const node of fresh)
        this.#store.run(
          'INSERT OR REPLACE INTO worker(kind, namespace, name, node, uid) VALUES(?, ?, ?, ?, ?)',
          kind,
          namespace,
          name,
          node,
          uid,
        );
    });
  }

  /** What somebody works for. */
  works(): Work[] {
    return this.#store.all('SELECT DISTINCT kind, namespace, name FROM worker').map((row) => ({
      kind: String(row['kind']),
      namespace: String(row['namespace']),
      name: String(row['name']),
    }));
  }

  /** Whether a node works for something or did: by a pod there, or because it is told of it. */
  worksFor(node: string, { kind, namespace, name }: Work): boolean {
    const about = [node, kind, namespace, name] as const;
    const found = this.#store.get(`SELECT 1 WHERE ${worksFor('?')}`, ...about, ...about);
    return found !== undefined;
  }

  /**
   * What nodes have said last of something, one record per node and part; of nodes that do not work
   * for it nothing counts.
   *
   * @param part Only this part; default: all.
   */
  said<T>(work: Work, part?: string): { node: string; key: string; body: T }[] {
    const { kind, namespace, name } = work;
    const key = recordKey(kind, work, part ?? '');
    const named = [kind, namespace, name] as const;
    // Of all parts: from `…/` up to what would follow the slash.
    const end = part === undefined ? `${key.slice(0, -1)}0` : `${key}\0`;
    return this.#store
      .all(
        `SELECT r.node, r.key, r.body FROM record r WHERE r.key >= ? AND r.key < ? AND (${worksFor('r.node')}) ORDER BY r.node, r.key`,
        key,
        end,
        ...named,
        ...named,
      )
      .map((r) => ({ node: String(r['node']), key: String(r['key']), body: parse<T>(r) }));
  }

  /** Forgets one record of every node. */
  forgetRecord(key: string): void {
    this.#store.transaction(() => this.#store.run('DELETE FROM record WHERE key = ?', key));
  }

  /** Forgets what was said of something that is gone, and who worked for it. */
  forget(work: Work): void {
    const { kind, namespace, name } = work;
    const prefix = recordKey(kind, work, '');
    this.#store.transaction(() => {
      const end = `${prefix.slice(0, -1)}0`;
      this.#store.run('DELETE FROM record WHERE key >= ? AND key < ?', prefix, end);
      this.#store.run(
        'DELETE FROM worker WHERE kind=? AND namespace=? AND name=?',
        kind,
        namespace,
        name,
      );
    });
  }
}

function parse<T>(row: SqlRow): T {
  return JSON.parse(Buffer.from(row['body'] as Uint8Array).toString('utf8')) as T;
}
