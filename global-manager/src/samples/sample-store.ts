import { DatabaseSync, type SQLInputValue } from 'node:sqlite';
import type { HardExample, LabelledSample, SampleLabel } from '@shoal/api';
import { fromNode, isJsonObject, messageOf, ShoalError, transaction } from '@shoal/core';

export type SampleState = 'new' | 'suggested' | 'labelled' | 'delivered' | 'rejected';

/** The job samples belong to. */
export interface SampleJob {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
}

export interface StoredSample {
  readonly id: string;
  readonly node: string;
  readonly state: SampleState;
  /** JSON of a {@link HardExample}; empty once delivered. */
  readonly body: Uint8Array;
  readonly label: SampleLabel | undefined;
  readonly suggestion: SampleLabel | undefined;
  readonly confidence: number;
  readonly labelledBy: string;
  readonly reason: string;
}

/** What is said of a sample: exactly one of label, suggestion, reject. */
export interface Verdict {
  readonly id: string;
  readonly label?: SampleLabel;
  readonly suggestion?: SampleLabel;
  readonly reject?: string;
  readonly confidence: number;
}

export interface SampleCounts {
  readonly waiting: number;
  readonly labelled: number;
  readonly delivered: number;
  readonly rejected: number;
}

/** Samples of a batch that is on its way to the dataset. */
export interface OpenBatch {
  readonly batch: number;
  readonly digest: string;
  readonly samples: number;
}

const MAX_SAMPLE_BYTES = 2 * 1024 * 1024;
/** Ids of delivered and rejected samples that are remembered, so that they do not come back. */
const KEPT_IDS = 200_000;
/** Rejected samples whose data is kept: somebody may think otherwise of them. */
const KEPT_REJECTED = 1_000;
/** Samples read at once while listing. */
const PAGE = 64;
const SCHEMA = `
  PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
  CREATE TABLE IF NOT EXISTS job(uid TEXT PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, batches INTEGER NOT NULL DEFAULT 0) STRICT;
  CREATE TABLE IF NOT EXISTS sample(seq INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL, id TEXT NOT NULL, node TEXT NOT NULL,
    state TEXT NOT NULL, body BLOB NOT NULL, label TEXT NOT NULL DEFAULT '', suggestion TEXT NOT NULL DEFAULT '',
    confidence REAL NOT NULL DEFAULT 0, by TEXT NOT NULL DEFAULT '', automatic INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', batch INTEGER NOT NULL DEFAULT 0, UNIQUE(uid, id)) STRICT;
  CREATE INDEX IF NOT EXISTS sample_state ON sample(uid, state, seq);
  CREATE TABLE IF NOT EXISTS batch(uid TEXT PRIMARY KEY, batch INTEGER NOT NULL, digest TEXT NOT NULL, samples INTEGER NOT NULL) STRICT;
`;
const PENDING = "('new', 'suggested', 'labelled')";

/** What is wrong with a sample as an edge sent it, if anything. */
function faultOf(id: string, body: Uint8Array): string | undefined {
  if (!/^sha256:[0-9a-f]{64}$/.test(id)) return 'its id is no digest';
  if (body.length > MAX_SAMPLE_BYTES) return `it is larger than ${MAX_SAMPLE_BYTES} bytes`;
  try {
    const value: unknown = JSON.parse(Buffer.from(body).toString('utf8'));
    return isJsonObject(value) && isJsonObject(value['data']) && value['id'] === id
      ? undefined
      : 'it is not a hard example with this id';
  } catch (error) {
    return messageOf(error);
  }
}

/**
 * Hard examples in the cloud: taken once however often they are sent, labelled by people and models,
 * handed to the dataset in batches of which one is under way at a time.
 */
export class SampleStore {
  readonly #db: DatabaseSync;
  readonly #listeners: ((job: SampleJob) => void)[] = [];

  constructor(path: string) {
    try {
      this.#db = new DatabaseSync(path);
      this.#db.exec(SCHEMA);
    } catch (error) {
      throw fromNode(error, `opening the sample store ${path}`);
    }
  }

  /** Called when labels or deliveries of a job have changed. */
  onChange(listener: (job: SampleJob) => void): void {
    this.#listeners.push(listener);
  }

  #changed(job: SampleJob): void {
    for (const listener of this.#listeners) listener(job);
  }

  #transaction<T>(body: () => T): T {
    return transaction(this.#db, body);
  }

