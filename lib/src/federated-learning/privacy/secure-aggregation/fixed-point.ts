import { ShoalError } from '@shoal/core';

/** How changes are written as whole numbers whose weighted sum stays below 2³². */
export interface FixedPointPlan {
  /** Values lie in [−range, range]; > 0. */
  readonly range: number;
  /** Bits of a value before it is weighted, 1 … 24. */
  readonly bits: number;
  /** Whole factor of each participant. */
  readonly weights: ReadonlyMap<string, number>;
}

const WORD_BITS = 32;
const MAX_BITS = 24;
const LEAST_WEIGHT_BITS = 14;

/**
 * Chooses weights and bits for a sum of n participants: weights are the sample counts while their
 * sum leaves room, otherwise whole multiples that keep their proportions within 1/8 of a unit.
 *
 * @param samples Per participant, ≥ 1.
 */
export function planFixedPoint(
  samples: ReadonlyMap<string, number>,
  range: number,
): FixedPointPlan {
  const total = [...samples.values()].reduce((a, b) => a + b, 0);
  const room = 2 ** Math.max(LEAST_WEIGHT_BITS, Math.ceil(Math.log2(8 * samples.size)));
  const factor = Math.min(1, room / total);
  const weights = new Map([...samples].map(([p, n]) => [p, Math.max(1, Math.round(n * factor))]));
  const sum = [...weights.values()].reduce((a, b) => a + b, 0);
  const bits = Math.min(MAX_BITS, Math.floor(WORD_BITS - Math.log2(sum)));
  return { range, bits, weights };
}

/**
 * w·round((v + range)/(2·range)·(2^bits − 1)) for every value.
 *
 * @throws ShoalError `invalid_argument` for a value beyond the range: cutting it off would spoil the sum
 *   in silence.
 */
export function encodeFixedPoint(
  values: Float32Array,
  at: { readonly range: number; readonly bits: number; readonly weight: number },
  words: Uint32Array,
): void {
  const { range, bits, weight } = at;
  const top = 2 ** bits - 1;
  const factor = top / (2 * range);
  // What float32 rounds up when a change is scaled down to its bound.
  const slack = top * 1e-6;
  for (let i = 0; i < values.length; i++) {
    const place = ((values[i] ?? 0) + range) * factor;
    if (!(place >= -slack && place <= top + slack))
      throw new ShoalError(
        'invalid_argument',
        `value ${i} of the change is ${values[i]}, beyond the range ±${range} of secure aggregation; raise privacy.secureAggregation.range`,
      );
    words[i] = weight * Math.min(top, Math.max(0, Math.round(place)));
  }
}

/** Mean of the values behind a sum of words: S/Σw·2·range/(2^bits − 1) − range. */
export function decodeFixedPoint(
  sum: Uint32Array,
  at: { readonly range: number; readonly bits: number; readonly totalWeight: number },
): Float32Array {
  const factor = (2 * at.range) / ((2 ** at.bits - 1) * at.totalWeight);
  return Float32Array.from(sum, (s) => s * factor - at.range);
}
