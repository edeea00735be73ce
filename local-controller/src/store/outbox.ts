import { randomUUID } from 'node:crypto';
import { digestOf, ShoalError, type SqlDatabase, Statements, transaction } from '@shoal/core';

/** Something that waits to be acknowledged by the cloud. */
export interface OutboxEntry {
  readonly stream: string;
  readonly seq: number;
  readonly key: string;
  readonly body: Uint8Array;
  readonly idempotencyKey: string;
}

/** The stream in which the newest record of a key replaces older ones. */
export const STATE_STREAM = 'state';
const LOG_PREFIX = 'log/';

export interface OutboxLimits {
  /** Bytes of events that may wait; then the oldest go, and are counted. */
  readonly droppableBytes: number;
  /** Bytes of results that may wait; then no more are taken until some were sent. */
  readonly controlBytes: number;
}

const DEFAULT_LIMITS: OutboxLimits = {
  droppableBytes: 16 * 1024 ** 2,
  controlBytes: 256 * 1024 ** 2,
};

export interface LogEntry {
  readonly key: string;
  readonly body: object;
  /** The same effect has the same key, however often it is said. Default: a fresh one. */
  readonly idempotencyKey?: string;
  /** Whether it may go when the disk quota is reached. */
  readonly droppable: boolean;
}

/**
 * What the edge has to say, durable before it is sent. State is kept by key: after ten hours
 * offline one status per object waits, not ten thousand. Log entries are all kept, in order, up to
 * a quota.
 */
export class Outbox {
  readonly #db: SqlDatabase;
  readonly #sql: Statements;
  readonly #limits: OutboxLimits;

  readonly #now: () => number;

  /** @param options.now Milliseconds since the epoch; default: the machine's clock. */
  constructor(
    db: SqlDatabase,
    options: { limits?: Partial<OutboxLimits>; now?: () => number } = {},
  ) {
    this.#db = db;
    this.#sql = new Statements(db);
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#now = options.now ?? Date.now;
  }

