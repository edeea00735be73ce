import { ShoalError, seededRandom } from '@shoal/core';
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
import { pick } from '../data/parts.ts';
import { type Share, shareOut } from '../data/share-out.ts';
import type { World } from '../network/world.ts';
import { type CaseContext, sampleBytes, testResults } from './case-context.ts';
import { LOCAL, POOLED } from './names.ts';
import type { CurvePoint, Observations, ParticipantScore, TestResults } from './observations.ts';

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
      if (on.length > 0 || participants === 0) return on;
      // Nobody there: the round waits until somebody is.
      const next = Math.min(...everyone.map((i) => world.device(i).nextOn(world.now)));
      if (next === Number.POSITIVE_INFINITY)
        throw new ShoalError(
          'failed_precondition',
          `no device can be reached any more after ${world.now.toFixed(1)} virtual seconds; see devices in the test environment`,
        );
      world.now = next;
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

function scorer(owner: TrainerModel, vector: Float32Array): (samples: Samples) => Promise<number> {
  return async (samples) => (await owner.score(vector, samples))['accuracy'] ?? Number.NaN;
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
    const vector = vectors[i] ?? owner.initial();
    const results = await resultsOf(owner, vector, context.data.test);
    all.push(results);
    const accuracy = await accuracyFor(share, results, scorer(owner, vector));
    participants.push({ name: share.name, samples: share.train.size, accuracy });
  }
  return { test: joined(all), participants, bytesUp: 0, bytesDown: 0 };
}

/** Answers of several models to the same samples, one after another: figures become their mean. */
function joined(all: readonly TestResults[]): TestResults {
  return {
    labels: Int32Array.from(all.flatMap((r) => [...r.labels])),
    predicted: Int32Array.from(all.flatMap((r) => [...r.predicted])),
    classes: all[0]?.classes ?? 0,
  };
}

/**
 * How a model does for one participant: on its own held-out samples where it has some; else on everyone's,
 * each class counting as often as the participant has it.
 */
export async function accuracyFor(
  { train, test }: Share,
  everyone: TestResults,
  own: (samples: Samples) => Promise<number>,
): Promise<number> {
  return test ? await own(test) : mixtureAccuracy(train.labels, everyone);
}

/** Σ_k p(k)·recall(k): the accuracy to expect where classes are mixed as in some labels. */
export function mixtureAccuracy(mixture: ArrayLike<bigint>, results: TestResults): number {
  const hits = new Map<number, { right: number; all: number }>();
  for (const [i, label] of results.labels.entries()) {
    const counts = hits.get(label) ?? { right: 0, all: 0 };
    counts.all++;
    if (results.predicted[i] === label) counts.right++;
    hits.set(label, counts);
  }
  let [sum, weight] = [0, 0];
  for (let i = 0; i < mixture.length; i++) {
    const counts = hits.get(Number(mixture[i]));
    if (!counts) continue;
    sum += counts.right / counts.all;
    weight++;
  }
  return weight === 0 ? Number.NaN : sum / weight;
}

async function scoresByParticipant(
  shares: readonly Share[],
  everyone: TestResults,
  own: (samples: Samples) => Promise<number>,
): Promise<ParticipantScore[]> {
  const scores: ParticipantScore[] = [];
  for (const share of shares) {
    const accuracy = await accuracyFor(share, everyone, own);
    scores.push({ name: share.name, samples: share.train.size, accuracy });
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

/** Samples that are learned from with their labels: a share of them, drawn by the seed. */
export function labelledOnly(shares: readonly Share[], ratio: number, seed: number): Share[] {
  if (ratio >= 1) return [...shares];
  return shares.map((share, k) => {
    const order = seededRandom(seed).fork(`labelled ${k}`).permutation(share.train.size);
    const count = Math.max(1, Math.floor(share.train.size * ratio));
    return { ...share, train: pick(share.train, order.subarray(0, count)) };
  });
}

/** Data stays with the participants, weights travel; everything the aggregator does, without sockets. */
export async function federated(context: CaseContext): Promise<Observations> {
  const { case: c, data } = context;
  const partition = c.algorithm.partition ?? c.testEnv.partition;
  const all = shareOut(data, c.testEnv.clients, partition, c.seed);
  const shares = labelledOnly(all, c.algorithm.labelRatio, c.seed);
  const way = context.choice('aggregation')?.name;
  const strategy = await strategyOf(context);
  const base = await context.create<FederatedBase>('basemodel');
  const samples = shares.map((s) => s.train);
  const owned = await modelsOf(base, way === POOLED ? [concatenate(samples)] : samples, strategy);
  try {
    if (way === LOCAL) return await localOnly(context, shares, owned.models, owned.owner);
    return await rounds(context, shares, { ...owned, strategy, isPooled: way === POOLED });
  } finally {
    await owned.owner.close();
  }
}

/** Rounds of a federation; or of one that has all samples, which had to travel for it. */
async function rounds(
  context: CaseContext,
  shares: readonly Share[],
  at: {
    readonly owner: TrainerModel;
    readonly models: readonly TrainerModel[];
    readonly strategy: Strategy;
    readonly isPooled: boolean;
  },
): Promise<Observations> {
  const { case: c, data, world, signal } = context;
  const { owner, models, strategy, isPooled } = at;
  const { localEpochs, batchSize, learningRate, selected } = c.algorithm.federation;
  const curve: CurvePoint[] = [];
  const moved = shares.reduce((n, s) => n + s.train.size, 0) * sampleBytes(data.test);
  const sums = { up: isPooled ? moved : 0, down: 0 };
  const ended = await simulateFederation(models, {
    rounds: c.testEnv.rounds,
    chooseBest: true,
    strategy,
    localEpochs,
    batchSize,
    learningRate,
    compression: compressionOf(context),
    seed: c.seed,
    signal,
    ...(selected > 0 && !isPooled ? { selected } : {}),
    ...(isPooled ? {} : roundClock(world, models.length)),
    onRound: async ({ round, bytesUp, bytesDown }, vector) => {
      context.progress(round / c.testEnv.rounds, `round ${round}`);
      sums.up += isPooled ? 0 : bytesUp;
      sums.down += isPooled ? 0 : bytesDown;
      const { accuracy = 0 } = await owner.score(vector, data.test);
      const bytes = sums.up + sums.down;
      // What all data in one place would take is no matter of rounds.
      const virtualSeconds = isPooled ? Number.NaN : world.now;
      curve.push({ step: round, value: accuracy, bytes, virtualSeconds });
    },
  });
  const { model, best = model, lookBytesDown = 0 } = ended;
  if (!isPooled) sums.down += lookBytesDown;
  const test = await resultsOf(owner, best, data.test);
  return {
    test,
    curve,
    participants: await scoresByParticipant(shares, test, scorer(owner, best)),
    bytesUp: sums.up,
    bytesDown: sums.down,
    ...(isPooled ? {} : { virtualSeconds: world.now }),
  };
}
