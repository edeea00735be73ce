import { existsSync, statSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { fromNode, Statements, transaction } from '@shoal/core';
import { appendOnce } from '../dataset/append-once.ts';
import type { SampleLines } from '../dataset/lines.ts';
import type { Delivery } from './source.ts';

const SCHEMA = `
  PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000; PRAGMA auto_vacuum=INCREMENTAL;
  CREATE TABLE IF NOT EXISTS taken(seq INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL, id TEXT, lasting INTEGER NOT NULL,
    lines BLOB, UNIQUE(uid, id)) STRICT;
  CREATE INDEX IF NOT EXISTS taken_waiting ON taken(uid, seq) WHERE lines IS NOT NULL;
  CREATE TABLE IF NOT EXISTS dataset(uid TEXT PRIMARY KEY, path TEXT NOT NULL, seen INTEGER NOT NULL,
    received INTEGER NOT NULL DEFAULT 0, rejected INTEGER NOT NULL DEFAULT 0, last_rejection TEXT, last_ms INTEGER,
    offset INTEGER, up_to INTEGER) STRICT;
`;
/** Ids that are remembered per dataset, beside lasting ones. */
const KEPT_IDS = 4_096;
/** What is appended at once, about. */
const FLUSH_BYTES = 4 * 1024 * 1024;
const FLUSH_ROWS = 4_096;
/** A dataset that has not been here for so long is forgotten, once all it got is in its file. */
const FORGOTTEN_MS = 7 * 24 * 3600 * 1000;
const SEEN_MS = 60_000;

/** Figures of what a dataset got. */
export interface IntakeCounts {
  readonly received: number;
  readonly rejected: number;
  readonly lastRejection?: string;
  /** Milliseconds since the epoch. */
  readonly lastMs?: number;
}

/**
 * Samples on their way from a sender into the file of a dataset. Taken is durable: a delivery is in
 * this database before its sender hears of it, and goes from here into the file once, whatever
 * happens between.
 */
export class SampleIntake {
  readonly #db: DatabaseSync;
  readonly #sql: Statements;

  constructor(path: string) {
    try {
      this.#db = new DatabaseSync(path);
      this.#db.exec(SCHEMA);
    } catch (error) {
      throw fromNode(error, `opening the intake ${path}`);
    }
    this.#sql = new Statements(this.#db);
  }

  /** A dataset is here: its file is at this path. */
  begin(uid: string, path: string, nowMs: number): void {
    const known = this.#sql.get('SELECT path, seen FROM dataset WHERE uid=?', uid);
    if (known?.['path'] === path && nowMs - Number(known['seen']) < SEEN_MS) return;
    // Where in the old file lines were to go says nothing of a new one.
    if (known && known['path'] !== path) this.#endFlush(uid);
    this.#sql.run(
      'INSERT INTO dataset(uid, path, seen) VALUES(?, ?, ?) ON CONFLICT(uid) DO UPDATE SET path=excluded.path, seen=excluded.seen',
      uid,
      path,
      nowMs,
    );
  }

  /** Bytes of the file and of what waits to be in it. */
  bytes(uid: string): number {
    const path = this.#path(uid);
    const row = this.#sql.get(
      'SELECT coalesce(sum(length(lines)), 0) AS n FROM taken WHERE uid=? AND lines IS NOT NULL',
      uid,
    );
    return sizeOf(path) + Number(row?.['n'] ?? 0);
  }

  #path(uid: string): string {
    return String(this.#sql.get('SELECT path FROM dataset WHERE uid=?', uid)?.['path'] ?? '');
  }

  /** Whether a delivery is a repetition: it was taken already. */
  isKnown(uid: string, { id, mayRepeat = true }: Delivery): boolean {
    if (id === undefined || !mayRepeat) return false;
    return this.#sql.get('SELECT 1 FROM taken WHERE uid=? AND id=?', uid, id) !== undefined;
  }

  /**
   * Keeps the lines of a delivery, unless it was taken already.
   *
   * @returns Lines that are new.
   * @throws ShoalError `resource_exhausted` when the disk is full: nothing of it is kept.
   */
  take(
    uid: string,
    delivery: Delivery,
    { lines, refused, rejected }: SampleLines,
    nowMs: number,
  ): number {
    if (this.isKnown(uid, delivery)) return 0;
    const bytes = lines.length > 0 ? Buffer.from(lines.map((l) => `${l}\n`).join('')) : null;
    const { isLasting = false } = delivery;
    // What was refused is refused again, not taken for something that is here.
    const id = bytes === null && !isLasting ? null : (delivery.id ?? null);
    try {
      transaction(this.#db, () => {
        // A sender that uses an id again means something new by it.
        if (id !== null) this.#sql.run('UPDATE taken SET id=NULL WHERE uid=? AND id=?', uid, id);
        if (bytes !== null || id !== null)
          this.#sql.run(
            'INSERT INTO taken(uid, id, lasting, lines) VALUES(?, ?, ?, ?)',
            uid,
            id,
            isLasting ? 1 : 0,
            bytes,
          );
        this.#sql.run(
          `UPDATE dataset SET received=received+?, rejected=rejected+?, last_rejection=coalesce(?, last_rejection),
             last_ms=CASE WHEN ? > 0 THEN ? ELSE last_ms END WHERE uid=?`,
          lines.length,
          rejected,
          refused.at(-1)?.slice(0, 500) ?? null,
          lines.length,
          nowMs,
          uid,
        );
      });
    } catch (error) {
      throw fromNode(error, 'keeping samples');
    }
    return lines.length;
  }

  /**
   * Appends what waits to the files of all datasets.
   *
   * @returns What is in the way, by the dataset's uid.
   */
  flush(): ReadonlyMap<string, unknown> {
    const faults = new Map<string, unknown>();
    const waiting = this.#sql.all('SELECT DISTINCT uid FROM taken WHERE lines IS NOT NULL');
    for (const row of waiting) {
      const uid = String(row['uid']);
      try {
        while (this.#flushSome(uid));
      } catch (error) {
        faults.set(uid, error);
      }
    }
    return faults;
  }

  #flushSome(uid: string): boolean {
    const path = this.#path(uid);
    if (path === '') return false;
    const marker = this.#sql.get('SELECT offset, up_to FROM dataset WHERE uid=?', uid);
    let upTo = marker?.['up_to'] === null ? undefined : Number(marker?.['up_to']);
    let offset = Number(marker?.['offset'] ?? 0);
    const rows = this.#waiting(uid, upTo);
    if (rows.length === 0 && upTo === undefined) return false;
    if (upTo === undefined) {
      // From here on these lines go to the end of the file as it is now, also after a crash.
      upTo = rows.at(-1)?.seq ?? 0;
      offset = sizeOf(path);
      this.#sql.run('UPDATE dataset SET offset=?, up_to=? WHERE uid=?', offset, upTo, uid);
    }
    try {
      appendOnce(path, Buffer.concat(rows.map((r) => r.lines)), offset);
    } catch (error) {
      // Nothing of it is there: it goes to the end of the file as it is then, after what others append.
      if (marker?.['up_to'] === null && sizeOf(path) === offset) this.#endFlush(uid);
      throw error;
    }
    const done = upTo;
    transaction(this.#db, () => {
      this.#sql.run(
        'UPDATE taken SET lines=NULL WHERE uid=? AND seq<=? AND lines IS NOT NULL',
        uid,
        done,
      );
      this.#endFlush(uid);
      this.#sql.run('DELETE FROM taken WHERE uid=? AND lines IS NULL AND id IS NULL', uid);
      this.#sql.run(
        `DELETE FROM taken WHERE seq IN (SELECT seq FROM taken WHERE uid=? AND lasting=0 AND lines IS NULL
           ORDER BY seq DESC LIMIT -1 OFFSET ?)`,
        uid,
        KEPT_IDS,
      );
    });
    this.#db.exec('PRAGMA incremental_vacuum(256)');
    return true;
  }

  #endFlush(uid: string): void {
    this.#sql.run('UPDATE dataset SET offset=NULL, up_to=NULL WHERE uid=?', uid);
  }

  /** What waits, oldest first: up to a row, or as much as goes at once. */
  #waiting(uid: string, upTo: number | undefined): { seq: number; lines: Buffer }[] {
    const rows = this.#sql
      .all(
        'SELECT seq, lines FROM taken WHERE uid=? AND lines IS NOT NULL AND seq<=? ORDER BY seq LIMIT ?',
        uid,
        upTo ?? Number.MAX_SAFE_INTEGER,
        upTo === undefined ? FLUSH_ROWS : -1,
      )
      .map((r) => ({ seq: Number(r['seq']), lines: Buffer.from(r['lines'] as Uint8Array) }));
    if (upTo !== undefined) return rows;
    let bytes = 0;
    const full = rows.findIndex((r, i) => (bytes += r.lines.length) > FLUSH_BYTES && i > 0);
    return full < 0 ? rows : rows.slice(0, full);
  }

  /** Forgets ids of lasting deliveries but these. */
  keepOnly(uid: string, ids: ReadonlySet<string>): void {
    const gone = this.#sql
      .all('SELECT seq, id FROM taken WHERE uid=? AND lasting=1 AND lines IS NULL', uid)
      .filter((r) => !ids.has(String(r['id'])));
    if (gone.length === 0) return;
    transaction(this.#db, () => {
      for (const row of gone) this.#sql.run('DELETE FROM taken WHERE seq=?', Number(row['seq']));
    });
  }

  counts(uid: string): IntakeCounts {
    const row = this.#sql.get('SELECT * FROM dataset WHERE uid=?', uid);
    const lastRejection = row?.['last_rejection'];
    const lastMs = row?.['last_ms'];
    return {
      received: Number(row?.['received'] ?? 0),
      rejected: Number(row?.['rejected'] ?? 0),
      ...(typeof lastRejection === 'string' ? { lastRejection } : {}),
      ...(typeof lastMs === 'number' ? { lastMs } : {}),
    };
  }

  /** Forgets datasets that have not been here for long. */
  forgetOld(nowMs: number): void {
    const old = this.#sql
      .all(
        'SELECT uid FROM dataset d WHERE seen < ? AND NOT EXISTS (SELECT 1 FROM taken t WHERE t.uid=d.uid AND t.lines IS NOT NULL)',
        nowMs - FORGOTTEN_MS,
      )
      .map((r) => String(r['uid']));
    for (const uid of old)
      transaction(this.#db, () => {
        this.#sql.run('DELETE FROM taken WHERE uid=?', uid);
        this.#sql.run('DELETE FROM dataset WHERE uid=?', uid);
      });
  }

  close(): void {
    this.#db.close();
  }
}

function sizeOf(path: string): number {
  return existsSync(path) ? statSync(path).size : 0;
}
