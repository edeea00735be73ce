import { seededRandom } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { expect, test } from 'vitest';
import type { Batch } from './batch.ts';
import { conv2d, dense, flatten, maxPool2d, relu, sequential } from './layers.ts';
import { readModel, writeModel } from './onnx/model-file.ts';
import { Trainer, type TrainerOptions } from './trainer.ts';

const LINEAR = sequential({ input: [3], layers: [dense(2)], random: seededRandom(1) });
const BATCH = {
  inputs: Float32Array.of(0.5, -1, 2, 1, 0.25, -0.5),
  targets: BigInt64Array.of(1n, 0n),
  size: 2,
};
const CNN = sequential({
  input: [1, 8, 8],
  layers: [conv2d(3, 3), relu(), maxPool2d(2), flatten(), dense(4)],
  random: seededRandom(2),
});

function options(over: Partial<TrainerOptions> = {}): TrainerOptions {
  return {
    model: LINEAR,
    loss: 'softmax-cross-entropy',
    optimizer: { name: 'sgd', learningRate: 0.1 },
    threads: 1,
    ...over,
  };
}

/** Softmax regression by hand, in float64: the oracle. */
function linearOracle(
  w: number[],
  b: number[],
  batch: typeof BATCH,
): { loss: number; dw: number[]; db: number[] } {
  const dw = w.map(() => 0);
  const db = b.map(() => 0);
  let loss = 0;
  for (let s = 0; s < batch.size; s++) {
    const x = Array.from(batch.inputs.subarray(s * 3, s * 3 + 3));
    const z = b.map((bias, k) => bias + x.reduce((sum, v, i) => sum + v * (w[k * 3 + i] ?? 0), 0));
    const total = z.reduce((sum, v) => sum + Math.exp(v), 0);
    const y = Number(batch.targets[s]);
    loss -= Math.log(Math.exp(z[y] ?? 0) / total) / batch.size;
    for (const [k, v] of z.entries()) {
      const d = (Math.exp(v) / total - (k === y ? 1 : 0)) / batch.size;
      db[k] = (db[k] ?? 0) + d;
      for (const [i, value] of x.entries()) dw[k * 3 + i] = (dw[k * 3 + i] ?? 0) + d * value;
    }
  }
  return { loss, dw, db };
}

function arrays(trainer: Trainer): [number[], number[]] {
  const p = trainer.getParameters();
  return [Array.from(p.get('layer0.weight') ?? []), Array.from(p.get('layer0.bias') ?? [])];
}

function close(actual: readonly number[], wanted: readonly number[]): void {
  for (const [i, v] of wanted.entries()) expect(actual[i]).toBeCloseTo(v, 5);
}

test('SGD with momentum and weight decay follows the hand-computed trace', async () => {
  const [lr, mu, decay] = [0.1, 0.9, 0.01];
  const trainer = await Trainer.create(
    options({ optimizer: { name: 'sgd', learningRate: lr, momentum: mu, weightDecay: decay } }),
  );
  let [w, b] = arrays(trainer);
  let [vw, vb] = [w.map(() => 0), b.map(() => 0)];
  for (let t = 0; t < 5; t++) {
    const { loss, dw, db } = linearOracle(w, b, BATCH);
    expect((await trainer.step(BATCH)).loss).toBeCloseTo(loss, 5);
    vw = vw.map((v, i) => mu * v + (dw[i] ?? 0) + decay * (w[i] ?? 0));
    vb = vb.map((v, i) => mu * v + (db[i] ?? 0) + decay * (b[i] ?? 0));
    w = w.map((v, i) => v - lr * (vw[i] ?? 0));
    b = b.map((v, i) => v - lr * (vb[i] ?? 0));
    const [gotW, gotB] = arrays(trainer);
    close(gotW, w);
    close(gotB, b);
  }
  await trainer.release();
});

