import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { digestOf, fromNode, ShoalError, transaction } from '@shoal/core';
import { writeDurably } from '../transfer/durable-file.ts';
import { SpareFiles } from '../transfer/spare-files.ts';
import type { RestoredRound } from './round.ts';
import type { RoundSummary } from './round-summary.ts';
import type { StrategyState, UpdateInfo } from './strategy.ts';
import { type Extent, UpdateArena, type UpdateSize, type Upload } from './update-arena.ts';

/** A received update, without its values. */
export interface StoredUpdate extends UpdateInfo {
  /** The round whose model it was trained on; an earlier one only in an asynchronous federation. */
  readonly base: number;
  readonly encoding: string;
  readonly bytes: number;
}

type UpdateKey = Pick<StoredUpdate, 'participant' | 'base'>;

/** An update that came, and where its bytes are; nowhere when it has none. */
export interface Arrival {
  readonly update: StoredUpdate;
  readonly upload: Upload | undefined;
}

/** An answer of a participant in secure aggregation; the stage `begin` is the aggregator's own. */
export interface SecureRecord {
  readonly stage: string;
  readonly participant: string;
  readonly body: Uint8Array;
}

/** The file with the bytes of updates. */
const ARENA = 'arena';

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
  readonly #spares: SpareFiles;
  readonly #arena: UpdateArena;

  /** @param dir Folder of its own; made when missing. */
  constructor(dir: string) {
    this.#dir = dir;
    mkdirSync(join(dir, 'models'), { recursive: true });
    mkdirSync(join(dir, 'updates'), { recursive: true });
    this.#spares = new SpareFiles(join(dir, 'spare'));
    this.#arena = new UpdateArena(join(dir, 'updates', ARENA));
    this.#db = new DatabaseSync(join(dir, 'rounds.db'));
    this.#db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;');
    this.#db.exec(SCHEMA);
    this.#forgetOlder();
  }

  /** Updates that another version kept in files of their own are asked for again. */
  #forgetOlder(): void {
    const older = `SELECT DISTINCT round FROM arrivals WHERE bytes > 0 AND file <> '${ARENA}'`;
    for (const row of this.#db.prepare(older).all()) this.discard(Number(row['round']));
    const folder = join(this.#dir, 'updates');
    for (const name of readdirSync(folder))
      if (name !== ARENA) rmSync(join(folder, name), { force: true });
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

  /** @throws ShoalError `resource_exhausted` when the disk is full. */
  #transaction(body: () => void): void {
    try {
      transaction(this.#db, body);
    } catch (error) {
      throw fromNode(error, `writing ${this.#dir}`);
    }
  }

  #modelPath(digest: string): string {
    return join(this.#dir, 'models', digest.slice('sha256:'.length));
  }

  /** Where the bytes of an update are; undefined when it is not here. */
  #extentOf({ participant, base }: UpdateKey): Extent | undefined {
    const row = this.#db
      .prepare('SELECT offset, bytes FROM arrivals WHERE participant = ? AND base = ?')
      .get(participant, base);
    return row && { offset: Number(row['offset']), bytes: Number(row['bytes']) };
  }

  /** Room for an update on its way in. @throws ShoalError `resource_exhausted` when the disk is nearly full. */
  reserve(size: UpdateSize): Upload {
    const rows = this.#db.prepare('SELECT offset, bytes FROM arrivals WHERE bytes > 0').all();
    const kept = rows.map((r) => ({ offset: Number(r['offset']), bytes: Number(r['bytes']) }));
    return this.#arena.reserve(size, kept);
  }

  /** Where updates are read to, when they have room there. */
  readInto({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer>): void {
    this.#arena.readInto(new Uint8Array(buffer, byteOffset, byteLength));
  }

  /** Bytes that came, to be looked at before they are kept; until the next are read. */
  peek(upload: Pick<Upload, 'offset'>, bytes: number): Uint8Array<ArrayBuffer> {
    return this.#arena.peek({ offset: upload.offset, bytes });
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
    this.#spares.clear();
    this.#arena.remove();
  }

  #write(path: string, parts: readonly Uint8Array[]): void {
    const bytes = parts.reduce((n, p) => n + p.length, 0);
    writeDurably(path, parts, this.#spares.take(bytes));
  }

  #writeModel(model: Float32Array): string {
    const bytes = bytesOf(model);
    const digest = digestOf(bytes);
    const path = this.#modelPath(digest);
    if (!existsSync(path)) this.#write(path, [bytes]);
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
   */
  keep(round: number, arrivals: readonly Arrival[]): void {
    const seen = new Set<string>();
    const fresh = arrivals.filter(({ update, upload }) => {
      const key = `${update.base} ${update.participant}`;
      const isNew = !seen.has(key) && this.#extentOf(update) === undefined;
      seen.add(key);
      if (!isNew) upload?.drop();
      return isNew;
    });
    if (fresh.length === 0) return;
    this.#arena.sync();
    const insert = this.#db.prepare('INSERT INTO arrivals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)');
    this.#transaction(() => {
      for (const { update, upload } of fresh) {
        const { participant, base, samples, metrics, encoding, bytes } = update;
        const scores = JSON.stringify(metrics);
        const at = upload?.offset ?? 0;
        insert.run(round, participant, base, samples, scores, encoding, bytes, ARENA, at);
      }
    });
    for (const { upload } of fresh) upload?.drop();
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

  /**
   * The bytes of an update as they were received; until the next are read.
   *
   * @throws ShoalError `data_corrupt` when they are gone.
   */
  read(key: UpdateKey): Uint8Array<ArrayBuffer> {
    const extent = this.#extentOf(key);
    if (!extent)
      throw new ShoalError(
        'data_corrupt',
        `the update of ${key.participant} for round ${key.base} is gone`,
      );
    return this.#arena.read(extent);
  }

  /** Takes back all that came for a round: another attempt begins. */
  discard(round: number): void {
    this.#transaction(() => {
      this.#db.prepare('DELETE FROM arrivals WHERE round = ?').run(round);
      this.#db.prepare('DELETE FROM secure WHERE round = ?').run(round);
      this.#setFact('attempt', String(Number(this.#fact('attempt') ?? 1) + 1));
    });
  }

  /** Keeps an answer of secure aggregation; the first of a participant in a stage counts. */
  keepSecure(at: { readonly round: number; readonly attempt: number }, answer: SecureRecord): void {
    const insert = this.#db.prepare(
      'INSERT OR IGNORE INTO secure (round, attempt, stage, participant, body) VALUES (?, ?, ?, ?, ?)',
    );
    const { stage, participant, body } = answer;
    this.#transaction(() => insert.run(at.round, at.attempt, stage, participant, body));
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
      this.#write(this.#statePath(round), [length, head, ...vectors]);
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
    return digest;
  }

  /** Removes files nothing names any more. */
  #sweep(round: number): void {
    this.#spares.give(this.#statePath(round - 1));
    const kept = new Set([this.#fact('model'), this.#fact('best')].map((d) => d?.slice(7)));
    for (const name of readdirSync(join(this.#dir, 'models')))
      if (!kept.has(name)) this.#spares.give(join(this.#dir, 'models', name));
  }

  /** Remembers whose updates of a round went into what was sent on (see {@link GroupRounds}). */
  count(updates: readonly UpdateKey[]): void {
    const count = this.#db.prepare('INSERT OR IGNORE INTO counted VALUES (?, ?)');
    this.#transaction(() => {
      for (const { participant, base } of updates) count.run(base, participant);
    });
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
    this.#arena.close();
    this.#db.close();
  }
}
