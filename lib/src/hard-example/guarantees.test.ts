import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import { UploadBudget } from './budget.ts';
import {
  calibrationError,
  fitTemperature,
  type LabelledLogits,
  negativeLogLikelihood,
} from './calibration.ts';
import { deferralFromJson, deferralScore, fitDeferral } from './deferral.ts';
import { growDeferral } from './grown-deferral.ts';
import type { ModelPair } from './model-pair.ts';
import {
  binomialTail,
  conformalRiskThreshold,
  hoeffdingBentkus,
  learnThenTestThreshold,
  type ScoredSample,
} from './risk-control.ts';

/** Logits of a model that says its true beliefs, times how much too sure it is. */
function overconfident(size: number, factor: number, seed: number): LabelledLogits {
  const random = seededRandom(seed);
  const logits = new Float64Array(size * 3);
  const labels = Array.from({ length: size }, (_, i) => {
    const z = [random.normal(), random.normal(), random.normal()];
    const p = z.map((v) => Math.exp(v));
    const sum = p.reduce((a, b) => a + b, 0);
    logits.set(
      z.map((v) => v * factor),
      i * 3,
    );
    let u = random.next() * sum;
    return p.findIndex((v) => (u -= v) < 0);
  });
  return { logits, classes: 3, labels };
}

test('the temperature that undoes overconfidence is found, and the calibration error falls', () => {
  const data = overconfident(6_000, 2.5, 1);
  const temperature = fitTemperature(data);
  expect(temperature).toBeCloseTo(2.5, 0);
  expect(calibrationError(data)).toBeGreaterThan(0.1);
  expect(calibrationError(data, temperature)).toBeLessThan(0.03);
  expect(negativeLogLikelihood(data, temperature)).toBeLessThan(negativeLogLikelihood(data, 1));
});

test('calibration error by hand: two bins', () => {
  // Confidence 0.75 and right, 0.75 and wrong: |1 − 1.5| / 2.
  const z = Math.log(3);
  const data = { logits: [z, 0, z, 0], classes: 2, labels: [0, 1] };
  expect(calibrationError(data)).toBeCloseTo(0.25, 12);
  expect(() => calibrationError({ logits: [1], classes: 1, labels: [0] })).toThrow(/two classes/);
});

/** The surer, the rarer an error: P(wrong | s) = (1 − s)/2. */
function scored(size: number, seed: number): ScoredSample[] {
  const random = seededRandom(seed);
  return Array.from({ length: size }, () => {
    const score = random.next();
    return { score, wrong: random.next() < (1 - score) / 2 };
  });
}

function riskOf(threshold: number, samples: readonly ScoredSample[]): number {
  return samples.filter((s) => s.score >= threshold && s.wrong).length / samples.length;
}

test('learn then test: the promise is broken in at most δ of 200 splits; on average, conformal risk keeps it', () => {
  const alpha = 0.1;
  let broken = 0;
  let sum = 0;
  for (let seed = 0; seed < 200; seed++) {
    const calibration = scored(500, seed);
    const held = scored(20_000, 10_000 + seed);
    const safe = learnThenTestThreshold(calibration, { alpha, delta: 0.05 });
    if (riskOf(safe, held) > alpha) broken++;
    sum += riskOf(conformalRiskThreshold(calibration, alpha), held);
  }
  expect(broken).toBeLessThanOrEqual(16); // 10 allowed, 2 standard deviations on top
  expect(sum / 200).toBeLessThanOrEqual(0.1005);
  expect(sum / 200).toBeGreaterThan(0.09); // and not by sending everything up
});

test('too few samples are refused with the number that is needed', () => {
  expect(() => conformalRiskThreshold(scored(18, 1), 0.05)).toThrow(/at least 19 are needed/);
  expect(() => learnThenTestThreshold(scored(40, 1), { alpha: 0.05, delta: 0.05 })).toThrow(
    /at least 59 are needed/,
  );
  expect(() => conformalRiskThreshold([{ score: 2, wrong: false }], 0.9)).toThrow(/\[0, 1\]/);
  expect(() => conformalRiskThreshold(scored(50, 1), 1)).toThrow(/risk must be in \(0, 1\)/);
});

test('an edge that is always wrong sends everything up; one that never is keeps everything', () => {
  const wrong = scored(100, 1).map((s) => ({ ...s, wrong: true }));
  const right = scored(100, 1).map((s) => ({ ...s, wrong: false }));
  expect(riskOf(conformalRiskThreshold(wrong, 0.05), wrong)).toBeLessThanOrEqual(0.05);
  const lowest = Math.min(...right.map((s) => s.score));
  expect(conformalRiskThreshold(right, 0.05)).toBe(lowest);
});

test('errors of a saturated model, which scores exactly 1, are not kept by a promise', () => {
  const saturated = Array.from({ length: 1_000 }, (_, i) => ({ score: 1, wrong: i < 20 }));
  for (const threshold of [
    conformalRiskThreshold(saturated, 0.01),
    learnThenTestThreshold(saturated, { alpha: 0.01, delta: 0.05 }),
  ])
    expect(riskOf(threshold, saturated)).toBe(0);
});

test('bounds by hand', () => {
  expect(binomialTail(3, 1, 0.5)).toBeCloseTo(0.5, 12);
  expect(hoeffdingBentkus(0, 10, 0.5)).toBeCloseTo(0.5 ** 10, 12); // kl(0, ½) = ln 2
  expect(hoeffdingBentkus(6, 10, 0.5)).toBe(1);
});

