import { appendFileSync, writeFileSync } from 'node:fs';
import { ShoalError } from '@shoal/core';
import { type LifelongResult, lifelongMetrics, type TaskSamples } from '@shoal/lib';
import type { DataPart } from '../data/benchmark-data.ts';
import { join } from '../data/parts.ts';
import { type LifelongBase, tasksOf } from '../paradigms/lifelong.ts';
import { KNOWLEDGE_BASE } from '../paradigms/names.ts';
import type { Observations } from '../paradigms/observations.ts';
import { untrainedScores } from '../paradigms/task-sequence.ts';
import { type ClusterCase, container, hasAddress, object, until } from './access.ts';
import { toCsv } from './lifelong-parts.ts';

const PORT = 8081;
const BATCH = 100;
/** As in a process: a tenth of a task is held out for its admission. */
const TRAIN_SHARE = 0.9;

interface Status {
  readonly deployedModel?: string;
  readonly conditions?: readonly {
    readonly stage: string;
    readonly type: string;
    readonly message?: string;
  }[];
}

function objectsOf(c: ClusterCase, tasks: readonly DataPart[]): object[] {
  const { access, name, data } = c;
  const shape = { name: 'SHOAL_BENCH_SHAPE', value: JSON.stringify(data.test.shape) };
  const worker = (
    file: string,
    nodeName: string,
    more: Parameters<typeof container>[2] = {},
  ): object => {
    const env = [shape, ...(more.env ?? [])];
    return { spec: { nodeName, containers: [container(file, c, { ...more, env })] } };
  };
  // Every task arrives at once: the trigger fires when what one leaves for training is there.
  const threshold = Math.floor(Math.min(...tasks.map((t) => t.train.size)) * TRAIN_SHARE * 0.9);
  const serving = {
    ports: [{ containerPort: PORT }],
    readinessProbe: { httpGet: { path: '/healthz', port: PORT }, periodSeconds: 1 },
  };
  const edge = access.edgeNodes[0] ?? access.cloudNode;
  return [
    object('Dataset', name, {
      url: `/bench/${name}/tasks.csv`,
      format: 'csv',
      nodeName: access.cloudNode,
    }),
    object('LifelongLearningJob', name, {
      dataset: { name, trainProb: TRAIN_SHARE },
      outputDir: `/bench/${name}/output`,
      trainSpec: {
        trigger: {
          checkPeriodSeconds: 1,
          condition: { operator: '>', threshold, metric: 'num_of_samples' },
        },
        template: worker('learn.ts', access.cloudNode),
      },
      evalSpec: { template: worker('evaluate-tasks.ts', access.cloudNode) },
      deploySpec: {
        template: worker('infer-tasks.ts', edge, {
          ...serving,
          env: [{ name: 'INFERENCE_PORT', value: String(PORT) }],
        }),
      },
    }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name },
      spec: {
        selector: {
          'lifelonglearningjob.sedna.io/name': name,
          'lifelonglearningjob.sedna.io/worker-type': 'inference',
        },
        ports: [{ name: 'http', port: 80, targetPort: PORT }],
      },
    },
  ];
}

/** Waits until another version than the one before is deployed. */
async function deployed(c: ClusterCase, before: string | undefined): Promise<string> {
  const job = { kind: 'LifelongLearningJob', name: c.name, what: 'something new to be deployed' };
  const found = await until(c, job, ({ status }) => {
    const { deployedModel, conditions } = (status ?? {}) as Status;
    const last = conditions?.at(-1);
    if (last?.type === 'Failed')
      throw new ShoalError('failed_precondition', `${last.stage} failed: ${last.message}`);
    return deployedModel !== undefined && deployedModel !== before;
  });
  return (found.status as Status).deployedModel ?? '';
}

