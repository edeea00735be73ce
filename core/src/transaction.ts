/** What a transaction needs of a database. */
export interface TransactionalDatabase {
  exec(sql: string): void;
}

/** Runs a body in one transaction of a SQLite database: all of it is durable, or none. */
export function transaction<T>(db: TransactionalDatabase, body: () => T): T {
  db.exec('BEGIN IMMEDIATE');
  try {
    const result = body();
    db.exec('COMMIT');
    return result;
  } catch (error) {
    db.exec('ROLLBACK');
    throw error;
  }
}
