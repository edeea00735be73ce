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

const LOG = 'log/';
/** Keys of records that one node may have: more than the jobs of any machine need. */
const MAX_KEYS = 10_000;
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
    const many = 'SELECT count(*) AS n FROM record WHERE node=?';
    if (!isKnown && Number(store.get(many, node)?.['n']) >= MAX_KEYS) this.#makeRoom(node);
    store.run('INSERT OR REPLACE INTO record VALUES(?, ?, ?)', node, key, body);
  }

  #makeRoom(node: string): void {
    const rows = this.#store.all('SELECT key FROM record WHERE node=? ORDER BY rowid', node);
    const keys = rows.map((row) => String(row['key']));
    const isIdle = (key: string): boolean => {
      const [kind = '', namespace = '', name = ''] = key.split('/');
      return !this.worksFor(node, { kind, namespace, name });
    };
    const idle = keys.filter(isIdle);
    for (const key of (idle.length > 0 ? idle : keys).slice(0, MAX_KEYS / 10))
      this.#store.run('DELETE FROM record WHERE node=? AND key=?', node, key);
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

  /**
   * Remembers that nodes work for something: what they say of it counts, also after they have left.
   */
  admit({ kind, namespace, name }: Work, nodes: readonly string[]): void {
    const isKnown = (node: string): boolean =>
      this.#store.get(
        'SELECT 1 FROM worker WHERE kind=? AND namespace=? AND name=? AND node=?',
        kind,
        namespace,
        name,
        node,
      ) !== undefined;
    const fresh = nodes.filter((node) => !isKnown(node));
    if (fresh.length === 0) return;
    this.#store.transaction(() => {
      for (const node of fresh)
        this.#store.run(
          'INSERT OR IGNORE INTO worker VALUES(?, ?, ?, ?)',
          kind,
          namespace,
          name,
          node,
        );
    });
  }

  /** Whether a node works for something or did: by a pod there, or because it was told of it. */
  worksFor(node: string, { kind, namespace, name }: Work): boolean {
    const found = this.#store.get(
      'SELECT 1 FROM worker WHERE node=?1 AND kind=?2 AND namespace=?3 AND name=?4 UNION ALL SELECT 1 FROM change WHERE node=?1 AND kind=?2 AND namespace=?3 AND name=?4 LIMIT 1',
      node,
      kind,
      namespace,
      name,
    );
    return found !== undefined;
  }

  /**
   * What nodes have said last of something, one record per node and part; of nodes that do not work
   * for it nothing counts.
   *
   * @param part Only this part; default: all.
   */
  said<T>(work: Work, part?: string): { node: string; key: string; body: T }[] {
    const prefix = recordKey(work.kind, work, part ?? '');
    const rows =
      part === undefined
        ? this.#store.all(
            'SELECT node, key, body FROM record WHERE substr(key, 1, ?) = ?',
            prefix.length,
            prefix,
          )
        : this.#store.all('SELECT node, key, body FROM record WHERE key = ?', prefix);
    return rows
      .map((r) => ({ node: String(r['node']), key: String(r['key']), row: r }))
      .filter(({ node }) => this.worksFor(node, work))
      .map(({ node, key, row }) => ({ node, key, body: parse<T>(row) }));
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
      this.#store.run('DELETE FROM record WHERE substr(key, 1, ?) = ?', prefix.length, prefix);
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
