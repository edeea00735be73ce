import type { DriftDetector } from './detector.ts';

/**
 * The Page-Hinkley test for a fall of the mean (Page 1954; Gama et al. 2014, "A survey on concept
 * drift adaptation", §3.2.2): m_t = Σ (x̄_i − x_i − δ), M_t = min m_i, an alarm when m_t − M_t > λ.
 */
export class PageHinkley implements DriftDetector {
  readonly #delta: number;
  readonly #threshold: number;
  readonly #minInstances: number;
  #count = 0;
  #mean = 0;
  #sum = 0;
  #least = 0;

  /**
   * @param options.delta δ ≥ 0: falls smaller than this are not meant.
   * @param options.threshold λ > 0: higher is slower and rings less for nothing.
   * @param options.minInstances Values before the first alarm.
   */
  constructor(options: {
    readonly delta: number;
    readonly threshold: number;
    readonly minInstances: number;
  }) {
    this.#delta = options.delta;
    this.#threshold = options.threshold;
    this.#minInstances = options.minInstances;
  }

  add(value: number): boolean {
    if (!Number.isFinite(value)) return false;
    this.#count++;
    this.#mean += (value - this.#mean) / this.#count;
    this.#sum += this.#mean - value - this.#delta;
    this.#least = Math.min(this.#least, this.#sum);
    if (this.#count < this.#minInstances || this.#sum - this.#least <= this.#threshold)
      return false;
    this.#count = 0;
    this.#mean = 0;
    this.#sum = 0;
    this.#least = 0;
    return true;
  }
}
