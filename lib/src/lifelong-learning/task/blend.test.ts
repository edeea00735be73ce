import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import { blend, blendWeights } from './blend.ts';

test('the weights of a known mixture are found again', () => {
  // Labels drawn from 0.7·A + 0.3·B, row by row.
  const random = seededRandom(1);
  const size = 20_000;
  const a = new Float64Array(size * 2);
  const b = new Float64Array(size * 2);
  const labels = Array.from({ length: size }, (_, i) => {
    const [p, q] = [random.next(), random.next()];
    a.set([p, 1 - p], i * 2);
    b.set([q, 1 - q], i * 2);
    return random.next() < 0.7 * p + 0.3 * q ? 0 : 1;
  });
  const [first = 0, second = 0] = blendWeights([a, b], labels);
  expect(first).toBeCloseTo(0.7, 1);
  expect(first + second).toBeCloseTo(1, 12);
});

test('a prior decides where there is little evidence, and gives way to much', () => {
  const good = Float64Array.of(0.9, 0.1);
  const bad = Float64Array.of(0.1, 0.9);
  const [few = 0] = blendWeights([good, bad], [0], { prior: [0.2, 0.8], priorRows: 100 });
  expect(few).toBeLessThan(0.22);
  const rows = 1_000;
  const many = (p: Float64Array): Float64Array =>
    Float64Array.from({ length: rows * 2 }, (_, i) => p[i % 2] ?? 0);
  const labels = Array.from({ length: rows }, () => 0);
  const [strong = 0] = blendWeights([many(good), many(bad)], labels, {
    prior: [0.2, 0.8],
    priorRows: 100,
  });
  expect(strong).toBeGreaterThan(0.85);
});

test('a blend of one model is that model, and no rows leave the prior', () => {
  const p = Float64Array.of(0.3, 0.7);
  expect([...blend([p], blendWeights([p], [1]))]).toEqual([0.3, 0.7]);
  expect(blendWeights([p, p], [], { prior: [0.25, 0.75] })).toEqual([0.25, 0.75]);
  expect(() => blendWeights([], [])).toThrow(/no models/);
});
