import { seededRandom } from '@shoal/core';
import type { ComfortRows } from '@shoal/datasets';
import { ContinualLearner, OnnxEstimator, type Samples } from '@shoal/lib';
import { dense, dropout, relu, sequential } from '@shoal/training';
import { accuracyOf, byCity, CLASSES, macroF1, networkSamples, splitRows } from './data.ts';

const HIDDEN = 192;
const EPOCHS = 20;
const BATCH = 128;
const RATE = 1e-3;
const DROPOUT = 0.3;
const WEIGHT_DECAY = 0.05;
/** How one network goes on with a later city: as everything else is trained. */
const NAIVE = { epochs: EPOCHS, rate: RATE };
/** The same, and rehearsal, in the best of three settings on seed 99. */
const NAIVE_BEST = { epochs: 5, rate: 1e-3 };
const REHEARSAL = { epochs: 3, rate: 5e-4, replayed: 512 };
/** How the knowledge base makes a city's copy: the best of three settings on seed 99. */
const COPY = { epochs: 20, rate: 1e-3, proximal: 0.02 };
const LEAST_ROWS = 100;
const LATE = 'kota kinabalu';
const SENSATION_MARGIN = 0.5;

export interface Scores {
  readonly accuracy: number;
  readonly macroF1: number;
}

/** Arrival of cities: ten at once, then one after another in random order, Kota Kinabalu last. */
function order(cities: readonly string[], seed: number): { first: string[]; later: string[] } {
  const random = seededRandom(seed).fork('cities');
  const others = cities.filter((c) => c !== LATE);
  const shuffled = Array.from(random.permutation(others.length), (i) => others[i] ?? '');
  return { first: shuffled.slice(0, 10), later: [...shuffled.slice(10), LATE] };
}

async function probabilitiesOf(model: Uint8Array, samples: Samples): Promise<Float32Array> {
  const estimator = new OnnxEstimator({ model, threads: 1 });
  const { probabilities } = await estimator.predict(samples.inputs, samples.size);
  await estimator.close();
  return probabilities;
}

/** Trained from a model on samples, pulled back to it by μ. */
async function tuned(
  model: Uint8Array,
  samples: Samples,
  options: { epochs: number; rate: number; proximal?: number; seed: number },
): Promise<Uint8Array> {
  const estimator = new OnnxEstimator({
    model,
    threads: 1,
    batchSize: BATCH,
    optimizer: { name: 'adamw', learningRate: options.rate, weightDecay: WEIGHT_DECAY },
    ...options,
  });
  await estimator.train(samples);
  const { bytes } = estimator;
  await estimator.close();
  return bytes;
}

async function continual(
  model: Uint8Array,
  parts: readonly Samples[],
  at: { readonly epochs: number; readonly rate: number; readonly seed: number },
): Promise<Uint8Array> {
  const learner = await ContinualLearner.create({
    model,
    strategy: { name: 'fine-tune' },
    seed: at.seed,
    optimizer: { name: 'adamw', learningRate: at.rate, weightDecay: WEIGHT_DECAY },
    epochs: at.epochs,
    batchSize: BATCH,
    threads: 1,
  });
  for (const part of parts) await learner.learn(part);
  const bytes = learner.deploy();
  await learner.release();
  return bytes;
}

/**
 * Cities arriving one after another: what each way of going on knows about all of them at the end.
 * Every way begins with the same network, trained on the first ten cities.
 */
