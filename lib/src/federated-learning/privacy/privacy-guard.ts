import { ShoalError } from '@shoal/core';
import type { ResolvedFederation } from '../federation-options.ts';
import { RdpAccountant } from './accountant.ts';
import { clipTo, nextBound } from './clipping.ts';
import { addGaussianNoise, noiseForMean } from './noise.ts';

const ADAPTIVE = { quantile: 0.5, learningRate: 0.2 } as const;
/** Noise on the count of changes within the bound, as a share of the participants (Andrew et al. 2021, §3.2). */
const COUNT_NOISE_SHARE = 1 / 20;
/** The count's noise is at least this many times that of the change: it costs 3 % of the budget then. */
const LEAST_COUNT_NOISE = 2;

/**
 * Noise multiplier of the changes, so that changes and count together are as private as `multiplier`
 * alone: z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2) (Andrew et al. 2021, arXiv 1905.03871, theorem 1).
 */
export function changeMultiplier(multiplier: number, countNoise: number): number {
  return (multiplier ** -2 - (2 * countNoise) ** -2) ** -0.5;
}

/** Clips, adds noise, counts what was spent, and moves the bound where it adapts. */
export class PrivacyGuard {
  readonly #federation: ResolvedFederation;
  readonly #accountant: RdpAccountant | undefined;
  readonly #multiplier: number;
  #bound: number | undefined;
  #within = 0;

  /** @param at.bound The bound after the rounds that are done, where it adapted. */
  constructor(
    federation: ResolvedFederation,
    at: { readonly bound: number | undefined; readonly rounds: number },
  ) {
    const { privacy } = federation;
    this.#federation = federation;
    this.#multiplier = privacy?.noiseMultiplier ?? 0;
    this.#bound = at.bound ?? privacy?.clipping;
    this.#accountant = this.#multiplier > 0 ? new RdpAccountant(privacy?.delta ?? 1e-5) : undefined;
    for (let i = 0; i < at.rounds; i++) this.#spend();
  }

  /** Largest norm of a change; undefined when changes are not clipped. */
  get bound(): number | undefined {
    return this.#bound;
  }

  /** Changes of this round that were within the bound. */
  get within(): number {
    return this.#within;
  }

  /** ε spent; undefined when no noise is added. */
  get epsilon(): number | undefined {
    return this.#accountant?.epsilon;
  }

  /** ε after one more round; undefined when no noise is added. */
  get epsilonAfterNext(): number | undefined {
    return this.#accountant?.epsilonWith(this.#sampling, this.#multiplier);
  }

  /** @throws ShoalError `invalid_argument` for a budget that the next round alone goes beyond. */
  requireBudget(): void {
    const { epsilonBudget = Number.POSITIVE_INFINITY } = this.#federation.privacy ?? {};
    const { epsilonAfterNext: next = 0 } = this;
    if (next > epsilonBudget)
      throw new ShoalError(
        'invalid_argument',
        `one round alone has ε = ${next.toFixed(3)}, the budget is ${epsilonBudget}: raise privacy.noiseMultiplier, or ask fewer participants`,
      );
  }

  /** Chance of a participant to be asked in a round. */
  get #sampling(): number {
    const { participants, selected, overSelection } = this.#federation;
    return Math.min(1, (selected + overSelection) / participants);
  }

  #spend(): void {
    this.#accountant?.add(1, this.#sampling, this.#multiplier);
  }

  clip(delta: Float32Array): void {
    if (this.#bound !== undefined && clipTo(delta, this.#bound)) this.#within++;
  }

  /** Adds noise to a mean of clipped changes, in place. @param weights Of the changes in it. */
  noise(change: Float32Array, weights: readonly number[]): void {
    if (this.#multiplier === 0 || this.#bound === undefined) return;
    const isAdaptive = this.#federation.privacy?.adaptive === true;
    const multiplier = isAdaptive
      ? changeMultiplier(this.#multiplier, this.#countNoise(weights.length))
      : this.#multiplier;
    addGaussianNoise(change, noiseForMean(multiplier, this.#bound, weights));
    this.#spend();
  }

  #countNoise(participants: number): number {
    return Math.max(participants * COUNT_NOISE_SHARE, LEAST_COUNT_NOISE * this.#multiplier);
  }

  /** Moves the bound towards the median norm. @param within How many of the changes were within it. */
  adapt(within: number, participants: number): void {
    this.#within = 0;
    if (this.#bound === undefined || this.#federation.privacy?.adaptive !== true) return;
    const count = Float32Array.of(within);
    if (this.#multiplier > 0) addGaussianNoise(count, this.#countNoise(participants));
    // As it is kept: a restarted aggregator goes on with the same bits.
    this.#bound = Math.fround(nextBound(this.#bound, (count[0] ?? 0) / participants, ADAPTIVE));
  }
}
