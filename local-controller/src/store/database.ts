import { randomUUID } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import {
  digestOf,
  fromNode,
  migrate,
  type SqlDatabase,
  type SqlRow,
  Statements,
  transaction,
} from '@shoal/core';
import { Outbox, type OutboxLimits } from './outbox.ts';
import { EDGE_SCHEMA } from './schema.ts';

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

export interface ObjectKey {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
}

export interface StoredObject extends ObjectKey {
  readonly uid: string;
  readonly body: unknown;
}

/** An object by the digest of its body as it is on the disk. */
export interface HeldObject extends ObjectKey {
  readonly uid: string;
  readonly digest: string;
}

export interface SyncState {
  /** The feed the cursor belongs to; empty when nothing, or not all of a reconcile, is here. */
  readonly storeId: string;
  readonly cursor: number;
  /** The highest epoch of this node that was seen. */
  readonly epoch: number;
}

export interface EdgeDatabaseOptions {
  readonly outbox?: Partial<OutboxLimits>;
  /** Milliseconds since the epoch; default: the machine's clock. */
  readonly now?: () => number;
  /** Opens the file; default: SQLite of this Node.js. */
  readonly open?: (path: string) => SqlDatabase;
}

const PRAGMAS = 'PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;';

/** Everything the edge must not forget: one SQLite file, one writer. */
export class EdgeDatabase {
  readonly #db: SqlDatabase;
  readonly #sql: Statements;
  readonly outbox: Outbox;

  constructor(path: string, options: EdgeDatabaseOptions = {}) {
    try {
      this.#db = (options.open ?? ((file) => new DatabaseSync(file)))(path);
      this.#db.exec(PRAGMAS);
      migrate(this.#db, EDGE_SCHEMA, `the edge store ${path}`);
    } catch (error) {
      throw fromNode(error, `opening the edge store ${path}`);
    }
    this.#sql = new Statements(this.#db);
    this.outbox = new Outbox(this.#db, {
      ...(options.outbox && { limits: options.outbox }),
      ...(options.now && { now: options.now }),
    });
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

  syncState(): SyncState {
    const row = this.#sql.get('SELECT store_id, cursor, epoch FROM sync_state');
    return {
      storeId: String(row?.['store_id']),
      cursor: Number(row?.['cursor']),
      epoch: Number(row?.['epoch']),
    };
  }

  setCursor(storeId: string, cursor: number): void {
    this.#sql.run('UPDATE sync_state SET store_id=?, cursor=?', storeId, cursor);
  }

  setEpoch(epoch: number): void {
    this.#sql.run('UPDATE sync_state SET epoch=?', epoch);
  }

  /** The stored revision and uid of an object (also of a tombstone); rev 0 when unknown. */
  revision(key: ObjectKey): { rev: number; uid: string } {
    const row = this.#sql.get(
      'SELECT rev, uid FROM objects WHERE kind=? AND namespace=? AND name=?',
      key.kind,
      key.namespace,
      key.name,
    );
    return { rev: Number(row?.['rev'] ?? 0), uid: String(row?.['uid'] ?? '') };
  }

