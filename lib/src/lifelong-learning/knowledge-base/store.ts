import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { canonicalJson, digestOf, fromNode, isDigest, ShoalError } from '@shoal/core';
import { DRAFT, writeDurably } from '../../transfer/durable-file.ts';
import { checkChange } from './check-change.ts';
import {
  type Change,
  type KnowledgeBase,
  type KnowledgeSample,
  type KnowledgeSnapshot,
  type KnowledgeTask,
  type Neighbour,
  type SampleQuery,
  TASK_STATES,
} from './knowledge-base.ts';
import { NeighbourIndex } from './neighbours.ts';
import { SCHEMA } from './schema.ts';
import { type Rows, readRevisions, readSamples, readSnapshot } from './snapshot.ts';

export interface KnowledgeStoreOptions {
  /** Folder of its own; made when missing. */
  readonly dir: string;
  /** Bytes of models and samples one job may keep. Default 8 GiB. */
  readonly maxBytesPerJob?: number;
}

export interface JobSummary {
  readonly job: string;
  readonly version: number;
  readonly tasks: number;
  readonly samples: number;
  readonly storedBytes: number;
}

const DEFAULT_BUDGET = 8 * 2 ** 30;
/** A file that no revision names after so long belongs to a training that died. */
const ORPHAN_MS = 24 * 3600 * 1000;

/** Digests of the files a task names: its model, and its detector where it has one. */
function filesOf(task: KnowledgeTask): string[] {
  const { detector } = task.knowledge;
  return typeof detector === 'string' && isDigest(detector) ? [task.model, detector] : [task.model];
}

/**
 * Every job's knowledge on one disk: SQLite for what is known, one file per model by its digest.
 * A commit is one transaction, and a model is durable before a task may name it: killed at any
 * point, what was acknowledged is there. Changes merge by rules that do not depend on their order
 * (sets of records, highest revision, latest label, largest counter), so edges may retry at will.
 */
export class KnowledgeStore {
  readonly #db: DatabaseSync;
  readonly #models: string;
  readonly #budget: number;
  readonly #statements = new Map<string, StatementSync>();
  /** Bytes of samples the running transaction added. */
  #addedBytes = 0;
  readonly #indexes = new Map<string, { version: number; index: NeighbourIndex }>();

  /** @throws ShoalError when the folder cannot be used. */
  constructor(options: KnowledgeStoreOptions) {
    this.#models = join(options.dir, 'models');
    this.#budget = options.maxBytesPerJob ?? DEFAULT_BUDGET;
    try {
      mkdirSync(this.#models, { recursive: true });
      for (const name of readdirSync(this.#models))
        if (name.endsWith(DRAFT)) rmSync(join(this.#models, name), { force: true });
    } catch (error) {
      throw fromNode(error, `opening knowledge base ${options.dir}`);
    }
    this.#db = new DatabaseSync(join(options.dir, 'knowledge.db'));
    this.#db.exec(
      'PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;',
    );
    this.#db.exec(SCHEMA);
  }

  #run(sql: string, values: readonly SQLInputValue[]): number {
    let statement = this.#statements.get(sql);
    if (!statement) this.#statements.set(sql, (statement = this.#db.prepare(sql)));
    return Number(statement.run(...values).changes);
  }

  readonly #rows: Rows = (sql, ...values) => {
    let statement = this.#statements.get(sql);
    if (!statement) this.#statements.set(sql, (statement = this.#db.prepare(sql)));
    return statement.all(...values) as ReturnType<Rows>;
  };

  /** The knowledge base of one job, made when it is first written to. */
  of(job: string): KnowledgeBase {
    if (job === '' || job.length > 512)
      throw new ShoalError('invalid_argument', 'a job name must be 1 to 512 characters');
    const now = <T>(body: () => T): Promise<T> => {
      try {
        return Promise.resolve(body());
      } catch (error) {
        return Promise.reject(error instanceof Error ? error : new Error(String(error)));
      }
    };
    return {
      snapshot: async (version) => await now(() => this.snapshot(job, version)),
      commit: async (changes) => await now(() => this.commit(job, changes)),
      putModel: async (bytes) => await now(() => this.putModel(job, bytes)),
      getModel: async (digest) => await now(() => this.getModel(job, digest)),
      samples: async (query) => await now(() => this.samples(job, query)),
      nearest: async (features, count) => await now(() => this.nearest(job, features, count)),
    };
  }

  jobs(): JobSummary[] {
    return this.#rows('SELECT job, version, stored_bytes FROM jobs ORDER BY job').map((row) => {
      const job = String(row['job']);
      const count = (sql: string): number => Number(this.#rows(sql, job)[0]?.['n'] ?? 0);
      return {
        job,
        version: Number(row['version']),
        tasks: this.snapshot(job).tasks.length,
        samples: count('SELECT count(*) AS n FROM samples WHERE job = ?'),
        storedBytes: Number(row['stored_bytes']),
      };
    });
  }

  #head(job: string): { version: number; storedBytes: number } {
    const [row] = this.#rows('SELECT version, stored_bytes FROM jobs WHERE job = ?', job);
    return {
      version: Number(row?.['version'] ?? 0),
      storedBytes: Number(row?.['stored_bytes'] ?? 0),
    };
  }

