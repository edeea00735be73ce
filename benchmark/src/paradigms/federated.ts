import { ShoalError } from '@shoal/core';
import {
  type CompressionOptions,
  concatenate,
  createStrategy,
  OnnxEstimator,
  type Samples,
  type SimulatedWork,
  type SimulationOptions,
  type Strategy,
  simulateFederation,
  TrainerModel,
  type TrainerModelOptions,
} from '@shoal/lib';
import { type Share, shareOut } from '../data/share-out.ts';
import { accuracyOf } from '../metrics/classification.ts';
import type { World } from '../network/world.ts';
import { type CaseContext, testResults } from './case-context.ts';
import type { CurvePoint, Observations, ParticipantScore, TestResults } from './observations.ts';
import { LOCAL, POOLED } from './slots.ts';

/** What a `basemodel` of a federated paradigm returns: the model all start from, and how it learns. */
export type FederatedBase = Pick<TrainerModelOptions, 'model' | 'loss' | 'optimizer'>;

const COMPILED_SIZES = 40;

export function compressionOf(context: CaseContext): CompressionOptions {
  const { name, share = 0.01 } = context.case.algorithm.federation.compression;
  switch (name) {
    case 'none':
    case 'fp16':
    case 'int8':
      return { name };
    case 'top-k':
      return { name, share };
    default:
      throw new ShoalError(
        'invalid_argument',
        `federation.compression: there is no "${name}"; choose none, fp16, int8 or top-k`,
      );
  }
}

/** The strategy that fills the slot: the library's by name, or one of the user's. */
export async function strategyOf(context: CaseContext): Promise<Strategy> {
  const choice = context.choice('aggregation');
  if (choice?.url !== undefined) return await context.create<Strategy>('aggregation');
  const parameters = (choice?.hyperparameters ?? {}) as Readonly<Record<string, number>>;
  if (choice?.name === POOLED || choice?.name === LOCAL) return createStrategy('FedAvg');
  return createStrategy(choice?.name ?? 'FedAvg', parameters);
}

/**
 * When rounds end and who is in time, under the clock of a world: the model goes down, is trained and
 * comes up; who drops off or misses the deadline does not count, and is waited for all the same.
 */
export function roundClock(
  world: World,
  participants: number,
): Required<Pick<SimulationOptions, 'available' | 'arrivals'>> {
  const everyone = Array.from({ length: participants }, (_, i) => i);
  const { deadlineSeconds } = world.options;
  const due = (w: SimulatedWork): number =>
    world.downSeconds(w.participant, w.bytesDown) +
    world.trainSeconds(w.participant, w.samples * w.epochs) +
    world.upSeconds(w.participant, w.bytesUp);
  return {
    available: () => {
      const on = everyone.filter((i) => world.device(i).isOn(world.now));
      // Nobody there: the round waits until somebody is.
      if (on.length > 0 || participants === 0) return on;
      world.now += world.options.periodSeconds;
      return everyone.filter((i) => world.device(i).isOn(world.now));
    },
    arrivals: (_round, work) => {
      const times = work.map(due);
      const limit = deadlineSeconds > 0 ? deadlineSeconds : Number.POSITIVE_INFINITY;
      const inTime = work.map((w, i) => {
        const seconds = times[i] ?? 0;
        return (
          seconds <= limit && world.device(w.participant).staysOn(world.now, world.now + seconds)
        );
      });
      const waited = inTime.every((ok) => ok) || limit === Number.POSITIVE_INFINITY;
      world.now += waited ? Math.max(0, ...times) : limit;
      return inTime;
    },
  };
}

/** What a vector says about samples. */
export async function resultsOf(
  owner: TrainerModel,
  vector: Float32Array,
  samples: Samples,
): Promise<TestResults> {
  const estimator = new OnnxEstimator({ model: owner.deploy(vector), threads: 1 });
  const results = await testResults(estimator, samples);
  await estimator.close();
  return results;
}

/** Every participant alone, for as many passes as the federation has; scored on everyone's samples. */
async function eachAlone(
  context: CaseContext,
  models: readonly TrainerModel[],
  owner: TrainerModel,
): Promise<{ vectors: Float32Array[] }> {
  const { federation } = context.case.algorithm;
  const vectors: Float32Array[] = [];
  for (const [i, model] of models.entries()) {
    context.progress(i / models.length, `participant ${i + 1}`);
    const { model: vector } = await simulateFederation([model], {
      rounds: context.case.testEnv.rounds,
      localEpochs: federation.localEpochs,
      batchSize: federation.batchSize,
      learningRate: federation.learningRate,
      seed: context.case.seed,
      initial: owner.initial(),
      signal: context.signal,
    });
    vectors.push(vector);
  }
  return { vectors };
}

