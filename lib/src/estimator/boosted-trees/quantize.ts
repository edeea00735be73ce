/** Features as small whole numbers, so that a tree sees a few hundred cuts instead of every value. */
export interface QuantizedFeatures {
  /**
   * `[size, width]` row-major: position of a value's bin in a histogram over all features. Bin 0 of
   * a feature stands for missing values.
   */
  readonly slots: Uint16Array;
  /** First slot of each feature, and the number of slots at the end: `[width + 1]`. */
  readonly offsets: Uint32Array;
  /** Upper ends of a feature's bins 1, 2, …, ascending; the last bin has none. */
  readonly cuts: readonly Float32Array[];
  readonly size: number;
  readonly width: number;
}

/** Cuts between values so that bins hold about equally many, at most `bins` of them. */
function cutsOf(values: Float32Array, bins: number): Float32Array {
  const sorted = values.filter((v) => !Number.isNaN(v)).sort();
  const cuts: number[] = [];
  let last = Number.NEGATIVE_INFINITY;
  for (let b = 1; b < bins; b++) {
    const at = Math.floor((b * sorted.length) / bins);
    const [below, above] = [sorted[at - 1], sorted[at]];
    if (below === undefined || above === undefined || below <= last) continue;
    // The value itself belongs to the left: x ≤ cut goes left.
    if (below === sorted.at(-1)) break;
    cuts.push(below);
    last = below;
  }
  return Float32Array.from(cuts);
}

/** Number of cuts below a value, counted from 1; missing values are 0. */
function binOf(value: number, cuts: Float32Array): number {
  if (Number.isNaN(value)) return 0;
  let [low, high] = [0, cuts.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (value <= (cuts[middle] ?? 0)) high = middle;
    else low = middle + 1;
  }
  return low + 1;
}

/**
 * Quantizes features by their quantiles.
 *
 * @param inputs `[size, width]`; NaN is missing.
 * @param bins Bins of a feature, 2 to 255.
 */
export function quantize(
  inputs: Float32Array,
  shape: { readonly size: number; readonly width: number },
  bins: number,
): QuantizedFeatures {
  const { size, width } = shape;
  const offsets = new Uint32Array(width + 1);
  const slots = new Uint16Array(size * width);
  const cuts: Float32Array[] = [];
  const column = new Float32Array(size);
  for (let f = 0; f < width; f++) {
    for (let i = 0; i < size; i++) column[i] = inputs[i * width + f] ?? Number.NaN;
    const found = cutsOf(column, bins);
    const offset = offsets[f] ?? 0;
    for (let i = 0; i < size; i++) slots[i * width + f] = offset + binOf(column[i] ?? 0, found);
    offsets[f + 1] = offset + found.length + 2;
    cuts.push(found);
  }
  return { slots, offsets, cuts, size, width };
}
