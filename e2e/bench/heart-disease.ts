import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { type HeartRow, heartRows, locateDataset, readHeartDisease } from '@shoal/datasets';
import { concatenate, type Samples, select, simulateFederation, TrainerModel } from '@shoal/lib';
import { dense, sequential, zeros } from '@shoal/training';

/**
 * `npm run bench:heart-disease`: four hospitals as FLamby has them: columns 11 to 13 dropped, rows
 * with missing values dropped, chest pain and ECG one-hot without their first level, FLamby's own test rows
 * (scikit-learn's `train_test_split`, a share of 0.34, random state 43, stratified where both labels occur
 * more than twice), logistic regression, batch 4, 15 rounds of 100 local updates, FLamby's rates. Accuracy on all hospitals'
 * test rows together, mean of five seeds, which draw the order of samples. Twice: normalized by each hospital's own
 * training rows, and by those of all, of which hospitals need tell sums only.
 */
const SEEDS = [1, 2, 3, 4, 5];
const BATCH = 4;
const UPDATES = 100;
const PUBLISHED: Readonly<Record<string, number>> = {
  'pooled training': 0.795,
  FedAvg: 0.748,
  FedProx: 0.748,
  SCAFFOLD: 0.748,
  FedAdam: 0.779,
  FedYogi: 0.779,
  FedAdagrad: 0.779,
};

function samplesOf(rows: readonly HeartRow[]): Samples {
  return {
    inputs: Float32Array.from(rows.flatMap((r) => r.features)),
    labels: BigInt64Array.from(rows, (r) => BigInt(r.label)),
    shape: [rows[0]?.features.length ?? 0],
    size: rows.length,
  };
}

/** Centred and scaled by the training rows' mean and deviation. */
function normalized(train: Samples, test: Samples): [Samples, Samples] {
  const width = train.shape[0] ?? 1;
  const column = (s: Samples, c: number): number[] =>
    Array.from({ length: s.size }, (_, i) => s.inputs[i * width + c] ?? 0);
  const mean = Array.from(
    { length: width },
    (_, c) => column(train, c).reduce((a, b) => a + b, 0) / train.size,
  );
  const deviation = mean.map((m, c) =>
    Math.sqrt(column(train, c).reduce((a, v) => a + (v - m) ** 2, 0) / (train.size - 1)),
  );
  const apply = (s: Samples): Samples => ({
    ...s,
    inputs: s.inputs.map(
      (v, i) => (v - (mean[i % width] ?? 0)) / Math.max(1e-9, deviation[i % width] ?? 1),
    ),
  });
  return [apply(train), apply(test)];
}

/** Test rows of each hospital, by position among its complete rows. */
const TEST_ROWS = JSON.parse(
  readFileSync(join(import.meta.dirname, 'heart-disease-split.json'), 'utf8'),
) as readonly (readonly number[])[];

interface Split {
  readonly train: Samples;
  readonly test: Samples;
}

function splitOf(hospital: Samples, k: number): Split {
  const held = new Set(TEST_ROWS[k]);
  const rows = Array.from({ length: hospital.size }, (_, i) => i);
  return {
    train: select(hospital, Uint32Array.from(rows.filter((i) => !held.has(i)))),
    test: select(hospital, Uint32Array.from(rows.filter((i) => held.has(i)))),
  };
}

const NORMALIZED = ['by each hospital’s own rows', 'by the rows of all'] as const;

/** What each hospital trains on, and all test rows together. */
function prepared(splits: readonly Split[], how: string): { train: Samples[]; test: Samples } {
  const all = concatenate(splits.map((s) => s.train));
  const pairs = splits.map(({ train, test }) => {
    const reference = how === 'by the rows of all' ? all : train;
    return [normalized(reference, train)[1], normalized(reference, test)[1]] as const;
  });
  return { train: pairs.map(([t]) => t), test: concatenate(pairs.map(([, t]) => t)) };
}

