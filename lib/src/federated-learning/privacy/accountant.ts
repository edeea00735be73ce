import { ShoalError } from '@shoal/core';

/** Rényi orders looked at: dense where the best one usually lies. */
const ORDERS: readonly number[] = Array.from({ length: 62 }, (_, i) => i + 2).concat([
  72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512,
]);

/** log(eᵃ + eᵇ) without overflow. */
function logAdd(a: number, b: number): number {
  const top = Math.max(a, b);
  return top === Number.NEGATIVE_INFINITY ? top : top + Math.log1p(Math.exp(Math.min(a, b) - top));
}

/**
 * Rényi divergence of order α of one step of the sampled Gaussian mechanism (Mironov, Talwar &
 * Zhang 2019, arXiv 1908.10530, §3.3): for whole α
 * ε(α) = 1/(α−1)·log Σ_k C(α,k)(1−q)^{α−k} q^k e^{(k²−k)/(2σ²)}, and α/(2σ²) without sampling.
 *
 * @param sampling q, chance of a participant to be in the round, in (0, 1].
 * @param multiplier σ, standard deviation of the noise relative to the sensitivity, > 0.
 * @param order α, whole, ≥ 2.
 */
export function sampledGaussianRdp(sampling: number, multiplier: number, order: number): number {
  if (sampling === 1) return order / (2 * multiplier ** 2);
  let logBinomial = 0;
  let total = Number.NEGATIVE_INFINITY;
  for (let k = 0; k <= order; k++) {
    if (k > 0) logBinomial += Math.log((order - k + 1) / k);
    const term =
      logBinomial +
      k * Math.log(sampling) +
      (order - k) * Math.log1p(-sampling) +
      (k * k - k) / (2 * multiplier ** 2);
    total = logAdd(total, term);
  }
  return total / (order - 1);
}

/**
 * Counts what the rounds of a federated training reveal (Rényi differential privacy, composed by
 * adding, turned into (ε, δ) by Canonne, Kamath & Steinke 2020, arXiv 2004.00010, prop. 12).
 */
export class RdpAccountant {
  readonly #delta: number;
  #spent: readonly number[] = ORDERS.map(() => 0);

  /** @param delta δ, in (0, 1); less than one over the number of participants. */
  constructor(delta: number) {
    if (!(delta > 0 && delta < 1))
      throw new ShoalError('invalid_argument', `delta must be in (0, 1), got ${delta}`);
    this.#delta = delta;
  }

  /** Adds rounds with noise `multiplier` in which a share `sampling` of the participants took part. */
  add(rounds: number, sampling: number, multiplier: number): void {
    if (!(sampling > 0 && sampling <= 1) || !(multiplier > 0))
      throw new ShoalError(
        'invalid_argument',
        `sampling must be in (0, 1] and the noise multiplier > 0, got ${sampling} and ${multiplier}`,
      );
    this.#spent = this.#spent.map(
      (rdp, i) => rdp + rounds * sampledGaussianRdp(sampling, multiplier, ORDERS[i] ?? 2),
    );
  }

  /** ε after one more round like that. */
  epsilonWith(sampling: number, multiplier: number): number {
    const next = new RdpAccountant(this.#delta);
    next.#spent = this.#spent;
    next.add(1, sampling, multiplier);
    return next.epsilon;
  }

  /** ε spent so far, for the δ given. */
  get epsilon(): number {
    if (this.#spent.every((rdp) => rdp === 0)) return 0;
    const bounds = this.#spent.map((rdp, i) => {
      const a = ORDERS[i] ?? 2;
      return rdp + Math.log1p(-1 / a) - (Math.log(this.#delta) + Math.log(a)) / (a - 1);
    });
    return Math.max(0, Math.min(...bounds));
  }
}
