import { fork } from 'node:child_process';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { generateDigits, locateDataset, readMnist } from '@shoal/datasets';
import {
  BigModelService,
  calibrationError,
  conformalRiskThreshold,
  createMiner,
  type DeferralModel,
  deferralScore,
  fitDeferral,
  fitTemperature,
  growDeferral,
  JointInference,
  learnThenTestThreshold,
  OnnxEstimator,
  type Samples,
  select,
  UploadBudget,
} from '@shoal/lib';
import { conv2d, dense, flatten, type Layer, maxPool2d, relu, sequential } from '@shoal/training';
import { startFastApi } from './fastapi-server.ts';

/**
 * `npm run bench:inference`: who should answer which digit, and how fast. Real MNIST when it is here
 * (8,000 to train, 2,000 held out), generated digits otherwise; both sides of every pair in one run.
 */
const LITTLE: readonly Layer[] = [conv2d(6, 5, { stride: 2 }), relu(), flatten(), dense(10)];
const BIG: readonly Layer[] = [
  conv2d(16, 3),
  relu(),
  maxPool2d(2),
  conv2d(32, 3),
  relu(),
  maxPool2d(2),
  flatten(),
  dense(64),
  relu(),
  dense(10),
];
const SHAPE = [1, 28, 28];
const PIXELS = 784;
const CLASSES = 10;

interface Said {
  readonly probabilities: Float32Array;
  readonly logits: Float32Array;
  readonly labels: readonly number[];
}

async function trained(
  layers: readonly Layer[],
  epochs: number,
  train: Samples,
): Promise<OnnxEstimator> {
  const model = sequential({ input: SHAPE, layers, random: seededRandom(1) });
  const estimator = new OnnxEstimator({ model, epochs, threads: 2 });
  await estimator.train(train);
  return estimator;
}

async function said(estimator: OnnxEstimator, samples: Samples): Promise<Said> {
  const { probabilities, logits = probabilities } = await estimator.predict(
    samples.inputs,
    samples.size,
  );
  const labels = Array.from({ length: samples.size }, (_, i) => {
    const row = probabilities.subarray(i * CLASSES, (i + 1) * CLASSES);
    return row.indexOf(Math.max(...row));
  });
  return { probabilities, logits, labels };
}

function rowOf(s: Said, i: number): Float32Array {
  return s.probabilities.subarray(i * CLASSES, (i + 1) * CLASSES);
}

const mean = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);
const percent = (v: number): string => `${(v * 100).toFixed(2)} %`;

/** Accuracy when the hardest share goes up. */
function jointAccuracy(
  at: { edge: Said; cloud: Said; truth: readonly number[] },
  positions: readonly number[],
  score: (i: number) => number,
  share: number,
): number {
  const order = positions.toSorted((a, b) => score(a) - score(b));
  const up = new Set(order.slice(0, Math.round(share * order.length)));
  return mean(
    positions.map((i) => ((up.has(i) ? at.cloud : at.edge).labels[i] === at.truth[i] ? 1 : 0)),
  );
}

/** Least share of uploads at which a score reaches an accuracy. */
function sharesFor(
  at: { edge: Said; cloud: Said; truth: readonly number[] },
  positions: readonly number[],
  score: (i: number) => number,
  wanted: number,
): number {
  for (let share = 0; share <= 1; share += 0.005)
    if (jointAccuracy(at, positions, score, share) >= wanted) return share;
  return 1;
}

const located = locateDataset('mnist');
const all = located ? readMnist(located.folder) : generateDigits({ count: 10_000, seed: 1 });
const order = seededRandom(1).permutation(all.size);
const train = select(all, order.subarray(0, 8_000));
const held = select(all, order.subarray(8_000));
console.log(
  `${located ? 'MNIST' : 'generated digits'}: ${train.size} to train, ${held.size} held out`,
);
const little = await trained(LITTLE, 6, train);
const big = await trained(BIG, 6, train);
const [edge, cloud] = [await said(little, held), await said(big, held)];
const truth = Array.from(held.labels, Number);
const at = { edge, cloud, truth };
const everyone = truth.map((_, i) => i);
const accuracy = (s: Said, positions: readonly number[]): number =>
  mean(positions.map((i) => (s.labels[i] === truth[i] ? 1 : 0)));
