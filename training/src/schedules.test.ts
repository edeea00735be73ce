import { expect, test } from 'vitest';
import { constantRate, cosineDecay, stepDecay, warmup } from './schedules.ts';

test('rates at the places where the formulas differ', () => {
  expect(constantRate(0.3)(99)).toBe(0.3);
  const cosine = cosineDecay(1, 100, 0.1);
  expect([1, 51, 101, 500].map((s) => Number(cosine(s).toFixed(6)))).toEqual([1, 0.55, 0.1, 0.1]);
  expect([1, 10, 11, 21].map(stepDecay(1, 10, 0.5))).toEqual([1, 1, 0.5, 0.25]);
  expect([1, 2, 4, 8].map(warmup(4, constantRate(2)))).toEqual([0.5, 1, 2, 2]);
  expect(() => cosineDecay(1, 0)).toThrow(/steps must be ≥ 1, got 0/);
});