export async function sequenceOfCities(
  rows: ComfortRows,
  seed: number,
): Promise<Record<string, Scores>> {
  const split = splitRows(rows, seed);
  const [train, test] = [byCity(rows, split.train), byCity(rows, split.test)];
  const cities = [...train].filter(([c, p]) => p.length >= 100 || c === LATE).map(([c]) => c);
  const { first, later } = order(cities, seed);
  const positions = (list: readonly string[]): number[] => list.flatMap((c) => train.get(c) ?? []);
  const toSamples = networkSamples(rows, positions(first));
  const fresh = sequential({
    input: [rows.names.length * 2],
    layers: [
      dense(HIDDEN),
      relu(),
      dropout(DROPOUT),
      dense(HIDDEN),
      relu(),
      dropout(DROPOUT),
      dense(CLASSES),
    ],
    random: seededRandom(seed),
  });
  const from = { epochs: EPOCHS, rate: RATE, seed };
  const initial = await tuned(fresh, toSamples(positions(first)), from);
  const joint = await tuned(fresh, toSamples(positions([...first, ...later])), from);
  const arriving = later.map((c) => toSamples(train.get(c) ?? []));
  const naive = await continual(initial, arriving, { ...NAIVE, seed });
  const tunedNaive = await continual(initial, arriving, { ...NAIVE_BEST, seed });
  const rehearsal = await rehearsed(initial, toSamples(positions(first)), arriving, seed);
  const copies = new Map<string, Uint8Array>();
  for (const city of [...first, ...later]) {
    const own = toSamples(train.get(city) ?? []);
    const tooFew = own.size < LEAST_ROWS;
    copies.set(city, tooFew ? initial : await tuned(initial, own, { ...COPY, seed }));
  }
  const whole: Record<string, (city: string) => Uint8Array> = {
    initial: () => initial,
    'naive, 20 epochs': () => naive,
    'naive, its best setting': () => tunedNaive,
    'rehearsal 2,000': () => rehearsal,
    'knowledge base': (city) => copies.get(city) ?? initial,
    joint: () => joint,
  };
  return await scoresOf(whole, [...first, ...later], { rows, test, toSamples });
}

/** Rehearsal that has seen the first cities as well: they fill its memory before the others come. */
async function rehearsed(
  initial: Uint8Array,
  first: Samples,
  arriving: readonly Samples[],
  seed: number,
): Promise<Uint8Array> {
  const learner = await ContinualLearner.create({
    model: initial,
    strategy: { name: 'rehearsal', memory: 2_000, replayed: REHEARSAL.replayed },
    seed,
    optimizer: { name: 'adamw', learningRate: REHEARSAL.rate, weightDecay: WEIGHT_DECAY },
    epochs: REHEARSAL.epochs,
    batchSize: BATCH,
    threads: 1,
  });
  await learner.remember(first);
  for (const part of arriving) await learner.learn(part);
  const bytes = learner.deploy();
  await learner.release();
  return bytes;
}

async function scoresOf(
  models: Readonly<Record<string, (city: string) => Uint8Array>>,
  cities: readonly string[],
  data: {
    readonly rows: ComfortRows;
    readonly test: ReadonlyMap<string, readonly number[]>;
    readonly toSamples: (positions: readonly number[]) => Samples;
  },
): Promise<Record<string, Scores>> {
  const scores: Record<string, Scores> = {};
  for (const [name, modelOf] of Object.entries(models)) {
    const probabilities: number[] = [];
    const labels: bigint[] = [];
    for (const city of cities) {
      const held = data.toSamples(data.test.get(city) ?? []);
      if (held.size === 0) continue;
      for (const p of await probabilitiesOf(modelOf(city), held)) probabilities.push(p);
      labels.push(...held.labels);
    }
    scores[name] = {
      accuracy: accuracyOf(probabilities, labels),
      macroF1: macroF1(probabilities, labels),
    };
  }
  return scores;
}

/** Kota Kinabalu with the sign of the sensation vote in place of the preference. */
export function withSensationSign(rows: ComfortRows): ComfortRows {
  const labels = rows.labels.slice();
  for (let i = 0; i < rows.size; i++) {
    const vote = rows.sensation[i] ?? Number.NaN;
    // Warm people want it cooler: the classes keep their order.
    if (!Number.isNaN(vote))
      labels[i] = vote >= SENSATION_MARGIN ? 0n : vote <= -SENSATION_MARGIN ? 2n : 1n;
  }
  return { ...rows, labels };
}
