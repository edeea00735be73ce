import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type ComponentChoices,
  ContinualLearner,
  type ContinualStrategy,
  type CreateEstimator,
  KnowledgeStore,
  LifelongLearning,
  type LifelongMetrics,
  lifelongMetrics,
  samplesTransferRatio,
  type TaskSamples,
} from '@shoal/lib';
import type { OptimizerOptions } from '@shoal/training';
import type { ResultRow } from './example.ts';

/** One task of a sequence: samples to learn from and to be scored on. */
export interface StudyTask {
  readonly name: string;
  readonly train: TaskSamples;
  readonly test: TaskSamples;
}

export interface StudyOptions {
  readonly tasks: readonly StudyTask[];
  /** The untrained model, an ONNX file. */
  readonly model: Uint8Array;
  readonly optimizer: OptimizerOptions;
  readonly epochs: number;
  readonly components: ComponentChoices;
  readonly seed: number;
  /** Ways of learning with one model, beside the knowledge base. */
  readonly strategies: readonly ContinualStrategy[];
  readonly create: CreateEstimator;
}

/** What one way of learning reached. */
export interface StudyOutcome extends LifelongMetrics {
  readonly matrix: readonly (readonly number[])[];
}

export interface StudyResult {
  readonly ways: Readonly<Record<string, StudyOutcome>>;
  /** Accuracy on all tasks of one model trained on everything at once. */
  readonly joint: number;
  /** Accuracy on all tasks of a model that only ever saw the first. */
  readonly single: number;
  /** Of samples of tasks not learned yet, the share that was called unseen. */
  readonly unseenRecall: number;
  /** Of samples called unseen, the share that was of tasks not learned yet. */
  readonly unseenPrecision: number;
  /** The share of samples of known tasks that was called unseen. */
  readonly falseAlarms: number;
  readonly transferRatio: number;
  readonly bytesUp: number;
}

function row(
  samples: TaskSamples,
  i: number,
): { inputs: Float32Array; attributes: Record<string, string> } {
  const length = samples.inputs.length / samples.size;
  return {
    inputs: samples.inputs.slice(i * length, (i + 1) * length),
    attributes: Object.fromEntries(
      Object.entries(samples.attributes).map(([k, column]) => [k, column[i] ?? '']),
    ),
  };
}

async function continual(
  options: StudyOptions,
  strategy: ContinualStrategy,
): Promise<StudyOutcome> {
  const { model, optimizer, epochs, seed, tasks } = options;
  const learner = await ContinualLearner.create({
    model,
    strategy,
    optimizer,
    epochs,
    seed,
    threads: 1,
  });
  const matrix: number[][] = [];
  const scores = async (): Promise<number[]> => {
    const found: number[] = [];
    for (const task of tasks) found.push((await learner.evaluate(task.test))['accuracy'] ?? 0);
    return found;
  };
  const untrained = await scores();
  for (const task of tasks) {
    await learner.learn(task.train);
    matrix.push(await scores());
  }
  await learner.release();
  return { matrix, ...lifelongMetrics(matrix, untrained) };
}

/** Accuracy on all tasks of one model trained on some samples. */
async function trainedOn(options: StudyOptions, samples: TaskSamples): Promise<number> {
  const learner = await ContinualLearner.create({
    ...options,
    strategy: { name: 'fine-tune' },
    threads: 1,
  });
  await learner.learn(samples);
  let [hits, size] = [0, 0];
  for (const { test } of options.tasks) {
    hits += ((await learner.evaluate(test))['accuracy'] ?? 0) * test.size;
    size += test.size;
  }
  await learner.release();
  return hits / size;
}

function joined(parts: readonly TaskSamples[]): TaskSamples {
  const [first] = parts;
  if (!first) throw new Error('no tasks');
  const size = parts.reduce((n, p) => n + p.size, 0);
  const inputs = new Float32Array((first.inputs.length / first.size) * size);
  const labels = new BigInt64Array(size);
  let at = 0;
  for (const p of parts) {
    inputs.set(p.inputs, (inputs.length / size) * at);
    labels.set(p.labels, at);
    at += p.size;
  }
  const attributes = Object.fromEntries(
    Object.keys(first.attributes).map((k) => [k, parts.flatMap((p) => p.attributes[k] ?? [])]),
  );
  return { inputs, labels, shape: first.shape, size, attributes };
}

/** A tenth of a task's samples is held out for its admission. */
function halves(samples: TaskSamples): { learn: TaskSamples; judge: TaskSamples } {
  const cut = Math.floor(samples.size * 0.9);
  const part = (from: number, to: number): TaskSamples => {
    const length = samples.inputs.length / samples.size;
    return {
      inputs: samples.inputs.subarray(from * length, to * length),
      labels: samples.labels.subarray(from, to),
      shape: samples.shape,
      size: to - from,
      attributes: Object.fromEntries(
        Object.entries(samples.attributes).map(([k, c]) => [k, c.slice(from, to)]),
      ),
    };
  };
  return { learn: part(0, cut), judge: part(cut, samples.size) };
}

/** b_j: what the untrained model scores on each task. */
async function untrainedScores(options: StudyOptions): Promise<number[]> {
  const learner = await ContinualLearner.create({ ...options, strategy: { name: 'fine-tune' } });
  const scores: number[] = [];
  for (const { test } of options.tasks)
    scores.push((await learner.evaluate(test))['accuracy'] ?? 0);
  await learner.release();
  return scores;
}

