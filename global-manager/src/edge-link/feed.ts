import { randomUUID } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import { canonicalJson, digestOf, fromNode, transaction } from '@shoal/core';

/** Identifies an object in a feed. */
export interface FeedKey {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

export interface FeedItem extends FeedKey {
  readonly rev: number;
  readonly op: 'put' | 'delete';
  readonly digest: string;
  readonly body: Uint8Array;
}

export interface FeedPage {
  readonly from: number;
  readonly to: number;
  readonly items: readonly FeedItem[];
}

/** A record as an edge sent it. */
export interface EdgeRecord {
  readonly stream: string;
  readonly seq: number;
  readonly key: string;
  readonly body: Uint8Array;
}

const MAX_ITEMS = 256;
const MAX_BYTES = 256 * 1024;
const SCHEMA = `
  PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
  CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS scope(node TEXT PRIMARY KEY, head INTEGER NOT NULL, epoch INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS change(node TEXT, kind TEXT, namespace TEXT, name TEXT, uid TEXT, rev INTEGER NOT NULL,
    op TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY(node, kind, namespace, name));
  CREATE INDEX IF NOT EXISTS change_rev ON change(node, rev);
  CREATE TABLE IF NOT EXISTS body(digest TEXT PRIMARY KEY, bytes BLOB NOT NULL);
  CREATE TABLE IF NOT EXISTS record(node TEXT, key TEXT, body BLOB NOT NULL, PRIMARY KEY(node, key));
  CREATE TABLE IF NOT EXISTS stream(node TEXT, stream TEXT, seq INTEGER NOT NULL, PRIMARY KEY(node, stream));
`;

/**
 * What each node should know, and what each node has said. Downstream a log per node in which a
 * newer change of an object replaces the older one (the feed is the queue: nothing is dropped for
 * being slow); bodies are stored once however many nodes get them. Upstream the newest record per
 * key, stored in the same transaction as the sequence number that makes it count once.
 */
export class Feed {
  readonly #db: DatabaseSync;
  readonly storeId: string;
  readonly #appendListeners: ((node: string) => void)[] = [];
  readonly #recordListeners: ((node: string, key: string) => void)[] = [];

  constructor(path: string) {
    try {
      this.#db = new DatabaseSync(path);
      this.#db.exec(SCHEMA);
    } catch (error) {
      throw fromNode(error, `opening the feed store ${path}`);
    }
    this.#db.prepare("INSERT OR IGNORE INTO meta VALUES('store_id', ?)").run(randomUUID());
    this.storeId = String(
      this.#db.prepare("SELECT value FROM meta WHERE key='store_id'").get()?.['value'],
    );
  }

  #transaction<T>(body: () => T): T {
    return transaction(this.#db, body);
  }

  onAppend(listener: (node: string) => void): void {
    this.#appendListeners.push(listener);
  }

  onRecord(listener: (node: string, key: string) => void): void {
    this.#recordListeners.push(listener);
  }

  /**
   * Makes an object visible to exactly these nodes, each with its own body. Nodes that saw it
   * before and are not named get a delete. Nothing happens where nothing changed.
   */
  assign(key: FeedKey, bodies: ReadonlyMap<string, object>): void {
    const touched = this.#transaction(() => {
      const nodes: string[] = [];
      const seen = this.#db
        .prepare("SELECT node FROM change WHERE kind=? AND namespace=? AND name=? AND op='put'")
        .all(key.kind, key.namespace, key.name);
      for (const row of seen) {
        const node = String(row['node']);
        if (!bodies.has(node) && this.#append(node, key, undefined)) nodes.push(node);
      }
      for (const [node, body] of bodies) if (this.#append(node, key, body)) nodes.push(node);
      return nodes;
    });
    for (const node of touched) for (const listener of this.#appendListeners) listener(node);
  }

  #append(node: string, key: FeedKey, body: object | undefined): boolean {
    const { kind, namespace, name } = key;
    const text = body === undefined ? '' : canonicalJson(body);
    const digest = body === undefined ? '' : digestOf(text);
    const op = body === undefined ? 'delete' : 'put';
    const current = this.#db
      .prepare(
        'SELECT op, digest, uid FROM change WHERE node=? AND kind=? AND namespace=? AND name=?',
      )
      .get(node, kind, namespace, name);
    if (
      current?.['op'] === op &&
      current['digest'] === digest &&
      (op === 'delete' || current['uid'] === key.uid)
    )
      return false;
    // A delete carries the uid of what is deleted, so that it cannot hit a successor of the same name.
    const uid = op === 'delete' ? String(current?.['uid'] ?? key.uid) : key.uid;
    this.#db.prepare('INSERT OR IGNORE INTO scope VALUES(?, 0, 0)').run(node);
    this.#db.prepare('UPDATE scope SET head=head+1 WHERE node=?').run(node);
    if (text !== '')
      this.#db.prepare('INSERT OR IGNORE INTO body VALUES(?, ?)').run(digest, Buffer.from(text));
    this.#db
      .prepare(
        'INSERT OR REPLACE INTO change VALUES(?, ?, ?, ?, ?, (SELECT head FROM scope WHERE node=?), ?, ?)',
      )
      .run(node, kind, namespace, name, uid, node, op, digest);
    const old = String(current?.['digest'] ?? '');
    if (old !== '' && old !== digest) {
      this.#db
        .prepare(
          'DELETE FROM body WHERE digest=? AND NOT EXISTS (SELECT 1 FROM change WHERE digest=?)',
        )
        .run(old, old);
    }
    return true;
  }

