import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import type { Samples } from '../../data/samples.ts';
import { OnnxEstimator } from '../onnx.ts';
import { BoostedTreesEstimator, treesToOnnx } from './boosted-trees.ts';
import { boostTrees, marginsOf } from './boosting.ts';

/** Three classes cut out of a product of two features; a tenth of all values is missing. */
function rowsOf(size: number, seed: number): Samples {
  const random = seededRandom(seed);
  const width = 4;
  const inputs = new Float32Array(size * width);
  const labels = new BigInt64Array(size);
  for (let i = 0; i < size; i++) {
    const x = Array.from({ length: width }, () => random.normal());
    const s = (x[0] ?? 0) * (x[1] ?? 0) + (x[2] ?? 0);
    labels[i] = s < -0.6 ? 0n : s < 0.6 ? 1n : 2n;
    inputs.set(
      x.map((v) => (random.next() < 0.1 ? Number.NaN : v)),
      i * width,
    );
  }
  return { inputs, labels, shape: [width], size };
}

test('one stump on hessians of a half is the split and the leaf values computed by hand', () => {
  // Two classes at equal shares: p = 1/2, g = ±1/2, h = 1/4. Best cut between 2 and 3, λ = 1:
  // left leaf −G/(H+λ) with G = ½+½ (class 1 column, labels 0), H = ½.
  const model = boostTrees(
    {
      inputs: Float32Array.of(1, 2, 3, 4),
      width: 1,
      labels: [0, 0, 1, 1],
      size: 4,
      classes: 2,
    },
    { rounds: 1, depth: 1, learningRate: 1, lambda: 1, minChildWeight: 0 },
  );
  const [, tree] = model.trees;
  expect([...(tree?.feature ?? [])]).toEqual([0, -1, -1]);
  expect(tree?.threshold[0]).toBe(2);
  expect(tree?.value[1]).toBeCloseTo(-1 / 1.5, 12);
  expect(tree?.value[2]).toBeCloseTo(1 / 1.5, 12);
});

test('missing values go where they help', () => {
  // Missing means class 1, whatever is known means class 0.
  const inputs = Float32Array.from({ length: 40 }, (_, i) => (i % 2 ? Number.NaN : i));
  const labels = Array.from({ length: 40 }, (_, i) => i % 2);
  const model = boostTrees(
    { inputs, width: 1, labels, size: 40, classes: 2 },
    { rounds: 20, depth: 2, learningRate: 0.3, minChildWeight: 0.01 },
  );
  const margins = marginsOf(model, Float32Array.of(3, Number.NaN), 2);
  expect((margins[1] ?? 0) - (margins[0] ?? 0)).toBeLessThan(0);
  expect((margins[3] ?? 0) - (margins[2] ?? 0)).toBeGreaterThan(0);
});

test('the ONNX file gives the margins of the trees, missing values included', async () => {
  const train = rowsOf(600, 1);
  const model = boostTrees({ ...train, width: 4, classes: 3 }, { rounds: 15, depth: 4 });
  const held = rowsOf(100, 2);
  const runtime = new OnnxEstimator({ model: treesToOnnx(model), threads: 1 });
  const { probabilities } = await runtime.predict(held.inputs, held.size);
  await runtime.close();
  const margins = marginsOf(model, held.inputs, held.size);
  for (let i = 0; i < held.size; i++) {
    const z = margins.subarray(i * 3, i * 3 + 3);
    const sum = z.reduce((a, v) => a + Math.exp(v), 0);
    for (let k = 0; k < 3; k++)
      expect(probabilities[i * 3 + k]).toBeCloseTo(Math.exp(z[k] ?? 0) / sum, 4);
  }
});

test('trees learn what a line cannot, and go on from another model’s margins', async () => {
  const estimator = new BoostedTreesEstimator({ rounds: 60, depth: 4, learningRate: 0.2 });
  await estimator.train(rowsOf(3_000, 3));
  const held = rowsOf(1_000, 4);
  const { accuracy = 0 } = await estimator.evaluate(held);
  await estimator.close();
  expect(accuracy).toBeGreaterThan(0.72); // the majority class has 0.45

  const rows = { ...rowsOf(1_000, 5), width: 4, classes: 3 };
  const first = boostTrees(rows, { rounds: 10, depth: 3 });
  const start = marginsOf(first, rows.inputs, rows.size);
  const rest = boostTrees(rows, { rounds: 10, depth: 3 }, start);
  const together = boostTrees(rows, { rounds: 20, depth: 3 });
  const sum = marginsOf(rest, rows.inputs, rows.size).map((v, i) => v + (start[i] ?? 0));
  const whole = marginsOf(together, rows.inputs, rows.size);
  for (const [i, v] of sum.entries()) expect(v).toBeCloseTo(whole[i] ?? 0, 9);
});

test('subsampling depends on the seed alone', () => {
  const rows = { ...rowsOf(500, 6), width: 4, classes: 3 };
  const margins = (seed: number): Float64Array =>
    marginsOf(boostTrees(rows, { rounds: 5, subsample: 0.5, seed }), rows.inputs, 10);
  expect(margins(1)).toEqual(margins(1));
  expect(margins(1)).not.toEqual(margins(2));
});

test('nothing to learn from, labels out of range and images are refused', async () => {
  const none = { inputs: new Float32Array(), width: 1, labels: [], size: 0, classes: 2 };
  expect(() => boostTrees(none)).toThrow(/no rows/);
  expect(() =>
    boostTrees({ inputs: Float32Array.of(1), width: 1, labels: [7], size: 1, classes: 3 }),
  ).toThrow(/label 7 of row 0 is not one of 3 classes/);
  const images: Samples = { ...rowsOf(4, 1), shape: [2, 2] };
  await expect(new BoostedTreesEstimator().train(images)).rejects.toThrow(/rows of features/);
});
