import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EVERY_JOB, knowledgeToken } from '@shoal/api';
import { fromNode, ShoalError } from '@shoal/core';
import { KnowledgeClient, type KnowledgeSnapshot, type KnowledgeTask } from '@shoal/lib';
import { renderTable } from '../terminal/table.ts';
import {
  pickJob,
  type ServiceFlags,
  type ServiceOfCluster,
  serviceAccess,
} from './service-access.ts';

export type KnowledgeFlags = ServiceFlags;

const SERVICE: ServiceOfCluster = {
  what: 'knowledge base',
  address: (state) => state.knowledgeBase,
  keyFile: 'knowledge-base.key',
  token: knowledgeToken,
};

/** Opens a job by its full name or a part of it that fits one job. */
async function openJob(
  flags: KnowledgeFlags,
  name: string,
): Promise<{ client: KnowledgeClient; job: string }> {
  const at = serviceAccess(flags, SERVICE);
  const operator = new KnowledgeClient({ ...at, job: EVERY_JOB });
  const jobs = (await operator.jobs()).map((j) => j.job);
  operator.close();
  const job = pickJob(jobs, name, 'the knowledge base');
  return { client: new KnowledgeClient({ ...at, job }), job };
}

function print(json: boolean | undefined, value: unknown, table: () => string): void {
  process.stdout.write(json ? `${JSON.stringify(value)}\n` : `${table()}\n`);
}

