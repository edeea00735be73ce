import { ShoalError } from './errors.ts';
import { transaction } from './transaction.ts';

export type SqlValue = null | number | bigint | string | Uint8Array;
export type SqlRow = Record<string, SqlValue>;

export interface SqlStatement {
  run(...values: SqlValue[]): unknown;
  get(...values: SqlValue[]): SqlRow | undefined;
  all(...values: SqlValue[]): SqlRow[];
}

/** What our stores need of a SQLite database; `DatabaseSync` of `node:sqlite` is one. */
export interface SqlDatabase {
  exec(sql: string): void;
  prepare(sql: string): SqlStatement;
  close(): void;
}

/** Statements of a database, each compiled once. */
export class Statements {
  readonly #db: SqlDatabase;
  readonly #compiled = new Map<string, SqlStatement>();

  constructor(db: SqlDatabase) {
    this.#db = db;
  }

  #get(sql: string): SqlStatement {
    let statement = this.#compiled.get(sql);
    if (!statement) {
      statement = this.#db.prepare(sql);
      this.#compiled.set(sql, statement);
    }
    return statement;
  }

  run(sql: string, ...values: SqlValue[]): void {
    this.#get(sql).run(...values);
  }

  get(sql: string, ...values: SqlValue[]): SqlRow | undefined {
    return this.#get(sql).get(...values);
  }

  all(sql: string, ...values: SqlValue[]): SqlRow[] {
    return this.#get(sql).all(...values);
  }
}

/**
 * Brings a store to the newest schema: runs the steps it has not seen, each in a transaction, and
 * counts them in `user_version`. The first step must also fit a store made before steps were counted.
 *
 * @throws ShoalError `failed_precondition` when a newer version of Shoal wrote the store.
 */
export function migrate(
  db: SqlDatabase,
  steps: readonly (string | ((db: SqlDatabase) => void))[],
  what: string,
): void {
  const version = Number(db.prepare('PRAGMA user_version').get()?.['user_version'] ?? 0);
  if (version > steps.length)
    throw new ShoalError(
      'failed_precondition',
      `${what} has schema ${version}, this version of Shoal knows ${steps.length}: it was written by a newer one; upgrade, or move the file away`,
    );
  for (let step = version; step < steps.length; step++) {
    transaction(db, () => {
      const body = steps[step] ?? '';
      if (typeof body === 'string') db.exec(body);
      else body(db);
      db.exec(`PRAGMA user_version=${step + 1}`);
    });
  }
}
