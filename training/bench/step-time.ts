import { availableParallelism } from 'node:os';
import { seededRandom } from '@shoal/core';
import {
  conv2d,
  dense,
  flatten,
  type Layer,
  maxPool2d,
  relu,
  sequential,
  Trainer,
} from '../src/index.ts';

/** `npm run bench:training`: time of one training step, batch 32, two threads, the engine's own graphs. */
const CASES: readonly (readonly [
  name: string,
  input: readonly number[],
  layers: readonly Layer[],
])[] = [
  ['MLP 784-256-128-10', [784], [dense(256), relu(), dense(128), relu(), dense(10)]],
  [
    'CNN conv16-pool-conv32-pool-dense, 28×28',
    [1, 28, 28],
    [
      conv2d(16, 3),
      relu(),
      maxPool2d(2),
      conv2d(32, 3),
      relu(),
      maxPool2d(2),
      flatten(),
      dense(10),
    ],
  ],
];
const BATCH = 32;
const RUN_MS = 3_000;

const results: object[] = [];
for (const [name, input, layers] of CASES) {
  const random = seededRandom(1);
  const trainer = await Trainer.create({
    model: sequential({ input, layers, random }),
    loss: 'softmax-cross-entropy',
    optimizer: { name: 'sgd', learningRate: 0.01 },
    threads: 2,
  });
  const inputs = Float32Array.from({ length: BATCH * 784 }, () => random.normal());
  const targets = BigInt64Array.from({ length: BATCH }, (_, i) => BigInt(i % 10));
  const times: number[] = [];
  for (const until = performance.now() + RUN_MS; performance.now() < until; ) {
    const startedAt = performance.now();
    await trainer.step({ inputs, targets, size: BATCH });
    times.push(performance.now() - startedAt);
  }
  await trainer.release();
  const sorted = times.slice(20).toSorted((a, b) => a - b);
  const minMs = sorted[0] ?? 0;
  const medianMs = sorted[sorted.length >> 1] ?? 0;
  results.push({ name, minMs, medianMs, steps: times.length, cores: availableParallelism() });
  console.log(
    `${name}: min ${minMs.toFixed(2)} ms, median ${medianMs.toFixed(2)} ms (${times.length} steps)`,
  );
}
console.log(JSON.stringify(results));
