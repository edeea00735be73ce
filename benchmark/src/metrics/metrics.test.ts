import { lifelongMetrics } from '@shoal/lib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { mixtureAccuracy } from '../paradigms/federated.ts';
import type { Observations, TestResults } from '../paradigms/observations.ts';
import { METRICS } from './built-in.ts';
import { accuracyOf, areaUnderCurve, concordance, macroF1, microF1 } from './classification.ts';

/** Observations of a sequence with this R. */
function sequence(
  matrix: readonly (readonly number[])[],
  baselines: readonly number[] = [],
): Observations {
  return { matrix, transfer: lifelongMetrics(matrix, baselines) };
}

const measured = { wallSeconds: 1, cpuSeconds: 1, peakMemoryBytes: 1 };

function figure(name: string, o: Observations, target?: number): number | undefined {
  const metric = METRICS.find((m) => m.name === name);
  if (!metric) throw new Error(`no metric ${name}`);
  return metric.compute(o, measured, target === undefined ? {} : { target });
}

function results(labels: number[], predicted: number[]): TestResults {
  return { labels: Int32Array.from(labels), predicted: Int32Array.from(predicted), classes: 10 };
}

const answers = fc
  .array(fc.tuple(fc.nat(4), fc.nat(4)), { minLength: 1, maxLength: 60 })
  .map((pairs) =>
    results(
      pairs.map(([l]) => l),
      pairs.map(([, p]) => p),
    ),
  );

describe('transfer and forgetting, where Ianvs computes something else', () => {
  // Each task is learned to 0.9 and then falls to 0.2 and 0.1.
  const catastrophe = sequence(
    [
      [0.9, 0.1, 0.1],
      [0.2, 0.9, 0.1],
      [0.1, 0.2, 0.9],
    ],
    [0.1, 0.1, 0.1],
  );

  it('calls catastrophic forgetting −0.75, not +0.10', () => {
    expect(figure('bwt', catastrophe)).toBeCloseTo(-0.75, 12);
    expect(figure('forgetting', catastrophe)).toBeCloseTo(0.75, 12);
  });

  it('calls perfect memory 0, not +0.27', () => {
    const perfect = sequence(
      [
        [0.9, 0.1, 0.1],
        [0.9, 0.9, 0.1],
        [0.9, 0.9, 0.9],
      ],
      [0.1, 0.1, 0.1],
    );
    expect(figure('bwt', perfect)).toBeCloseTo(0, 12);
    expect(figure('acc', perfect)).toBeCloseTo(0.9, 12);
    expect(figure('fwt', perfect)).toBeCloseTo(0, 12);
  });

  it('does not dilute forgetting by tasks that cannot be forgotten yet: 0.60, not 0.15', () => {
    expect(
      figure(
        'forgetting',
        sequence([
          [0.8, 0],
          [0.2, 0.8],
        ]),
      ),
    ).toBeCloseTo(0.6, 12);
  });

  it('counts uploads by inferences, without one more', () => {
    expect(figure('samples_transfer_ratio', { uploads: 5, inferences: 10 })).toBe(0.5);
    expect(figure('samples_transfer_ratio', { uploads: 0, inferences: 0 })).toBe(0);
  });

  it('never calls forgetting less than the loss since a task was learned', () => {
    const score = fc.double({ min: 0, max: 1, noNaN: true });
    const square = fc
      .integer({ min: 2, max: 6 })
      .chain((n) =>
        fc.array(fc.array(score, { minLength: n, maxLength: n }), { minLength: n, maxLength: n }),
      );
    fc.assert(
      fc.property(square, (matrix) => {
        const { forgetting, backwardTransfer } = lifelongMetrics(matrix);
        expect(forgetting).toBeGreaterThanOrEqual(-backwardTransfer - 1e-12);
      }),
    );
  });
});

