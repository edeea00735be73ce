import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import {
  type CalibrationData,
  conformal,
  energyScore,
  mahalanobisScore,
  neighbourScore,
  type Observed,
  probabilityScore,
  type UnseenSampleRecognition,
} from './recognition.ts';
import {
  chiSquareTail,
  fisherCombination,
  simesCombination,
  windowDetection,
} from './unseen-task.ts';

const WIDTH = 6;
const ALPHA = 0.05;

/** Samples of a known task; `shift` moves them away. */
function samplesOf(size: number, seed: number, shift: number = 0): Observed[] {
  const random = seededRandom(seed);
  return Array.from({ length: size }, () => {
    const features = Float32Array.from(
      { length: WIDTH },
      (_, k) => random.normal() + (k < 2 ? shift : 0),
    );
    const margin = 4 * random.normal() * (shift === 0 ? 1 : 0.7);
    return { features, logits: [margin, -margin, random.normal()] };
  });
}

const DETECTORS: Readonly<Record<string, UnseenSampleRecognition>> = {
  energy: conformal(energyScore()),
  probability: conformal(probabilityScore),
  mahalanobis: conformal(mahalanobisScore),
  neighbours: conformal(neighbourScore()),
};

function share(
  detector: UnseenSampleRecognition,
  state: ReturnType<UnseenSampleRecognition['fit']>,
  of: readonly Observed[],
): number {
  return of.filter((s) => detector.pValue(state, s) <= ALPHA).length / of.length;
}

function calibration(seed: number): CalibrationData {
  return {
    samples: samplesOf(4_000, seed),
    trained: samplesOf(1_500, seed + 1).map((s) => s.features),
  };
}

test.each(Object.keys(DETECTORS))(
  '%s: at α = 0.05, 3 to 7 % of held-out known samples are called unseen, over 20 seeds',
  (name) => {
    const detector = DETECTORS[name];
    if (!detector) throw new Error(name);
    const rates = Array.from({ length: 20 }, (_, seed) =>
      share(detector, detector.fit(calibration(seed * 10)), samplesOf(4_000, seed * 10 + 2)),
    );
    for (const rate of rates) {
      expect(rate).toBeGreaterThanOrEqual(0.03);
      expect(rate).toBeLessThanOrEqual(0.07);
    }
  },
);

test('what lies apart in features is found by distances where the energy of logits says little', () => {
  const recall = (name: string): number => {
    const detector = DETECTORS[name];
    if (!detector) throw new Error(name);
    return share(detector, detector.fit(calibration(1)), samplesOf(2_000, 9, 3));
  };
  expect(recall('mahalanobis')).toBeGreaterThan(0.85);
  expect(recall('neighbours')).toBeGreaterThan(0.85);
  expect(recall('energy')).toBeLessThan(0.3);
});

test('scores are those of their papers', () => {
  const observed = { logits: [1, 2, 3], features: new Float32Array() };
  const logSum = Math.log(Math.exp(1) + Math.exp(2) + Math.exp(3));
  expect(energyScore(1).score({}, observed)).toBeCloseTo(-logSum, 12);
  const soft = 2 * Math.log(Math.exp(0.5) + Math.exp(1) + Math.exp(1.5));
  expect(energyScore(2).score({}, observed)).toBeCloseTo(-soft, 12);
  expect(probabilityScore.score({}, observed)).toBeCloseTo(1 - Math.exp(3 - logSum), 12);
});

test('the Mahalanobis distance knows directions: the same step is far where samples do not go', () => {
  const random = seededRandom(3);
  const trained = Array.from({ length: 4_000 }, () =>
    Float32Array.of(5 * random.normal(), 0.5 * random.normal()),
  );
  const state = mahalanobisScore.fit(trained);
  const at = (x: number, y: number): number =>
    mahalanobisScore.score(state, { logits: [], features: Float32Array.of(x, y) });
  expect(at(0, 4) / at(4, 0)).toBeGreaterThan(10);
});

test('p-values: rank among calibration scores, smallest for NaN, 1 without calibration', () => {
  const byFirst = conformal({
    needsLogits: false,
    fit: () => ({}),
    score: (_s, { features }) => features[0] ?? 0,
  });
  const samples = [1, 2, 3, 4].map((v) => ({ logits: [], features: Float32Array.of(v) }));
  const state = byFirst.fit({ samples, trained: [] });
  const p = (v: number): number =>
    byFirst.pValue(state, { logits: [], features: Float32Array.of(v) });
  expect([p(0), p(2), p(2.5), p(9), p(Number.NaN)]).toEqual([1, 0.8, 0.6, 0.2, 0.2]);
  expect(byFirst.pValue(byFirst.fit({ samples: [], trained: [] }), samples[0] as Observed)).toBe(1);
});

test('combinations of p-values by hand', () => {
  // χ² with 2 degrees of freedom is exponential with mean 2.
  expect(chiSquareTail(3, 1)).toBeCloseTo(Math.exp(-1.5), 12);
  expect(chiSquareTail(9.488, 2)).toBeCloseTo(0.05, 4); // tabled 95 % point of 4 degrees
  expect(fisherCombination([0.05, 0.05])).toBeCloseTo(0.01747866, 6);
  expect(simesCombination([0.01, 0.5, 0.9])).toBeCloseTo(0.03, 12);
  expect(simesCombination([0.04, 0.03])).toBeCloseTo(0.04, 12);
});

test.each(['fisher', 'simes'] as const)(
  '%s: a window of known samples rarely alarms, of unknown ones soon',
  (combination) => {
    const random = seededRandom(5);
    let alarms = 0;
    for (let trial = 0; trial < 1_000; trial++) {
      const detection = windowDetection({ window: 10, alpha: 0.05, combination });
      for (let i = 0; i < 10; i++) if (detection.observe(1 - random.next())?.unseen) alarms++;
    }
    expect(alarms).toBeLessThan(75); // 50 expected, standard deviation 7
    expect(alarms).toBeGreaterThan(combination === 'fisher' ? 25 : 10);
    const detection = windowDetection({ window: 10, alpha: 0.05, combination });
    const verdicts = Array.from({ length: 10 }, () => detection.observe(0.02));
    expect(verdicts.slice(0, 9)).toEqual(Array.from({ length: 9 }, () => undefined));
    expect(verdicts[9]?.unseen).toBe(true);
  },
);
