import { ShoalError } from '@shoal/core';

export interface BudgetOptions {
  /** ρ: share of samples that may go up in the long run, in (0, 1). */
  readonly budget: number;
  /** Threshold to begin with, in [0, 1]. Default 0.5. */
  readonly threshold?: number;
  /** γ > 0: how far the threshold moves per sample. Default 0.02. */
  readonly step?: number;
  /** Samples of budget that may be spent at once, ≥ 1. Default 20. */
  readonly burst?: number;
}

/**
 * Keeps uploads within a budget while the difficulty of samples changes: quantile tracking (Angelopoulos
 * et al. 2023, 2307.16895; the online form of conformal inference), τ ← τ + γ(ρ − 1[score < τ]),
 * whose long-run share of uploads tends to ρ whatever the scores do, and a token bucket, so that a
 * hard stretch cannot spend what the link does not have.
 */
export class UploadBudget {
  readonly #options: Required<BudgetOptions>;
  #threshold: number;
  #tokens: number;

  /** @throws ShoalError `invalid_argument` for numbers out of range. */
  constructor(options: BudgetOptions) {
    this.#options = { threshold: 0.5, step: 0.02, burst: 20, ...options };
    const { budget, threshold, step, burst } = this.#options;
    if (!(budget > 0 && budget < 1))
      throw new ShoalError('invalid_argument', `uploadBudget must be in (0, 1), got ${budget}`);
    if (!(threshold >= 0 && threshold <= 1 && step > 0 && burst >= 1))
      throw new ShoalError(
        'invalid_argument',
        `an upload budget needs threshold in [0, 1], step > 0 and burst ≥ 1, got ${threshold}, ${step}, ${burst}`,
      );
    this.#threshold = threshold;
    this.#tokens = burst;
  }

  /** Scores below it are hard. */
  get threshold(): number {
    return this.#threshold;
  }

  /** Takes the next sample's score and says whether it goes up. */
  admit(score: number): boolean {
    const { budget, step, burst } = this.#options;
    this.#tokens = Math.min(burst, this.#tokens + budget);
    const hard = score < this.#threshold;
    const moved = this.#threshold + step * (budget - (hard ? 1 : 0));
    this.#threshold = Math.min(1 + step, Math.max(-step, moved));
    if (!hard || this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}
