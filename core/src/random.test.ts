import fc from 'fast-check';
import { expect, test } from 'vitest';
import { backoffMs } from './backoff.ts';
import { seededRandom } from './random.ts';

test('the same seed gives the same stream, forks are independent of each other', () => {
  const draw = (seed: number): number[] => {
    const random = seededRandom(seed);
    return Array.from({ length: 5 }, () => random.next());
  };
  expect(draw(7)).toEqual(draw(7));
  expect(draw(7)).not.toEqual(draw(8));
  const parent = seededRandom(1);
  expect(parent.fork('a').next()).not.toBe(parent.fork('b').next());
  expect(parent.fork('a').next()).toBe(seededRandom(1).fork('a').next());
});

test('uniform and normal deviates have the moments they should', () => {
  const random = seededRandom(3);
  const n = 20_000;
  const uniform = Array.from({ length: n }, () => random.next());
  const normal = Array.from({ length: n }, () => random.normal());
  const mean = (v: number[]): number => v.reduce((a, b) => a + b, 0) / v.length;
  const variance = (v: number[]): number => mean(v.map((x) => (x - mean(v)) ** 2));
  expect(mean(uniform)).toBeCloseTo(0.5, 1);
  expect(variance(uniform)).toBeCloseTo(1 / 12, 2);
  expect(Math.abs(mean(normal))).toBeLessThan(0.03);
  expect(variance(normal)).toBeGreaterThan(0.95);
  expect(variance(normal)).toBeLessThan(1.05);
  expect(Math.min(...uniform)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...uniform)).toBeLessThan(1);
});

test('a permutation holds every number once', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 200 }), fc.integer(), (n, seed) => {
      const sorted = [...seededRandom(seed).permutation(n)].toSorted((a, b) => a - b);
      expect(sorted).toEqual(Array.from({ length: n }, (_, i) => i));
    }),
  );
});

test('back-off stays under its ceiling and the ceiling doubles up to the cap', () => {
  const always = { ...seededRandom(1), next: () => 0.999_999 };
  const waits = [0, 1, 2, 10, 1000].map((k) => backoffMs(k, { baseMs: 100, capMs: 1_000 }, always));
  expect(waits.map(Math.round)).toEqual([100, 200, 400, 1_000, 1_000]);
});
