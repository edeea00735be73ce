import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { digestOf } from '@shoal/core';
import type { Provenance } from '../runs/provenance.ts';
import type { CaseRecord } from '../runs/store.ts';

const FINISHED = 3;
const FAILED = 4;

/** A name as MLflow allows it for metrics, parameters and tags. */
function allowed(name: string): string {
  return name.replace(/[^A-Za-z0-9_\-. /]/g, '_');
}

function yaml(fields: Readonly<Record<string, string | number | null>>): string {
  return Object.entries(fields)
    .map(([k, v]) => `${k}: ${typeof v === 'string' ? JSON.stringify(v) : String(v)}\n`)
    .join('');
}

function put(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

function writeRun(
  folder: string,
  record: CaseRecord,
  at: { experiment: string; ms: number },
): void {
  const { planned, outcome, seconds, state } = record;
  const id = digestOf(`${record.id} ${record.place}`).slice(
    'sha256:'.length,
    'sha256:'.length + 32,
  );
  const root = join(folder, at.experiment, id);
  put(
    join(root, 'meta.yaml'),
    yaml({
      artifact_uri: `file://${join(root, 'artifacts')}`,
      end_time: Math.round(at.ms + seconds * 1000),
      entry_point_name: '',
      experiment_id: at.experiment,
      lifecycle_stage: 'active',
      run_id: id,
      run_name: `${planned.algorithm.name} seed ${planned.seed}`,
      run_uuid: id,
      source_name: 'shoal bench',
      source_type: 4,
      source_version: '',
      start_time: at.ms,
      status: state === 'done' ? FINISHED : FAILED,
      user_id: 'shoal',
    }),
  );
  mkdirSync(join(root, 'artifacts'), { recursive: true });
  const parameters = {
    algorithm: planned.algorithm.name,
    paradigm: planned.algorithm.paradigm,
    seed: planned.seed,
    ...planned.conditions,
    ...planned.hyperparameters,
  };
  for (const [name, value] of Object.entries(parameters))
    put(
      join(root, 'params', allowed(name)),
      typeof value === 'string' ? value : JSON.stringify(value),
    );
  for (const [name, value] of Object.entries({ ...outcome?.metrics, ...outcome?.measured }))
    if (value !== null) put(join(root, 'metrics', allowed(name)), `${at.ms} ${value} 0\n`);
  const course = outcome?.curve.map((p) => `${at.ms} ${p.value} ${p.step}\n`).join('');
  if (course) put(join(root, 'metrics', 'course'), course);
  const tags = {
    'mlflow.runName': `${planned.algorithm.name} seed ${planned.seed}`,
    case: record.id,
  };
  for (const [name, value] of Object.entries(tags)) put(join(root, 'tags', allowed(name)), value);
}

/**
 * Writes cases as an MLflow file store: `mlflow ui --backend-store-uri <folder>` shows them. The job is an
 * experiment, every case a run.
 */
export function writeMlflow(
  folder: string,
  job: string,
  records: readonly CaseRecord[],
  provenance: Provenance,
): void {
  const experiment = String(Number.parseInt(digestOf(job).slice(7, 19), 16));
  const ms = Date.parse(provenance.startedAt);
  put(
    join(folder, experiment, 'meta.yaml'),
    yaml({
      artifact_location: `file://${join(folder, experiment)}`,
      creation_time: ms,
      experiment_id: experiment,
      last_update_time: ms,
      lifecycle_stage: 'active',
      name: job,
    }),
  );
  for (const record of records) writeRun(folder, record, { experiment, ms });
}