test('Adam follows the hand-computed trace, bias corrections included', async () => {
  const [lr, b1, b2, eps] = [0.05, 0.9, 0.999, 1e-8];
  const trainer = await Trainer.create(options({ optimizer: { name: 'adam', learningRate: lr } }));
  let [w, b] = arrays(trainer);
  let [m, v] = [w.map(() => 0), w.map(() => 0)];
  let [mb, vb] = [b.map(() => 0), b.map(() => 0)];
  for (let t = 1; t <= 6; t++) {
    const { dw, db } = linearOracle(w, b, BATCH);
    await trainer.step(BATCH);
    const update = (theta: number[], g: number[], s: { m: number[]; v: number[] }): number[] => {
      s.m = s.m.map((x, i) => b1 * x + (1 - b1) * (g[i] ?? 0));
      s.v = s.v.map((x, i) => b2 * x + (1 - b2) * (g[i] ?? 0) ** 2);
      return theta.map(
        (x, i) =>
          x -
          (lr * ((s.m[i] ?? 0) / (1 - b1 ** t))) / (Math.sqrt((s.v[i] ?? 0) / (1 - b2 ** t)) + eps),
      );
    };
    const sw = { m, v };
    const sb = { m: mb, v: vb };
    [w, b] = [update(w, dw, sw), update(b, db, sb)];
    [m, v, mb, vb] = [sw.m, sw.v, sb.m, sb.v];
    const [gotW, gotB] = arrays(trainer);
    close(gotW, w);
    close(gotB, b);
  }
  await trainer.release();
});

test('mean squared error has gradient 2(ŷ − y)/n', async () => {
  const model = sequential({ input: [2], layers: [dense(3)], random: seededRandom(3) });
  const trainer = await Trainer.create(options({ model, loss: 'mean-squared-error' }));
  const batch = {
    inputs: Float32Array.of(1, 2, 3, 4),
    targets: Float32Array.of(1, 0, 0, 0, 1, 0),
    size: 2,
  };
  const { output, loss } = await trainer.evaluate(batch);
  const difference = Array.from(output, (y, i) => y - Number(batch.targets[i]));
  expect(loss).toBeCloseTo(difference.reduce((s, d) => s + d * d, 0) / 6, 5);
  const { gradients } = await trainer.gradients(batch);
  close(
    Array.from(gradients.get('layer0.bias') ?? []),
    [0, 1, 2].map((k) => (2 / 6) * ((difference[k] ?? 0) + (difference[k + 3] ?? 0))),
  );
  await trainer.release();
});

test('the same seed and data give the same bytes; a training run lowers the loss', async () => {
  const random = seededRandom(9);
  const batch: Batch = {
    inputs: Float32Array.from({ length: 8 * 64 }, () => random.normal()),
    targets: BigInt64Array.from({ length: 8 }, (_, i) => BigInt(i % 4)),
    size: 8,
  };
  const runs: Uint8Array[] = [];
  for (let r = 0; r < 2; r++) {
    const trainer = await Trainer.create(
      options({ model: CNN, optimizer: { name: 'adam', learningRate: 0.01 } }),
    );
    const first = await trainer.step(batch);
    let last = first;
    for (let i = 0; i < 40; i++) last = await trainer.step(batch);
    expect(last.loss).toBeLessThan(first.loss / 4);
    runs.push(trainer.deploy());
    await trainer.release();
  }
  expect(Buffer.from(runs[0] ?? []).equals(Buffer.from(runs[1] ?? []))).toBe(true);
});

test('deployed without training a model gives identical outputs, also from an unaligned buffer', async () => {
  const shifted = Buffer.alloc(CNN.length + 1);
  shifted.set(CNN, 1);
  const trainer = await Trainer.create(options({ model: shifted.subarray(1) }));
  const inputs = Float32Array.from({ length: 2 * 64 }, (_, i) => Math.sin(i));
  const run = async (model: Uint8Array): Promise<number[]> => {
    const session = await ort.InferenceSession.create(model);
    const out = await session.run({ input: new ort.Tensor('float32', inputs, [2, 1, 8, 8]) });
    await session.release();
    return Array.from(out['output']?.data as Float32Array);
  };
  expect(await run(trainer.deploy())).toEqual(await run(CNN));
  await trainer.release();
});