  head(node: string): number {
    return Number(this.#db.prepare('SELECT head FROM scope WHERE node=?').get(node)?.['head'] ?? 0);
  }

  /** Raises and returns the node's session number: only the newest session may write. */
  raiseEpoch(node: string): number {
    this.#db.prepare('INSERT OR IGNORE INTO scope VALUES(?, 0, 0)').run(node);
    const row = this.#db
      .prepare('UPDATE scope SET epoch=epoch+1 WHERE node=? RETURNING epoch')
      .get(node);
    return Number(row?.['epoch']);
  }

  epoch(node: string): number {
    return Number(
      this.#db.prepare('SELECT epoch FROM scope WHERE node=?').get(node)?.['epoch'] ?? 0,
    );
  }

  /** Changes after a revision, at most a window's worth. Undefined when there is nothing new. */
  page(node: string, from: number): FeedPage | undefined {
    const rows = this.#db
      .prepare(
        'SELECT c.*, b.bytes FROM change c LEFT JOIN body b ON b.digest=c.digest WHERE node=? AND rev>? ORDER BY rev LIMIT ?',
      )
      .all(node, from, MAX_ITEMS);
    const items: FeedItem[] = [];
    let bytes = 0;
    for (const row of rows) {
      const item = toItem(row);
      bytes += item.body.length;
      if (items.length > 0 && bytes > MAX_BYTES) break;
      items.push(item);
    }
    const last = items.at(-1);
    if (!last) return undefined;
    // The last page ends at the head: revisions that were replaced count as delivered.
    return {
      from,
      to: items.length === rows.length && rows.length < MAX_ITEMS ? this.head(node) : last.rev,
      items,
    };
  }

  /** Everything the node should have, for an edge whose cursor does not fit this feed. */
  snapshot(node: string): FeedPage {
    const rows = this.#db
      .prepare(
        "SELECT c.*, b.bytes FROM change c LEFT JOIN body b ON b.digest=c.digest WHERE node=? AND op='put' ORDER BY rev",
      )
      .all(node);
    return { from: 0, to: this.head(node), items: rows.map(toItem) };
  }

  /** True when something addressed to this node names the digest: only then may it read the blob. */
  mentions(node: string, digest: string): boolean {
    const row = this.#db
      .prepare(
        "SELECT 1 FROM change c JOIN body b ON b.digest=c.digest WHERE node=? AND op='put' AND instr(CAST(b.bytes AS TEXT), ?) > 0 LIMIT 1",
      )
      .get(node, digest);
    return row !== undefined;
  }

  /** What a node has been told of an object, if it is meant for it. */
  assigned<T>(node: string, key: FeedKey): T | undefined {
    const row = this.#db
      .prepare(
        "SELECT b.bytes FROM change c JOIN body b ON b.digest=c.digest WHERE node=? AND kind=? AND namespace=? AND name=? AND uid=? AND op='put'",
      )
      .get(node, key.kind, key.namespace, key.name, key.uid);
    return row
      ? (JSON.parse(Buffer.from(row['bytes'] as Uint8Array).toString('utf8')) as T)
      : undefined;
  }

  lastSeq(node: string, stream: string): number {
    return Number(
      this.#db.prepare('SELECT seq FROM stream WHERE node=? AND stream=?').get(node, stream)?.[
        'seq'
      ] ?? 0,
    );
  }

  /**
   * Takes a record once. Duplicates change nothing.
   *
   * @param valid False uses the number up without storing the record.
   * @returns The sequence number up to which the stream has taken effect.
   */
  take(node: string, record: EdgeRecord, valid = true): number {
    const taken = this.#transaction(() => {
      if (record.seq <= this.lastSeq(node, record.stream)) return false;
      if (valid) {
        this.#db
          .prepare('INSERT OR REPLACE INTO record VALUES(?, ?, ?)')
          .run(node, record.key, record.body);
      }
      this.#db
        .prepare('INSERT OR REPLACE INTO stream VALUES(?, ?, ?)')
        .run(node, record.stream, record.seq);
      return true;
    });
    if (taken && valid) for (const listener of this.#recordListeners) listener(node, record.key);
    return this.lastSeq(node, record.stream);
  }

  /** The newest record of a key from one node, parsed. */
  record<T>(node: string, key: string): T | undefined {
    const row = this.#db.prepare('SELECT body FROM record WHERE node=? AND key=?').get(node, key);
    return row
      ? (JSON.parse(Buffer.from(row['body'] as Uint8Array).toString('utf8')) as T)
      : undefined;
  }

  /** The newest records under a key prefix from all nodes. */
  records<T>(prefix: string): { node: string; key: string; body: T }[] {
    return this.#db
      .prepare('SELECT node, key, body FROM record WHERE substr(key, 1, ?) = ?')
      .all(prefix.length, prefix)
      .map((r) => ({
        node: String(r['node']),
        key: String(r['key']),
        body: JSON.parse(Buffer.from(r['body'] as Uint8Array).toString('utf8')) as T,
      }));
  }

  /** Forgets one record of every node. */
  forgetRecord(key: string): void {
    this.#db.prepare('DELETE FROM record WHERE key = ?').run(key);
  }

  /** Forgets the records of an object that is gone; the prefix ends in a slash. */
  forgetRecords(prefix: string): void {
    this.#db.prepare('DELETE FROM record WHERE substr(key, 1, ?) = ?').run(prefix.length, prefix);
  }

  close(): void {
    this.#db.close();
  }
}

function toItem(row: Record<string, unknown>): FeedItem {
  return {
    rev: Number(row['rev']),
    op: row['op'] === 'delete' ? 'delete' : 'put',
    kind: String(row['kind']),
    namespace: String(row['namespace']),
    name: String(row['name']),
    uid: String(row['uid']),
    digest: String(row['digest']),
    body: (row['bytes'] as Uint8Array | null) ?? new Uint8Array(),
  };
}
