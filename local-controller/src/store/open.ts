import { existsSync, renameSync, rmSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { errnoOf, type Logger, messageOf, type SqlRow } from '@shoal/core';
import { EdgeDatabase, type EdgeDatabaseOptions } from './database.ts';

/** SQLite’s words for a file whose bytes are not what it wrote. */
const DAMAGE = /malformed|not a database|disk image|corrupt/i;

/**
 * Opens the edge store. A file that is damaged is put aside, what can be read of the records that
 * wait is carried over, and a new store begins: the cloud brings the objects again, workers and
 * datasets are reported again.
 */
export function openEdgeStore(
  path: string,
  logger: Logger,
  options: EdgeDatabaseOptions = {},
): EdgeDatabase {
  try {
    const fault = existsSync(path) ? faultOf(path) : undefined;
    if (fault === undefined) {
      const db = new EdgeDatabase(path, options);
      const damaged = db.removeDamaged();
      if (damaged.length > 0)
        logger.error('objects on the disk were damaged, they are fetched again', { damaged });
      return db;
    }
    logger.error('the edge store is damaged, a new one begins', { path, fault });
  } catch (error) {
    if (!DAMAGE.test(messageOf(error))) throw error;
    logger.error('the edge store is damaged, a new one begins', { path, fault: messageOf(error) });
  }
  const aside = `${path}.damaged`;
  for (const end of ['', '-wal', '-shm']) moveAside(`${path}${end}`, `${aside}${end}`);
  const db = new EdgeDatabase(path, options);
  const saved = salvage(aside, db);
  logger.warn('records saved from the damaged store', { saved, kept: aside });
  return db;
}

function faultOf(path: string): string | undefined {
  const db = new DatabaseSync(path);
  try {
    const [first] = db.prepare('PRAGMA integrity_check(1)').all();
    const said = String(first?.['integrity_check']);
    return said === 'ok' ? undefined : said;
  } finally {
    db.close();
  }
}

function moveAside(from: string, to: string): void {
  rmSync(to, { force: true });
  try {
    renameSync(from, to);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
}

/** Carries over what can be read of the records that wait. @returns How many. */
function salvage(path: string, into: EdgeDatabase): number {
  let saved = 0;
  let old: DatabaseSync | undefined;
  try {
    old = new DatabaseSync(path, { readOnly: true });
    for (const row of rowsOf(old, 'SELECT key, body FROM said')) {
      if (into.outbox.putState(String(row['key']), row['body'] as Uint8Array)) saved++;
    }
    const log =
      'SELECT stream, key, idempotency_key, body, droppable FROM outbox_log ORDER BY rowid';
    for (const row of rowsOf(old, log)) {
      into.outbox.append(String(row['stream']), {
        key: String(row['key']),
        idempotencyKey: String(row['idempotency_key']),
        body: JSON.parse(Buffer.from(row['body'] as Uint8Array).toString('utf8')) as object,
        droppable: row['droppable'] === 1,
      });
      saved++;
    }
  } catch {
    // The rest cannot be read.
  } finally {
    old?.close();
  }
  return saved;
}

/** Rows as far as they can be read. */
function* rowsOf(db: DatabaseSync, sql: string): Generator<SqlRow> {
  try {
    for (const row of db.prepare(sql).iterate()) yield row as SqlRow;
  } catch {
    // What follows cannot be read.
  }
}