const written: Record<string, unknown> = {};

console.log(
  `edge only ${percent(accuracy(edge, everyone))}, cloud only ${percent(accuracy(cloud, everyone))}`,
);
const margin = createMiner('Margin');
const entropy = createMiner('CrossEntropy');
const largest = createMiner('Threshold');
const scoreBy =
  (miner: typeof margin) =>
  (i: number): number =>
    miner.judge({ kind: 'probabilities', probabilities: rowOf(edge, i) }).score;
for (const share of [0.05, 0.1, 0.15]) {
  const joint = jointAccuracy(at, everyone, scoreBy(margin), share);
  console.log(`joint at ${percent(share)} uploads (margin): ${percent(joint)}`);
  written[`joint ${share}`] = joint;
}

// Temperature, on the first half; error of calibration on the second.
const half = everyone.slice(0, 1_000);
const rest = everyone.slice(1_000);
const logitsOf = (positions: readonly number[]) => ({
  logits: Float64Array.from(
    positions.flatMap((i) => [...edge.logits.subarray(i * CLASSES, (i + 1) * CLASSES)]),
  ),
  classes: CLASSES,
  labels: positions.map((i) => truth[i] ?? 0),
});
const temperature = fitTemperature(logitsOf(half));
const [before, after] = [
  calibrationError(logitsOf(rest)),
  calibrationError(logitsOf(rest), temperature),
];
console.log(
  `temperature ${temperature.toFixed(2)}: calibration error ${percent(before)} → ${percent(after)}`,
);
written['calibration'] = { temperature, before, after };

// Promises over 100 random splits.
for (const alpha of [0.02, 0.05]) {
  const kept = { ltt: 0, risk: [] as number[], uploads: [] as number[], crc: [] as number[] };
  for (let seed = 0; seed < 100; seed++) {
    const shuffled = Array.from(seededRandom(seed).permutation(truth.length));
    const sample = (i: number) => ({
      score: scoreBy(margin)(i),
      wrong: edge.labels[i] !== truth[i],
    });
    const [calibration, test] = [
      shuffled.slice(0, 1_000).map(sample),
      shuffled.slice(1_000).map(sample),
    ];
    const riskAt = (t: number): number => mean(test.map((s) => (s.score >= t && s.wrong ? 1 : 0)));
    const safe = learnThenTestThreshold(calibration, { alpha, delta: 0.05 });
    if (riskAt(safe) <= alpha) kept.ltt++;
    kept.risk.push(riskAt(safe));
    kept.uploads.push(mean(test.map((s) => (s.score < safe ? 1 : 0))));
    kept.crc.push(riskAt(conformalRiskThreshold(calibration, alpha)));
  }
  console.log(
    `risk ≤ ${alpha}: kept in ${kept.ltt} of 100 splits by learn-then-test (mean ${percent(mean(kept.risk))}, uploads ${percent(mean(kept.uploads))}); conformal risk control: mean ${percent(mean(kept.crc))}`,
  );
  written[`risk ${alpha}`] = { kept: kept.ltt, mean: mean(kept.risk), crc: mean(kept.crc) };
}

// Learned deferral against fixed scores: uploads for the cloud's accuracy less half a point, over random halves.
const pairsOf = (positions: readonly number[]) =>
  positions.map((i) => ({
    edge: rowOf(edge, i),
    edgeRight: edge.labels[i] === truth[i],
    cloudRight: cloud.labels[i] === truth[i],
  }));