test('an upload budget is kept while the difficulty doubles half-way', () => {
  const random = seededRandom(3);
  const budget = new UploadBudget({ budget: 0.1 });
  const share = { early: 0, late: 0 };
  for (let i = 0; i < 20_000; i++) {
    const hard = random.next() < (i < 10_000 ? 0.2 : 0.4);
    const score = hard ? 0.6 * random.next() : 0.5 + 0.5 * random.next();
    if (budget.admit(score)) share[i < 10_000 ? 'early' : 'late']++;
  }
  for (const n of Object.values(share)) expect(Math.abs(n / 10_000 - 0.1)).toBeLessThan(0.01);
});

test('a burst cannot spend more than the bucket holds, and a calm stretch saves no more', () => {
  const budget = new UploadBudget({ budget: 0.1, threshold: 1, step: 1e-6, burst: 5 });
  for (let i = 0; i < 1_000; i++) budget.admit(1);
  let sent = 0;
  for (let i = 0; i < 100; i++) if (budget.admit(0)) sent++;
  expect(sent).toBeLessThanOrEqual(5 + 10);
  expect(() => new UploadBudget({ budget: 1.5 })).toThrow(/uploadBudget must be in/);
});

/** The cloud knows class 0 and nothing of class 1; the edge is as unsure of both. */
function pairs(size: number, seed: number): ModelPair[] {
  const random = seededRandom(seed);
  return Array.from({ length: size }, () => {
    const kind = random.next() < 0.5 ? 0 : 1;
    const top = 0.5 + 0.5 * random.next();
    const edgeRight = random.next() < top;
    return {
      edge: kind === 0 ? [top, 1 - top] : [1 - top, top],
      edgeRight,
      cloudRight: kind === 0 ? random.next() < 0.95 : edgeRight && random.next() < 0.9,
    };
  });
}

test('learned deferral sends up what the cloud can mend, where confidence sends up what nobody can', () => {
  const model = fitDeferral(pairs(3_000, 1));
  const held = pairs(4_000, 2);
  const accuracy = (score: (p: ModelPair) => number): number => {
    const cut = held.map(score).toSorted((a, b) => a - b)[Math.floor(held.length * 0.2)] ?? 0;
    return held.filter((p) => (score(p) < cut ? p.cloudRight : p.edgeRight)).length / held.length;
  };
  const byConfidence = accuracy((p) => Math.max(...Array.from(p.edge)));
  const learned = accuracy((p) => deferralScore(model, p.edge));
  expect(learned).toBeGreaterThan(byConfidence + 0.02);
  const again = deferralFromJson(JSON.stringify(model));
  expect(deferralScore(again, [0.7, 0.3])).toBe(deferralScore(model, [0.7, 0.3]));
});

test('grown deferral finds what no straight line can: a pair of classes that only the cloud tells apart', () => {
  // Classes 0 and 1 are told apart by the cloud; of 2 and 3 neither model knows anything.
  const make = (size: number, seed: number): ModelPair[] => {
    const random = seededRandom(seed);
    return Array.from({ length: size }, () => {
      const low = random.next() < 0.5;
      const top = 0.5 + 0.45 * random.next();
      const [a, b] = low ? [0, 1] : [2, 3];
      const swap = random.next() < 0.5;
      const edge = [0.01, 0.01, 0.01, 0.01];
      edge[swap ? b : a] = top;
      edge[swap ? a : b] = 0.98 - top;
      const edgeRight = random.next() < top;
      return { edge, edgeRight, cloudRight: low ? random.next() < 0.97 : edgeRight };
    });
  };
  const model = growDeferral(make(6_000, 1));
  const held = make(4_000, 2);
  const accuracy = (score: (p: ModelPair) => number): number => {
    const cut = held.map(score).toSorted((a, b) => a - b)[Math.floor(held.length * 0.3)] ?? 0;
    return held.filter((p) => (score(p) < cut ? p.cloudRight : p.edgeRight)).length / held.length;
  };
  const best = Math.max(
    accuracy((p) => Math.max(...Array.from(p.edge))),
    accuracy((p) => {
      const [x = 0, y = 0] = Array.from(p.edge).toSorted((a, b) => b - a);
      return x - y;
    }),
  );
  expect(accuracy((p) => deferralScore(model, p.edge))).toBeGreaterThan(best + 0.02);
  const again = deferralFromJson(JSON.stringify(model));
  for (const { edge } of held.slice(0, 50))
    expect(deferralScore(again, edge)).toBe(deferralScore(model, edge));
  expect(() => deferralScore(model, [0.5, 0.5])).toThrow(/for 4 classes, the edge has 2/);
  expect(() => growDeferral(make(50, 1))).toThrow(/needs 100 pairs/);
  const circle = {
    classes: 2,
    base: 0,
    trees: [{ feature: [0], threshold: [0], left: [0], value: [0] }],
  };
  expect(() => deferralFromJson(JSON.stringify(circle))).toThrow(/a deferral model is/);
});

test('a deferral model is not fitted to nothing, nor used on other classes', () => {
  expect(() => fitDeferral(pairs(10, 1))).toThrow(/at least 30 pairs/);
  expect(() => fitDeferral(pairs(50, 1).map((p) => ({ ...p, cloudRight: false })))).toThrow(
    /got 50 pairs, 0 of them so/,
  );
  const model = fitDeferral(pairs(200, 1));
  expect(() => deferralScore(model, [0.2, 0.3, 0.5])).toThrow(/for 2 classes, the edge has 3/);
  expect(() => deferralFromJson('{"weights": "many"}')).toThrow(/a deferral model is/);
});
