import { scale, squaredNorm } from '../kernels.ts';

/**
 * Scales a change so that its L2 norm is at most the bound, in place.
 *
 * @returns Whether it was within the bound before: what adaptive clipping counts.
 */
export function clipTo(delta: Float32Array, bound: number): boolean {
  const norm = Math.sqrt(squaredNorm(delta));
  if (norm <= bound) return true;
  scale(delta, bound / norm);
  return false;
}

export interface AdaptiveClipping {
  /** Wanted share of changes within the bound, in (0, 1). Usually 0.5. */
  readonly quantile: number;
  /** η of the update, > 0. Usually 0.2. */
  readonly learningRate: number;
}

/**
 * The next bound: C ← C·exp(−η(b̄ − γ)), b̄ the share of changes with ‖Δ‖ ≤ C (Andrew et al. 2021,
 * arXiv 1905.03871, eq. 1). Too many within: the bound falls; too few: it rises. (Flower feeds the
 * share that was clipped instead, and runs away.)
 */
export function nextBound(bound: number, shareWithin: number, options: AdaptiveClipping): number {
  return bound * Math.exp(-options.learningRate * (shareWithin - options.quantile));
}