/** Copies of samples, each turned by up to 10°, moved by up to a pixel and scaled by up to 8 %. */
function jittered(samples: Samples, seed: number): Samples {
  const random = seededRandom(seed);
  const inputs = new Float32Array(samples.inputs.length);
  const within = (limit: number): number => (random.next() * 2 - 1) * limit;
  for (let i = 0; i < samples.size; i++) {
    const image = samples.inputs.subarray(i * PIXELS, (i + 1) * PIXELS);
    const [angle, dx, dy, scale] = [
      (within(10) * Math.PI) / 180,
      within(1),
      within(1),
      1 + within(0.08),
    ];
    const [cos, sin] = [Math.cos(angle) / scale, Math.sin(angle) / scale];
    const pixel = (x: number, y: number): number =>
      x < 0 || y < 0 || x > 27 || y > 27 ? 0 : (image[y * 28 + x] ?? 0);
    for (let p = 0; p < PIXELS; p++) {
      const [x, y] = [(p % 28) - 13.5, Math.floor(p / 28) - 13.5];
      const [ux, uy] = [cos * x - sin * y + 13.5 + dx, sin * x + cos * y + 13.5 + dy];
      const [x0, y0] = [Math.floor(ux), Math.floor(uy)];
      const [fx, fy] = [ux - x0, uy - y0];
      const upper = pixel(x0, y0) * (1 - fx) + pixel(x0 + 1, y0) * fx;
      const lower = pixel(x0, y0 + 1) * (1 - fx) + pixel(x0 + 1, y0 + 1) * fx;
      inputs[i * PIXELS + p] = upper * (1 - fy) + lower * fy;
    }
  }
  return { ...samples, inputs };
}
// Logged pairs of which there are many: both models on changed copies of what they were trained on.
const logged = [1, 2, 3].map((seed) => jittered(train, seed));
const loggedPairs: Parameters<typeof growDeferral>[0][number][] = [];
for (const copies of logged) {
  const [e, c] = [await said(little, copies), await said(big, copies)];
  for (let i = 0; i < copies.size; i++)
    loggedPairs.push({
      edge: rowOf(e, i),
      edgeRight: BigInt(e.labels[i] ?? -1) === copies.labels[i],
      cloudRight: BigInt(c.labels[i] ?? -1) === copies.labels[i],
    });
}
const grown = growDeferral(loggedPairs);
const shares: Record<string, number[]> = {
  largest: [],
  margin: [],
  entropy: [],
  'learned deferral, logistic, 1,000 pairs': [],
  [`learned deferral, trees, ${loggedPairs.length} pairs`]: [],
};
for (let seed = 0; seed < 20; seed++) {
  const shuffled = Array.from(seededRandom(100 + seed).permutation(truth.length));
  const [fitted, test] = [shuffled.slice(0, 1_000), shuffled.slice(1_000)];
  const deferral: DeferralModel = fitDeferral(pairsOf(fitted));
  const target = accuracy(cloud, test) - 0.005;
  for (const [name, miner] of Object.entries({ largest, margin, entropy }))
    shares[name]?.push(sharesFor(at, test, scoreBy(miner), target));
  for (const [name, model] of Object.entries({ logistic: deferral, trees: grown })) {
    const list = Object.entries(shares).find(([n]) => n.includes(name))?.[1];
    list?.push(sharesFor(at, test, (i) => deferralScore(model, rowOf(edge, i)), target));
  }
}
for (const [name, values] of Object.entries(shares)) {
  console.log(
    `uploads for the cloud's accuracy − 0.5 points, ${name}: ${percent(mean(values))} (mean of ${values.length} halves)`,
  );
  written[`uploads ${name}`] = mean(values);
}

// A budget of 10 % while the stream's difficulty doubles: half of the second half is blurred into noise.
const budget = new UploadBudget({ budget: 0.1 });
const random = seededRandom(5);
const sent = [0, 0];
for (let i = 0; i < 20_000; i++) {
  const late = i >= 10_000;
  const noisy = random.next() < (late ? 0.5 : 0.25);
  const raw = scoreBy(margin)(random.int(truth.length));
  if (budget.admit(noisy ? raw * random.next() : raw))
    sent[late ? 1 : 0] = (sent[late ? 1 : 0] ?? 0) + 1;
}
console.log(
  `upload budget 10 %: ${percent((sent[0] ?? 0) / 10_000)}, and ${percent((sent[1] ?? 0) / 10_000)} once the stream is harder`,
);
written['budget'] = sent.map((n) => n / 10_000);

