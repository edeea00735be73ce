import { seededRandom } from '@shoal/core';
import { describe, expect, test } from 'vitest';
import { Adwin } from './adwin.ts';
import { driftDetector } from './drift-detector.ts';
import { PageHinkley } from './page-hinkley.ts';

/** Confidences about a mean, kept in [0, 1]. */
function confidences(mean: number, count: number, seed: number): number[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () =>
    Math.min(1, Math.max(0, mean + 0.1 * random.normal())),
  );
}

describe('Page-Hinkley', () => {
  test('rings at the very value that a hand calculation says', () => {
    // x = 1, 1, 1, 0: means 1, 1, 1, 0.75; m = −0.1, −0.2, −0.3, −0.3 + 0.75 − 0 − 0.1 = 0.35;
    // M = −0.3, so m − M = 0.65.
    const rings = (threshold: number): boolean[] => {
      const test = new PageHinkley({ delta: 0.1, threshold, minInstances: 1 });
      return [1, 1, 1, 0].map((x) => test.add(x));
    };
    expect(rings(0.64)).toEqual([false, false, false, true]);
    expect(rings(0.66)).toEqual([false, false, false, false]);
  });

  test('waits for minInstances, and begins anew after an alarm', () => {
    const test = new PageHinkley({ delta: 0, threshold: 0.5, minInstances: 6 });
    const rings = [1, 1, 1, 0, 0, 0, 0, 0].map((x) => test.add(x));
    expect(rings).toEqual([false, false, false, false, false, true, false, false]);
  });
});

describe('ADWIN', () => {
  test('keeps counts and means while it compresses', () => {
    const adwin = new Adwin({ delta: 0.002 });
    const values = confidences(0.8, 1_000, 1);
    for (const v of values) adwin.add(v);
    expect(adwin.size).toBe(1_000);
    expect(adwin.mean).toBeCloseTo(values.reduce((a, b) => a + b) / 1_000, 10);
  });

  test('cuts off what was before a change', () => {
    const adwin = new Adwin({ delta: 0.002 });
    for (const v of confidences(0.9, 2_000, 2)) adwin.add(v);
    for (const v of confidences(0.6, 1_000, 3)) adwin.add(v);
    expect(adwin.mean).toBeLessThan(0.65);
    expect(adwin.size).toBeLessThan(1_100);
  });

  test('a rise of confidence moves the window and is no alarm', () => {
    const adwin = new Adwin({ delta: 0.002 });
    const stream = [...confidences(0.5, 1_000, 4), ...confidences(0.9, 1_000, 5)];
    expect(stream.some((v) => adwin.add(v))).toBe(false);
    expect(adwin.mean).toBeGreaterThan(0.85);
  });
});

describe.each(['PageHinkley', 'ADWIN'])('%s', (name) => {
  test('finds a fall of the mean within 200 samples and seldom rings without one', () => {
    let falseAlarms = 0;
    for (let seed = 0; seed < 20; seed++) {
      const detector = driftDetector(name);
      for (const v of confidences(0.9, 2_000, 10 + seed)) falseAlarms += Number(detector.add(v));
      const at = confidences(0.7, 200, 100 + seed).findIndex((v) => detector.add(v));
      expect(at).toBeGreaterThan(0);
    }
    expect(falseAlarms).toBeLessThanOrEqual(1);
  });

  test('leaves out what is no number', () => {
    const detector = driftDetector(name);
    expect(detector.add(Number.NaN)).toBe(false);
  });
});

test('bad settings are named', () => {
  expect(() => driftDetector('KSWIN')).toThrow('choose one of PageHinkley, ADWIN');
  expect(() => driftDetector('ADWIN', { delta: '2' })).toThrow(
    'delta must be a number above 0 and below 1',
  );
  expect(() => driftDetector('ADWIN', { threshold: '2' })).toThrow(
    'ADWIN has no parameter "threshold"',
  );
});
