import { quantileSorted } from 'simple-statistics';
import type { StoredUpdate } from './round-store.ts';

/** Means of the participants' scores, weighted by samples. */
export function meanMetrics(updates: readonly StoredUpdate[]): Record<string, number> {
  const sums = new Map<string, [number, number]>();
  for (const { metrics, samples } of updates) {
    for (const [name, value] of Object.entries(metrics)) {
      const [sum, weight] = sums.get(name) ?? [0, 0];
      sums.set(name, [sum + value * samples, weight + samples]);
    }
  }
  return Object.fromEntries([...sums].map(([k, [sum, weight]]) => [k, sum / weight]));
}

/** 10th, 50th and 90th percentile of each score over the participants, every one counting once. */
export function spreadOf(
  updates: readonly StoredUpdate[],
): Record<string, [p10: number, p50: number, p90: number]> {
  const names = [...new Set(updates.flatMap((u) => Object.keys(u.metrics)))];
  return Object.fromEntries(
    names.map((name) => {
      const values = updates
        .flatMap(({ metrics }) => (Object.hasOwn(metrics, name) ? (metrics[name] ?? []) : []))
        .toSorted((a, b) => a - b);
      const at = (share: number): number => quantileSorted(values, share);
      return [name, [at(0.1), at(0.5), at(0.9)]];
    }),
  );
}
