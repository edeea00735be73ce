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
    try {
      db.exec('ROLLBACK');
    } catch {
      // SQLite has rolled back by itself (a full disk, an I/O error): the first error is the one to tell.
    }
    throw error;
  }
}
