import { ShoalError } from '@shoal/core';

/** What the window says. */
export interface WindowVerdict {
  /** p-value of "all samples of the window are of known tasks". */
  readonly pValue: number;
  readonly unseen: boolean;
}

/** Decides over a window of samples whether a whole task is unseen. */
export interface UnseenTaskDetection {
  /** Takes the next sample's p-value. @returns A verdict once the window is full. */
  observe(pValue: number): WindowVerdict | undefined;
}

/** P(χ² with 2n degrees of freedom > x) = e^(−x/2) Σ_{i<n} (x/2)^i / i!. */
export function chiSquareTail(x: number, n: number): number {
  const half = x / 2;
  let term = Math.exp(-half);
  if (term === 0) return 0;
  let sum = 0;
  for (let i = 0; i < n; i++) {
    sum += term;
    term *= half / (i + 1);
  }
  return Math.min(1, sum);
}

/** Fisher's combination (1925): −2 Σ ln p is χ² with 2n degrees of freedom. For independent p-values. */
export function fisherCombination(pValues: readonly number[]): number {
  const statistic = -2 * pValues.reduce((sum, p) => sum + Math.log(Math.max(p, 1e-300)), 0);
  return chiSquareTail(statistic, pValues.length);
}

/** Simes's combination (1986): min_i n·p_(i)/i. Holds under positive dependence as well. */
export function simesCombination(pValues: readonly number[]): number {
  const sorted = pValues.toSorted((a, b) => a - b);
  return Math.min(1, ...sorted.map((p, i) => (sorted.length * p) / (i + 1)));
}

/**
 * Watches a sliding window of p-values.
 *
 * @param options.window Samples, ≥ 1. Default 20.
 * @param options.alpha Share of windows of known tasks that may be called unseen. Default 0.01.
 */
export function windowDetection(
  options: {
    readonly window?: number;
    readonly alpha?: number;
    readonly combination?: 'fisher' | 'simes';
  } = {},
): UnseenTaskDetection {
  const { window = 20, alpha = 0.01, combination = 'fisher' } = options;
  if (!Number.isInteger(window) || window < 1)
    throw new ShoalError('invalid_argument', `window must be a whole number from 1, got ${window}`);
  const combine = combination === 'fisher' ? fisherCombination : simesCombination;
  const held: number[] = [];
  return {
    observe(pValue) {
      held.push(pValue);
      if (held.length > window) held.shift();
      if (held.length < window) return undefined;
      const combined = combine(held);
      return { pValue: combined, unseen: combined <= alpha };
    },
  };
}
