import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  argMax,
  type ComponentChoices,
  ContinualLearner,
  type ContinualStrategy,
  type CreateEstimator,
  concatenateTasks,
  KnowledgeStore,
  LifelongLearning,
  selectTask,
  type TaskSamples,
} from '@shoal/lib';
import type { OptimizerOptions } from '@shoal/training';

/** One task of a sequence: samples to learn from and to be scored on. */
export interface SequenceTask {
  readonly name: string;
  readonly train: TaskSamples;
  readonly test: TaskSamples;
}

export interface SequenceOptions {
  readonly tasks: readonly SequenceTask[];
  /** The untrained model, an ONNX file. */
  readonly model: Uint8Array;
  readonly optimizer: OptimizerOptions;
  readonly epochs: number;
  /** Default 32. */
  readonly batchSize?: number;
  readonly seed: number;
}

/** What learning a sequence left behind: R[i][j], and the last answers to all test samples. */
export interface SequenceResult {
  readonly matrix: readonly (readonly number[])[];
  /** Of the tasks' test samples one after another. */
  readonly predicted: Int32Array;
}

/** What came of calling samples unseen, over the whole sequence. */
export interface UnseenDetection {
  /** Samples of tasks not learned yet: called unseen, or not. */
  found: number;
  missed: number;
  /** Samples of known tasks: called unseen, or not. */
  alarms: number;
  quiet: number;
  /** Bytes of the samples that were called unseen. */
  bytes: number;
}

type AfterTask = (learned: number, scores: readonly number[]) => void;

function learnerOf(
  options: SequenceOptions,
  strategy: ContinualStrategy,
): Promise<ContinualLearner> {
  const { model, optimizer, epochs, seed, batchSize = 32 } = options;
  return ContinualLearner.create({
    model,
    strategy,
    optimizer,
    epochs,
    seed,
    batchSize,
    threads: 1,
  });
}

async function scoresOf(
  learner: ContinualLearner,
  tasks: readonly SequenceTask[],
): Promise<number[]> {
  const scores: number[] = [];
  for (const { test } of tasks) scores.push((await learner.evaluate(test))['accuracy'] ?? 0);
  return scores;
}

async function answersOf(
  learner: ContinualLearner,
  tasks: readonly SequenceTask[],
): Promise<Int32Array> {
  const answers: number[] = [];
  for (const { test } of tasks) {
    const logits = await learner.logits(test);
    const classes = logits.length / test.size;
    for (let i = 0; i < test.size; i++) answers.push(argMax(logits, i * classes, classes));
  }
  return Int32Array.from(answers);
}

/** One model that learns task after task. */
export async function learnContinually(
  options: SequenceOptions,
  strategy: ContinualStrategy,
  afterTask?: AfterTask,
): Promise<SequenceResult> {
  const learner = await learnerOf(options, strategy);
  const matrix: number[][] = [];
  for (const [t, task] of options.tasks.entries()) {
    await learner.learn(task.train);
    const scores = await scoresOf(learner, options.tasks);
    matrix.push(scores);
    afterTask?.(t, scores);
  }
  const predicted = await answersOf(learner, options.tasks);
  await learner.release();
  return { matrix, predicted };
}

/** One model that learns some tasks at once; R has the same row for every task. */
export async function learnTogether(
  options: SequenceOptions,
  learned: readonly SequenceTask[],
): Promise<SequenceResult> {
  const learner = await learnerOf(options, { name: 'fine-tune' });
  await learner.learn(concatenateTasks(learned.map((t) => t.train)));
  const scores = await scoresOf(learner, options.tasks);
  const predicted = await answersOf(learner, options.tasks);
  await learner.release();
  return { matrix: options.tasks.map(() => scores), predicted };
}

/** b_j: what the untrained model scores on each task. */
export async function untrainedScores(options: SequenceOptions): Promise<number[]> {
  const learner = await learnerOf(options, { name: 'fine-tune' });
  const scores = await scoresOf(learner, options.tasks);
  await learner.release();
  return scores;
}

/** A tenth of a task's samples is held out for its admission. */
function halves(samples: TaskSamples): { learn: TaskSamples; judge: TaskSamples } {
  const cut = Math.floor(samples.size * 0.9);
  const range = (from: number, to: number): number[] =>
    Array.from({ length: to - from }, (_, i) => from + i);
  return {
    learn: selectTask(samples, range(0, cut)),
    judge: selectTask(samples, range(cut, samples.size)),
  };
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

async function answered(
  learning: LifelongLearning,
  test: TaskSamples,
  at: { readonly known: boolean; readonly detection: UnseenDetection },
): Promise<{ hits: number; labels: number[] }> {
  const labels: number[] = [];
  let hits = 0;
  for (let i = 0; i < test.size; i++) {
    const { label, isUnseen } = await learning.edge.infer(row(test, i));
    labels.push(label);
    if (BigInt(label) === test.labels[i]) hits++;
    if (at.known) at.detection[isUnseen ? 'alarms' : 'quiet']++;
    else at.detection[isUnseen ? 'found' : 'missed']++;
    if (isUnseen) at.detection.bytes += (test.inputs.length / test.size) * 4;
  }
  return { hits, labels };
}

/** Tasks learned into a knowledge base; the edge answers from it and says what it has not seen. */
export async function learnWithKnowledgeBase(
  options: Pick<SequenceOptions, 'tasks' | 'seed'> & {
    readonly create: CreateEstimator;
    readonly components: ComponentChoices;
  },
  afterTask?: AfterTask,
): Promise<SequenceResult & { readonly detection: UnseenDetection }> {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-sequence-'));
  const store = new KnowledgeStore({ dir: join(dir, 'cloud') });
  const learning = await LifelongLearning.open({
    create: options.create,
    components: options.components,
    knowledge: store.of('study'),
    seed: options.seed,
    environment: { edge_output_url: join(dir, 'edge'), OUTPUT_URL: join(dir, 'output') },
  });
  const matrix: number[][] = [];
  const detection: UnseenDetection = { found: 0, missed: 0, alarms: 0, quiet: 0, bytes: 0 };
  let last: number[] = [];
  try {
    for (const [learned, task] of options.tasks.entries()) {
      const { learn, judge } = halves(task.train);
      const { candidates } = await learning.train(learn);
      await learning.evaluate(judge, candidates);
      await learning.edge.adopt();
      const scores: number[] = [];
      last = [];
      for (const [j, { test }] of options.tasks.entries()) {
        const { hits, labels } = await answered(learning, test, { known: j <= learned, detection });
        scores.push(hits / test.size);
        last.push(...labels);
      }
      matrix.push(scores);
      afterTask?.(learned, scores);
    }
  } finally {
    await learning.close();
    store.close();
    rmSync(dir, { recursive: true });
  }
  return { matrix, predicted: Int32Array.from(last), detection };
}