/** Unseen detection over the whole sequence. */
interface Detection {
  found: number;
  missed: number;
  alarms: number;
  quiet: number;
  bytes: number;
}

async function knowledgeBase(
  options: StudyOptions,
): Promise<{ outcome: StudyOutcome; detection: Detection }> {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-study-'));
  const store = new KnowledgeStore({ dir: join(dir, 'cloud') });
  const learning = await LifelongLearning.open({
    create: options.create,
    components: options.components,
    knowledge: store.of('study'),
    seed: options.seed,
    environment: { edge_output_url: join(dir, 'edge'), OUTPUT_URL: join(dir, 'output') },
  });
  const matrix: number[][] = [];
  const detection: Detection = { found: 0, missed: 0, alarms: 0, quiet: 0, bytes: 0 };
  try {
    for (const [learned, task] of options.tasks.entries()) {
      const { learn, judge } = halves(task.train);
      const { candidates } = await learning.train(learn);
      await learning.evaluate(judge, candidates);
      await learning.edge.adopt();
      const scores: number[] = [];
      for (const [j, { test }] of options.tasks.entries())
        scores.push(await scored(learning, test, { known: j <= learned, detection }));
      matrix.push(scores);
    }
  } finally {
    await learning.close();
    store.close();
    rmSync(dir, { recursive: true });
  }
  return {
    outcome: { matrix, ...lifelongMetrics(matrix, await untrainedScores(options)) },
    detection,
  };
}

async function scored(
  learning: LifelongLearning,
  test: TaskSamples,
  at: { readonly known: boolean; readonly detection: Detection },
): Promise<number> {
  let hits = 0;
  for (let i = 0; i < test.size; i++) {
    const { label, isUnseen } = await learning.edge.infer(row(test, i));
    if (BigInt(label) === test.labels[i]) hits++;
    if (at.known) at.detection[isUnseen ? 'alarms' : 'quiet']++;
    else at.detection[isUnseen ? 'found' : 'missed']++;
    if (isUnseen) at.detection.bytes += (test.inputs.length / test.size) * 4;
  }
  return hits / test.size;
}

/** Learns a sequence of tasks in several ways and holds them against one another. */
export async function studyTasks(options: StudyOptions): Promise<StudyResult> {
  const ways: Record<string, StudyOutcome> = {};
  const { outcome, detection } = await knowledgeBase(options);
  ways['knowledge base'] = outcome;
  for (const strategy of options.strategies)
    ways[strategy.name] = await continual(options, strategy);
  const first = options.tasks[0]?.train;
  const { found, missed, alarms, quiet } = detection;
  return {
    ways,
    joint: await trainedOn(options, joined(options.tasks.map((t) => t.train))),
    single: first ? await trainedOn(options, first) : Number.NaN,
    unseenRecall: found / Math.max(1, found + missed),
    unseenPrecision: found / Math.max(1, found + alarms),
    falseAlarms: alarms / Math.max(1, alarms + quiet),
    transferRatio: samplesTransferRatio(found + alarms, found + missed + alarms + quiet),
    bytesUp: detection.bytes,
  };
}

/** Mean of values and half the width of their 95 % t-interval. */
function meanInterval(values: readonly number[]): { mean: number; half: number } {
  const T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
  const n = values.length;
  const mean = values.reduce((a, b) => a + b, 0) / Math.max(1, n);
  const variance = values.reduce((a, v) => a + (v - mean) ** 2, 0) / Math.max(1, n - 1);
  return { mean, half: n < 2 ? Number.NaN : (T95[n - 2] ?? 1.96) * Math.sqrt(variance / n) };
}

/** The figures of a study as rows of a table: means over seeds with their 95 % intervals. */
export function studyRows(results: readonly StudyResult[]): ResultRow[] {
  const share = (measure: string, pick: (r: StudyResult) => number): ResultRow => {
    const { mean, half } = meanInterval(results.map(pick));
    const note = `± ${(half * 100).toFixed(1)} over ${results.length} seeds`;
    return { measure, value: mean, unit: 'percent', note };
  };
  const of = (way: string, r: StudyResult): StudyOutcome =>
    r.ways[way] ?? {
      matrix: [],
      accuracy: Number.NaN,
      backwardTransfer: Number.NaN,
      forwardTransfer: Number.NaN,
      forgetting: Number.NaN,
    };
  const ways = Object.keys(results[0]?.ways ?? {});
  return [
    ...ways.map((way) => share(`ACC, ${way}`, (r) => of(way, r).accuracy)),
    share('ACC, one model of the first task', (r) => r.single),
    share('ACC, all tasks at once (joint)', (r) => r.joint),
    ...ways.map((way) => share(`BWT, ${way}`, (r) => of(way, r).backwardTransfer)),
    ...ways.map((way) => share(`forgetting, ${way}`, (r) => of(way, r).forgetting)),
    ...ways.map((way) => share(`FWT, ${way}`, (r) => of(way, r).forwardTransfer)),
    share('unseen tasks, recall', (r) => r.unseenRecall),
    share('unseen tasks, precision', (r) => r.unseenPrecision),
    share('known samples called unseen', (r) => r.falseAlarms),
    share('samples that went up', (r) => r.transferRatio),
    {
      measure: 'bytes up',
      value: Math.round(meanInterval(results.map((r) => r.bytesUp)).mean),
      unit: 'count',
      note: `mean of ${results.length} seeds`,
    },
  ];
}
