import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import type { Batch } from './batch.ts';
import { GroupSize, grouped } from './groups.ts';
import {
  batchNorm,
  conv2d,
  dense,
  dropout,
  embedding,
  flatten,
  relu,
  sequential,
} from './layers.ts';
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
  for await (const group of grouped(someBatches(70), () => size.most))
    groups.push(group.map((b) => b.size));
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

/** What single steps give on the batches, up to the first that cannot be taken. */
async function oneByOne(trainer: Trainer, batches: Iterable<Batch>): Promise<StepResult[]> {
  const results: StepResult[] = [];
  try {
    for (const batch of batches) results.push(await trainer.step(batch));
  } catch {
    // What was good until then is what counts.
  }
  return results;
}

test('a model with dropout ends at a bad batch as single steps do, and goes on alike', async () => {
  const [one, many] = await trainers();
  const batches = someBatches(30);
  const { inputs } = batches[23] ?? {};
  if (inputs instanceof Float32Array) inputs[0] = Number.NaN;
  const wanted = await oneByOne(one, batches);
  const seen: StepResult[] = [];
  const training = (async (): Promise<void> => {
    for await (const result of many.train(batches)) seen.push(result);
  })();
  await expect(training).rejects.toThrow(/the loss is NaN at step 24/);
  expect(seen).toEqual(wanted);
  expect(many.getParameters()).toEqual(one.getParameters());
  expect(await collect(many.train(batches.slice(24)))).toEqual(
    await oneByOne(one, batches.slice(24)),
  );
  await Promise.all([one.release(), many.release()]);
});

test('a source may use its arrays again', async () => {
  const [one, many] = await trainers({ dropout: false });
  const batches = someBatches(41).slice(0, 40);
  function* reusing(): Generator<Batch> {
    const inputs = new Float32Array(8 * 36);
    const targets = new BigInt64Array(8);
    for (const batch of batches) {
      inputs.set(batch.inputs as Float32Array);
      targets.set(batch.targets as BigInt64Array);
      yield { inputs, targets, size: 8 };
    }
  }
  expect(await collect(many.train(reusing()))).toEqual(await oneByOne(one, batches));
  await Promise.all([one.release(), many.release()]);
});

test('what a source gave before it failed is trained on', async () => {
  const trainer = await Trainer.create({ ...OPTIONS, dropout: false });
  function* failing(): Generator<Batch> {
    yield* someBatches(31).slice(0, 30);
    throw new Error('the disk is gone');
  }
  const seen: StepResult[] = [];
  const training = (async (): Promise<void> => {
    for await (const result of trainer.train(failing())) seen.push(result);
  })();
  await expect(training).rejects.toThrow(/the disk is gone/);
  expect(seen).toHaveLength(30);
  expect(trainer.steps).toBe(30);
  const none = [...someBatches(3).slice(0, 2), { targets: new BigInt64Array(8), size: 8 } as never];
  await expect(collect(trainer.train(none))).rejects.toThrow(
    /a batch is \{ inputs, targets, size \}, with typed arrays; got \{ targets, size \}/,
  );
  expect(trainer.steps).toBe(32);
  await trainer.release();
});

test('batches that depend on the step before come one by one', async () => {
  const trainer = await Trainer.create({ ...OPTIONS, dropout: false });
  const batches = someBatches(13).slice(0, 12);
  let given = 0;
  let seen = 0;
  function* waiting(): Generator<Batch> {
    for (const batch of batches) {
      expect(seen).toBe(given);
      given++;
      yield batch;
    }
  }
  for await (const _ of trainer.train(waiting(), 0.01, { together: 1 })) seen++;
  expect(seen).toBe(12);
  for (const together of [0, Number.NaN, 1.5])
    await expect(collect(trainer.train(batches, 0.01, { together }))).rejects.toThrow(
      /together must be a whole number from 1 to 32/,
    );
  await trainer.release();
});

test('what the runtime has against one batch stops at this one, and says which', async () => {
  const model = sequential({
    input: [3],
    inputType: 'int64',
    layers: [embedding(10, 4), flatten(), dense(3)],
    random: seededRandom(1),
  });
  const trainer = await Trainer.create({ ...OPTIONS, model });
  const batches = Array.from({ length: 40 }, (_, i) => ({
    inputs: BigInt64Array.of(1n, 2n, i === 30 ? 99n : 3n),
    targets: BigInt64Array.of(BigInt(i % 3)),
    size: 1,
  }));
  const seen: StepResult[] = [];
  const training = (async (): Promise<void> => {
    for await (const result of trainer.train(batches)) seen.push(result);
  })();
  await expect(training).rejects.toThrow(/step 31 cannot be taken: .*Gather/);
  expect(seen).toHaveLength(30);
  await trainer.release();
});

test('a step that is too large ends the steps where it is, even when those behind it would heal it', async () => {
  const over = {
    dropout: false,
    trainable: (name: string): boolean => name === 'layer0.weight',
    optimizer: { name: 'sgd', learningRate: 0.05, weightDecay: 1 },
  } as const;
  const [one, many] = await trainers(over);
  const rate = (step: number): number => (step === 20 ? 1e25 : step === 21 ? 1 : 0.01);
  const batches = someBatches(31).slice(0, 30);
  const single = (async (): Promise<void> => {
    for (const batch of batches) await one.step(batch, rate(one.steps + 1));
  })();
  await expect(single).rejects.toThrow(/at step 20/);
  await expect(collect(many.train(batches, rate))).rejects.toThrow(/at step 20/);
  expect(many.getParameters()).toEqual(one.getParameters());
  let asked = 0;
  const counting = (): number => {
    asked++;
    return 0.01;
  };
  await collect(many.train(batches, counting));
  expect(asked).toBe(30);
  await Promise.all([one.release(), many.release()]);
});