// Speed.
function quantiles(times: number[]): { median: number; p99: number; min: number } {
  times.sort((a, b) => a - b);
  const q = (p: number): number =>
    times[Math.min(times.length - 1, Math.floor(p * times.length))] ?? 0;
  return { min: q(0), median: q(0.5), p99: q(0.99) };
}
async function timed(runs: number, body: (i: number) => Promise<unknown>): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < runs; i++) {
    const startedAt = performance.now();
    await body(i);
    times.push(performance.now() - startedAt);
  }
  return times;
}
const sampleAt = (i: number): Float32Array =>
  held.inputs.slice((i % held.size) * PIXELS, ((i % held.size) + 1) * PIXELS);
const jointInference = new JointInference({ estimator: little, miner: createMiner('EdgeOnly') });
await timed(500, async (i) => await little.predict(sampleAt(i), 1));
const bare = quantiles(await timed(3_000, async (i) => await little.predict(sampleAt(i), 1)));
const wrapped = quantiles(
  await timed(3_000, async (i) => await jointInference.inference(sampleAt(i))),
);
console.log(
  `one sample at the edge: model ${bare.median.toFixed(4)} ms, JointInference ${wrapped.median.toFixed(4)} ms (+${(wrapped.median - bare.median).toFixed(4)} ms)`,
);
written['overhead'] = { bare, wrapped };

/** Clients in a process of their own: they must not share the server's thread. */
async function asked(
  url: string,
  wire: 'json' | 'tensor',
): Promise<{ rate: number; p99: number; median: number }> {
  const child = fork(join(import.meta.dirname, 'inference-clients.ts'));
  const result = await new Promise<{ rate: number; times: number[] }>((resolve, reject) => {
    child.once('message', resolve);
    child.once('error', reject);
    child.send({
      url: `${url}/digits/predict`,
      wire,
      clients: CLIENTS,
      requests: REQUESTS,
      sample: [...sampleAt(0)],
    });
  });
  child.disconnect();
  return { rate: result.rate, ...quantiles(result.times) };
}

async function served(
  estimator: OnnxEstimator,
  maxBatch: number,
  wire: 'json' | 'tensor',
): Promise<{ rate: number; p99: number; median: number }> {
  const service = new BigModelService({
    estimator,
    serviceName: 'digits',
    host: '127.0.0.1',
    port: 0,
    batching: { maxBatch },
  });
  const url = await service.start();
  const result = await asked(url, wire);
  await service.closeServer();
  return result;
}

const CLIENTS = 32;
const REQUESTS = 6_000;
const wide = new OnnxEstimator({
  model: sequential({
    input: SHAPE,
    layers: [flatten(), dense(2048), relu(), dense(2048), relu(), dense(10)],
    random: seededRandom(2),
  }),
  threads: 2,
});
for (const [name, estimator] of Object.entries({
  'this CNN': big,
  'a dense network of 5.8 M': wide,
})) {
  const peer = await startFastApi(estimator.bytes);
  const fastApi = peer && (await asked(peer.url, 'json'));
  peer?.stop();
  console.log(
    fastApi
      ? `FastAPI with ${name}, one request one run, JSON: ${fastApi.rate.toFixed(0)} requests/s (P99 ${fastApi.p99.toFixed(1)} ms)`
      : 'FastAPI is not here (SHOAL_PYTHON): the unbatched mode stands for it',
  );
  for (const wire of ['json', 'tensor'] as const) {
    const single = await served(estimator, 1, wire);
    const batched = await served(estimator, 32, wire);
    console.log(
      `cloud worker with ${name}, ${CLIENTS} clients, ${wire}: ${single.rate.toFixed(0)} requests/s one by one (P99 ${single.p99.toFixed(1)} ms), ${batched.rate.toFixed(0)} batched (P99 ${batched.p99.toFixed(1)} ms): ${(batched.rate / single.rate).toFixed(2)} ×${fastApi ? `, ${(batched.rate / fastApi.rate).toFixed(2)} × FastAPI` : ''}`,
    );
    written[`cloud ${name} ${wire}`] = { single, batched, ...(fastApi ? { fastApi } : {}) };
  }
}
await wide.close();
const bytes = {
  json: Buffer.byteLength(JSON.stringify({ data: [Array.from(sampleAt(0))] })),
  tensor: PIXELS * 4,
};
console.log(`payload of one digit: JSON ${bytes.json} bytes, tensor ${bytes.tensor} bytes`);
console.log(JSON.stringify({ ...written, bytes }));
await little.close();
await big.close();