describe('classification', () => {
  it('is 1 for right answers and does not care for their order', () => {
    fc.assert(
      fc.property(answers, fc.nat(), (r, by) => {
        const order = Array.from(r.labels.keys()).toSorted(
          (a, b) => ((a * 7919 + by) % 101) - ((b * 7919 + by) % 101),
        );
        const shuffled = results(
          order.map((i) => r.labels[i] ?? 0),
          order.map((i) => r.predicted[i] ?? 0),
        );
        expect(macroF1(shuffled)).toBeCloseTo(macroF1(r) ?? Number.NaN, 12);
        expect(accuracyOf(results([...r.labels], [...r.labels]))).toBe(1);
        expect(macroF1(results([...r.labels], [...r.labels]))).toBe(1);
      }),
    );
  });

  it('has a micro F1 that is the accuracy', () => {
    fc.assert(
      fc.property(answers, (r) => {
        expect(microF1(r)).toBeCloseTo(accuracyOf(r) ?? Number.NaN, 12);
      }),
    );
  });

  it('averages F1 over the classes (by hand)', () => {
    // Class 0: 2 of 3 said and there 2: F1 = 4/5; class 1: 1 hit, said 1, there 2: F1 = 2/3.
    expect(macroF1(results([0, 0, 1, 1], [0, 0, 0, 1]))).toBeCloseTo((4 / 5 + 2 / 3) / 2, 12);
  });

  it('has an AUC of the share of pairs in the right order, ties half (by hand)', () => {
    const scores = Float32Array.from([0.9, 0.1, 0.6, 0.4, 0.4, 0.6, 0.4, 0.6]);
    const r = { ...results([0, 1, 0, 1], [0, 0, 1, 1]), classes: 2, scores };
    // Members of class 1 score 0.4 and 0.6; strangers 0.1 and 0.6: pairs right 1 + 0.5·… = 0.4>0.1, 0.4<0.6, 0.6>0.1, 0.6=0.6.
    expect(areaUnderCurve(r)).toBeCloseTo((1 + 0 + 1 + 0.5) / 4, 12);
  });

  it('has no AUC for a model that fell apart', () => {
    const scores = Float32Array.from([Number.NaN, Number.NaN, 0.5, 0.5]);
    expect(areaUnderCurve({ ...results([0, 1], [0, 0]), classes: 2, scores })).toBeUndefined();
  });

  it('turns AUC round when the scores are', () => {
    const pairs = fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 0, max: 20 })), {
      minLength: 4,
      maxLength: 40,
    });
    fc.assert(
      fc.property(pairs, (list) => {
        const labels = list.map(([is]) => Number(is));
        fc.pre(labels.includes(0) && labels.includes(1));
        const of = (sign: number): number | undefined =>
          areaUnderCurve({
            ...results(labels, labels),
            classes: 2,
            scores: Float32Array.from(list.flatMap(([, s]) => [0, sign * s])),
          });
        expect((of(1) ?? 0) + (of(-1) ?? 0)).toBeCloseTo(1, 9);
      }),
    );
  });

  it('counts only pairs whose order is known for the C-index (by hand)', () => {
    const r: TestResults = {
      labels: new Int32Array(),
      predicted: new Int32Array(),
      classes: 0,
      values: Float32Array.from([3, 2, 1]),
      // Times 1, 2, 3; the second was only last seen then: pairs (1,2), (1,3).
      targets: Float32Array.from([1, 1, 2, 0, 3, 1]),
      targetWidth: 2,
    };
    expect(concordance(r)).toBe(1);
    expect(concordance({ ...r, values: Float32Array.from([1, 2, 2]) })).toBe(0);
    expect(concordance({ ...r, values: Float32Array.from([2, 2, 1]) })).toBe(0.75);
  });
});

describe('how a model does for a participant', () => {
  it('is its recall of each class, as often as the participant has it (by hand)', () => {
    // Class 0: 1 of 2 right; class 1: 2 of 2. Three quarters class 0: 0.75 · 0.5 + 0.25 · 1.
    const everyone = results([0, 0, 1, 1], [0, 1, 1, 1]);
    expect(mixtureAccuracy([0n, 0n, 0n, 1n], everyone)).toBeCloseTo(0.625, 12);
  });

  it('is the accuracy for a participant that has what everyone has', () => {
    fc.assert(
      fc.property(answers, (r) => {
        const mixture = BigInt64Array.from(r.labels, BigInt);
        expect(mixtureAccuracy(mixture, r)).toBeCloseTo(accuracyOf(r) ?? Number.NaN, 12);
      }),
    );
  });
});

describe('courses and participants', () => {
  const curve = [
    { step: 1, value: 0.5, bytes: 100, virtualSeconds: 10 },
    { step: 2, value: 0.8, bytes: 200, virtualSeconds: 25 },
    { step: 3, value: 0.7, bytes: 300, virtualSeconds: 31 },
  ];

  it('finds when a score was first reached, and nothing when it never was', () => {
    expect(figure('time_to_accuracy', { curve }, 0.75)).toBe(25);
    expect(figure('bytes_to_accuracy', { curve }, 0.75)).toBe(200);
    expect(figure('rounds_to_accuracy', { curve }, 0.9)).toBeUndefined();
  });

  it('shows the participants’ spread', () => {
    const participants = [0.5, 0.6, 0.9].map((accuracy, i) => ({
      name: `p${i}`,
      samples: 1,
      accuracy,
    }));
    expect(figure('participant_accuracy_p50', { participants })).toBeCloseTo(0.6, 12);
    expect(figure('fairness_gap', { participants })).toBeCloseTo(0.4, 12);
  });

  it('says nothing of what was not observed', () => {
    const said = METRICS.filter((m) => !m.isMeasured && m.compute({}, measured, {}) !== undefined);
    expect(said.map((m) => m.name)).toEqual([]);
  });
});
