import { randomUUID } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import { fromNode, transaction } from '@shoal/core';

/** A change as the feed delivers it. */
export interface IncomingChange {
  readonly rev: number;
  readonly op: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly digest: string;
  readonly body: Uint8Array;
}

export interface StoredObject {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly body: unknown;
}

export interface OutboxEntry {
  readonly key: string;
  readonly seq: number;
  readonly body: Uint8Array;
}

const SCHEMA = `
  PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
  CREATE TABLE IF NOT EXISTS sync_state(id INTEGER PRIMARY KEY CHECK(id=1), store_id TEXT NOT NULL, cursor INTEGER NOT NULL);
  INSERT OR IGNORE INTO sync_state VALUES(1, '', 0);
  CREATE TABLE IF NOT EXISTS objects(kind TEXT, namespace TEXT, name TEXT, uid TEXT NOT NULL, rev INTEGER NOT NULL, digest TEXT NOT NULL,
    body BLOB, deleted INTEGER NOT NULL, PRIMARY KEY(kind, namespace, name));
  CREATE TABLE IF NOT EXISTS outbox_seq(id INTEGER PRIMARY KEY CHECK(id=1), seq INTEGER NOT NULL);
  INSERT OR IGNORE INTO outbox_seq VALUES(1, 0);
  CREATE TABLE IF NOT EXISTS outbox_state(key TEXT PRIMARY KEY, seq INTEGER NOT NULL, body BLOB NOT NULL);
  CREATE TABLE IF NOT EXISTS poison(rev INTEGER PRIMARY KEY, key TEXT NOT NULL, error TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS progress(key TEXT PRIMARY KEY, value TEXT NOT NULL);
`;

/** Everything the edge must not forget: one SQLite file, one writer. */
export class EdgeDatabase {
  readonly #db: DatabaseSync;

  constructor(path: string) {
    try {
      this.#db = new DatabaseSync(path);
      this.#db.exec(SCHEMA);
    } catch (error) {
      throw fromNode(error, `opening the edge store ${path}`);
    }
  }

  /** Identity of this database; a new disk has a new one. */
  get id(): string {
    const known = this.progress<string>('edge_store_id');
    if (known !== undefined) return known;
    const fresh = randomUUID();
    this.setProgress('edge_store_id', fresh);
    return fresh;
  }

  /** Runs a body in one transaction: all of it is durable, or none. */
  transaction<T>(body: () => T): T {
    return transaction(this.#db, body);
  }

  cursor(): { storeId: string; cursor: number } {
    const row = this.#db.prepare('SELECT store_id, cursor FROM sync_state').get();
    return { storeId: String(row?.['store_id']), cursor: Number(row?.['cursor']) };
  }

  setCursor(storeId: string, cursor: number): void {
    this.#db.prepare('UPDATE sync_state SET store_id=?, cursor=?').run(storeId, cursor);
  }

  /** The stored revision and uid of an object (also of a tombstone); rev 0 when unknown. */
  revision(kind: string, namespace: string, name: string): { rev: number; uid: string } {
    const row = this.#db
      .prepare('SELECT rev, uid FROM objects WHERE kind=? AND namespace=? AND name=?')
      .get(kind, namespace, name);
    return { rev: Number(row?.['rev'] ?? 0), uid: String(row?.['uid'] ?? '') };
  }

  putObject(change: IncomingChange): void {
    this.#db
      .prepare('INSERT OR REPLACE INTO objects VALUES(?, ?, ?, ?, ?, ?, ?, 0)')
      .run(
        change.kind,
        change.namespace,
        change.name,
        change.uid,
        change.rev,
        change.digest,
        change.body,
      );
  }

  /** Leaves a tombstone: an older put that arrives late must not bring the object back. */
  deleteObject(change: IncomingChange): void {
    this.#db
      .prepare('INSERT OR REPLACE INTO objects VALUES(?, ?, ?, ?, ?, ?, NULL, 1)')
      .run(change.kind, change.namespace, change.name, change.uid, change.rev, '');
  }

  /** A snapshot from another feed: revisions of before mean nothing any more. */
  forgetRevisions(): void {
    this.#db.exec('DELETE FROM objects WHERE deleted=1; UPDATE objects SET rev=0;');
  }

  objects(kind?: string): StoredObject[] {
    const rows = this.#db.prepare('SELECT * FROM objects WHERE deleted=0').all();
    return rows
      .filter((r) => kind === undefined || r['kind'] === kind)
      .map((r) => ({
        kind: String(r['kind']),
        namespace: String(r['namespace']),
        name: String(r['name']),
        uid: String(r['uid']),
        body: JSON.parse(Buffer.from(r['body'] as Uint8Array).toString('utf8')) as unknown,
      }));
  }

  addPoison(rev: number, key: string, error: string): void {
    this.#db.prepare('INSERT OR REPLACE INTO poison VALUES(?, ?, ?)').run(rev, key, error);
  }

  /** Replaces what is waiting under a key by something newer. Nothing happens when it is the same. */
  putOutbox(key: string, body: Uint8Array): boolean {
    const sent = this.progress<string>(`sent/${key}`);
    const text = Buffer.from(body).toString('base64');
    if (sent === text) return false;
    this.transaction(() => {
      this.#db.exec('UPDATE outbox_seq SET seq=seq+1');
      this.#db
        .prepare('INSERT OR REPLACE INTO outbox_state VALUES(?, (SELECT seq FROM outbox_seq), ?)')
        .run(key, body);
      this.setProgress(`sent/${key}`, text);
    });
    return true;
  }

  /** What waits to be sent, oldest first. */
  outbox(): OutboxEntry[] {
    return this.#db
      .prepare('SELECT key, seq, body FROM outbox_state ORDER BY seq')
      .all()
      .map((r) => ({
        key: String(r['key']),
        seq: Number(r['seq']),
        body: r['body'] as Uint8Array,
      }));
  }

  /** Drops what has taken effect in the cloud. */
  acknowledge(seq: number): void {
    this.#db.prepare('DELETE FROM outbox_state WHERE seq<=?').run(seq);
  }

  /** Makes everything that was ever sent count as unsent (the cloud lost its store). */
  resendAll(): void {
    const rows = this.#db.prepare("SELECT key, value FROM progress WHERE key LIKE 'sent/%'").all();
    for (const row of rows) {
      const key = String(row['key']).slice('sent/'.length);
      this.#db.exec('UPDATE outbox_seq SET seq=seq+1');
      const body = Buffer.from(JSON.parse(String(row['value'])) as string, 'base64');
      this.#db
        .prepare('INSERT OR REPLACE INTO outbox_state VALUES(?, (SELECT seq FROM outbox_seq), ?)')
        .run(key, body);
    }
  }

  /** A value kept across restarts. */
  progress<T>(key: string): T | undefined {
    const row = this.#db.prepare('SELECT value FROM progress WHERE key=?').get(key);
    return row ? (JSON.parse(String(row['value'])) as T) : undefined;
  }

  setProgress(key: string, value: unknown): void {
    this.#db
      .prepare('INSERT OR REPLACE INTO progress VALUES(?, ?)')
      .run(key, JSON.stringify(value));
  }

  /** Forgets values whose key begins with a prefix. */
  forgetProgress(prefix: string): void {
    this.#db.prepare('DELETE FROM progress WHERE substr(key, 1, ?) = ?').run(prefix.length, prefix);
  }

  close(): void {
    this.#db.close();
  }
}
