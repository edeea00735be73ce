import { type Random, ShoalError } from '@shoal/core';

/** Labelled samples in memory: a matrix of inputs and one class index each. */
export interface Samples {
  /** Row-major, `[size, …shape]`. */
  readonly inputs: Float32Array;
  /** Shape of one sample. */
  readonly shape: readonly number[];
  /** Class indices, `[size]`. */
  readonly labels: BigInt64Array;
  readonly size: number;
}

function rowLength(samples: Samples): number {
  return samples.shape.reduce((n, d) => n * d, 1);
}

/** The samples at the given positions, in that order. */
export function select(samples: Samples, positions: ArrayLike<number>): Samples {
  const length = rowLength(samples);
  const inputs = new Float32Array(positions.length * length);
  const labels = new BigInt64Array(positions.length);
  for (let i = 0; i < positions.length; i++) {
    const from = positions[i] ?? 0;
    inputs.set(samples.inputs.subarray(from * length, (from + 1) * length), i * length);
    labels[i] = samples.labels[from] ?? 0n;
  }
  return { inputs, labels, shape: samples.shape, size: positions.length };
}

/** Samples `from` (inclusive) to `to` (exclusive), sharing memory. */
export function slice(samples: Samples, from: number, to: number): Samples {
  const length = rowLength(samples);
  const end = Math.min(to, samples.size);
  return {
    inputs: samples.inputs.subarray(from * length, end * length),
    labels: samples.labels.subarray(from, end),
    shape: samples.shape,
    size: end - from,
  };
}

/** One set after another. @throws ShoalError `invalid_argument` when the shapes differ. */
export function concatenate(parts: readonly Samples[]): Samples {
  const [first] = parts;
  if (!first) throw new ShoalError('invalid_argument', 'nothing to concatenate');
  const size = parts.reduce((n, p) => n + p.size, 0);
  const inputs = new Float32Array(size * rowLength(first));
  const labels = new BigInt64Array(size);
  let at = 0;
  for (const part of parts) {
    if (part.shape.join() !== first.shape.join()) {
      throw new ShoalError(
        'invalid_argument',
        `samples of shape [${part.shape.join(', ')}] cannot join samples of shape [${first.shape.join(', ')}]`,
      );
    }
    inputs.set(part.inputs, at * rowLength(first));
    labels.set(part.labels, at);
    at += part.size;
  }
  return { inputs, labels, shape: first.shape, size };
}

/** Batches in random order, the last one possibly smaller. */
export function* batches(samples: Samples, batchSize: number, random: Random): Generator<Samples> {
  const order = random.permutation(samples.size);
  for (let at = 0; at < samples.size; at += batchSize)
    yield select(samples, order.subarray(at, at + batchSize));
}
