import type { SQLInputValue, SQLOutputValue } from 'node:sqlite';
import type { JsonObject } from '@shoal/core';
import {
  type EdgeUsage,
  type KnowledgeSample,
  type KnowledgeSnapshot,
  type KnowledgeTask,
  type SampleQuery,
  type SharedValue,
  TASK_STATES,
  type TaskRelation,
} from './knowledge-base.ts';

type Row = Readonly<Record<string, SQLOutputValue>>;

/** Runs a query. */
export type Rows = (sql: string, ...values: SQLInputValue[]) => readonly Row[];

const text = (value: SQLOutputValue | undefined): string => String(value ?? '');

function parsed<T>(value: SQLOutputValue | undefined): T {
  return JSON.parse(text(value)) as T;
}

function keyOf(row: Row): string {
  return `${text(row['name'])}\n${text(row['revision'])}\n${text(row['model'])}`;
}

function taskOf(row: Row, verdict: Row | undefined): KnowledgeTask {
  const reason = text(verdict?.['reason']);
  return {
    name: text(row['name']),
    revision: Number(row['revision']),
    state: TASK_STATES[Number(verdict?.['state'] ?? 0)] ?? 'candidate',
    attributes: parsed(row['attributes']),
    model: text(row['model']),
    modelBytes: Number(row['model_bytes']),
    samples: Number(row['samples']),
    metrics: { ...parsed<object>(row['metrics']), ...parsed<object>(verdict?.['metrics'] ?? '{}') },
    classes: parsed(row['classes']),
    knowledge: parsed<JsonObject>(row['knowledge']),
    ...(reason === '' ? {} : { reason }),
  };
}

/** Every revision with the furthest state it reached by a version. */
export function readRevisions(rows: Rows, job: string, version: number): KnowledgeTask[] {
  const verdicts = rows(
    'SELECT * FROM verdicts WHERE job = ? AND since <= ? ORDER BY state, reason, metrics',
    job,
    version,
  );
  const furthest = new Map(verdicts.map((v) => [keyOf(v), v]));
  return rows(
    'SELECT * FROM tasks WHERE job = ? AND since <= ? ORDER BY name, revision, model',
    job,
    version,
  ).map((row) => taskOf(row, furthest.get(keyOf(row))));
}

/** The admitted revision of each task: the highest, by revision and then by digest. */
function admitted(revisions: readonly KnowledgeTask[]): KnowledgeTask[] {
  const byName = new Map<string, KnowledgeTask>();
  for (const task of revisions) if (task.state === 'admitted') byName.set(task.name, task);
  return [...byName.values()];
}

function newest<T>(list: readonly T[], key: (item: T) => string): T[] {
  return [...new Map(list.map((item) => [key(item), item])).values()];
}

function readShared(rows: Rows, job: string, version: number): SharedValue[] {
  const all = rows(
    'SELECT * FROM shared WHERE job = ? AND since <= ? ORDER BY name, revision, value',
    job,
    version,
  ).map((r) => ({
    name: text(r['name']),
    revision: Number(r['revision']),
    value: parsed<JsonObject>(r['value']),
  }));
  return newest(all, (s) => s.name);
}

function readRelations(rows: Rows, job: string, version: number): TaskRelation[] {
  const all = rows(
    `SELECT * FROM relations WHERE job = ? AND since <= ?
     ORDER BY from_task, to_task, kind, revision, value`,
    job,
    version,
  ).map((r) => ({
    from: text(r['from_task']),
    to: text(r['to_task']),
    kind: text(r['kind']),
    revision: Number(r['revision']),
    value: Number(r['value']),
  }));
  return newest(all, (r) => `${r.from}\n${r.to}\n${r.kind}`);
}

function readUsage(rows: Rows, job: string): EdgeUsage[] {
  const byEdge = new Map<string, Record<string, number>>();
  for (const row of rows('SELECT * FROM usage WHERE job = ? ORDER BY edge, counter', job)) {
    const edge = text(row['edge']);
    const counters = byEdge.get(edge) ?? {};
    counters[text(row['counter'])] = Number(row['value']);
    byEdge.set(edge, counters);
  }
  return [...byEdge].map(([edge, counters]) => ({ edge, counters }));
}

/** What was known at a version. */
export function readSnapshot(
  rows: Rows,
  job: string,
  head: { readonly version: number; readonly storedBytes: number; readonly at: number | undefined },
): KnowledgeSnapshot {
  const version = head.at ?? head.version;
  const count = (sql: string): number => Number(rows(sql, job, version)[0]?.['n'] ?? 0);
  return {
    version,
    tasks: admitted(readRevisions(rows, job, version)),
    shared: readShared(rows, job, version),
    relations: readRelations(rows, job, version),
    usage: readUsage(rows, job),
    unseenSamples: count('SELECT count(*) AS n FROM samples WHERE job = ? AND since <= ?'),
    labelledSamples: count(
      `SELECT count(*) AS n FROM samples s JOIN labels l ON l.job = s.job AND l.sample = s.id
       WHERE s.job = ? AND l.since <= ?`,
    ),
    storedBytes: head.storedBytes,
  };
}

/** Samples with their labels, oldest first. */
export function readSamples(rows: Rows, job: string, query: SampleQuery): KnowledgeSample[] {
  const { labelled, limit } = query;
  const filter = labelled === undefined ? '' : `AND l.label IS ${labelled ? 'NOT ' : ''}NULL`;
  return rows(
    `SELECT s.*, l.label FROM samples s LEFT JOIN labels l ON l.job = s.job AND l.sample = s.id
     WHERE s.job = ? ${filter} ORDER BY s.recorded_at, s.id LIMIT ?`,
    job,
    limit === undefined || limit === 0 ? -1 : limit,
  ).map((row) => {
    const bytes = row['inputs'] as Uint8Array;
    return {
      id: text(row['id']),
      edge: text(row['edge']),
      task: text(row['task']),
      attributes: parsed(row['attributes']),
      shape: parsed(row['shape']),
      inputs: new Float32Array(new Uint8Array(bytes).buffer),
      ...(row['label'] === null ? {} : { label: Number(row['label']) }),
      recordedAtMs: Number(row['recorded_at']),
    };
  });
}
