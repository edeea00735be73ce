/** Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1. */
const T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

export interface Interval {
  readonly mean: number;
  /** Half width of the 95 % t-interval over seeds. */
  readonly half: number;
}

export function interval(values: readonly number[]): Interval {
  const n = values.length;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return { mean, half: Number.NaN };
  const variance = values.reduce((a, v) => a + (v - mean) ** 2, 0) / (n - 1);
  return { mean, half: (T95[n - 2] ?? 1.96) * Math.sqrt(variance / n) };
}

/** Relative gains of one over another, seed by seed. */
export function pairedGain(ours: readonly number[], theirs: readonly number[]): Interval {
  return interval(ours.map((v, i) => v / (theirs[i] ?? Number.NaN) - 1));
}

export function percent({ mean, half }: Interval): string {
  const sign = mean >= 0 ? '+' : '−';
  return `${sign}${Math.abs(mean * 100).toFixed(2)} ± ${(half * 100).toFixed(2)} %`;
}
