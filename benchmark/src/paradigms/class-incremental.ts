import { lifelongMetrics, simulateFederation, type TrainerModel } from '@shoal/lib';
import type { DataPart } from '../data/benchmark-data.ts';
import { join } from '../data/parts.ts';
import type { CaseContext } from './case-context.ts';
import { ClassTasks } from './class-tasks.ts';
import {
  compressionOf,
  type FederatedBase,
  modelsOf,
  resultsOf,
  roundClock,
  strategyOf,
} from './federated.ts';
import { POOLED } from './names.ts';
import type { CurvePoint, Observations } from './observations.ts';

/** What has been learned so far, and what it took. */
interface Course {
  vector: Float32Array | undefined;
  readonly matrix: number[][];
  readonly curve: CurvePoint[];
  readonly sums: { up: number; down: number };
}

interface Setup {
  readonly context: CaseContext;
  readonly plan: ClassTasks;
  readonly base: FederatedBase;
  readonly isPooled: boolean;
}

async function learnTask(setup: Setup, course: Course, t: number): Promise<Observations['test']> {
  const { context, plan, base, isPooled } = setup;
  const { tasks } = plan;
  const { case: c, world, signal } = context;
  // Each task is a federation of its own, as it is a job of its own on a cluster.
  const strategy = await strategyOf(context);
  const samples = isPooled ? [plan.everything(t)] : plan.samplesOf(t);
  const { owner, models } = await modelsOf(base, samples, strategy);
  const { localEpochs, batchSize, learningRate, selected } = c.algorithm.federation;
  const ended = await simulateFederation(models, {
    rounds: c.testEnv.rounds,
    chooseBest: true,
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
  const { model, best = model, lookBytesDown = 0 } = ended;
  if (!isPooled) course.sums.down += lookBytesDown;
  course.vector = best.slice(0, owner.size);
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
async function untrained({ context, plan: { tasks }, base }: Setup): Promise<number[]> {
  const strategy = await strategyOf(context);
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
  const { case: c, data, world } = context;
  const setup: Setup = {
    context,
    plan: new ClassTasks(c, data),
    base: await context.create<FederatedBase>('basemodel'),
    isPooled: context.choice('aggregation')?.name === POOLED,
  };
  const course: Course = { vector: undefined, matrix: [], curve: [], sums: { up: 0, down: 0 } };
  let test: Observations['test'];
  for (const t of setup.plan.tasks.keys()) test = await learnTask(setup, course, t);
  return {
    ...(test ? { test } : {}),
    matrix: course.matrix,
    transfer: lifelongMetrics(course.matrix, await untrained(setup)),
    taskNames: setup.plan.tasks.map((t) => t.name),
    curve: course.curve,
    bytesUp: course.sums.up,
    bytesDown: course.sums.down,
    virtualSeconds: world.now,
  };
}
