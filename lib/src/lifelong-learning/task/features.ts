import { isJsonObject, type JsonObject, type Random, ShoalError } from '@shoal/core';
import type { Samples } from '../../data/samples.ts';

/**
 * A linear view of samples in which tasks lie apart: principal components, and beside them how far
 * a sample is from the space they span. Missing values are at their mean.
 */
export interface FeatureExtractor {
  /** Values of a sample. */
  readonly inputs: number;
  /** Numbers `featuresOf` gives for one: components and the distance from their span. */
  readonly width: number;
  readonly mean: Float32Array;
  /** 1 / deviation of each value. */
  readonly scale: Float32Array;
  /** Orthonormal rows, `[components, inputs]`. */
  readonly components: Float32Array;
  /** 1 / deviation of each feature. */
  readonly whitening: Float32Array;
}

/** Deviations below this share of the mean one count as that: a constant pixel must not shout. */
const LEAST_DEVIATION = 0.25;
const ITERATIONS = 6;
const FITTED_ON = 2_000;

function moments(samples: Samples, width: number): { mean: Float32Array; scale: Float32Array } {
  const [sum, square, count] = [
    new Float64Array(width),
    new Float64Array(width),
    new Float64Array(width),
  ];
  for (let i = 0; i < samples.size * width; i++) {
    const v = samples.inputs[i] ?? Number.NaN;
    if (!Number.isFinite(v)) continue;
    const f = i % width;
    sum[f] = (sum[f] ?? 0) + v;
    square[f] = (square[f] ?? 0) + v * v;
    count[f] = (count[f] ?? 0) + 1;
  }
  const mean = Float32Array.from(sum, (s, f) => s / Math.max(1, count[f] ?? 0));
  const deviation = Float64Array.from(square, (s, f) => {
    const m = (sum[f] ?? 0) / Math.max(1, count[f] ?? 0);
    return Math.sqrt(Math.max(0, s / Math.max(1, count[f] ?? 0) - m * m));
  });
  return { mean, scale: Float32Array.from(deviation, (d) => d) };
}

/** Gram–Schmidt on rows, in place; a row of nothing becomes zero. */
function orthonormalize(rows: Float64Array, count: number, width: number): void {
  for (let r = 0; r < count; r++) {
    const row = rows.subarray(r * width, (r + 1) * width);
    for (let q = 0; q < r; q++) {
      const other = rows.subarray(q * width, (q + 1) * width);
      let dot = 0;
      for (let i = 0; i < width; i++) dot += (row[i] ?? 0) * (other[i] ?? 0);
      for (let i = 0; i < width; i++) row[i] = (row[i] ?? 0) - dot * (other[i] ?? 0);
    }
    const norm = Math.sqrt(row.reduce((a, v) => a + v * v, 0));
    for (let i = 0; i < width; i++) row[i] = norm < 1e-9 ? 0 : (row[i] ?? 0) / norm;
  }
}

/** Adds (x·r)·x to every row of a sum, for one sample x and the rows r. */
function accumulate(sample: Float32Array, rows: Float64Array, sums: Float64Array): void {
  const width = sample.length;
  for (let from = 0; from < rows.length; from += width) {
    let score = 0;
    for (let i = 0; i < width; i++) score += (sample[i] ?? 0) * (rows[from + i] ?? 0);
    for (let i = 0; i < width; i++)
      sums[from + i] = (sums[from + i] ?? 0) + score * (sample[i] ?? 0);
  }
}

/** Subspace iteration (Golub & Van Loan 2013, §8.2.4) on the covariance, without forming it. */
function principalRows(
  centred: Float32Array,
  shape: { readonly size: number; readonly width: number; readonly components: number },
  random: Random,
): Float32Array {
  const { size, width, components } = shape;
  let rows = Float64Array.from({ length: components * width }, () => random.normal());
  orthonormalize(rows, components, width);
  for (let step = 0; step < ITERATIONS; step++) {
    const next = new Float64Array(components * width);
    for (let s = 0; s < size; s++)
      accumulate(centred.subarray(s * width, (s + 1) * width), rows, next);
    orthonormalize(next, components, width);
    rows = next;
  }
  return Float32Array.from(rows);
}

function centre(
  inputs: Float32Array,
  from: number,
  at: Pick<FeatureExtractor, 'mean' | 'scale'>,
  into: Float32Array,
): void {
  const { mean, scale } = at;
  for (let f = 0; f < into.length; f++) {
    const v = inputs[from + f] ?? Number.NaN;
    into[f] = Number.isFinite(v) ? (v - (mean[f] ?? 0)) * (scale[f] ?? 0) : 0;
  }
}

/**
 * Fits an extractor.
 *
 * @param components Principal components, ≥ 1; at most as many as a sample has values. Default 16.
 */
