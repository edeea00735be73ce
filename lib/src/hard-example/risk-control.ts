import { ShoalError } from '@shoal/core';

/** One calibration sample: how sure the edge was, and whether it would have been wrong. */
export interface ScoredSample {
  /** A miner's score in [0, 1]; low is hard. */
  readonly score: number;
  readonly wrong: boolean;
}

function sorted(samples: readonly ScoredSample[]): ScoredSample[] {
  const bad = samples.find((s) => !(s.score >= 0 && s.score <= 1));
  if (bad) throw new ShoalError('invalid_argument', `a score must be in [0, 1], got ${bad.score}`);
  return samples.toSorted((a, b) => b.score - a.score);
}

function expectLevel(name: string, value: number): void {
  if (!(value > 0 && value < 1))
    throw new ShoalError('invalid_argument', `${name} must be in (0, 1), got ${value}`);
}

/** A threshold above every score, 1 included: a saturated softmax scores exactly 1. Its risk is 0. */
const EVERYTHING_UP = 1 + Number.EPSILON;

/** Thresholds from the safest (everything goes up) down, each with the errors it would keep. */
function candidates(ordered: readonly ScoredSample[]): { threshold: number; kept: number }[] {
  const found: { threshold: number; kept: number }[] = [];
  let kept = 0;
  for (const [i, s] of ordered.entries()) {
    if (s.wrong) kept++;
    // Hard is score < threshold: samples of one score are kept together.
    if (ordered[i + 1]?.score !== s.score) found.push({ threshold: s.score, kept });
  }
  return found;
}

/**
 * The lowest threshold whose promise holds on average (Conformal Risk Control, Angelopoulos et al.
 * 2022, 2208.02814, eq. 4, for the loss 1[kept ∧ wrong] ≤ B = 1): n/(n+1)·R̂ + 1/(n+1) ≤ α, where R̂
 * is the share of all samples that are answered at the edge and wrong. Then E[risk] ≤ α.
 *
 * @param alpha α in (0, 1).
 * @returns Threshold in [0, 1], or just above 1 when everything must go up; samples that score below it do.
 * @throws ShoalError `failed_precondition` when there are fewer than 1/α − 1 samples: no threshold
 *   could keep the promise.
 */
export function conformalRiskThreshold(samples: readonly ScoredSample[], alpha: number): number {
  expectLevel('risk', alpha);
  const n = samples.length;
  if (1 / (n + 1) > alpha)
    throw new ShoalError(
      'failed_precondition',
      `a risk of ${alpha} cannot be promised from ${n} calibration samples; at least ${Math.ceil(1 / alpha - 1)} are needed`,
    );
  let best = EVERYTHING_UP;
  for (const { threshold, kept } of candidates(sorted(samples))) {
    if (kept / (n + 1) + 1 / (n + 1) > alpha) break;
    best = threshold;
  }
  return best;
}

function logBinomial(n: number, k: number): number {
  let sum = 0;
  for (let i = 1; i <= k; i++) sum += Math.log((n - k + i) / i);
  return sum;
}

/** P(Binomial(n, p) ≤ k). */
export function binomialTail(n: number, k: number, p: number): number {
  let sum = 0;
  for (let i = 0; i <= k; i++)
    sum += Math.exp(logBinomial(n, i) + i * Math.log(p) + (n - i) * Math.log1p(-p));
  return Math.min(1, sum);
}

/**
 * p-value of "the risk is above α" from k errors in n (Hoeffding–Bentkus, Bates et al. 2021, prop. 5):
 * the smaller of exp(−n·kl(R̂, α)) and e·P(Bin(n, α) ≤ ⌈n·R̂⌉).
 */
export function hoeffdingBentkus(k: number, n: number, alpha: number): number {
  const r = k / n;
  if (r >= alpha) return 1;
  const term = (a: number, b: number): number => (a === 0 ? 0 : a * Math.log(a / b));
  const kl = term(r, alpha) + term(1 - r, 1 - alpha);
  return Math.min(1, Math.exp(-n * kl), Math.E * binomialTail(n, k, alpha));
}

/**
 * The lowest threshold whose promise holds with high probability (Learn then Test, Angelopoulos et al.
 * 2021, 2110.01052): P(risk > α) ≤ δ over calibration sets. Thresholds are tested one after another
 * from the safest down, each at δ, and testing stops at the first that fails (fixed sequence).
 *
 * @throws ShoalError `failed_precondition` when not even a threshold without any error passes.
 */
export function learnThenTestThreshold(
  samples: readonly ScoredSample[],
  options: { readonly alpha: number; readonly delta: number },
): number {
  const { alpha, delta } = options;
  expectLevel('risk', alpha);
  expectLevel('delta', delta);
  const n = samples.length;
  if (n === 0 || hoeffdingBentkus(0, n, alpha) > delta)
    throw new ShoalError(
      'failed_precondition',
      `a risk of ${alpha} with confidence ${1 - delta} cannot be promised from ${n} calibration samples; at least ${Math.ceil(Math.log(delta) / Math.log1p(-alpha))} are needed`,
    );
  let best = EVERYTHING_UP;
  for (const { threshold, kept } of candidates(sorted(samples))) {
    if (hoeffdingBentkus(kept, n, alpha) > delta) break;
    best = threshold;
  }
  return best;
}
