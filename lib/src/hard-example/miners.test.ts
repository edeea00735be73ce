import { seededRandom } from '@shoal/core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { EdgeResult } from './miner.ts';
import { certainty, createMiner, MINER_NAMES } from './miners.ts';

const classes = (...probabilities: number[]): EdgeResult => ({
  kind: 'probabilities',
  probabilities,
});
const boxes = (...scores: number[]): EdgeResult => ({
  kind: 'boxes',
  boxes: scores.map((s) => [0, 0, 1, 1, s, 0]),
});

test('CrossEntropy: 1 + Σ p ln p / ln n, also where a probability is 0 and for one class', () => {
  expect(certainty(classes(1, 0))).toBe(1);
  expect(certainty(classes(0.5, 0.5))).toBeCloseTo(0, 12);
  expect(certainty(classes(0.9, 0.1))).toBeCloseTo(
    1 + (0.9 * Math.log(0.9) + 0.1 * Math.log(0.1)) / Math.log(2),
    12,
  );
  expect(certainty(classes(1))).toBe(1);
  const miner = createMiner('CrossEntropy', { threshold_cross_entropy: '0.6' });
  expect(miner.judge(classes(1, 0))).toEqual({ hard: false, score: 1, threshold: 0.6 });
  expect(miner.judge(classes(0.6, 0.4)).hard).toBe(true);
});

test('Threshold: the mean score of the boxes, or the best class', () => {
  const miner = createMiner('Threshold', { threshold: '0.5' });
  expect(miner.judge(boxes(0.9, 0.2)).score).toBeCloseTo(0.55);
  expect(miner.judge(boxes(0.9, 0.2)).hard).toBe(false);
  expect(miner.judge(boxes(0.3, 0.2)).hard).toBe(true);
  expect(miner.judge(classes(0.2, 0.45, 0.35)).hard).toBe(true);
});

test('IBT: hard when the share of boxes with score ≤ θ_box is at least 1 − θ_img', () => {
  const miner = createMiner('IBT', { threshold_img: '0.4', threshold_box: '0.5' });
  for (let low = 0; low <= 5; low++) {
    const scores = Array.from({ length: 5 }, (_, i) => (i < low ? 0.5 : 0.8));
    expect(miner.judge(boxes(...scores)).hard).toBe(low / 5 >= 1 - 0.4);
  }
});

test('an empty detection is hard: nothing found is no confidence', () => {
  for (const name of ['Threshold', 'IBT', 'CrossEntropy'])
    expect(createMiner(name).judge(boxes()).hard).toBe(true);
});

test('CloudOnly, EdgeOnly and Random; string parameters as a manifest gives them', () => {
  expect(createMiner('CloudOnly').judge(classes(1, 0)).hard).toBe(true);
  expect(createMiner('EdgeOnly').judge(classes(0.5, 0.5)).hard).toBe(false);
  const miner = createMiner('Random', { random_ratio: '0.3' }, seededRandom(4));
  const hard = Array.from({ length: 5_000 }, () => miner.judge(classes(1)).hard).filter(
    Boolean,
  ).length;
  expect(hard / 5_000).toBeGreaterThan(0.27);
  expect(hard / 5_000).toBeLessThan(0.33);
});

test('scores of every miner are in [0, 1] for any result', () => {
  const weights = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), {
    minLength: 1,
    maxLength: 8,
  });
  fc.assert(
    fc.property(
      fc.constantFrom(...MINER_NAMES.filter((n) => n !== 'LearnedDeferral')),
      weights,
      fc.boolean(),
      (name, values, detect) => {
        const total = values.reduce((a, b) => a + b, 0) || 1;
        const { score } = createMiner(name).judge(
          detect ? boxes(...values) : classes(...values.map((v) => v / total)),
        );
        expect(score).toBeGreaterThanOrEqual(0);
        expect(score).toBeLessThanOrEqual(1);
      },
    ),
  );
});

test.each([
  ['Magic', {}, /"Magic" is not known; known are: Threshold/],
  ['Threshold', { threshold: 'high' }, /threshold must be a number from 0 to 1, got "high"/],
  ['Threshold', { threshhold: '0.5' }, /has no parameter "threshhold"; it has: threshold/],
])('%s %j is refused with a reason', (name, parameters, message) => {
  expect(() => createMiner(name, parameters)).toThrow(message);
});