async function localOnly(
  context: CaseContext,
  shares: readonly Share[],
  models: readonly TrainerModel[],
  owner: TrainerModel,
): Promise<Observations> {
  const { vectors } = await eachAlone(context, models, owner);
  const participants: ParticipantScore[] = [];
  const all: TestResults[] = [];
  for (const [i, share] of shares.entries()) {
    const results = await resultsOf(owner, vectors[i] ?? owner.initial(), context.data.test);
    all.push(results);
    const accuracy = accuracyOf(results) ?? 0;
    participants.push({ name: share.name, samples: share.train.size, accuracy });
  }
  return { test: joined(all), participants, bytesUp: 0, bytesDown: 0, virtualSeconds: 0 };
}

/** Answers of several models to the same samples, one after another: figures become their mean. */
function joined(all: readonly TestResults[]): TestResults {
  return {
    labels: Int32Array.from(all.flatMap((r) => [...r.labels])),
    predicted: Int32Array.from(all.flatMap((r) => [...r.predicted])),
    classes: all[0]?.classes ?? 0,
  };
}

/** How the shared model does for each participant: on its own held-out samples, or on what it has. */
async function scoresByParticipant(
  owner: TrainerModel,
  vector: Float32Array,
  shares: readonly Share[],
): Promise<ParticipantScore[]> {
  const scores: ParticipantScore[] = [];
  for (const { name, train, test = train } of shares) {
    const accuracy = (await owner.score(vector, test))['accuracy'] ?? Number.NaN;
    scores.push({ name, samples: train.size, accuracy });
  }
  return scores;
}

/** Participants of a case as models on one runtime. */
export async function modelsOf(
  base: FederatedBase,
  samples: readonly Samples[],
  strategy: Strategy,
): Promise<{ owner: TrainerModel; models: TrainerModel[] }> {
  const { proximal = 0, controlVariates = false } = strategy.local;
  const owner = await TrainerModel.create(
    { ...base, samples: concatenate(samples), threads: 1, compiledSizes: COMPILED_SIZES },
    { proximal, controlVariates },
  );
  return { owner, models: samples.map((s) => owner.withSamples(s)) };
}

/** Data stays with the participants, weights travel; everything the aggregator does, without sockets. */
export async function federated(context: CaseContext): Promise<Observations> {
  const { case: c, data, world, signal } = context;
  const { federation } = c.algorithm;
  const partition = c.algorithm.partition ?? c.testEnv.partition;
  const shared = shareOut(data, c.testEnv.clients, partition, c.seed);
  const pooled = context.choice('aggregation')?.name === POOLED;
  const shares = pooled
    ? [{ name: 'everyone', train: { ...data.train, ...concatenate(shared.map((s) => s.train)) } }]
    : shared;
  const strategy = await strategyOf(context);
  const base = await context.create<FederatedBase>('basemodel');
  const { owner, models } = await modelsOf(
    base,
    shares.map((s) => s.train),
    strategy,
  );
  try {
    if (context.choice('aggregation')?.name === LOCAL)
      return await localOnly(context, shares, models, owner);
    const curve: CurvePoint[] = [];
    const sums = { up: 0, down: 0 };
    const { model, best = model } = await simulateFederation(models, {
      rounds: c.testEnv.rounds,
      chooseBest: true,
      strategy,
      localEpochs: federation.localEpochs,
      batchSize: federation.batchSize,
      learningRate: federation.learningRate,
      compression: compressionOf(context),
      seed: c.seed,
      signal,
      ...(federation.selected > 0 && !pooled ? { selected: federation.selected } : {}),
      ...(pooled ? {} : roundClock(world, models.length)),
      onRound: async ({ round, bytesUp, bytesDown }, vector) => {
        context.progress(round / c.testEnv.rounds, `round ${round}`);
        sums.up += pooled ? 0 : bytesUp;
        sums.down += pooled ? 0 : bytesDown;
        const { accuracy = 0 } = await owner.score(vector, data.test);
        curve.push({
          step: round,
          value: accuracy,
          bytes: sums.up + sums.down,
          virtualSeconds: world.now,
        });
      },
    });
    return {
      test: await resultsOf(owner, best, data.test),
      curve,
      participants: await scoresByParticipant(owner, best, shared),
      bytesUp: sums.up,
      bytesDown: sums.down,
      virtualSeconds: world.now,
    };
  } finally {
    await owner.close();
  }
}
