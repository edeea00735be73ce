import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import type { Batch } from './batch.ts';
import { GroupSize, grouped } from './groups.ts';
import { batchNorm, conv2d, dense, dropout, flatten, relu, sequential } from './layers.ts';
import { cosineDecay } from './schedules.ts';
import { type StepResult, Trainer, type TrainerOptions } from './trainer.ts';

const MODEL = sequential({
  input: [1, 6, 6],
  layers: [conv2d(4, 3), batchNorm(), relu(), flatten(), dropout(0.25), dense(3)],
  random: seededRandom(1),
});

const OPTIONS: TrainerOptions = {
  model: MODEL,
  loss: 'softmax-cross-entropy',
  optimizer: { name: 'adam', learningRate: 0.01 },
  threads: 1,
};

/** Batches of 8 samples, the last of 5. */
function someBatches(count: number): Batch[] {
  const random = seededRandom(2);
  return Array.from({ length: count }, (_, i) => {
    const size = i === count - 1 ? 5 : 8;
    return {
      inputs: Float32Array.from({ length: size * 36 }, () => random.normal()),
      targets: BigInt64Array.from({ length: size }, () => BigInt(random.int(3))),
      size,
    };
  });
}

async function collect(results: AsyncIterable<StepResult>): Promise<StepResult[]> {
  const all: StepResult[] = [];
  for await (const result of results) all.push(result);
  return all;
}

async function trainers(over: Partial<TrainerOptions> = {}): Promise<[Trainer, Trainer]> {
  return [
    await Trainer.create({ ...OPTIONS, ...over }),
    await Trainer.create({ ...OPTIONS, ...over }),
  ];
}

const VARIANTS: readonly Partial<TrainerOptions>[] = [
  { optimizer: { name: 'adam', learningRate: 0.01 } },
  { optimizer: { name: 'sgd', learningRate: 0.05 } },
  { optimizer: { name: 'sgd', learningRate: 0.05, momentum: 0.9 }, clipNorm: 0.5 },
  { penalty: { name: 'elastic', strength: 0.1 }, gradientOffset: true },
  { stopGradient: ['layer0.*'], batchNormalization: 'frozen' },
];

test.each(VARIANTS)('many steps at once give the bits of one after the other: %j', async (over) => {
  const [one, many] = await trainers(over);
  const batches = someBatches(40);
  const rate = cosineDecay(0.02, 40);
  const wanted: StepResult[] = [];
  for (const batch of batches) wanted.push(await one.step(batch, rate(one.steps + 1)));
  expect(await collect(many.train(batches, rate))).toEqual(wanted);
  expect(many.steps).toBe(40);
  expect(many.getParameters()).toEqual(one.getParameters());
  expect(many.getBuffers()).toEqual(one.getBuffers());
  // The optimizer's state came along too.
  const [next] = someBatches(2);
  if (!next) throw new Error('no batch');
  expect(await many.step(next)).toEqual(await one.step(next));
  expect(many.getParameters()).toEqual(one.getParameters());
  await Promise.all([one.release(), many.release()]);
});

test('steps before one that cannot be taken are taken, and their results come first', async () => {
  const [one, many] = await trainers({ dropout: false });
  const bad = someBatches(21);
  const good = bad.slice(0, 17);
  const { inputs } = bad[17] ?? {};
  if (inputs instanceof Float32Array) inputs[3] = Number.NaN;
  for (const batch of good) await one.step(batch);
  const seen: StepResult[] = [];
  const training = (async (): Promise<void> => {
    for await (const result of many.train(bad)) seen.push(result);
  })();
  await expect(training).rejects.toThrow(
    /the loss is NaN at step 18; training stopped with the last good/,
  );
  expect(seen).toHaveLength(17);
  expect(many.steps).toBe(17);
  expect(many.getParameters()).toEqual(one.getParameters());
  await Promise.all([one.release(), many.release()]);
});

test('a batch with a class that is none stops the steps behind it, which can go on after it', async () => {
  const [one, many] = await trainers({ dropout: false });
  const batches = someBatches(21);
  for (const batch of batches.slice(0, 17)) await one.step(batch);
  const bad = batches.with(17, {
    ...(batches[17] as Batch),
    targets: new BigInt64Array(8).fill(7n),
  });
  await expect(collect(many.train(bad))).rejects.toThrow(/sample 0 of the batch has class 7/);
  expect(many.getParameters()).toEqual(one.getParameters());
  expect(await collect(many.train(batches.slice(18)))).toHaveLength(3);
  await Promise.all([one.release(), many.release()]);
});

test('a rate that is none stops before its step', async () => {
  const trainer = await Trainer.create(OPTIONS);
  const rate = (step: number): number => (step === 5 ? -1 : 0.01);
  await expect(collect(trainer.train(someBatches(9), rate))).rejects.toThrow(
    /learning rate must be a number ≥ 0, got -1/,
  );
  expect(trainer.steps).toBe(4);
  await trainer.release();
});

test('batches are read as they come, and grouped by size', async () => {
  const size = new GroupSize();
  for (let i = 0; i < 10; i++) size.took(0.1 * size.most, size.most);
  expect(size.most).toBe(32);
  const groups: number[][] = [];
  for await (const group of grouped(someBatches(70), size)) groups.push(group.map((b) => b.size));
  expect(groups.map((g) => g.length)).toEqual([32, 32, 5, 1]);
  expect(new Set(groups[3])).toEqual(new Set([5]));
  size.took(640, 32); // 20 ms a step: one at a time
  expect(size.most).toBe(1);
  async function* endless(): AsyncGenerator<Batch> {
    for (;;) yield* someBatches(3);
  }
  const trainer = await Trainer.create(OPTIONS);
  let seen = 0;
  for await (const _ of trainer.train(endless())) if (++seen === 20) break;
  expect(trainer.steps).toBeGreaterThanOrEqual(20);
  await trainer.release();
});
