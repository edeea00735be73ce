import type { DriftDetector } from './detector.ts';

/** Values whose number, sum and sum of squared distances from their mean are known. */
interface Bucket {
  readonly count: number;
  readonly total: number;
  readonly spread: number;
}

/** Buckets of one size before two of them become one of twice the size. */
const PER_SIZE = 5;
/** Cuts are looked for every so many values; the bound holds for any choice. */
const EVERY = 32;
/** Fewest values on either side of a cut. */
const LEAST = 5;

function merged(a: Bucket, b: Bucket): Bucket {
  const count = a.count + b.count;
  const gap = a.total / a.count - b.total / b.count;
  return {
    count,
    total: a.total + b.total,
    spread: a.spread + b.spread + (gap * gap * a.count * b.count) / count,
  };
}

/**
 * ADWIN2 (Bifet & Gavaldà 2007, "Learning from time-changing data with adaptive windowing"): keeps a
 * window in an exponential histogram and cuts its older part off where the means of the two parts
 * differ by more than ε = √(2/m · σ² · ln(2/δ′)) + 2/(3m) · ln(2/δ′), with 1/m = 1/n₀ + 1/n₁ and
 * δ′ = δ / ln n (eq. 3.1). Memory is logarithmic in the window. Only a fall of the mean is an alarm.
 */
export class Adwin implements DriftDetector {
  readonly #delta: number;
  /** Oldest first; sizes fall towards the newest. */
  #buckets: Bucket[] = [];
  #seen = 0;

  /** @param options.delta Confidence in (0, 1): chance of a cut without a change. */
  constructor(options: { readonly delta: number }) {
    this.#delta = options.delta;
  }

  /** Values in the window. */
  get size(): number {
    return this.#buckets.reduce((n, b) => n + b.count, 0);
  }

  /** Mean of the window; 0 while it is empty. */
  get mean(): number {
    const { size } = this;
    return size === 0 ? 0 : this.#buckets.reduce((n, b) => n + b.total, 0) / size;
  }

  add(value: number): boolean {
    if (!Number.isFinite(value)) return false;
    this.#buckets.push({ count: 1, total: value, spread: 0 });
    this.#compress();
    if (++this.#seen % EVERY !== 0) return false;
    let fell = false;
    for (let cut = this.#cut(); cut; cut = this.#cut()) {
      fell ||= cut.fell;
      this.#buckets = this.#buckets.slice(cut.at);
    }
    return fell;
  }

  /** Two oldest buckets of a size that has too many become one of the next size. */
  #compress(): void {
    for (let size = 1; ; size *= 2) {
      const first = this.#buckets.findIndex((b) => b.count === size);
      if (first < 0 || this.#buckets.filter((b) => b.count === size).length <= PER_SIZE) return;
      const [a, b] = [this.#buckets[first] as Bucket, this.#buckets[first + 1] as Bucket];
      this.#buckets.splice(first, 2, merged(a, b));
    }
  }

  /** The first place, from the oldest on, where the two parts differ for sure. */
  #cut(): { at: number; fell: boolean } | undefined {
    const whole = this.#buckets.reduce<Bucket | undefined>(
      (a, b) => (a ? merged(a, b) : b),
      undefined,
    );
    if (!whole || whole.count < 2 * LEAST) return undefined;
    const variance = whole.spread / whole.count;
    const confidence = Math.log((2 * Math.log(whole.count)) / this.#delta);
    let [count, total] = [0, 0];
    for (const [i, bucket] of this.#buckets.entries()) {
      count += bucket.count;
      total += bucket.total;
      const rest = whole.count - count;
      if (count < LEAST || rest < LEAST) continue;
      const inverse = 1 / count + 1 / rest;
      const bound = Math.sqrt(2 * inverse * variance * confidence) + (2 / 3) * inverse * confidence;
      const fall = total / count - (whole.total - total) / rest;
      if (Math.abs(fall) > bound) return { at: i + 1, fell: fall > 0 };
    }
    return undefined;
  }
}
