import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { generateDigits } from '@shoal/datasets';
import {
  type CompressionOptions,
  dirichletPartition,
  type Samples,
  select,
  simulateFederation,
  TrainerModel,
} from '@shoal/lib';
import { conv2d, dense, flatten, maxPool2d, relu, sequential } from '@shoal/training';

/**
 * `npm run bench:federated-accuracy`: what each encoding of updates costs in accuracy (ten participants,
 * Dirichlet 0.3, three seeds), and a thousand simulated participants in one process. Writes
 * .cache/bench/federated-accuracy.json.
 */
const SEEDS = [1, 2, 3];
const ROUNDS = 12;
const ENCODINGS: readonly CompressionOptions[] = [
  { name: 'none' },
  { name: 'fp16' },
  { name: 'int8' },
  { name: 'top-k', share: 0.1 },
  { name: 'top-k', share: 0.01 },
];

function network(seed: number): Uint8Array {
  const layers = [conv2d(8, 3), relu(), maxPool2d(2), flatten(), dense(32), relu(), dense(10)];
  return sequential({ input: [1, 28, 28], layers, random: seededRandom(seed) });
}

interface Setup {
  readonly owner: TrainerModel;
  readonly models: readonly TrainerModel[];
  readonly test: Samples;
}

async function setup(participants: number, samples: number, seed: number): Promise<Setup> {
  const train = generateDigits({ count: samples, seed: 2 * seed - 1 });
  const test = generateDigits({ count: 1_000, seed: 2 * seed });
  const random = seededRandom(seed);
  const parts = dirichletPartition(train.labels, participants, { alpha: 0.3, random, least: 2 });
  const owner = await TrainerModel.create({
    model: network(seed),
    samples: train,
    compiledSizes: 40,
  });
  return { owner, test, models: parts.map((p) => owner.withSamples(select(train, p))) };
}

const label = (e: CompressionOptions): string =>
  e.name === 'top-k' ? `top-k ${e.share * 100} %` : e.name;

const rows: Record<string, { accuracies: number[]; bytes: number; ratio: number }> = {};
for (const seed of SEEDS) {
  const { owner, models, test } = await setup(10, 4_000, seed);
  const plain = owner.size * 4;
  for (const compression of ENCODINGS) {
    const { model, rounds } = await simulateFederation(models, {
      rounds: ROUNDS,
      learningRate: 0.1,
      compression,
      seed,
    });
    const { accuracy = 0 } = await owner.score(model, test);
    const bytes = (rounds[0]?.bytesUp ?? 0) / models.length;
    const row = (rows[label(compression)] ??= { accuracies: [], bytes, ratio: bytes / plain });
    row.accuracies.push(accuracy);
    console.log(`seed ${seed}, ${label(compression).padEnd(10)} ${(accuracy * 100).toFixed(1)} %`);
  }
  await owner.close();
}
console.log(
  `\nencoding     bytes up   of float32   accuracy after ${ROUNDS} rounds, mean of ${SEEDS.length} seeds`,
);
for (const [name, { accuracies, bytes, ratio }] of Object.entries(rows)) {
  const mean = accuracies.reduce((a, b) => a + b, 0) / accuracies.length;
  console.log(
    `${name.padEnd(12)} ${String(Math.round(bytes)).padStart(8)}   ${(ratio * 100).toFixed(1).padStart(8)} %   ${(mean * 100).toFixed(1)} %`,
  );
}

const many = await setup(1_000, 20_000, 1);
const times: number[] = [];
let before = performance.now();
const startedAt = before;
const { model } = await simulateFederation(many.models, {
  rounds: 5,
  learningRate: 0.1,
  batchSize: 20,
  onRound: () => {
    times.push(performance.now() - before);
    before = performance.now();
  },
});
const { accuracy = 0 } = await many.owner.score(model, many.test);
await many.owner.close();
const simulated = {
  participants: 1_000,
  rounds: times.length,
  seconds: (performance.now() - startedAt) / 1000,
  medianRoundMs: times.toSorted((a, b) => a - b)[times.length >> 1],
  residentMb: process.memoryUsage.rss() / 1e6,
  accuracy,
};
console.log(
  `\n1,000 simulated participants in one process: ${simulated.medianRoundMs?.toFixed(0)} ms a round (median of ${times.length}), ${simulated.residentMb.toFixed(0)} MB, ${(accuracy * 100).toFixed(1)} % after ${times.length} rounds`,
);
const out = join(import.meta.dirname, '../../.cache/bench');
mkdirSync(out, { recursive: true });
writeFileSync(
  join(out, 'federated-accuracy.json'),
  JSON.stringify({ encodings: rows, simulated }, null, 2),
);
