import { randomUUID } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
} from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { digestOf, ShoalError } from '@shoal/core';
import { writeDurably } from '../transfer/durable-file.ts';
import type { RestoredRound } from './round.ts';
import type { RoundSummary } from './round-summary.ts';
import type { StrategyState, UpdateInfo } from './strategy.ts';

/** A received update, without its values. */
export interface StoredUpdate extends UpdateInfo {
  /** The round whose model it was trained on; an earlier one only in an asynchronous federation. */
  readonly base: number;
  readonly encoding: string;
  readonly bytes: number;
}

type UpdateKey = Pick<StoredUpdate, 'participant' | 'base'>;

/** An update that came, with its values as they came. */
export interface Arrival {
  readonly update: StoredUpdate;
  readonly values: Uint8Array;
}

/** An answer of a participant in secure aggregation; the stage `begin` is the aggregator's own. */
export interface SecureRecord {
  readonly stage: string;
  readonly participant: string;
  readonly body: Uint8Array;
}

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
  CREATE TABLE IF NOT EXISTS selected (
    round INTEGER NOT NULL, participant TEXT NOT NULL, rank INTEGER NOT NULL,
    PRIMARY KEY (round, participant)) STRICT;
  CREATE TABLE IF NOT EXISTS arrivals (
    round INTEGER NOT NULL, participant TEXT NOT NULL, base INTEGER NOT NULL, samples INTEGER NOT NULL,
    metrics TEXT NOT NULL, encoding TEXT NOT NULL, bytes INTEGER NOT NULL,
    file TEXT NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (participant, base)) STRICT;
  CREATE TABLE IF NOT EXISTS secure (
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL, attempt INTEGER NOT NULL, stage TEXT NOT NULL,
    participant TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (round, attempt, stage, participant)) STRICT;
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

  /** Where the values of an update are; undefined when it is not here. */
  #placeOf({
    participant,
    base,
  }: UpdateKey): { path: string; offset: number; bytes: number } | undefined {
    const row = this.#db
      .prepare('SELECT file, offset, bytes FROM arrivals WHERE participant = ? AND base = ?')
      .get(participant, base);
    if (!row) return undefined;
    const path = join(this.#dir, 'updates', String(row['file']));
    return { path, offset: Number(row['offset']), bytes: Number(row['bytes']) };
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

  /** The model to train next; the first one of a new federation. */
  currentOr(first: Float32Array): { round: number; digest: string; model: Float32Array } {
    return this.current() ?? { round: 1, digest: this.begin(first), model: first };
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

  /** Digest a model would have here. */
  digestOf(model: Float32Array): string {
    return digestOf(bytesOf(model));
  }

  /** Starts with a first model. */
  begin(model: Float32Array, round = 1): string {
    const digest = this.#writeModel(model);
    this.#transaction(() => {
      this.#setFact('model', digest);
      this.#setFact('round', String(round));
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

  /** The round that was going on, if one was. @param secure Whether those count who said they are ready. */
  restored(round: number, secure = false): RestoredRound | undefined {
    const rows = this.#db
      .prepare('SELECT participant FROM selected WHERE round = ? ORDER BY rank')
      .all(round);
    if (rows.length === 0) return undefined;
    const selected = rows.map((r) => String(r['participant']));
    const attempt = Number(this.#fact('attempt') ?? 1);
    const answers = this.secure(round, attempt).filter((a) => a.stage === 'ready');
    const received = (secure ? answers : this.updates(round)).map((u) => u.participant);
    return { round, attempt, selected, received };
  }

  /**
   * Keeps updates for a round, all with one write to disk. The same participant's second one of a base
   * changes nothing.
   *
   * @returns Which of them were new.
   */
  keep(round: number, arrivals: readonly Arrival[]): boolean[] {
    const seen = new Set<string>();
    const isNew = arrivals.map(({ update }) => {
      const key = `${update.base} ${update.participant}`;
      const known = seen.has(key) || this.#placeOf(update) !== undefined;
      seen.add(key);
      return !known;
    });
    const fresh = arrivals.filter((_, i) => isNew[i]);
    if (fresh.length === 0) return isNew;
    const file = randomUUID();
    const parts = fresh.map((a) => a.values);
    writeDurably(join(this.#dir, 'updates', file), parts);
    const insert = this.#db.prepare('INSERT INTO arrivals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)');
    this.#transaction(() => {
      let offset = 0;
      for (const { update, values } of fresh) {
        const { participant, base, samples, metrics, encoding } = update;
        const scores = JSON.stringify(metrics);
        insert.run(
          round,
          participant,
          base,
          samples,
          scores,
          encoding,
          values.length,
          file,
          offset,
        );
        offset += values.length;
      }
    });
    return isNew;
  }

  /** What is here for a round, in one order whatever came first. */
  updates(round: number): StoredUpdate[] {
    const rows = this.#db
      .prepare('SELECT * FROM arrivals WHERE round = ? ORDER BY participant, base')
      .all(round);
    return rows.map((r) => ({
      participant: String(r['participant']),
      base: Number(r['base']),
      samples: Number(r['samples']),
      metrics: JSON.parse(String(r['metrics'])) as Record<string, number>,
      encoding: String(r['encoding']),
      bytes: Number(r['bytes']),
    }));
  }

  /** The bytes of an update as they were received. @throws ShoalError `data_corrupt` when they are gone. */
  read(key: UpdateKey): Uint8Array {
    const place = this.#placeOf(key);
    if (!place)
      throw new ShoalError(
        'data_corrupt',
        `the update of ${key.participant} for round ${key.base} is gone`,
      );
    const values = new Uint8Array(place.bytes);
    const file = openSync(place.path, 'r');
    try {
      for (let at = 0; at < values.length; ) {
        const length = readSync(file, values, at, values.length - at, place.offset + at);
        if (length === 0)
          throw new ShoalError(
            'data_corrupt',
            `${place.path} ends before the update of ${key.participant}`,
          );
        at += length;
      }
    } finally {
      closeSync(file);
    }
    return values;
  }

  /** Takes back all that came for a round: another attempt begins. */
  discard(round: number): void {
    this.#transaction(() => {
      this.#db.prepare('DELETE FROM arrivals WHERE round = ?').run(round);
      this.#db.prepare('DELETE FROM secure WHERE round = ?').run(round);
      this.#setFact('attempt', String(Number(this.#fact('attempt') ?? 1) + 1));
    });
    this.#sweepUpdates();
  }

  /** Keeps an answer of secure aggregation; the first of a participant in a stage counts. */
  keepSecure(at: { readonly round: number; readonly attempt: number }, answer: SecureRecord): void {
    this.#db
      .prepare(
        'INSERT OR IGNORE INTO secure (round, attempt, stage, participant, body) VALUES (?, ?, ?, ?, ?)',
      )
      .run(at.round, at.attempt, answer.stage, answer.participant, answer.body);
  }

  /** Answers of an attempt, in the order in which they came. */
  secure(round: number, attempt: number): SecureRecord[] {
    return this.#db
      .prepare('SELECT * FROM secure WHERE round = ? AND attempt = ? ORDER BY id')
      .all(round, attempt)
      .map((r) => ({
        stage: String(r['stage']),
        participant: String(r['participant']),
        body: r['body'] as Uint8Array,
      }));
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
      counted: readonly UpdateKey[];
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
      for (const { participant, base } of result.counted) count.run(base, participant);
      this.#db.prepare('DELETE FROM arrivals WHERE round <= ?').run(round);
      this.#db.prepare('DELETE FROM secure WHERE round <= ?').run(round);
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

  /** Forgets everything of a round before another model is put in its place (see {@link GroupRounds}). */
  replace(round: number, model: Float32Array): string {
    const before = this.#fact('model');
    const digest = this.#writeModel(model);
    this.#transaction(() => {
      this.#db.prepare('DELETE FROM arrivals').run();
      this.#db.prepare('DELETE FROM selected').run();
      this.#setFact('model', digest);
      this.#setFact('round', String(round));
      this.#setFact('attempt', '1');
    });
    if (before !== undefined && before !== digest) rmSync(this.#modelPath(before), { force: true });
    this.#sweepUpdates();
    return digest;
  }

  #sweepUpdates(): void {
    const rows = this.#db.prepare('SELECT DISTINCT file FROM arrivals').all();
    const kept = new Set(rows.map((r) => String(r['file'])));
    for (const name of readdirSync(join(this.#dir, 'updates')))
      if (!kept.has(name)) rmSync(join(this.#dir, 'updates', name), { force: true });
  }

  /** Removes files nothing names any more. */
  #sweep(round: number): void {
    this.#sweepUpdates();
    rmSync(this.#statePath(round - 1), { force: true });
    const kept = new Set([this.#fact('model'), this.#fact('best')].map((d) => d?.slice(7)));
    for (const name of readdirSync(join(this.#dir, 'models')))
      if (!kept.has(name)) rmSync(join(this.#dir, 'models', name));
  }

  /** Whether a participant's update of a base went into a finished round. */
  hasCounted(base: number, participant: string): boolean {
    const query = 'SELECT 1 FROM counted WHERE round = ? AND participant = ?';
    return this.#db.prepare(query).get(base, participant) !== undefined;
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

  /** The round that measured the best model; undefined before the first. */
  get bestRound(): number | undefined {
    const round = this.#fact('bestRound');
    return round === undefined ? undefined : Number(round);
  }

  close(): void {
    this.#db.close();
  }
}
