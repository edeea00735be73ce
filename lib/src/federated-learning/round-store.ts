import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { digestOf, ShoalError } from '@shoal/core';
import { writeDurably } from '../transfer/durable-file.ts';
import type { RestoredRound } from './round.ts';
import type { StrategyState, UpdateInfo } from './strategy.ts';

/** One finished round, as people see it. */
export interface RoundSummary {
  readonly round: number;
  readonly participants: number;
  readonly samples: number;
  /** Scores at the model the round started from, weighted by samples. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly bytesUp: number;
  readonly bytesDown: number;
  readonly durationMs: number;
  /** Norm of the combined change. */
  readonly changeNorm: number;
  readonly epsilon?: number;
}

/** A received update, without its values. */
export interface StoredUpdate extends UpdateInfo {
  readonly encoding: string;
  readonly bytes: number;
}

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS selected (
    round INTEGER NOT NULL, participant TEXT NOT NULL, rank INTEGER NOT NULL,
    PRIMARY KEY (round, participant)) STRICT;
  CREATE TABLE IF NOT EXISTS updates (
    round INTEGER NOT NULL, participant TEXT NOT NULL, samples INTEGER NOT NULL,
    metrics TEXT NOT NULL, encoding TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (round, participant)) STRICT;
  CREATE TABLE IF NOT EXISTS counted (
    round INTEGER NOT NULL, participant TEXT NOT NULL, PRIMARY KEY (round, participant)) STRICT;
  CREATE TABLE IF NOT EXISTS rounds (round INTEGER PRIMARY KEY, summary TEXT NOT NULL) STRICT;`;

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function floatsFrom(path: string): Float32Array {
  const bytes = readFileSync(path);
  return new Float32Array(
    bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  );
}

/**
 * What an aggregator must not forget: the model, who was asked, whose update is here. One SQLite
 * transaction per step, values in files that are durable before the step that names them: killed at
 * any point, it goes on with the same round, and counts no update twice.
 */
export class RoundStore {
  readonly #db: DatabaseSync;
  readonly #dir: string;

  /** @param dir Folder of its own; made when missing. */
  constructor(dir: string) {
    this.#dir = dir;
    mkdirSync(join(dir, 'models'), { recursive: true });
    mkdirSync(join(dir, 'updates'), { recursive: true });
    this.#db = new DatabaseSync(join(dir, 'rounds.db'));
    this.#db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;');
    this.#db.exec(SCHEMA);
  }

  #fact(name: string): string | undefined {
    const row = this.#db.prepare('SELECT value FROM facts WHERE name = ?').get(name);
    return row ? String(row['value']) : undefined;
  }

  #setFact(name: string, value: string): void {
    this.#db
      .prepare(
        'INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
      )
      .run(name, value);
  }

  #transaction(body: () => void): void {
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      body();
      this.#db.exec('COMMIT');
    } catch (error) {
      this.#db.exec('ROLLBACK');
      throw error;
    }
  }

  #modelPath(digest: string): string {
    return join(this.#dir, 'models', digest.slice('sha256:'.length));
  }

  #updatePath(round: number, participant: string): string {
    const name = createHash('sha256').update(participant).digest('hex').slice(0, 32);
    return join(this.#dir, 'updates', `${round}-${name}`);
  }

  #statePath(round: number): string {
    return join(this.#dir, `state-${round}`);
  }

  /** The model to train next, and which round that is; undefined before {@link begin}. */
  current(): { round: number; digest: string; model: Float32Array } | undefined {
    const digest = this.#fact('model');
    if (digest === undefined) return undefined;
    const model = floatsFrom(this.#modelPath(digest));
    if (digestOf(bytesOf(model)) !== digest)
      throw new ShoalError('data_corrupt', `the model ${digest} on disk is not what was written`);
    return { round: Number(this.#fact('round')), digest, model };
  }

  /** Why training ended, once it has. */
  get outcome(): string | undefined {
    return this.#fact('outcome');
  }

  end(reason: string): void {
    this.#setFact('outcome', reason);
  }

  #writeModel(model: Float32Array): string {
    const bytes = bytesOf(model);
    const digest = digestOf(bytes);
    const path = this.#modelPath(digest);
    if (!existsSync(path)) writeDurably(path, [bytes]);
    return digest;
  }

  /** Starts with a first model. */
  begin(model: Float32Array): string {
    const digest = this.#writeModel(model);
    this.#transaction(() => {
      this.#setFact('model', digest);
      this.#setFact('round', '1');
    });
    return digest;
  }

  /** Remembers who is asked. */
  select(round: number, attempt: number, participants: readonly string[]): void {
    const insert = this.#db.prepare('INSERT OR IGNORE INTO selected VALUES (?, ?, ?)');
    this.#transaction(() => {
      this.#setFact('attempt', String(attempt));
      for (const [rank, participant] of participants.entries())
        insert.run(round, participant, rank);
    });
  }

  /** The round that was going on, if one was. */
  restored(round: number): RestoredRound | undefined {
    const rows = this.#db
      .prepare('SELECT participant FROM selected WHERE round = ? ORDER BY rank')
      .all(round);
    if (rows.length === 0) return undefined;
    const selected = rows.map((r) => String(r['participant']));
    const received = this.updates(round).map((u) => u.participant);
    return { round, attempt: Number(this.#fact('attempt') ?? 1), selected, received };
  }

  /**
   * Keeps an update. The same participant's second one for a round changes nothing.
   *
   * @returns Whether it was new.
   */
  keep(round: number, update: StoredUpdate, values: Uint8Array): boolean {
    const known = this.#db
      .prepare('SELECT 1 FROM updates WHERE round = ? AND participant = ?')
      .get(round, update.participant);
    if (known) return false;
    writeDurably(this.#updatePath(round, update.participant), [values]);
    this.#db
      .prepare('INSERT OR IGNORE INTO updates VALUES (?, ?, ?, ?, ?, ?)')
      .run(
        round,
        update.participant,
        update.samples,
        JSON.stringify(update.metrics),
        update.encoding,
        update.bytes,
      );
    return true;
  }

  updates(round: number): StoredUpdate[] {
    const rows = this.#db
      .prepare('SELECT * FROM updates WHERE round = ? ORDER BY participant')
      .all(round);
    return rows.map((r) => ({
      participant: String(r['participant']),
      samples: Number(r['samples']),
      metrics: JSON.parse(String(r['metrics'])) as Record<string, number>,
      encoding: String(r['encoding']),
      bytes: Number(r['bytes']),
    }));
  }

  /** The bytes of an update as they were received. */
  read(round: number, participant: string): Uint8Array {
    return readFileSync(this.#updatePath(round, participant));
  }

  /** Vectors the strategy kept after a round. */
  strategyState(round: number): StrategyState {
    const path = this.#statePath(round);
    if (!existsSync(path)) return {};
    const bytes = readFileSync(path);
    const headLength = bytes.readUInt32LE(0);
    const names = JSON.parse(bytes.subarray(4, 4 + headLength).toString('utf8')) as string[];
    const body = bytes.subarray(4 + headLength);
    const size = body.length / 4 / Math.max(1, names.length);
    const all = new Float32Array(body.buffer.slice(body.byteOffset, body.byteOffset + body.length));
    return Object.fromEntries(names.map((n, i) => [n, all.slice(i * size, (i + 1) * size)]));
  }

  /** Ends a round: the new model, the strategy's state, and what is said about the round, in one step. */
  finish(
    round: number,
    result: {
      model: Float32Array;
      state: StrategyState;
      summary: RoundSummary;
      best: boolean;
      counted: readonly string[];
    },
  ): string {
    const digest = this.#writeModel(result.model);
    const names = Object.keys(result.state);
    if (names.length > 0) {
      const head = Buffer.from(JSON.stringify(names), 'utf8');
      const length = Buffer.alloc(4);
      length.writeUInt32LE(head.length);
      const vectors = names.map((n) => bytesOf(result.state[n] ?? new Float32Array()));
      writeDurably(this.#statePath(round), [length, head, ...vectors]);
    }
    const before = this.#fact('model');
    this.#transaction(() => {
      this.#db
        .prepare('INSERT OR REPLACE INTO rounds VALUES (?, ?)')
        .run(round, JSON.stringify(result.summary));
      const count = this.#db.prepare('INSERT OR IGNORE INTO counted VALUES (?, ?)');
      for (const participant of result.counted) count.run(round, participant);
      this.#db.prepare('DELETE FROM updates WHERE round <= ?').run(round);
      this.#db.prepare('DELETE FROM selected WHERE round <= ?').run(round);
      this.#setFact('model', digest);
      this.#setFact('round', String(round + 1));
      // Scores belong to the model a round started from.
      if (result.best && before !== undefined) {
        this.#setFact('best', before);
        this.#setFact('bestRound', String(round));
      }
    });
    this.#sweep(round);
    return digest;
  }

  /** Removes files nothing names any more. */
  #sweep(round: number): void {
    for (const name of readdirSync(join(this.#dir, 'updates')))
      if (Number(name.split('-')[0]) <= round) rmSync(join(this.#dir, 'updates', name));
    rmSync(this.#statePath(round - 1), { force: true });
    const kept = new Set([this.#fact('model'), this.#fact('best')].map((d) => d?.slice(7)));
    for (const name of readdirSync(join(this.#dir, 'models')))
      if (!kept.has(name)) rmSync(join(this.#dir, 'models', name));
  }

  /** Whether a participant's update went into a finished round. */
  hasCounted(round: number, participant: string): boolean {
    const query = 'SELECT 1 FROM counted WHERE round = ? AND participant = ?';
    return this.#db.prepare(query).get(round, participant) !== undefined;
  }

  history(): RoundSummary[] {
    const rows = this.#db.prepare('SELECT summary FROM rounds ORDER BY round').all();
    return rows.map((r) => JSON.parse(String(r['summary'])) as RoundSummary);
  }

  /** The model whose scores were best, and the round that measured it. */
  best(): { model: Float32Array; round: number } | undefined {
    const digest = this.#fact('best');
    if (digest === undefined) return undefined;
    return { model: floatsFrom(this.#modelPath(digest)), round: Number(this.#fact('bestRound')) };
  }

  close(): void {
    this.#db.close();
  }
}