function bytes(count: number): string {
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

/** `shoal kb list` */
export async function knowledgeListCommand(flags: KnowledgeFlags): Promise<void> {
  const client = new KnowledgeClient({ ...serviceAccess(flags, SERVICE), job: EVERY_JOB });
  const jobs = await client.jobs();
  client.close();
  print(flags.json, jobs, () =>
    renderTable([
      ['JOB', 'VERSION', 'TASKS', 'UNSEEN SAMPLES', 'STORED'],
      ...jobs.map((j) => [
        j.job,
        String(j.version),
        String(j.tasks),
        String(j.samples),
        bytes(j.storedBytes),
      ]),
    ]),
  );
}

function taskRow(t: KnowledgeTask): string[] {
  const attributes = Object.entries(t.attributes).map(([k, v]) => `${k}=${v}`);
  const accuracy = t.metrics['accuracy'];
  return [
    t.name,
    String(t.revision),
    String(t.samples),
    accuracy === undefined ? '' : `${(accuracy * 100).toFixed(1)} %`,
    bytes(t.modelBytes),
    attributes.join(' '),
    t.reason ?? '',
  ];
}

/** `shoal kb show JOB` */
export async function knowledgeShowCommand(
  name: string,
  flags: KnowledgeFlags & { readonly version?: string },
): Promise<void> {
  const { client, job } = await openJob(flags, name);
  const snapshot = await client.snapshot(
    flags.version === undefined ? undefined : Number(flags.version),
  );
  client.close();
  print(flags.json, snapshot, () => {
    const tasks = renderTable([
      ['TASK', 'REVISION', 'SAMPLES', 'ACCURACY', 'MODEL', 'ATTRIBUTES', 'WHY'],
      ...snapshot.tasks.map(taskRow),
    ]);
    const relations = snapshot.relations.map(
      (r) => `  ${r.from} → ${r.to}: ${r.kind} ${r.value.toFixed(3)}`,
    );
    return [
      `${job}, version ${snapshot.version}: ${snapshot.tasks.length} tasks, ${snapshot.unseenSamples} unseen samples (${snapshot.labelledSamples} labelled), ${bytes(snapshot.storedBytes)}`,
      tasks,
      ...(relations.length > 0 ? ['relations', ...relations] : []),
    ].join('\n');
  });
}

/** `shoal kb export JOB --out FOLDER`: the snapshot as JSON, and one ONNX file per task. */
export async function knowledgeExportCommand(
  name: string,
  flags: KnowledgeFlags & { readonly out: string; readonly version?: string },
): Promise<void> {
  const { client, job } = await openJob(flags, name);
  const snapshot = await client.snapshot(
    flags.version === undefined ? undefined : Number(flags.version),
  );
  try {
    mkdirSync(flags.out, { recursive: true });
    const written: string[] = [];
    for (const task of snapshot.tasks) {
      const file = `${task.name.replace(/[^a-z0-9._+-]/gi, '_')}@${task.revision}.onnx`;
      writeFileSync(join(flags.out, file), await client.getModel(task.model));
      written.push(file);
    }
    writeFileSync(join(flags.out, 'knowledge.json'), JSON.stringify({ job, ...snapshot }, null, 2));
    print(flags.json, { job, version: snapshot.version, files: written }, () =>
      [`${job}, version ${snapshot.version} → ${flags.out}`, ...written.map((f) => `  ${f}`)].join(
        '\n',
      ),
    );
  } catch (error) {
    throw fromNode(error, `writing to ${flags.out}`);
  } finally {
    client.close();
  }
}

interface Difference {
  readonly task: string;
  readonly change: 'added' | 'removed' | 'changed';
  readonly from?: string;
  readonly to?: string;
}

/** What happened to tasks between two versions. */
export function differences(a: KnowledgeSnapshot, b: KnowledgeSnapshot): Difference[] {
  const [old, fresh] = [a, b].map((s) => new Map(s.tasks.map((t) => [t.name, t])));
  const told = (t: KnowledgeTask): string => {
    const accuracy = t.metrics['accuracy'];
    return `@${t.revision}${accuracy === undefined ? '' : ` ${(accuracy * 100).toFixed(1)} %`}`;
  };
  const names = [...new Set([...(old?.keys() ?? []), ...(fresh?.keys() ?? [])])].toSorted();
  return names.flatMap((task): Difference[] => {
    const [was, is] = [old?.get(task), fresh?.get(task)];
    if (!was && is) return [{ task, change: 'added', to: told(is) }];
    if (was && !is) return [{ task, change: 'removed', from: told(was) }];
    if (was && is && (was.revision !== is.revision || was.model !== is.model))
      return [{ task, change: 'changed', from: told(was), to: told(is) }];
    return [];
  });
}

/** `shoal kb diff JOB A B` */
export async function knowledgeDiffCommand(
  name: string,
  versions: readonly [string, string],
  flags: KnowledgeFlags,
): Promise<void> {
  const { client, job } = await openJob(flags, name);
  const [a, b] = [
    await client.snapshot(Number(versions[0])),
    await client.snapshot(Number(versions[1])),
  ];
  client.close();
  const found = differences(a, b);
  print(flags.json, found, () =>
    found.length === 0
      ? `${job}: no task differs between version ${a.version} and ${b.version}`
      : renderTable([
          ['TASK', 'CHANGE', `VERSION ${a.version}`, `VERSION ${b.version}`],
          ...found.map((d) => [d.task, d.change, d.from ?? '', d.to ?? '']),
        ]),
  );
}

/** `shoal kb samples JOB`: what edges could not place, as CSV lines to label. */
export async function knowledgeSamplesCommand(
  name: string,
  flags: KnowledgeFlags & { readonly limit: string },
): Promise<void> {
  const { client } = await openJob(flags, name);
  const samples = await client.samples({ limit: Number(flags.limit) });
  client.close();
  print(
    flags.json,
    samples.map(({ inputs: _inputs, ...s }) => s),
    () =>
      renderTable([
        ['SAMPLE', 'EDGE', 'NEAREST TASK', 'ATTRIBUTES', 'LABEL', 'WHEN'],
        ...samples.map((s) => [
          s.id,
          s.edge,
          s.task,
          Object.entries(s.attributes)
            .map(([k, v]) => `${k}=${v}`)
            .join(' '),
          s.label === undefined ? '' : String(s.label),
          new Date(s.recordedAtMs).toISOString(),
        ]),
      ]),
  );
}

/** `shoal kb label JOB SAMPLE LABEL`: it is part of the next training. */
export async function knowledgeLabelCommand(
  name: string,
  what: { readonly sample: string; readonly label: string },
  flags: KnowledgeFlags,
): Promise<void> {
  const { client, job } = await openJob(flags, name);
  const known = await client.samples();
  if (!known.some((s) => s.id === what.sample)) {
    client.close();
    throw new ShoalError(
      'not_found',
      `${job} has no sample "${what.sample}"; see: shoal kb samples ${name}`,
    );
  }
  const by = process.env['USER'] ?? 'operator';
  const version = await client.commit([
    { kind: 'label', sample: what.sample, label: Number(what.label), by, atMs: Date.now() },
  ]);
  client.close();
  print(
    flags.json,
    { version },
    () => `${job}: ${what.sample} is ${what.label} (version ${version})`,
  );
}
