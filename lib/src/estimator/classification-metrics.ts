import type { Metrics } from './estimator.ts';

/** Position of the largest value in a row. */
export function argMax(values: Float32Array, from: number, length: number): number {
  let best = 0;
  for (let i = 1; i < length; i++)
    if ((values[from + i] ?? 0) > (values[from + best] ?? 0)) best = i;
  return best;
}

/**
 * Accuracy, and precision and recall averaged over the classes that occur (macro; Sokolova &
 * Lapalme 2009). A class that is never predicted has precision 0.
 */
export function classificationMetrics(
  predicted: ArrayLike<number>,
  labels: ArrayLike<bigint>,
  classes: number,
): Metrics {
  const hits = new Float64Array(classes);
  const said = new Float64Array(classes);
  const there = new Float64Array(classes);
  for (let i = 0; i < predicted.length; i++) {
    const p = predicted[i] ?? 0;
    const y = Number(labels[i]);
    said[p] = (said[p] ?? 0) + 1;
    there[y] = (there[y] ?? 0) + 1;
    if (p === y) hits[p] = (hits[p] ?? 0) + 1;
  }
  const seen = Array.from({ length: classes }, (_, k) => k).filter((k) => (there[k] ?? 0) > 0);
  const mean = (f: (k: number) => number): number =>
    seen.length === 0 ? 0 : seen.reduce((s, k) => s + f(k), 0) / seen.length;
  return {
    accuracy: predicted.length === 0 ? 0 : hits.reduce((a, b) => a + b, 0) / predicted.length,
    precision: mean((k) => ((said[k] ?? 0) === 0 ? 0 : (hits[k] ?? 0) / (said[k] ?? 1))),
    recall: mean((k) => (hits[k] ?? 0) / (there[k] ?? 1)),
  };
}
