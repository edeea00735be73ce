import { seededRandom } from '@shoal/core';
import { type HeartRow, heartRows, locateDataset, readHeartDisease } from '@shoal/datasets';
import { concatenate, type Samples, select, simulateFederation, TrainerModel } from '@shoal/lib';
import { dense, sequential, zeros } from '@shoal/training';

/**
 * `npm run bench:heart-disease`: four hospitals as FLamby has them: columns 11 to 13 dropped, rows
 * with missing values dropped, chest pain and ECG one-hot without their first level, two thirds of
 * each hospital for training, normalized by its own training statistics, logistic regression, batch
 * 4, 100 local updates a round. Accuracy on all hospitals' test rows together, mean of five seeds.
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
const strategies: readonly (readonly [string, Record<string, number>, number, number])[] = [
  ['FedAvg', {}, 0.001, 40],
  ['FedProx', { mu: 0.01 }, 0.001, 40],
  ['SCAFFOLD', {}, 0.001, 40],
  ['FedAdam', { learningRate: 0.1, tau: 1e-2 }, 0.001, 40],
  ['FedYogi', { learningRate: 0.1, tau: 1e-2 }, 0.001, 40],
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
for (const seed of SEEDS) {
  const splits = hospitals.map((h, k) => {
    const order = seededRandom(seed).fork(`hospital ${k}`).permutation(h.size);
    const cut = Math.round((h.size * 2) / 3);
    return normalized(select(h, order.subarray(0, cut)), select(h, order.subarray(cut)));
  });
  const test = concatenate(splits.map(([, t]) => t));
  const train = splits.map(([t]) => t);
  for (const [name, parameters, rate, rounds] of strategies) {
    const local = { proximal: name === 'FedProx' ? 0.01 : 0, controlVariates: name === 'SCAFFOLD' };
    const models = await Promise.all(
      train.map((t, k) =>
        TrainerModel.create({ model, samples: repeated(t, seed * 10 + k) }, local),
      ),
    );
    note(name, await accuracyOf(models, name, { parameters, rate, rounds, test, seed }));
    await Promise.all(models.map((m) => m.close()));
  }
  for (const [name, samples] of [
    ['pooled training', concatenate(train)],
    ...train.map((t, k) => [`hospital ${k + 1} alone`, t] as const),
  ] as const) {
    const alone = [await TrainerModel.create({ model, samples: repeated(samples, seed) })];
    note(
      name,
      await accuracyOf(alone, 'FedAvg', { parameters: {}, rate: 0.001, rounds: 60, test, seed }),
    );
    await alone[0]?.close();
  }
}
for (const [name, values] of results) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const spread = Math.sqrt(values.reduce((a, v) => a + (v - mean) ** 2, 0) / (values.length - 1));
  const published = PUBLISHED[name];
  console.log(
    `${name.padEnd(18)} ${(mean * 100).toFixed(1)} % ± ${(spread * 100).toFixed(1)}${published === undefined ? '' : `   published ${(published * 100).toFixed(1)} %`}`,
  );
}
console.log(JSON.stringify(Object.fromEntries(results)));