async function ask(
  url: string,
  samples: TaskSamples,
  signal: AbortSignal,
): Promise<LifelongResult[]> {
  const width = samples.inputs.length / samples.size;
  const answers: LifelongResult[] = [];
  for (let from = 0; from < samples.size; from += BATCH) {
    const rows = Array.from({ length: Math.min(BATCH, samples.size - from) }, (_, k) => from + k);
    const data = rows.map((i) => [...samples.inputs.subarray(i * width, (i + 1) * width)]);
    const attributes = rows.map((i) =>
      Object.fromEntries(Object.entries(samples.attributes).map(([n, column]) => [n, column[i]])),
    );
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ data, attributes }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(60_000)]),
    });
    if (!response.ok)
      throw new ShoalError(
        'unavailable',
        `${url} answers HTTP ${response.status}: ${(await response.text()).slice(0, 300)}`,
      );
    answers.push(...((await response.json()) as { result: LifelongResult[] }).result);
  }
  return answers;
}

interface Asked {
  readonly row: number[];
  readonly predicted: number[];
  /** Samples called unseen: of tasks not learned yet, and of known ones. */
  readonly found: number;
  readonly alarms: number;
}

async function askAll(c: ClusterCase, tasks: readonly DataPart[], learned: number): Promise<Asked> {
  const { access, context, name } = c;
  await until(c, { kind: 'Endpoints', name, what: 'a ready worker' }, hasAddress);
  const service = await access.get('Service', name);
  const { clusterIP = '' } = (service?.spec ?? {}) as { clusterIP?: string };
  const asked = { row: [] as number[], predicted: [] as number[], found: 0, alarms: 0 };
  for (const [j, { test }] of tasks.entries()) {
    const answers = await ask(`http://${clusterIP}/predict`, test, context.signal);
    asked.row.push(answers.filter((a, i) => BigInt(a.label) === test.labels[i]).length / test.size);
    asked.predicted.push(...answers.map((a) => a.label));
    asked[j > learned ? 'found' : 'alarms'] += answers.filter((a) => a.isUnseen).length;
  }
  return asked;
}

/** A LifelongLearningJob: tasks arrive as lines of a file in the cloud, the edge answers over HTTP. */
export async function lifelongOnCluster(c: ClusterCase): Promise<Observations> {
  const { access, context, name } = c;
  const learner = context.choice('learner')?.name ?? KNOWLEDGE_BASE;
  if (learner !== KNOWLEDGE_BASE)
    throw new ShoalError(
      'unsupported',
      `learner "${learner}" is no LifelongLearningJob; it runs in processes only`,
    );
  const tasks = tasksOf(context);
  const file = access.nodePath(access.cloudNode, `/bench/${name}/tasks.csv`);
  writeFileSync(file, '');
  const all = join(tasks.map((t) => t.test));
  const sums = { found: 0, alarms: 0 };
  const matrix: number[][] = [];
  let predicted: number[] = [];
  let version: string | undefined;
  try {
    for (const [t, task] of tasks.entries()) {
      appendFileSync(file, toCsv(task.train, t === 0));
      if (t === 0) await access.apply(objectsOf(c, tasks));
      version = await deployed(c, version);
      const asked = await askAll(c, tasks, t);
      matrix.push(asked.row);
      ({ predicted } = asked);
      sums.found += asked.found;
      sums.alarms += asked.alarms;
      context.progress((t + 1) / tasks.length, task.name);
    }
    const base = await context.create<LifelongBase>('basemodel');
    const baselines = await untrainedScores({ ...base, tasks, seed: context.case.seed });
    return {
      test: {
        labels: Int32Array.from(all.labels, Number),
        predicted: Int32Array.from(predicted),
        classes: new Set(all.labels).size,
      },
      matrix,
      taskNames: tasks.map((t) => t.name),
      transfer: lifelongMetrics(matrix, baselines),
      inferences: tasks.length * all.size,
      uploads: sums.found + sums.alarms,
      extra: { unseenPrecision: sums.found / Math.max(1, sums.found + sums.alarms) },
    };
  } finally {
    await access.remove('LifelongLearningJob', name);
    await access.remove('Service', name);
    await access.remove('Dataset', name);
  }
}
