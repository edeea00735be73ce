import { expect, test } from 'vitest';
import { classificationMetrics } from './classification-metrics.ts';
import { softmaxRows } from './onnx.ts';

test('accuracy, macro precision and recall by hand', () => {
  // Class 0: 2 of 3 found, said 2 times; class 1: 1 of 2 found, said 3 times; class 2: never said.
  const metrics = classificationMetrics([0, 0, 1, 1, 1], [0n, 0n, 0n, 1n, 2n], 4);
  expect(metrics['accuracy']).toBeCloseTo(3 / 5);
  expect(metrics['precision']).toBeCloseTo((2 / 2 + 1 / 3 + 0) / 3);
  expect(metrics['recall']).toBeCloseTo((2 / 3 + 1 / 1 + 0 / 1) / 3);
});

test('no samples give zeros, not NaN', () => {
  expect(classificationMetrics([], [], 3)).toEqual({ accuracy: 0, precision: 0, recall: 0 });
});

test('softmax is stable for large logits', () => {
  const rows = softmaxRows(Float32Array.of(1000, 1001, -1000, 0), 2);
  expect(rows[0]).toBeCloseTo(1 / (1 + Math.E), 5);
  expect(rows[3]).toBeCloseTo(1, 5);
});