const located = locateDataset('heart-disease');
if (!located) throw new Error('Heart Disease is not here: shoal dataset pull heart-disease');
const hospitals = readHeartDisease(located.folder).map((h) => samplesOf(heartRows(h)));
const width = hospitals[0]?.shape[0] ?? 1;
console.log(`${hospitals.map((h) => h.size).join(' + ')} rows, ${width} features`);

const model = sequential({
  input: [width],
  layers: [dense(2, { initializer: zeros })],
  random: seededRandom(1),
});
// Of two outputs one step moves the difference twice, so rates are half of FLamby's: 0.001, 0.01 and 0.00316 here,
// 0.01 at the server.
const ROUNDS = 15;
const SERVER = { learningRate: 0.005, tau: 1e-8 };
const strategies: readonly (readonly [string, Record<string, number>, number, number])[] = [
  ['FedAvg', {}, 0.0005, ROUNDS],
  ['FedProx', { mu: 0.01 }, 0.0005, ROUNDS],
  ['SCAFFOLD', {}, 0.0005, ROUNDS],
  ['FedAdam', SERVER, 0.005, ROUNDS],
  ['FedYogi', SERVER, 0.0016, ROUNDS],
];

async function accuracyOf(
  models: readonly TrainerModel[],
  name: string,
  setup: {
    parameters: Record<string, number>;
    rate: number;
    rounds: number;
    test: Samples;
    seed: number;
  },
): Promise<number> {
  const result = await simulateFederation(models, {
    rounds: setup.rounds,
    strategy: { name, parameters: setup.parameters },
    learningRate: setup.rate,
    batchSize: BATCH,
    localEpochs: 1,
    seed: setup.seed,
  });
  const scores = await models[0]?.score(result.model, setup.test);
  return scores?.['accuracy'] ?? 0;
}

/** A hospital's rows repeated in random order until they make the local updates of a round. */
function repeated(samples: Samples, seed: number): Samples {
  const random = seededRandom(seed);
  const wanted = UPDATES * BATCH;
  const order: number[] = [];
  while (order.length < wanted) order.push(...random.permutation(samples.size));
  return select(samples, order.slice(0, wanted));
}

const results = new Map<string, number[]>();
const note = (name: string, value: number): void => {
  results.set(name, [...(results.get(name) ?? []), value]);
};
const splits = hospitals.map(splitOf);
for (const [how, seed] of NORMALIZED.flatMap((n) => SEEDS.map((k) => [n, k] as const))) {
  const { train, test } = prepared(splits, how);
  for (const [name, parameters, rate, rounds] of strategies) {
    const local = { proximal: name === 'FedProx' ? 0.01 : 0, controlVariates: name === 'SCAFFOLD' };
    const models = await Promise.all(
      train.map((t, k) =>
        TrainerModel.create({ model, samples: repeated(t, seed * 10 + k) }, local),
      ),
    );
    note(
      `${name}, ${how}`,
      await accuracyOf(models, name, { parameters, rate, rounds, test, seed }),
    );
    await Promise.all(models.map((m) => m.close()));
  }
  for (const [name, samples] of [
    ['pooled training', concatenate(train)],
    ...train.map((t, k) => [`hospital ${k + 1} alone`, t] as const),
  ] as const) {
    const alone = [await TrainerModel.create({ model, samples: repeated(samples, seed) })];
    note(
      `${name}, ${how}`,
      await accuracyOf(alone, 'FedAvg', { parameters: {}, rate: 0.001, rounds: 60, test, seed }),
    );
    await alone[0]?.close();
  }
}
for (const [name, values] of results) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const spread = Math.sqrt(values.reduce((a, v) => a + (v - mean) ** 2, 0) / (values.length - 1));
  const published = PUBLISHED[name.split(',', 1)[0] ?? ''];
  console.log(
    `${name.padEnd(46)} ${(mean * 100).toFixed(1)} % ± ${(spread * 100).toFixed(1)}${published === undefined ? '' : `   published ${(published * 100).toFixed(1)} %`}`,
  );
}
console.log(JSON.stringify(Object.fromEntries(results)));
