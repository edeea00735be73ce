import { DatabaseSync } from 'node:sqlite';
import type { HardExample, SpoolCounts } from '@shoal/api';
import { fromNode, transaction } from '@shoal/core';

export interface SpoolBudget {
  readonly maxSamples: number;
  readonly maxBytes: number;
}

export interface SpooledSample {
  readonly id: string;
  readonly body: Uint8Array;
}

const SCHEMA = `
  PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000; PRAGMA auto_vacuum=INCREMENTAL;
  CREATE TABLE IF NOT EXISTS sample(seq INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL, id TEXT NOT NULL,
    body BLOB NOT NULL, UNIQUE(uid, id)) STRICT;
  CREATE TABLE IF NOT EXISTS job(uid TEXT PRIMARY KEY, collected INTEGER NOT NULL, dropped INTEGER NOT NULL, seen INTEGER NOT NULL DEFAULT 0) STRICT;
  CREATE TABLE IF NOT EXISTS sent(seq INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL, id TEXT NOT NULL, UNIQUE(uid, id)) STRICT;
`;
/** Ids of sent samples that are remembered per job, so that they are not kept and sent again. */
const KEPT_IDS = 100_000;
/** How exactly it is known when a job was here last. */
const SEEN_MS = 60_000;
/** Samples of a job that has not been here for so long are given up. */
const FORGOTTEN_MS = 7 * 24 * 3600 * 1000;

/** Hard examples on this node's disk until the cloud has them: bounded, the oldest go first. */
export class HardExampleSpool {
  readonly #db: DatabaseSync;

  constructor(path: string) {
    try {
      this.#db = new DatabaseSync(path);
      this.#db.exec(SCHEMA);
    } catch (error) {
      throw fromNode(error, `opening the spool ${path}`);
    }
  }

  #transaction<T>(body: () => T): T {
    return transaction(this.#db, body);
  }

  /**
   * Keeps samples; the same sample is kept once.
   *
   * @returns How many were new.
   * @throws ShoalError `resource_exhausted` when the disk is full: nothing of the call is kept.
   */
  add(uid: string, examples: readonly HardExample[], budget: SpoolBudget): number {
    try {
      return this.#transaction(() => {
        const known = this.#db.prepare('SELECT 1 FROM sent WHERE uid=? AND id=?');
        const insert = this.#db.prepare(
          'INSERT OR IGNORE INTO sample(uid, id, body) VALUES(?, ?, ?)',
        );
        let fresh = 0;
        for (const example of examples) {
          if (known.get(uid, example.id)) continue;
          const body = Buffer.from(JSON.stringify(example));
          fresh += Number(insert.run(uid, example.id, body).changes);
        }
        const dropped = this.#trim(uid, budget);
        this.#db
          .prepare(
            `INSERT INTO job(uid, collected, dropped) VALUES(?, ?, ?) ON CONFLICT(uid) DO UPDATE
               SET collected=collected+excluded.collected, dropped=dropped+excluded.dropped`,
          )
          .run(uid, fresh, dropped);
        return fresh;
      });
    } catch (error) {
      throw fromNode(error, 'keeping hard examples');
    }
  }

  /** Drops the oldest samples that are over the budget. */
  #trim(uid: string, { maxSamples, maxBytes }: SpoolBudget): number {
    const { changes } = this.#db
      .prepare(
        `DELETE FROM sample WHERE seq IN (SELECT seq FROM (
           SELECT seq, row_number() OVER newest AS n, sum(length(body)) OVER newest AS bytes
           FROM sample WHERE uid=? WINDOW newest AS (ORDER BY seq DESC)) WHERE n > ? OR bytes > ?)`,
      )
      .run(uid, maxSamples, maxBytes);
    return Number(changes);
  }

  /** What waits to be sent, oldest first: so many samples, and about so many bytes. */
  pending(uid: string, limit: number, maxBytes: number): SpooledSample[] {
    const rows = this.#db
      .prepare('SELECT id, body FROM sample WHERE uid=? ORDER BY seq LIMIT ?')
      .all(uid, limit)
      .map((r) => ({ id: String(r['id']), body: new Uint8Array(r['body'] as Uint8Array) }));
    let bytes = 0;
    const full = rows.findIndex((r, i) => (bytes += r.body.length) > maxBytes && i > 0);
    return full < 0 ? rows : rows.slice(0, full);
  }

  /** The cloud has these. What was dropped while it was on its way is not lost after all. */
  sent(uid: string, ids: readonly string[]): void {
    this.#transaction(() => {
      const remove = this.#db.prepare('DELETE FROM sample WHERE uid=? AND id=?');
      const remember = this.#db.prepare('INSERT OR IGNORE INTO sent(uid, id) VALUES(?, ?)');
      let arrived = 0;
      for (const id of ids) {
        const here = remove.run(uid, id).changes;
        const isNews = remember.run(uid, id).changes;
        if (Number(here) === 0 && Number(isNews) === 1) arrived++;
      }
      this.#db.prepare('UPDATE job SET dropped=max(0, dropped-?) WHERE uid=?').run(arrived, uid);
      this.#db
        .prepare(
          'DELETE FROM sent WHERE seq IN (SELECT seq FROM sent WHERE uid=? ORDER BY seq DESC LIMIT -1 OFFSET ?)',
        )
        .run(uid, KEPT_IDS);
    });
    this.#db.exec('PRAGMA incremental_vacuum(256)');
  }

  counts(uid: string): SpoolCounts {
    const row = this.#db.prepare('SELECT collected, dropped FROM job WHERE uid=?').get(uid);
    const waiting = this.#db.prepare('SELECT count(*) AS n FROM sample WHERE uid=?').get(uid);
    return {
      collected: Number(row?.['collected'] ?? 0),
      dropped: Number(row?.['dropped'] ?? 0),
      spooled: Number(waiting?.['n'] ?? 0),
    };
  }

  /**
   * Forgets jobs that have not been here for long, or have nothing left to send: an assignment may be gone
   * for a moment, and samples wait for it.
   */
  keepOnly(uids: ReadonlySet<string>, nowMs: number): void {
    for (const row of this.#db.prepare('SELECT uid, seen FROM job').all()) {
      const uid = String(row['uid']);
      if (uids.has(uid)) {
        if (nowMs - Number(row['seen']) > SEEN_MS)
          this.#db.prepare('UPDATE job SET seen=? WHERE uid=?').run(nowMs, uid);
        continue;
      }
      if (this.counts(uid).spooled > 0 && nowMs - Number(row['seen']) < FORGOTTEN_MS) continue;
      for (const table of ['sample', 'sent', 'job'])
        this.#db.prepare(`DELETE FROM ${table} WHERE uid=?`).run(uid);
    }
  }

  close(): void {
    this.#db.close();
  }
}