  #count(where: string, ...values: SQLInputValue[]): number {
    const row = this.#db.prepare(`SELECT count(*) AS n FROM sample WHERE ${where}`).get(...values);
    return Number(row?.['n'] ?? 0);
  }

  /**
   * Takes samples of an edge.
   *
   * @param maxSamples Samples the job may have that are not in the dataset yet.
   * @returns Ids the edge may forget: taken now or before, or never to be taken; and why others were not.
   */
  take(
    job: SampleJob,
    from: { readonly node: string; readonly maxSamples: number },
    samples: readonly { readonly id: string; readonly body: Uint8Array }[],
  ): { readonly taken: string[]; readonly reason: string } {
    const taken: string[] = [];
    let reason = '';
    let fresh = 0;
    this.#transaction(() => {
      this.#db
        .prepare('INSERT OR IGNORE INTO job(uid, namespace, name) VALUES(?, ?, ?)')
        .run(job.uid, job.namespace, job.name);
      let room = from.maxSamples - this.#count(`uid=? AND state IN ${PENDING}`, job.uid);
      for (const { id, body } of samples) {
        const known = this.#count('uid=? AND id=?', job.uid, id) > 0;
        if (known || faultOf(id, body) !== undefined) taken.push(id);
        else if (room <= 0)
          reason = `the job keeps ${from.maxSamples} hard examples (spec.hardExamples.maxSamples), and all wait for labels`;
        else {
          this.#db
            .prepare("INSERT INTO sample(uid, id, node, state, body) VALUES(?, ?, ?, 'new', ?)")
            .run(job.uid, id, from.node, body);
          taken.push(id);
          room--;
          fresh++;
        }
      }
    });
    if (fresh > 0) this.#changed(job);
    return { taken, reason };
  }

  /** Of rejected samples the newest keep their data; of all that are done, the newest are remembered. */
  #trim(uid: string): void {
    this.#db
      .prepare(
        `UPDATE sample SET body=x'' WHERE uid=? AND state='rejected' AND length(body) > 0 AND seq NOT IN
           (SELECT seq FROM sample WHERE uid=? AND state='rejected' ORDER BY seq DESC LIMIT ?)`,
      )
      .run(uid, uid, KEPT_REJECTED);
    this.#db
      .prepare(
        `DELETE FROM sample WHERE seq IN (SELECT seq FROM sample WHERE uid=? AND state IN ('delivered', 'rejected')
           ORDER BY seq DESC LIMIT -1 OFFSET ?)`,
      )
      .run(uid, KEPT_IDS);
  }

  counts(uid: string): SampleCounts {
    const rows = this.#db
      .prepare('SELECT state, count(*) AS n FROM sample WHERE uid=? GROUP BY state')
      .all(uid);
    const of = (state: string): number =>
      Number(rows.find((r) => r['state'] === state)?.['n'] ?? 0);
    return {
      waiting: of('new') + of('suggested'),
      labelled: of('labelled'),
      delivered: of('delivered'),
      rejected: of('rejected'),
    };
  }

  /** Jobs that have samples. */
  jobs(): SampleJob[] {
    return this.#db
      .prepare('SELECT uid, namespace, name FROM job ORDER BY namespace, name')
      .all()
      .map((r) => ({
        uid: String(r['uid']),
        namespace: String(r['namespace']),
        name: String(r['name']),
      }));
  }

  /**
   * Samples of a job, oldest first, some at a time: they may be many and large.
   *
   * @param query.state Default: all that wait for a label; `any` for all.
   * @param query.prefix Only ids that begin so, without data.
   * @throws ShoalError `not_found` naming ids the job does not have.
   */
  *list(
    uid: string,
    query: {
      readonly state?: string;
      readonly limit?: number;
      readonly ids?: readonly string[];
      readonly prefix?: string;
    } = {},
  ): Generator<StoredSample> {
    const { state = '', limit = 0, ids = [], prefix = '' } = query;
    if (ids.length > 0) return yield* this.#byId(uid, ids);
    const columns = `seq, id, node, state, label, suggestion, confidence, by, reason, ${prefix === '' ? 'body' : "x'' AS body"}`;
    const states =
      state === '' ? "state IN ('new', 'suggested')" : "(state=:state OR :state='any')";
    const named = state === '' ? {} : { state };
    const page = this.#db.prepare(
      `SELECT ${columns} FROM sample WHERE uid=:uid AND seq>:after AND substr(id, 1, length(:prefix))=:prefix AND ${states}
         ORDER BY seq LIMIT ${PAGE}`,
    );
    let after = 0;
    let left = limit > 0 ? limit : Number.POSITIVE_INFINITY;
    for (;;) {
      const rows = page.all({ uid, after, prefix, ...named });
      for (const row of rows) {
        if (left-- <= 0) return;
        yield toSample(row);
      }
      after = Number(rows.at(-1)?.['seq'] ?? 0);
      if (rows.length < PAGE) return;
    }
  }

  #row(uid: string, id: string): Record<string, unknown> | undefined {
    return this.#db.prepare('SELECT * FROM sample WHERE uid=? AND id=?').get(uid, id);
  }

  *#byId(uid: string, ids: readonly string[]): Generator<StoredSample> {
    this.#expectKnown(uid, ids);
    for (const id of ids) yield toSample(this.#row(uid, id) ?? {});
  }

  #expectKnown(uid: string, ids: readonly string[]): void {
    const unknown = ids.filter((id) => !this.#row(uid, id));
    if (unknown.length === 0) return;
    throw new ShoalError(
      'not_found',
      `${unknown.length} of ${ids.length} samples are unknown: ${some(unknown)}`,
    );
  }

  /**
   * Takes verdicts: all of them or none. What a model says does not replace what a person said.
   *
   * @returns Samples of which something changed.
   * @throws ShoalError `not_found` naming unknown ids; `failed_precondition` naming samples that are in
   *   the dataset already.
   */
  label(
    job: SampleJob,
    verdicts: readonly Verdict[],
    by: { readonly name: string; readonly automatic: boolean },
  ): number {
    const changed = this.#transaction(() => {
      this.#expectKnown(
        job.uid,
        verdicts.map((v) => v.id),
      );
      const gone = verdicts.filter((v) => {
        const row = this.#row(job.uid, v.id);
        return row?.['state'] === 'delivered' || Number(row?.['batch'] ?? 0) > 0;
      });
      if (gone.length > 0 && !by.automatic)
        throw new ShoalError(
          'failed_precondition',
          `${gone.length} of ${verdicts.length} samples are in the dataset already: ${some(gone.map((v) => v.id))}`,
        );
      const judged = verdicts.reduce((n, v) => n + Number(this.#judge(job.uid, v, by)), 0);
      if (verdicts.some((v) => v.reject !== undefined)) this.#trim(job.uid);
      return judged;
    });
    if (changed > 0) this.#changed(job);
    return changed;
  }

  #judge(uid: string, v: Verdict, by: { name: string; automatic: boolean }): boolean {
    const state =
      v.label !== undefined ? 'labelled' : v.reject === undefined ? 'suggested' : 'rejected';
    const mayReplace = by.automatic
      ? "state IN ('new', 'suggested')"
      : "state <> 'delivered' AND batch=0";
    const label = v.label === undefined ? '' : JSON.stringify(v.label);
    const guess = v.suggestion === undefined ? '' : JSON.stringify(v.suggestion);
    const { changes } = this.#db
      .prepare(
        `UPDATE sample SET state=?, label=?, suggestion=CASE WHEN ?='' THEN suggestion ELSE ? END,
           confidence=?, by=?, reason=?, automatic=? WHERE uid=? AND id=? AND ${mayReplace}`,
      )
      .run(
        state,
        label,
        guess,
        guess,
        v.confidence,
        by.name,
        v.reject ?? '',
        Number(by.automatic),
        uid,
        v.id,
      );
    return Number(changes) > 0;
  }

  /** The batch of a job that is under way. */
  openBatch(uid: string): OpenBatch | undefined {
    const row = this.#db.prepare('SELECT * FROM batch WHERE uid=?').get(uid);
    return row
      ? {
          batch: Number(row['batch']),
          digest: String(row['digest']),
          samples: Number(row['samples']),
        }
      : undefined;
  }

  /** Labelled samples that are in no batch yet, oldest first, at most so many and about so many bytes. */
  deliverable(uid: string, limit: number, maxBytes: number): LabelledSample[] {
    const rows = this.#db
      .prepare(
        "SELECT id, body, label FROM sample WHERE uid=? AND state='labelled' AND batch=0 ORDER BY seq LIMIT ?",
      )
      .all(uid, limit);
    const found: LabelledSample[] = [];
    let bytes = 0;
    for (const row of rows) {
      bytes += (row['body'] as Uint8Array).length;
      if (found.length > 0 && bytes > maxBytes) break;
      found.push(toLabelled(row));
    }
    return found;
  }

  /** The content of a batch under way, as it was when it began. */
  contentOf(uid: string, batch: number): LabelledSample[] {
    return this.#db
      .prepare(
        "SELECT id, body, label FROM sample WHERE uid=? AND batch=? AND state='labelled' ORDER BY seq",
      )
      .all(uid, batch)
      .map(toLabelled);
  }

  /**
   * Puts samples into the job's next batch, whose content has this digest.
   *
   * @returns Undefined when one of them was labelled otherwise meanwhile: the batch must be made anew.
   */
  begin(uid: string, digest: string, samples: readonly LabelledSample[]): OpenBatch | undefined {
    return this.#transaction(() => {
      const isStill = (s: LabelledSample): boolean => {
        const row = this.#row(uid, s.id);
        return row?.['state'] === 'labelled' && row['label'] === JSON.stringify(s.label);
      };
      if (!samples.every(isStill)) return undefined;
      const row = this.#db
        .prepare('UPDATE job SET batches=batches+1 WHERE uid=? RETURNING batches')
        .get(uid);
      const batch = Number(row?.['batches'] ?? 1);
      const mark = this.#db.prepare(
        "UPDATE sample SET batch=? WHERE uid=? AND id=? AND state='labelled'",
      );
      for (const { id } of samples) mark.run(batch, uid, id);
      this.#db
        .prepare('INSERT OR REPLACE INTO batch VALUES(?, ?, ?, ?)')
        .run(uid, batch, digest, samples.length);
      return { batch, digest, samples: samples.length };
    });
  }

  /**
   * A batch is in the dataset. Its samples leave their data here and keep their ids.
   *
   * @returns False when it was not the batch under way.
   */
  delivered(
    job: SampleJob,
    digest: string,
    refused: readonly { readonly id: string; readonly reason: string }[],
  ): boolean {
    const open = this.openBatch(job.uid);
    if (open?.digest !== digest) return false;
    const { batch } = open;
    this.#transaction(() => {
      for (const { id, reason } of refused)
        this.#db
          .prepare(
            "UPDATE sample SET state='rejected', reason=?, batch=0 WHERE uid=? AND id=? AND batch=?",
          )
          .run(reason, job.uid, id, batch);
      this.#db
        .prepare(
          "UPDATE sample SET state='delivered', body=x'' WHERE uid=? AND batch=? AND state='labelled'",
        )
        .run(job.uid, batch);
      this.#db.prepare('DELETE FROM batch WHERE uid=?').run(job.uid);
      this.#trim(job.uid);
    });
    this.#changed(job);
    return true;
  }

  /** Forgets jobs of this name but the one that is there now, if there is one. */
  forget(namespace: string, name: string, except: string): void {
    this.#transaction(() => {
      for (const { uid } of this.jobs().filter(
        (j) => j.namespace === namespace && j.name === name,
      )) {
        if (uid === except) continue;
        for (const table of ['sample', 'batch', 'job'])
          this.#db.prepare(`DELETE FROM ${table} WHERE uid=?`).run(uid);
      }
    });
  }

  close(): void {
    this.#db.close();
  }
}

function some(ids: readonly string[]): string {
  const shown = ids.slice(0, 5).join(', ');
  return ids.length > 5 ? `${shown} and ${ids.length - 5} more` : shown;
}

function toLabelled(row: Record<string, unknown>): LabelledSample {
  const body = Buffer.from(row['body'] as Uint8Array).toString('utf8');
  const { data } = JSON.parse(body) as HardExample;
  return { id: String(row['id']), data, label: JSON.parse(String(row['label'])) as SampleLabel };
}

function labelOf(json: unknown): SampleLabel | undefined {
  return typeof json === 'string' && json !== '' ? (JSON.parse(json) as SampleLabel) : undefined;
}

function toSample(row: Record<string, unknown>): StoredSample {
  return {
    id: String(row['id']),
    node: String(row['node']),
    state: String(row['state']) as SampleState,
    body: row['body'] as Uint8Array,
    label: labelOf(row['label']),
    suggestion: labelOf(row['suggestion']),
    confidence: Number(row['confidence']),
    labelledBy: String(row['by']),
    reason: String(row['reason']),
  };
}
