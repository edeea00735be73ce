import { randomUUID } from 'node:crypto';
import { DatabaseSync } from 'node:sqlite';
import {
  fromNode,
  migrate,
  ShoalError,
  type SqlDatabase,
  type SqlRow,
  type SqlValue,
  Statements,
  transaction,
} from '@shoal/core';

const PRAGMAS = 'PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;';

/** What a store made before steps were counted has, too. */
const FIRST = `
  CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS scope(node TEXT PRIMARY KEY, head INTEGER NOT NULL, epoch INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS change(node TEXT, kind TEXT, namespace TEXT, name TEXT, uid TEXT, rev INTEGER NOT NULL,
    op TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY(node, kind, namespace, name));
  CREATE INDEX IF NOT EXISTS change_rev ON change(node, rev);
  CREATE TABLE IF NOT EXISTS body(digest TEXT PRIMARY KEY, bytes BLOB NOT NULL);
  CREATE TABLE IF NOT EXISTS record(node TEXT, key TEXT, body BLOB NOT NULL, PRIMARY KEY(node, key));
  CREATE TABLE IF NOT EXISTS stream(node TEXT, stream TEXT, seq INTEGER NOT NULL, PRIMARY KEY(node, stream));
`;

/** Compaction, log entries, refused changes; whose term it is. */
const SECOND = `
  ALTER TABLE scope ADD COLUMN compacted INTEGER NOT NULL DEFAULT 0;
  CREATE TABLE log(id INTEGER PRIMARY KEY, node TEXT NOT NULL, stream TEXT NOT NULL, idempotency_key TEXT NOT NULL,
    key TEXT NOT NULL, body BLOB, UNIQUE(node, idempotency_key));
  CREATE TABLE nack(node TEXT, kind TEXT, namespace TEXT, name TEXT, rev INTEGER NOT NULL, error TEXT NOT NULL,
    PRIMARY KEY(node, kind, namespace, name));
  CREATE INDEX log_open ON log(id) WHERE body IS NOT NULL;
  CREATE INDEX change_key ON change(kind, namespace, name);
  CREATE INDEX change_digest ON change(digest);
  INSERT OR IGNORE INTO meta VALUES('term', '0');
`;

/** Tokens that were used, and certificates of nodes. */
const THIRD = `
  CREATE TABLE used_token(id TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL);
  CREATE TABLE device(digest TEXT PRIMARY KEY, node TEXT NOT NULL, state TEXT NOT NULL, issued_ms INTEGER NOT NULL,
    ends_ms INTEGER NOT NULL);
  CREATE INDEX device_node ON device(node);
`;

/** The history of nodes’ figures. */
const FOURTH = `
  CREATE TABLE figure(id INTEGER PRIMARY KEY, node TEXT NOT NULL, body BLOB NOT NULL);
  CREATE INDEX figure_node ON figure(node, id);
`;

/** Who works for what. Those who have said something until now are taken at their word. */
const FIFTH = `
  CREATE TABLE worker(kind TEXT, namespace TEXT, name TEXT, node TEXT, uid TEXT NOT NULL DEFAULT '',
    PRIMARY KEY(kind, namespace, name, node)) WITHOUT ROWID;
  CREATE INDEX worker_node ON worker(node);
  CREATE INDEX record_key ON record(key);
  INSERT OR IGNORE INTO worker(kind, namespace, name, node)
    WITH first AS (SELECT node, substr(key, 1, instr(key, '/') - 1) AS kind, substr(key, instr(key, '/') + 1) AS rest FROM record),
      second AS (SELECT node, kind, substr(rest, 1, instr(rest, '/') - 1) AS namespace, substr(rest, instr(rest, '/') + 1) || '/' AS rest FROM first)
    SELECT kind, namespace, substr(rest, 1, instr(rest, '/') - 1), node FROM second;
`;

/**
 * The store behind EdgeLink in the cloud: what each node should know and what each has said. One
 * manager writes at a time: opening for writing begins a new term, and whoever is of an older term
 * finds every transaction refused.
 */
export class CloudStore {
  readonly #db: SqlDatabase;
  readonly #sql: Statements;
  /** Identity of this store: cursors of edges belong to it. */
  readonly id: string;
  readonly #term: number;

  /** @param open Opens the file; default: SQLite of this Node.js. */
  constructor(
    path: string,
    open: (path: string) => SqlDatabase = (file) => new DatabaseSync(file),
  ) {
    try {
      this.#db = open(path);
      this.#db.exec(PRAGMAS);
      migrate(this.#db, [FIRST, SECOND, THIRD, FOURTH, FIFTH], `the feed store ${path}`);
    } catch (error) {
      throw fromNode(error, `opening the feed store ${path}`);
    }
    this.#sql = new Statements(this.#db);
    this.run("INSERT OR IGNORE INTO meta VALUES('store_id', ?)", randomUUID());
    this.id = String(this.get("SELECT value FROM meta WHERE key='store_id'")?.['value']);
    const row = this.get(
      "UPDATE meta SET value=CAST(value AS INTEGER)+1 WHERE key='term' RETURNING value",
    );
    this.#term = Number(row?.['value']);
  }

  /**
   * Runs a body in one transaction.
   *
   * @throws ShoalError `failed_precondition` when another manager has opened the store since.
   */
  transaction<T>(body: () => T): T {
    return transaction(this.#db, () => {
      const term = Number(this.get("SELECT value FROM meta WHERE key='term'")?.['value']);
      if (term !== this.#term)
        throw new ShoalError(
          'failed_precondition',
          `another global manager has taken over (term ${term}, this one is of term ${this.#term})`,
        );
      return body();
    });
  }

  run(sql: string, ...values: SqlValue[]): void {
    this.#sql.run(sql, ...values);
  }

  get(sql: string, ...values: SqlValue[]): SqlRow | undefined {
    return this.#sql.get(sql, ...values);
  }

  all(sql: string, ...values: SqlValue[]): SqlRow[] {
    return this.#sql.all(sql, ...values);
  }

  close(): void {
    this.#db.close();
  }
}
