import { expect, test } from 'vitest';
import { lifelongMetrics, samplesTransferRatio } from './metrics.ts';

// Forgets everything but the newest task; forward transfer is above the untrained model.
const CATASTROPHE = [
  [0.95, 0.3, 0.1],
  [0.2, 0.95, 0.4],
  [0.2, 0.2, 0.95],
];

test('backward transfer compares the end with the moment a task was learned, not neighbouring rows', () => {
  const { accuracy, backwardTransfer } = lifelongMetrics(CATASTROPHE);
  expect(accuracy).toBeCloseTo(0.45, 12);
  // Ianvs's telescoped sum would give a different number: the mean of R[i+1][j] − R[i][j].
  expect(backwardTransfer).toBeCloseTo((0.2 - 0.95 + (0.2 - 0.95)) / 2, 12);
});

test('forward transfer is measured on the row before a task is learned, against the untrained model', () => {
  const { forwardTransfer } = lifelongMetrics(CATASTROPHE, [0.1, 0.1, 0.1]);
  expect(forwardTransfer).toBeCloseTo((0.3 - 0.1 + (0.4 - 0.1)) / 2, 12);
});

test('forgetting takes the best score a task ever had, and leaves out the last task', () => {
  const matrix = [
    [0.8, 0, 0],
    [0.9, 0.7, 0],
    [0.6, 0.7, 0.9],
  ];
  const { forgetting, backwardTransfer } = lifelongMetrics(matrix);
  // (0.9 − 0.6 + 0.7 − 0.7) / 2; divided by three tasks it would be diluted to 0.1.
  expect(forgetting).toBeCloseTo(0.15, 12);
  expect(backwardTransfer).toBeCloseTo((0.6 - 0.8 + 0) / 2, 12);
});

test('one task has an accuracy and nothing to transfer', () => {
  const { accuracy, backwardTransfer, forwardTransfer, forgetting } = lifelongMetrics([[0.9]]);
  expect(accuracy).toBe(0.9);
  for (const value of [backwardTransfer, forwardTransfer, forgetting]) expect(value).toBeNaN();
});

test('a matrix that is not square names its row', () => {
  expect(() => lifelongMetrics([[1, 0], [1]])).toThrow(/row 1 has 1 columns/);
  expect(() => lifelongMetrics([])).toThrow(/no tasks/);
});

test('each sample is uploaded at most once', () => {
  expect(samplesTransferRatio(3, 12)).toBe(0.25);
  expect(samplesTransferRatio(0, 0)).toBe(0);
  expect(() => samplesTransferRatio(13, 12)).toThrow(/13 uploads of 12/);
});