  putObject(change: IncomingChange): void {
    const { kind, namespace, name, uid, rev, digest, body } = change;
    this.#sql.run(
      'INSERT OR REPLACE INTO objects VALUES(?, ?, ?, ?, ?, ?, ?, 0, ?)',
      kind,
      namespace,
      name,
      uid,
      rev,
      digest,
      body,
      sealOf(change),
    );
  }

  /** Leaves a tombstone: an older put that arrives late must not bring the object back. */
  deleteObject(key: ObjectKey & { uid: string; rev: number }): void {
    this.#sql.run(
      "INSERT OR REPLACE INTO objects VALUES(?, ?, ?, ?, ?, '', NULL, 1, NULL)",
      key.kind,
      key.namespace,
      key.name,
      key.uid,
      key.rev,
    );
  }

  /** Gives an object that is here the revision it has in the feed. False when it is not here. */
  keepObject(key: ObjectKey, rev: number): boolean {
    const row = this.#sql.get(
      'SELECT uid, digest FROM objects WHERE kind=? AND namespace=? AND name=? AND deleted=0',
      key.kind,
      key.namespace,
      key.name,
    );
    if (!row) return false;
    const seal = sealOf({ ...key, rev, uid: String(row['uid']), digest: String(row['digest']) });
    this.#sql.run(
      'UPDATE objects SET rev=?, seal=? WHERE kind=? AND namespace=? AND name=?',
      rev,
      seal,
      key.kind,
      key.namespace,
      key.name,
    );
    return true;
  }

  /** Revisions of before mean nothing any more: what comes next is taken whatever its revision. */
  forgetRevisions(): void {
    this.#sql.run('DELETE FROM objects WHERE deleted=1');
    this.#sql.run('UPDATE objects SET rev=0, seal=NULL');
    this.#sql.run('DELETE FROM poison');
  }

  objects(kind?: string): StoredObject[] {
    const rows =
      kind === undefined
        ? this.#sql.all('SELECT * FROM objects WHERE deleted=0')
        : this.#sql.all('SELECT * FROM objects WHERE deleted=0 AND kind=?', kind);
    return rows.map((r) => ({
      ...keyOf(r),
      uid: String(r['uid']),
      body: JSON.parse(Buffer.from(r['body'] as Uint8Array).toString('utf8')) as unknown,
    }));
  }

  /** What is here, by the bytes on the disk and not by what they were when they came. */
  held(): HeldObject[] {
    return this.#sql
      .all('SELECT kind, namespace, name, uid, body FROM objects WHERE deleted=0')
      .map((r) => ({
        ...keyOf(r),
        uid: String(r['uid']),
        digest: digestOf(r['body'] as Uint8Array),
      }));
  }

  /**
   * Removes objects whose bytes are not what was received (a disk that flips bits), and makes the
   * next session reconcile. @returns Their keys.
   */
  removeDamaged(): ObjectKey[] {
    const damaged = this.#sql
      .all(
        'SELECT kind, namespace, name, uid, rev, digest, body, seal FROM objects WHERE deleted=0',
      )
      .filter((r) => digestOf(r['body'] as Uint8Array) !== r['digest'] || !isSealed(r))
      .map(keyOf);
    if (damaged.length === 0) return [];
    this.transaction(() => {
      for (const { kind, namespace, name } of damaged)
        this.#sql.run(
          'DELETE FROM objects WHERE kind=? AND namespace=? AND name=?',
          kind,
          namespace,
          name,
        );
      this.setCursor('', 0);
    });
    return damaged;
  }

  addPoison(rev: number, key: string, error: string): void {
    this.#sql.run(
      'INSERT INTO poison VALUES(?, ?, ?, 1) ON CONFLICT(key) DO UPDATE SET rev=excluded.rev, error=excluded.error, attempts=attempts+1',
      key,
      rev,
      error.slice(0, 500),
    );
  }

  removePoison(key: string): void {
    this.#sql.run('DELETE FROM poison WHERE key=?', key);
  }

  /** Changes that could not be applied, with the reason. */
  poison(): { key: string; rev: number; error: string; attempts: number }[] {
    return this.#sql.all('SELECT * FROM poison ORDER BY rev').map((r) => ({
      key: String(r['key']),
      rev: Number(r['rev']),
      error: String(r['error']),
      attempts: Number(r['attempts']),
    }));
  }

  /** A value kept across restarts. */
  progress<T>(key: string): T | undefined {
    const row = this.#sql.get('SELECT value FROM progress WHERE key=?', key);
    return row ? (JSON.parse(String(row['value'])) as T) : undefined;
  }

  setProgress(key: string, value: unknown): void {
    this.#sql.run('INSERT OR REPLACE INTO progress VALUES(?, ?)', key, JSON.stringify(value));
  }

  /** Forgets values whose key begins with a prefix. */
  forgetProgress(prefix: string): void {
    this.#sql.run('DELETE FROM progress WHERE substr(key, 1, ?) = ?', prefix.length, prefix);
  }

  close(): void {
    this.#db.close();
  }
}

function sealOf(row: ObjectKey & { uid: string; rev: number; digest: string }): string {
  const { kind, namespace, name, uid, rev, digest } = row;
  return digestOf(JSON.stringify([kind, namespace, name, uid, rev, digest])).slice(7, 39);
}

function isSealed(row: SqlRow): boolean {
  if (row['seal'] === null) return true; // of a version before, or in the middle of a reconcile
  const { uid, rev, digest } = row;
  return (
    row['seal'] ===
    sealOf({ ...keyOf(row), uid: String(uid), rev: Number(rev), digest: String(digest) })
  );
}

function keyOf(row: Record<string, unknown>): ObjectKey {
  return {
    kind: String(row['kind']),
    namespace: String(row['namespace']),
    name: String(row['name']),
  };
}
