import { DatabaseSync } from 'node:sqlite';
import type { SqlDatabase, SqlRow, SqlStatement, SqlValue } from '@shoal/core';

/** The machine loses power here. */
export class PowerLoss extends Error {
  constructor() {
    super('power loss');
  }
}

/** Whether an error is what a full disk or a power loss must lead to. */
export function isExpected(error: unknown): boolean {
  return /power loss|disk is full|has taken over|results wait to be sent/.test(String(error));
}

const WRITE = /^\s*(INSERT|UPDATE|DELETE|REPLACE)/i;

/**
 * A disk with one SQLite database that outlives the processes that open it. A process dies at a
 * numbered write; what it had not committed is gone. While a database does not ask for
 * `synchronous=FULL`, commits are not on the disk yet: a crash loses the newest of them.
 */
export class SimDisk {
  #db = new DatabaseSync(':memory:');
  #looks = new Map<string, SqlStatement>();
  #process = 0;
  /** Writes until the power goes; undefined: it does not. */
  crashAfter: number | undefined;
  /** While true, nothing can be written. */
  full = false;
  /** Commits of statements like these are told. */
  watched: RegExp = /\b(objects|sync_state)\b/;
  /** Called after every such commit of a living process. */
  onCommit: () => void = () => undefined;
  /** Called when the process on this disk has died. */
  onCrash: () => void = () => undefined;
  #isSynced = false;
  #inTransaction = false;
  #current: { sql: string; values: SqlValue[] }[] = [];
  #history: { sql: string; values: SqlValue[] }[][] = [];

  /** A process opens the database; a process of before is dead for good, unless the disk is shared. */
  open(isShared = false): SqlDatabase {
    const process = isShared ? this.#process : ++this.#process;
    this.#rollback();
    const alive = (): void => {
      if (process !== this.#process) throw new PowerLoss();
    };
    return {
      exec: (sql) => {
        alive();
        this.#exec(sql);
      },
      prepare: (sql) => {
        alive();
        const inner = this.#db.prepare(sql) as unknown as SqlStatement;
        const isWrite = WRITE.test(sql);
        const around = <T>(values: SqlValue[], body: () => T): T => {
          alive();
          return isWrite ? this.#write(sql, values, body) : body();
        };
        return {
          run: (...values) => around(values, () => inner.run(...values)),
          get: (...values) => around<SqlRow | undefined>(values, () => inner.get(...values)),
          all: (...values) => around<SqlRow[]>(values, () => inner.all(...values)),
        };
      },
      close: () => undefined,
    };
  }

  /** The process dies now. */
  kill(): void {
    this.#process++;
    this.crashAfter = undefined;
    this.#rollback();
    this.#loseUnsynced();
    this.onCrash();
  }

  #step(): void {
    if (this.crashAfter === undefined) return;
    if (this.crashAfter-- > 0) return;
    this.kill();
    throw new PowerLoss();
  }

  #exec(sql: string): void {
    this.#step();
    const synchronous = /synchronous\s*=\s*(\w+)/i.exec(sql);
    if (synchronous) this.#isSynced = synchronous[1]?.toUpperCase() === 'FULL';
    if (sql === 'ROLLBACK') return this.#rollback();
    this.#db.exec(sql);
    if (sql.startsWith('BEGIN')) this.#inTransaction = true;
    else if (sql === 'COMMIT') {
      this.#inTransaction = false;
      this.#committed();
    } else if (!sql.startsWith('PRAGMA') || sql.includes('user_version'))
      this.#current.push({ sql, values: [] });
  }

  #write<T>(sql: string, values: SqlValue[], body: () => T): T {
    this.#step();
    if (this.full) throw new Error('database or disk is full');
    const result = body();
    this.#current.push({ sql, values });
    if (!this.#inTransaction) this.#committed();
    return result;
  }

  #committed(): void {
    if (!this.#isSynced) this.#history.push(this.#current);
    const touched = this.#current;
    this.#current = [];
    if (touched.some(({ sql }) => this.watched.test(sql))) this.onCommit();
  }

  #rollback(): void {
    this.#current = [];
    if (!this.#inTransaction) return;
    this.#inTransaction = false;
    this.#db.exec('ROLLBACK');
  }

  /** Rebuilds the database without its newest commits. */
  #loseUnsynced(): void {
    if (this.#isSynced || this.#history.length === 0) return;
    const kept = this.#history.slice(0, -3);
    this.#db = new DatabaseSync(':memory:');
    this.#looks.clear();
    for (const commit of kept)
      for (const { sql, values } of commit) {
        if (values.length === 0) this.#db.exec(sql);
        else this.#db.prepare(sql).all(...values);
      }
    this.#history = kept;
  }

  /** What is on the disk, whoever uses it. */
  look(sql: string, ...values: SqlValue[]): SqlRow[] {
    let statement = this.#looks.get(sql);
    if (!statement) {
      statement = this.#db.prepare(sql) as unknown as SqlStatement;
      this.#looks.set(sql, statement);
    }
    return statement.all(...values);
  }

  /** Damages what is on the disk. */
  damage(sql: string): void {
    this.#db.exec(sql);
  }
}