test('unknown fields of a model survive a round trip', () => {
  // Field 20 of ModelProto (training_info) is not in our subset: tag 0xa2 0x01, length 2.
  const foreign = Buffer.concat([Buffer.from(LINEAR), Buffer.from([0xa2, 0x01, 0x02, 0x0a, 0x00])]);
  expect(
    Buffer.from(writeModel(readModel(foreign))).includes(
      Buffer.from([0xa2, 0x01, 0x02, 0x0a, 0x00]),
    ),
  ).toBe(true);
});

test.each<[string, Uint8Array, RegExp]>([
  [
    'foreign bytes',
    new TextEncoder().encode('hello, this is not a model'),
    /not an ONNX model \(26 bytes\)/,
  ],
  ['a truncated file', LINEAR.subarray(0, LINEAR.length - 7), /not an ONNX model/],
  ['an empty file', new Uint8Array(), /not an ONNX model \(0 bytes\)/],
])('%s is refused', (_what, bytes, message) => {
  expect(() => readModel(bytes)).toThrow(message);
});

test('an operator set outside 13 to 22 is refused with the way out', () => {
  const model = readModel(LINEAR);
  for (const o of model.opsetImport) o.version = 9n;
  expect(() => readModel(writeModel(model))).toThrow(/operator set 9; supported are 13 to 22/);
});

test('bad batches, unknown parameters and nothing to train say what is wrong', async () => {
  const trainer = await Trainer.create(options());
  await expect(trainer.step({ ...BATCH, size: 3 })).rejects.toThrow(
    /6 values of inputs; 3 samples of shape \[3\] need 9/,
  );
  await expect(trainer.step({ ...BATCH, targets: BigInt64Array.of(1n) })).rejects.toThrow(
    /1 values of targets; 2 samples/,
  );
  const before = trainer.getParameters();
  expect(() =>
    trainer.setParameters(
      new Map([
        ['layer0.bias', Float32Array.of(1, 1)],
        ['nope', Float32Array.of(1)],
      ]),
    ),
  ).toThrow(/no trainable parameter "nope"/);
  expect(() => trainer.setParameters(new Map([['layer0.bias', Float32Array.of(1)]]))).toThrow(
    /shape \[2\], got 1 values/,
  );
  expect(trainer.getParameters()).toEqual(before);
  await trainer.release();
  await expect(Trainer.create(options({ trainable: () => false }))).rejects.toThrow(
    /no trainable parameter/,
  );
  await expect(
    Trainer.create(options({ optimizer: { name: 'sgd', learningRate: 0 } })),
  ).rejects.toThrow(/learningRate must be > 0/);
  await expect(Trainer.create(options({ output: 'logits' }))).rejects.toThrow(
    /no output "logits"; it has: output/,
  );
});

test('a loss that is not finite stops the step and keeps the last good parameters', async () => {
  const trainer = await Trainer.create(options());
  await trainer.step(BATCH);
  const good = trainer.getParameters();
  const poisoned: Batch = { ...BATCH, inputs: Float32Array.of(Number.NaN, 0, 0, 0, 0, 0) };
  await expect(trainer.step(poisoned)).rejects.toThrow(/loss is NaN at step 2/);
  expect(trainer.getParameters()).toEqual(good);
  await trainer.release();
});

test('frozen parameters stay as they are', async () => {
  const trainer = await Trainer.create(
    options({ model: CNN, trainable: (name) => name.startsWith('layer4') }),
  );
  const before = readModel(CNN).graph?.initializer.find((t) => t.name === 'layer0.weight')?.rawData;
  await trainer.step({
    inputs: new Float32Array(64).fill(1),
    targets: BigInt64Array.of(2n),
    size: 1,
  });
  const after = readModel(trainer.deploy()).graph?.initializer.find(
    (t) => t.name === 'layer0.weight',
  )?.rawData;
  expect(Buffer.from(after ?? []).equals(Buffer.from(before ?? []))).toBe(true);
  expect(trainer.parameters.map((p) => p.name)).toEqual(['layer4.weight', 'layer4.bias']);
  await trainer.release();
});
