import {
  learnContinually,
  learnTogether,
  learnWithKnowledgeBase,
  type SequenceResult,
  type SequenceTask,
  untrainedScores,
} from '@shoal/benchmark';
import {
  type ComponentChoices,
  type ContinualStrategy,
  type CreateEstimator,
  type LifelongMetrics,
  lifelongMetrics,
  samplesTransferRatio,
} from '@shoal/lib';
import type { OptimizerOptions } from '@shoal/training';
import type { ResultRow } from './example.ts';

export interface StudyOptions {
  readonly tasks: readonly SequenceTask[];
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
interface StudyOutcome extends LifelongMetrics {
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

/** Share of all test samples whose last answer was right. */
function hitsOf({ predicted }: SequenceResult, tasks: readonly SequenceTask[]): number {
  const labels = tasks.flatMap((t) => [...t.test.labels]);
  return labels.filter((l, i) => BigInt(predicted[i] ?? -1) === l).length / labels.length;
}

/** Learns a sequence of tasks in several ways and holds them against one another. */
export async function studyTasks(options: StudyOptions): Promise<StudyResult> {
  const { tasks, strategies } = options;
  const baselines = await untrainedScores(options);
  const outcome = ({ matrix }: SequenceResult): StudyOutcome => ({
    matrix,
    ...lifelongMetrics(matrix, baselines),
  });
  const known = await learnWithKnowledgeBase(options);
  const ways: Record<string, StudyOutcome> = { 'knowledge base': outcome(known) };
  for (const strategy of strategies)
    ways[strategy.name] = outcome(await learnContinually(options, strategy));
  const { found, missed, alarms, quiet, bytes } = known.detection;
  return {
    ways,
    joint: hitsOf(await learnTogether(options, tasks), tasks),
    single: hitsOf(await learnTogether(options, tasks.slice(0, 1)), tasks),
    unseenRecall: found / Math.max(1, found + missed),
    unseenPrecision: found / Math.max(1, found + alarms),
    falseAlarms: alarms / Math.max(1, alarms + quiet),
    transferRatio: samplesTransferRatio(found + alarms, found + missed + alarms + quiet),
    bytesUp: bytes,
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
    return { measure, value: mean, unit: 'share', note };
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
