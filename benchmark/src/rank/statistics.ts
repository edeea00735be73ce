import { seededRandom } from '@shoal/core';
import { mean, quantileSorted, sampleStandardDeviation } from 'simple-statistics';

/** A mean over seeds with its 95 % interval. */
export interface Estimate {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
  readonly count: number;
}

const RESAMPLES = 2_000;

/**
 * Percentile bootstrap of a mean (Efron 1979), resampling seeds. Of few values it is narrower than it should
 * be: the ranking does not lean on it, but on {@link pairedDifference}.
 */
export function bootstrapMean(values: readonly number[]): Estimate {
  const count = values.length;
  if (count === 0) return { mean: Number.NaN, low: Number.NaN, high: Number.NaN, count };
  const average = mean([...values]);
  if (count === 1) return { mean: average, low: Number.NaN, high: Number.NaN, count };
  const random = seededRandom(count);
  const means = Array.from({ length: RESAMPLES }, () => {
    let sum = 0;
    for (let i = 0; i < count; i++) sum += values[random.int(count)] ?? 0;
    return sum / count;
  }).toSorted((a, b) => a - b);
  return {
    mean: average,
    low: quantileSorted(means, 0.025),
    high: quantileSorted(means, 0.975),
    count,
  };
}

/** ln Γ(x), Lanczos' approximation (g = 7), for x > 0. */
function logGamma(x: number): number {
  const COEFFICIENTS = [
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313,
    -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6,
    1.5056327351493116e-7,
  ];
  const t = x + 6.5;
  const sum = COEFFICIENTS.reduce((s, c, i) => (i === 0 ? c : s + c / (x - 1 + i)), 0);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}

/** I_x(a, b), the regularized incomplete beta function, by its continued fraction (Lentz). */
function incompleteBeta(x: number, a: number, b: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = Math.exp(
    logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(1 - x),
  );
  const tiny = 1e-300;
  let [f, c, d] = [1, 1, 0];
  for (let i = 0; i <= 300; i++) {
    const m = Math.floor(i / 2);
    const numerator =
      i === 0
        ? 1
        : i % 2 === 0
          ? (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m))
          : (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / (1 + numerator * d || tiny);
    c = 1 + numerator / c || tiny;
    f *= c * d;
    if (Math.abs(1 - c * d) < 1e-12) break;
  }
  return (front * (f - 1)) / a;
}

/** Two-sided p-value of Student's t with so many degrees of freedom. */
export function tTestP(t: number, freedom: number): number {
  return incompleteBeta(freedom / (freedom + t * t), freedom / 2, 0.5);
}

/** t with P(|T| > t) = 5 %. */
function criticalT(freedom: number): number {
  let [low, high] = [0, 1_000];
  for (let i = 0; i < 100; i++) {
    const middle = (low + high) / 2;
    if (tTestP(middle, freedom) > 0.05) low = middle;
    else high = middle;
  }
  return high;
}

/** How one way does against another on the same seeds. */
export interface Difference {
  /** Mean of a − b. */
  readonly mean: number;
  /** Its 95 % t-interval. */
  readonly low: number;
  readonly high: number;
  /** Two-sided paired t-test; 1 where nothing can be said (fewer than two seeds). */
  readonly p: number;
  readonly count: number;
}

/** Paired by seed: what the seeds have in common does not count as noise. */
export function pairedDifference(
  a: ReadonlyMap<number, number>,
  b: ReadonlyMap<number, number>,
): Difference {
  const differences = [...a].flatMap(([seed, value]) => {
    const other = b.get(seed);
    return other === undefined ? [] : [value - other];
  });
  const count = differences.length;
  if (count === 0) return { mean: Number.NaN, low: Number.NaN, high: Number.NaN, p: 1, count };
  const average = mean(differences);
  if (count === 1) return { mean: average, low: Number.NaN, high: Number.NaN, p: 1, count };
  const error = sampleStandardDeviation(differences) / Math.sqrt(count);
  if (error === 0)
    return { mean: average, low: average, high: average, p: average === 0 ? 1 : 0, count };
  const half = criticalT(count - 1) * error;
  return {
    mean: average,
    low: average - half,
    high: average + half,
    p: tTestP(average / error, count - 1),
    count,
  };
}