  /** Replaces what waits under a key by something newer. False when it is what was said last. */
  putState(key: string, body: Uint8Array): boolean {
    const digest = digestOf(body);
    const said = this.#sql.get('SELECT digest FROM said WHERE key=?', key);
    if (said?.['digest'] === digest) return false;
    transaction(this.#db, () => {
      this.#putStateRow(key, body);
      this.#sql.run('INSERT OR REPLACE INTO said VALUES(?, ?, ?)', key, digest, body);
    });
    return true;
  }

  #putStateRow(key: string, body: Uint8Array): void {
    this.#sql.run('UPDATE outbox_seq SET seq=seq+1');
    this.#sql.run(
      'INSERT OR REPLACE INTO outbox_state(key, seq, body, at) VALUES(?, (SELECT seq FROM outbox_seq), ?, ?)',
      key,
      body,
      this.#now(),
    );
  }

  /**
   * Adds an entry to a log stream.
   *
   * @throws ShoalError `resource_exhausted` when results fill the quota: nothing is dropped, the
   *   caller must wait until the cloud has taken some.
   */
  append(stream: string, entry: LogEntry): void {
    const body = Buffer.from(JSON.stringify(entry.body));
    const droppable = entry.droppable ? 1 : 0;
    const quota = entry.droppable ? this.#limits.droppableBytes : this.#limits.controlBytes;
    transaction(this.#db, () => {
      let waiting = this.#logBytes(droppable);
      if (!entry.droppable && waiting + body.length > quota)
        throw new ShoalError(
          'resource_exhausted',
          `${waiting} bytes of results wait to be sent, the limit is ${quota}: they are sent when the cloud can be reached`,
        );
      while (waiting > 0 && waiting + body.length > quota) waiting -= this.#dropOldest();
      this.#sql.run('INSERT OR IGNORE INTO log_stream VALUES(?, 0, 0)', stream);
      this.#sql.run('UPDATE log_stream SET last=last+1 WHERE stream=?', stream);
      this.#sql.run(
        'INSERT INTO outbox_log VALUES(?, (SELECT last FROM log_stream WHERE stream=?), ?, ?, ?, ?, ?, ?)',
        stream,
        stream,
        entry.key,
        entry.idempotencyKey ?? randomUUID(),
        body,
        droppable,
        body.length,
        this.#now(),
      );
      this.#sql.run('UPDATE outbox_bytes SET bytes=bytes+? WHERE class=?', body.length, droppable);
    });
  }

  #logBytes(droppable: number): number {
    return Number(
      this.#sql.get('SELECT bytes FROM outbox_bytes WHERE class=?', droppable)?.['bytes'],
    );
  }

  #dropOldest(): number {
    const row = this.#sql.get(
      'SELECT rowid, stream, size FROM outbox_log WHERE droppable=1 ORDER BY rowid LIMIT 1',
    );
    if (!row) return Number.POSITIVE_INFINITY;
    this.#sql.run('DELETE FROM outbox_log WHERE rowid=?', row['rowid'] ?? 0);
    this.#sql.run('UPDATE outbox_bytes SET bytes=bytes-? WHERE class=1', row['size'] ?? 0);
    this.#sql.run('UPDATE log_stream SET dropped=dropped+1 WHERE stream=?', row['stream'] ?? '');
    return Number(row['size']);
  }

  /** State records after a number, oldest first. */
  state(after: number, limit: number): OutboxEntry[] {
    return this.#sql
      .all(
        'SELECT o.key, o.seq, o.body, s.digest, s.body AS said FROM outbox_state o LEFT JOIN said s ON s.key=o.key WHERE o.seq>? ORDER BY o.seq LIMIT ?',
        after,
        limit,
      )
      .flatMap((row) => {
        const body = intact([row['body'], row['said']], String(row['digest']));
        const { key, seq } = { key: String(row['key']), seq: Number(row['seq']) };
        // Both copies are damaged: what was said is said anew when it is next reported.
        if (!body) this.#sql.run('DELETE FROM said WHERE key=?', key);
        return body ? [{ stream: STATE_STREAM, seq, key, body, idempotencyKey: '' }] : [];
      });
  }

  /** Streams that have entries waiting, with the oldest number each still holds. */
  logStreams(): { stream: string; first: number }[] {
    return this.#sql
      .all('SELECT stream, MIN(seq) AS first FROM outbox_log GROUP BY stream')
      .map((row) => ({ stream: String(row['stream']), first: Number(row['first']) }));
  }

  log(stream: string, after: number, limit: number): OutboxEntry[] {
    return this.#sql
      .all(
        'SELECT seq, key, idempotency_key, body FROM outbox_log WHERE stream=? AND seq>? ORDER BY seq LIMIT ?',
        stream,
        after,
        limit,
      )
      .map((row) => ({
        stream,
        seq: Number(row['seq']),
        key: String(row['key']),
        body: row['body'] as Uint8Array,
        idempotencyKey: String(row['idempotency_key']),
      }));
  }

  /** Drops what has taken effect in the cloud. */
  acknowledge(stream: string, seq: number): void {
    if (stream === STATE_STREAM) this.#sql.run('DELETE FROM outbox_state WHERE seq<=?', seq);
    else if (stream.startsWith(LOG_PREFIX))
      transaction(this.#db, () => {
        for (const droppable of [0, 1]) {
          const row = this.#sql.get(
            'SELECT TOTAL(size) AS bytes FROM outbox_log WHERE stream=? AND seq<=? AND droppable=?',
            stream,
            seq,
            droppable,
          );
          this.#sql.run(
            'UPDATE outbox_bytes SET bytes=bytes-? WHERE class=?',
            Number(row?.['bytes']),
            droppable,
          );
        }
        this.#sql.run('DELETE FROM outbox_log WHERE stream=? AND seq<=?', stream, seq);
      });
  }

  /**
   * Takes up with a cloud whose memory differs from ours: one with another store has none of our
   * records, one that is ahead has met a later copy of this disk. Numbers go on after the cloud's.
   */
  takeUp(cloud: ReadonlyMap<string, number>, foreign: boolean): void {
    const seq = Number(this.#sql.get('SELECT seq FROM outbox_seq')?.['seq']);
    const stateAhead = (cloud.get(STATE_STREAM) ?? 0) > seq;
    const streams = this.#sql.all('SELECT stream, last FROM log_stream');
    const behind = streams.filter((s) => (cloud.get(String(s['stream'])) ?? 0) > Number(s['last']));
    if (!foreign && !stateAhead && behind.length === 0) return;
    transaction(this.#db, () => {
      if (stateAhead) this.#sql.run('UPDATE outbox_seq SET seq=?', cloud.get(STATE_STREAM) ?? 0);
      if (foreign || stateAhead) this.#sayAllAgain();
      for (const row of foreign ? streams : behind) {
        const stream = String(row['stream']);
        this.#renumber(stream, cloud.get(stream) ?? 0);
      }
    });
  }

  #sayAllAgain(): void {
    for (const row of this.#sql.all('SELECT key, digest, body FROM said')) {
      const body = intact([row['body']], String(row['digest']));
      if (body) this.#putStateRow(String(row['key']), body);
      else this.#sql.run('DELETE FROM said WHERE key=?', row['key'] ?? '');
    }
  }

  #renumber(stream: string, after: number): void {
    const rows = this.#sql.all('SELECT rowid FROM outbox_log WHERE stream=? ORDER BY seq', stream);
    // Out of the way first: a number may be taken by an entry not yet moved.
    this.#sql.run('UPDATE outbox_log SET seq=-seq WHERE stream=?', stream);
    for (const [i, row] of rows.entries())
      this.#sql.run('UPDATE outbox_log SET seq=? WHERE rowid=?', after + i + 1, row['rowid'] ?? 0);
    this.#sql.run('UPDATE log_stream SET last=? WHERE stream=?', after + rows.length, stream);
  }

  /** What was said last under a key. */
  said(key: string): Uint8Array | undefined {
    return this.#sql.get('SELECT body FROM said WHERE key=?', key)?.['body'] as
      | Uint8Array
      | undefined;
  }

  /** What was said last under every key. */
  everythingSaid(): { key: string; body: unknown }[] {
    return this.#sql.all('SELECT key, body FROM said ORDER BY key').map((r) => ({
      key: String(r['key']),
      body: JSON.parse(Buffer.from(r['body'] as Uint8Array).toString('utf8')) as unknown,
    }));
  }

  /** What waits, since when, and what was dropped so far. */
  summary(): { records: number; ageMs: number; dropped: number } {
    const row = this.#sql.get(
      'SELECT COUNT(*) AS n, MIN(at) AS oldest FROM (SELECT at FROM outbox_state UNION ALL SELECT at FROM outbox_log)',
    );
    const records = Number(row?.['n']);
    return {
      records,
      ageMs: records === 0 ? 0 : Math.max(0, this.#now() - Number(row?.['oldest'])),
      dropped: Number(this.#sql.get('SELECT TOTAL(dropped) AS n FROM log_stream')?.['n']),
    };
  }
}

function intact(copies: readonly unknown[], digest: string): Uint8Array | undefined {
  return copies.find(
    (copy): copy is Uint8Array => copy instanceof Uint8Array && digestOf(copy) === digest,
  );
}
