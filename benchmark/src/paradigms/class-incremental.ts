import { type Random, seededRandom } from '@shoal/core';
import {
  concatenate,
  lifelongMetrics,
  type Samples,
  type Strategy,
  simulateFederation,
  type TrainerModel,
} from '@shoal/lib';
import type { BenchmarkData, BenchmarkSamples, DataPart } from '../data/benchmark-data.ts';
import { join, pick } from '../data/parts.ts';
import { type Share, shareOut } from '../data/share-out.ts';
import { classGroups } from '../data/split.ts';
import type { CaseContext } from './case-context.ts';
import {
  compressionOf,
  type FederatedBase,
  labelledOnly,
  modelsOf,
  resultsOf,
  roundClock,
  strategyOf,
} from './federated.ts';
import type { CurvePoint, Observations } from './observations.ts';
import { POOLED } from './slots.ts';

function ofClasses(samples: BenchmarkSamples, classes: readonly bigint[]): BenchmarkSamples {
  const own = Array.from(samples.labels.keys()).filter((i) =>
    classes.includes(samples.labels[i] ?? -1n),
  );
  return pick(samples, own);
}

/** Tasks of new classes, in the order of their numbers; the data may have tasks of its own. */
function tasksOf({ case: c, data }: CaseContext): readonly DataPart[] {
  if (data.tasks) return data.tasks;
  return classGroups(data.train, c.testEnv.incrementalRounds).map((classes) => ({
    name: `classes ${classes.join(' ')}`,
    train: ofClasses(data.train, classes),
    test: ofClasses(data.test, classes),
  }));
}

/** What a participant kept of earlier tasks: so many samples of each class. */
class ClassMemory {
  readonly #perClass: number;
  readonly #random: Random;
  readonly #kept = new Map<string, BenchmarkSamples[]>();

  constructor(perClass: number, random: Random) {
    this.#perClass = perClass;
    this.#random = random;
  }

  /** The samples of a task, and those kept from before. */
  with({ name, train }: Share): Samples {
    return concatenate([train, ...(this.#kept.get(name) ?? [])]);
  }

  keep({ name, train: samples }: Share): void {
    if (this.#perClass === 0) return;
    const counts = new Map<bigint, number>();
    const chosen = Array.from(this.#random.permutation(samples.size)).filter((i) => {
      const label = samples.labels[i] ?? 0n;
      counts.set(label, (counts.get(label) ?? 0) + 1);
      return (counts.get(label) ?? 0) <= this.#perClass;
    });
    this.#kept.set(name, [...(this.#kept.get(name) ?? []), pick(samples, chosen)]);
  }
}

/** What has been learned so far, and what it took. */
interface Course {
  vector: Float32Array | undefined;
  readonly matrix: number[][];
  readonly curve: CurvePoint[];
  readonly sums: { up: number; down: number };
}

interface Setup {
  readonly context: CaseContext;
  readonly tasks: readonly DataPart[];
  readonly strategy: Strategy;
  readonly base: FederatedBase;
  readonly memory: ClassMemory;
  readonly isPooled: boolean;
}

/** Who learns a task from what: everyone's samples of the task, or all samples so far in one place. */
function sharesOf({ context, tasks, isPooled }: Setup, t: number): readonly Share[] {
  const { case: c } = context;
  const { labelRatio, partition = c.testEnv.partition } = c.algorithm;
  const seen = tasks.slice(0, t + 1);
  if (isPooled) return [{ name: 'everyone', train: join(seen.map((p) => p.train)) }];
  const task = seen.at(-1);
  if (!task) throw new Error('there is no such task');
  const data: BenchmarkData = { train: task.train, test: task.test };
  const shares = shareOut(data, c.testEnv.clients, partition, c.seed + t);
  return labelledOnly(shares, labelRatio, c.seed + t);
}

async function learnTask(setup: Setup, course: Course, t: number): Promise<Observations['test']> {
  const { context, tasks, strategy, base, memory, isPooled } = setup;
  const { case: c, world, signal } = context;
  const shares = sharesOf(setup, t);
  const samples = shares.map((s) => (isPooled ? s.train : memory.with(s)));
  const { owner, models } = await modelsOf(base, samples, strategy);
  const { localEpochs, batchSize, learningRate, selected } = c.algorithm.federation;
  const { model } = await simulateFederation(models, {
    rounds: c.testEnv.rounds,
    strategy,
    localEpochs,
    batchSize,
    learningRate,
    compression: compressionOf(context),
    seed: c.seed + t,
    initial: course.vector ?? owner.initial(),
    signal,
    ...(selected > 0 && !isPooled ? { selected } : {}),
    ...(isPooled ? {} : roundClock(world, models.length)),
    onRound: ({ round, bytesUp, bytesDown }) => {
      context.progress((t + round / c.testEnv.rounds) / tasks.length, tasks[t]?.name);
      course.sums.up += isPooled ? 0 : bytesUp;
      course.sums.down += isPooled ? 0 : bytesDown;
    },
  });
  course.vector = model.slice(0, owner.size);
  for (const s of shares) memory.keep(s);
  const row = await scoresOf(owner, course.vector, tasks);
  course.matrix.push(row);
  const seen = row.slice(0, t + 1);
  course.curve.push({
    step: t + 1,
    value: seen.reduce((a, b) => a + b, 0) / seen.length,
    bytes: course.sums.up + course.sums.down,
    virtualSeconds: world.now,
  });
  const all = join(tasks.map((p) => p.test));
  const results = await resultsOf(owner, course.vector, all);
  await owner.close();
  return results;
}

async function scoresOf(
  owner: TrainerModel,
  vector: Float32Array,
  tasks: readonly DataPart[],
): Promise<number[]> {
  const scores: number[] = [];
  for (const { test } of tasks)
    scores.push((await owner.score(vector, test))['accuracy'] ?? Number.NaN);
  return scores;
}

/** b_j: what the model scores before it has learned anything. */
async function untrained({ tasks, base, strategy }: Setup): Promise<number[]> {
  const { owner } = await modelsOf(base, [tasks[0]?.train ?? join([])], strategy);
  const scores = await scoresOf(owner, owner.initial(), tasks);
  await owner.close();
  return scores;
}

/**
 * New classes come task by task, shared out among the participants; after each task the shared model is
 * scored on every task.
 */
export async function classIncremental(context: CaseContext): Promise<Observations> {
  const { case: c, world } = context;
  const random = seededRandom(c.seed).fork('memory');
  const setup: Setup = {
    context,
    tasks: tasksOf(context),
    strategy: await strategyOf(context),
    base: await context.create<FederatedBase>('basemodel'),
    memory: new ClassMemory(c.algorithm.federation.memoryPerClass, random),
    isPooled: context.choice('aggregation')?.name === POOLED,
  };
  const course: Course = { vector: undefined, matrix: [], curve: [], sums: { up: 0, down: 0 } };
  let test: Observations['test'];
  for (const t of setup.tasks.keys()) test = await learnTask(setup, course, t);
  return {
    ...(test ? { test } : {}),
    matrix: course.matrix,
    transfer: lifelongMetrics(course.matrix, await untrained(setup)),
    taskNames: setup.tasks.map((t) => t.name),
    curve: course.curve,
    bytesUp: course.sums.up,
    bytesDown: course.sums.down,
    virtualSeconds: world.now,
  };
}
