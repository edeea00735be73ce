import { statSync } from 'node:fs';
import { dirname, join as joinPath } from 'node:path';
import { seededRandom } from '@shoal/core';
import {
  configureMiner,
  type Estimator,
  type HardExampleMiner,
  IncrementalLearning,
  type MinerParameters,
  RehearsalBuffer,
  slice,
} from '@shoal/lib';
import type { Operator } from '../config/test-env.ts';
import type { BenchmarkData, BenchmarkSamples, DataPart } from '../data/benchmark-data.ts';
import { join, pick } from '../data/parts.ts';
import { splitInto } from '../data/split.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import { type CaseContext, sampleBytes, scoreOf, testResults } from './case-context.ts';
import type { CurvePoint, Observations } from './observations.ts';

function holds(difference: number, operator: Operator, threshold: number): boolean {
  switch (operator) {
    case '>':
      return difference > threshold;
    case '<':
      return difference < threshold;
    case '=':
      return difference === threshold;
    case '>=':
      return difference >= threshold;
    case '<=':
      return difference <= threshold;
  }
}

/** Rounds of new samples, in the order they come. */
export function roundsOf(c: PlannedCase, data: BenchmarkData): readonly DataPart[] {
  if (data.tasks) return data.tasks;
  const split = c.algorithm.split ?? c.testEnv.split;
  return splitInto(data.train, c.testEnv.incrementalRounds, split, c.seed);
}

async function minerOf(context: CaseContext): Promise<HardExampleMiner> {
  const choice = context.choice('hard_example_mining');
  if (choice?.url !== undefined) return await context.create('hard_example_mining');
  const parameters = (choice?.hyperparameters ?? {}) as MinerParameters;
  const random = seededRandom(context.case.seed).fork('miner');
  return configureMiner(choice?.name ?? 'CrossEntropy', parameters, { random });
}

/** Samples the deployed model finds hard. */
async function hardOf(
  model: Estimator,
  miner: HardExampleMiner,
  samples: BenchmarkSamples,
): Promise<BenchmarkSamples> {
  const positions: number[] = [];
  for (let i = 0; i < samples.size; i++) {
    const { probabilities, logits } = await model.predict(slice(samples, i, i + 1).inputs, 1);
    const shown = { kind: 'probabilities', probabilities, ...(logits ? { logits } : {}) } as const;
    if (miner.judge(shown).hard) positions.push(i);
  }
  return pick(samples, positions);
}

interface Deployed {
  readonly model: Estimator;
  /** File of the model, and what it kept against forgetting beside it. */
  readonly path: string;
}

const REHEARSED = 500;

/** Samples of before that are learned again with new ones; `rehearsal_samples: 0` forgets them. */
export function rehearsed(context: CaseContext): number {
  const given = context.choice('basemodel')?.hyperparameters['rehearsal_samples'];
  return typeof given === 'number' ? given : REHEARSED;
}

/** The model that is served first, with some of what it learned from beside it. */
async function deployFirst(context: CaseContext): Promise<Deployed> {
  const { data, folder, signal } = context;
  const model = await context.create<Estimator>('basemodel');
  const path = joinPath(folder, 'initial', 'model.onnx');
  if (data.initial) await model.train(data.initial, { signal });
  await model.save(path);
  const capacity = rehearsed(context);
  if (data.initial && capacity > 0) {
    const kept = RehearsalBuffer.empty({ capacity });
    kept.offer(data.initial);
    kept.write(dirname(path));
  }
  return { model, path };
}

/** Trains a candidate from the deployed model with what the cloud runs, and compares the two. */
async function tried(
  deployed: Deployed,
  hard: BenchmarkSamples,
  at: {
    readonly round: number;
    readonly evaluation: BenchmarkSamples;
    readonly context: CaseContext;
  },
): Promise<Deployed | undefined> {
  const { context, round, evaluation } = at;
  const { metric, operator, threshold } = context.case.testEnv.modelEval;
  const path = joinPath(context.folder, `round-${round}`, 'model.onnx');
  const model = await context.create<Estimator>('basemodel');
  const learning = new IncrementalLearning(model, {
    BASE_MODEL_URL: deployed.path,
    MODEL_URL: path,
    REHEARSAL_SAMPLES: String(rehearsed(context)),
  });
  await learning.train(hard, { signal: context.signal });
  const gain =
    (await scoreOf(model, evaluation, metric)) -
    (await scoreOf(deployed.model, evaluation, metric));
  if (holds(gain, operator, threshold)) {
    await deployed.model.close();
    return { model, path };
  }
  await model.close();
  return undefined;
}

/**
 * Rounds of new samples: the deployed model answers, hard ones go up with their labels, a candidate is
 * trained from them and deployed when it is better on the round's held-out samples. The first model learns
 * from `initial`, or comes trained.
 */
export async function incremental(context: CaseContext): Promise<Observations> {
  const { data, world } = context;
  const miner = await minerOf(context);
  let deployed = await deployFirst(context);
  const rounds = roundsOf(context.case, data);
  const curve: CurvePoint[] = [];
  const bytes = sampleBytes(data.test);
  const sums = { inferences: 0, uploads: 0, bytesDown: 0, updates: 0 };
  for (const [i, { train, test }] of rounds.entries()) {
    context.progress(i / rounds.length, `round ${i + 1}`);
    const hard = await hardOf(deployed.model, miner, train);
    sums.inferences += train.size;
    sums.uploads += hard.size;
    world.now += world.inferSeconds(0, train.size);
    if (hard.size > 0) world.reach(0);
    world.now += world.upSeconds(0, hard.size * bytes);
    const evaluation = test.size > 0 ? test : join([test, train]);
    const better =
      hard.size > 0
        ? await tried(deployed, hard, { round: i + 1, evaluation, context })
        : undefined;
    if (hard.size > 0) world.now += world.trainSeconds(1, hard.size);
    if (better) {
      deployed = better;
      sums.updates++;
      const { size } = statSync(deployed.path);
      sums.bytesDown += size;
      world.reach(0);
      world.now += world.downSeconds(0, size);
    }
    curve.push({
      step: i + 1,
      value: await scoreOf(deployed.model, data.test, 'accuracy'),
      bytes: sums.uploads * bytes + sums.bytesDown,
      virtualSeconds: world.now,
    });
  }
  const test = await testResults(deployed.model, data.test);
  await deployed.model.close();
  return {
    test,
    curve,
    inferences: sums.inferences,
    uploads: sums.uploads,
    bytesUp: sums.uploads * bytes,
    bytesDown: sums.bytesDown,
    virtualSeconds: world.now,
    extra: { modelUpdates: sums.updates },
  };
}