  /** @throws ShoalError `out_of_range` for a version that does not exist yet. */
  snapshot(job: string, version?: number): KnowledgeSnapshot {
    const head = this.#head(job);
    if (
      version !== undefined &&
      (version > head.version || version < 0 || !Number.isInteger(version))
    )
      throw new ShoalError(
        'out_of_range',
        `knowledge base ${job} has versions 0 to ${head.version}, not ${version}`,
      );
    return readSnapshot(this.#rows, job, { ...head, at: version });
  }

  /** Every revision of every task, whatever became of it. */
  revisions(job: string): KnowledgeTask[] {
    return readRevisions(this.#rows, job, this.#head(job).version);
  }

  samples(job: string, query: SampleQuery = {}): KnowledgeSample[] {
    return readSamples(this.#rows, job, query);
  }

  /** Applies changes in one transaction. @returns The version that holds them; the same when all were known. */
  commit(job: string, changes: readonly Change[]): number {
    for (const change of changes) checkChange(change);
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      const head = this.#head(job);
      const next = head.version + 1;
      this.#addedBytes = 0;
      const changed = changes.reduce((n, change) => n + this.#apply(job, change, next), 0);
      if (changed === 0) {
        this.#db.exec('ROLLBACK');
        return head.version;
      }
      this.#charge(job, this.#addedBytes);
      this.#run('UPDATE jobs SET version = ? WHERE job = ?', [next, job]);
      this.#db.exec('COMMIT');
      return next;
    } catch (error) {
      this.#db.exec('ROLLBACK');
      throw error;
    }
  }

  /** Counts bytes against the job's budget. @throws ShoalError `resource_exhausted`. */
  #charge(job: string, bytes: number): void {
    this.#run('INSERT OR IGNORE INTO jobs VALUES (?, 0, 0)', [job]);
    const { storedBytes } = this.#head(job);
    if (bytes > 0 && storedBytes + bytes > this.#budget)
      throw new ShoalError(
        'resource_exhausted',
        `knowledge base ${job} is full: ${storedBytes} of ${this.#budget} bytes are used, ${bytes} more were offered; raise KB_MAX_BYTES, or remove what is not needed`,
      );
    this.#run('UPDATE jobs SET stored_bytes = stored_bytes + ? WHERE job = ?', [bytes, job]);
  }

  /** @returns How many rows it changed: 0 for what was known. */
  #apply(job: string, change: Change, since: number): number {
    switch (change.kind) {
      case 'task':
        return this.#addTask(job, change.task, since);
      case 'verdict':
        return this.#run('INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?)', [
          job,
          change.task,
          change.revision,
          change.model,
          TASK_STATES.indexOf(change.state),
          change.reason ?? '',
          canonicalJson(change.metrics ?? {}),
          since,
        ]);
      case 'shared': {
        const { name, revision, value } = change.shared;
        return this.#run('INSERT OR IGNORE INTO shared VALUES (?, ?, ?, ?, ?)', [
          job,
          name,
          revision,
          canonicalJson(value),
          since,
        ]);
      }
      case 'relation': {
        const { from, to, kind, revision, value } = change.relation;
        return this.#run('INSERT OR IGNORE INTO relations VALUES (?, ?, ?, ?, ?, ?, ?)', [
          job,
          from,
          to,
          kind,
          revision,
          value,
          since,
        ]);
      }
      case 'sample':
        return this.#addSample(job, change.sample, since);
      case 'label':
        return this.#run(
          `INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (job, sample) DO UPDATE SET
             label = excluded.label, given_by = excluded.given_by, given_at = excluded.given_at,
             since = excluded.since
           WHERE (excluded.given_at, excluded.given_by, excluded.label) > (given_at, given_by, label)`,
          [job, change.sample, change.label, change.by, change.atMs, since],
        );
      case 'usage':
        return Object.entries(change.counters).reduce(
          (n, [counter, value]) =>
            n +
            this.#run(
              `INSERT INTO usage VALUES (?, ?, ?, ?) ON CONFLICT (job, edge, counter)
               DO UPDATE SET value = excluded.value WHERE excluded.value > value`,
              [job, change.edge, counter, value],
            ),
          0,
        );
    }
  }

  #addTask(job: string, task: Extract<Change, { kind: 'task' }>['task'], since: number): number {
    if (!existsSync(this.#modelPath(job, task.model)))
      throw new ShoalError(
        'failed_precondition',
        `task ${task.name} names model ${task.model}, which is not here: put the model first`,
      );
    return this.#run('INSERT OR IGNORE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)', [
      job,
      task.name,
      task.revision,
      task.model,
      canonicalJson(task.attributes),
      task.modelBytes,
      task.samples,
      canonicalJson(task.metrics),
      JSON.stringify(task.classes),
      canonicalJson(task.knowledge),
      since,
    ]);
  }

  #addSample(job: string, sample: KnowledgeSample, since: number): number {
    const { inputs } = sample;
    const bytes = new Uint8Array(inputs.buffer, inputs.byteOffset, inputs.byteLength);
    const added = this.#run('INSERT OR IGNORE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)', [
      job,
      sample.id,
      sample.edge,
      sample.task,
      canonicalJson(sample.attributes),
      JSON.stringify(sample.shape),
      bytes,
      sample.recordedAtMs,
      since,
    ]);
    if (added > 0) this.#addedBytes += bytes.length;
    if (sample.label === undefined) return added;
    const { id, label, edge: by, recordedAtMs: atMs } = sample;
    return added + this.#apply(job, { kind: 'label', sample: id, label, by, atMs }, since);
  }

  #modelPath(job: string, digest: string): string {
    if (!isDigest(digest)) throw new ShoalError('invalid_argument', `"${digest}" is not a digest`);
    return join(this.#models, digestOf(job).slice(7, 23), digest.slice(7));
  }

  /** Bytes of a model that is here; undefined when it is not. */
  statModel(job: string, digest: string): number | undefined {
    const path = this.#modelPath(job, digest);
    return existsSync(path) ? statSync(path).size : undefined;
  }

  /** Keeps a model durably; the same one again costs nothing. */
  putModel(job: string, bytes: Uint8Array): string {
    const digest = digestOf(bytes);
    const path = this.#modelPath(job, digest);
    if (existsSync(path)) return digest;
    mkdirSync(join(path, '..'), { recursive: true });
    this.#db.exec('BEGIN IMMEDIATE');
    try {
      this.#charge(job, bytes.length);
      writeDurably(path, [bytes]);
      this.#db.exec('COMMIT');
    } catch (error) {
      this.#db.exec('ROLLBACK');
      throw error;
    }
    return digest;
  }

  /** @throws ShoalError `not_found`, or `data_corrupt` when the file is not what was written. */
  getModel(job: string, digest: string): Uint8Array {
    const path = this.#modelPath(job, digest);
    if (!existsSync(path)) throw new ShoalError('not_found', `${job} has no model ${digest}`);
    const bytes = readFileSync(path);
    if (digestOf(bytes) !== digest)
      throw new ShoalError('data_corrupt', `model ${digest} of ${job} is damaged on disk`);
    return bytes;
  }

  /**
   * Removes model files of revisions that were refused, retired, or overtaken by `keep` newer ones, and
   * those no revision came to name within a day; counts anew what is stored.
   *
   * @returns Bytes that became free.
   */
  prune(job: string, keep = 3): number {
    const revisions = readRevisions(this.#rows, job, this.#head(job).version).toReversed();
    const admitted = new Map<string, number>();
    const kept = new Set<string>();
    for (const task of revisions) {
      const count = admitted.get(task.name) ?? 0;
      if (task.state === 'admitted') admitted.set(task.name, count + 1);
      // A candidate that a newer revision has overtaken will never be judged.
      const stays =
        (task.state === 'candidate' && count === 0) || (task.state === 'admitted' && count < keep);
      if (stays) for (const file of filesOf(task)) kept.add(file.slice(7));
    }
    const dir = join(this.#modelPath(job, digestOf('')), '..');
    const named = new Set(revisions.flatMap(filesOf).map((file) => file.slice(7)));
    let [freed, left] = [0, 0];
    for (const file of existsSync(dir) ? readdirSync(dir) : []) {
      const { size, mtimeMs } = statSync(join(dir, file));
      // One that no revision names may be on its way to one, unless its training died long ago.
      const gone = named.has(file) ? !kept.has(file) : mtimeMs < Date.now() - ORPHAN_MS;
      if (gone) rmSync(join(dir, file));
      if (gone) freed += size;
      else left += size;
    }
    const sql = 'SELECT coalesce(sum(length(inputs)), 0) AS n FROM samples WHERE job = ?';
    const samples = Number(this.#rows(sql, job)[0]?.['n'] ?? 0);
    this.#run('UPDATE jobs SET stored_bytes = ? WHERE job = ?', [left + samples, job]);
    return freed;
  }

  nearest(job: string, features: Float32Array, count: number): Neighbour[] {
    const { version } = this.#head(job);
    let known = this.#indexes.get(job);
    if (known?.version !== version) {
      known = { version, index: new NeighbourIndex(this.snapshot(job).tasks) };
      this.#indexes.set(job, known);
    }
    return known.index.nearest(features, count);
  }

  close(): void {
    this.#db.close();
  }
}