export function fitFeatures(
  samples: Samples,
  random: Random,
  components: number = 16,
): FeatureExtractor {
  if (samples.size < 2)
    throw new ShoalError(
      'invalid_argument',
      `features need at least 2 samples, got ${samples.size}`,
    );
  const inputs = samples.inputs.length / samples.size;
  const kept = Math.min(components, inputs);
  const { mean, scale: deviation } = moments(samples, inputs);
  const usual = Math.sqrt(deviation.reduce((a, d) => a + d * d, 0) / inputs) || 1;
  const scale = deviation.map((d) => 1 / Math.max(d, LEAST_DEVIATION * usual));
  const order = random.permutation(samples.size).subarray(0, FITTED_ON);
  const centred = new Float32Array(order.length * inputs);
  for (const [row, i] of order.entries())
    centre(
      samples.inputs,
      i * inputs,
      { mean, scale },
      centred.subarray(row * inputs, (row + 1) * inputs),
    );
  const rows = principalRows(
    centred,
    { size: order.length, width: inputs, components: kept },
    random,
  );
  const plain = { inputs, width: kept + 1, mean, scale, components: rows };
  const ones = { ...plain, whitening: new Float32Array(kept + 1).fill(1) };
  const some = Float32Array.from(order.subarray(0, 1_000), Number);
  const features = new Float32Array(some.length * ones.width);
  for (const [row, i] of some.entries())
    features.set(
      featuresOf(ones, samples.inputs.subarray(i * inputs, (i + 1) * inputs)),
      row * ones.width,
    );
  const spread = moments(
    { inputs: features, labels: new BigInt64Array(), shape: [ones.width], size: some.length },
    ones.width,
  );
  const whitening = spread.scale.map((d) => 1 / Math.max(d, 1e-6));
  return { ...plain, whitening };
}

/** Features of one sample, `[width]`. @throws ShoalError `invalid_argument` for another size. */
export function featuresOf(extractor: FeatureExtractor, sample: Float32Array): Float32Array {
  const { inputs, width, components, whitening } = extractor;
  if (sample.length !== inputs)
    throw new ShoalError('invalid_argument', `a sample has ${inputs} values, got ${sample.length}`);
  const centred = new Float32Array(inputs);
  centre(sample, 0, extractor, centred);
  const features = new Float32Array(width);
  let rest = 0;
  for (let i = 0; i < inputs; i++) rest += (centred[i] ?? 0) ** 2;
  for (let c = 0; c < width - 1; c += TOGETHER) project(centred, components, c, features);
  for (let c = 0; c < width - 1; c++) {
    const dot = features[c] ?? 0;
    features[c] = dot * (whitening[c] ?? 1);
    rest -= dot * dot;
  }
  features[width - 1] = Math.sqrt(Math.max(0, rest)) * (whitening[width - 1] ?? 1);
  return features;
}

/** Components projected in one pass: the sample is read once for all of them. */
const TOGETHER = 4;

/** Dot products with up to four components from one on; rows past the end give nothing. */
function project(
  centred: Float32Array,
  components: Float32Array,
  first: number,
  into: Float32Array,
): void {
  const n = centred.length;
  const [p, q, r, s] = [first * n, (first + 1) * n, (first + 2) * n, (first + 3) * n];
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i < n; i++) {
    const x = centred[i] ?? 0;
    a += x * (components[p + i] ?? 0);
    b += x * (components[q + i] ?? 0);
    c += x * (components[r + i] ?? 0);
    d += x * (components[s + i] ?? 0);
  }
  const last = into.length - 1;
  for (const [k, dot] of [a, b, c, d].entries()) if (first + k < last) into[first + k] = dot;
}

/** Features of many samples, `[size, width]`. */
export function featureRows(extractor: FeatureExtractor, samples: Samples): Float32Array {
  const all = new Float32Array(samples.size * extractor.width);
  for (let i = 0; i < samples.size; i++)
    all.set(
      featuresOf(
        extractor,
        samples.inputs.subarray(i * extractor.inputs, (i + 1) * extractor.inputs),
      ),
      i * extractor.width,
    );
  return all;
}

function encoded(values: Float32Array): string {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');
}

function decoded(value: unknown): Float32Array {
  const bytes = new Uint8Array(Buffer.from(typeof value === 'string' ? value : '', 'base64'));
  return bytes.length % 4 === 0 ? new Float32Array(bytes.buffer) : new Float32Array();
}

/** An extractor as JSON; numbers as base64 of float32. */
export function extractorToJson(extractor: FeatureExtractor): JsonObject {
  const { inputs, width, mean, scale, components, whitening } = extractor;
  return {
    inputs,
    width,
    mean: encoded(mean),
    scale: encoded(scale),
    components: encoded(components),
    whitening: encoded(whitening),
  };
}

/** @throws ShoalError `data_corrupt` for JSON that is no extractor. */
export function extractorFromJson(json: unknown): FeatureExtractor {
  const parts = isJsonObject(json) ? json : {};
  const [inputs, width] = [Number(parts['inputs']), Number(parts['width'])];
  const extractor = {
    inputs,
    width,
    mean: decoded(parts['mean']),
    scale: decoded(parts['scale']),
    components: decoded(parts['components']),
    whitening: decoded(parts['whitening']),
  };
  const fits =
    extractor.mean.length === inputs &&
    extractor.scale.length === inputs &&
    extractor.components.length === inputs * (width - 1) &&
    extractor.whitening.length === width;
  if (!fits || inputs < 1) throw new ShoalError('data_corrupt', 'this is no feature extractor');
  return extractor;
}
