import { ADDED_AT_ONCE, type Kernel, openKernel } from './kernel-module.ts';

/** Float32 values a tile holds: 64 KiB, so that accumulator and input stay in the cache. */
const TILE = 16_384;

interface AdditionKernel {
  readonly add: Kernel['add'];
  readonly acc: Float32Array;
  readonly x: Float32Array;
}

let addition: AdditionKernel | undefined;

function additionKernel(): AdditionKernel {
  if (addition) return addition;
  const { add, buffer } = openKernel(2 * TILE * 4);
  addition = {
    add,
    acc: new Float32Array(buffer, 0, TILE),
    x: new Float32Array(buffer, TILE * 4, TILE),
  };
  return addition;
}

/** Kernels by the memory that {@link kernelVectors} gave away. */
const kernels = new WeakMap<ArrayBufferLike, Kernel>();

/**
 * Vectors in the memory of a kernel of their own: {@link addWeighted} adds them up without copying, as fast as
 * they can be read. Where there is no room (4 GiB for all of them), ordinary ones.
 *
 * @param size Values of each; all are 0.
 */
export function kernelVectors(count: number, size: number): Float32Array<ArrayBuffer>[] {
  const stride = Math.ceil(size / 16) * 64;
  try {
    const kernel = openKernel(Math.max(1, count * stride));
    kernels.set(kernel.buffer, kernel);
    return Array.from(
      { length: count },
      (_, k) => new Float32Array(kernel.buffer, k * stride, size),
    );
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return Array.from({ length: count }, () => new Float32Array(size));
  }
}

/**
 * target ← target + Σ_k weights[k]·inputs[k], always in the order of the inputs: the same inputs in
 * the same order give the same bits.
 *
 * @param inputs Each as long as `target`; fastest when all are of one {@link kernelVectors}.
 */
export function addWeighted(
  target: Float32Array,
  inputs: readonly Float32Array[],
  weights: readonly number[],
): void {
  const kernel = kernels.get(target.buffer);
  const [only] = inputs;
  if (kernel && inputs.every((x) => x.buffer === target.buffer))
    addInPlace(kernel, target, { inputs, weights });
  else if (inputs.length === 1 && only) addFrom(target, only, { w: weights[0] ?? 0, from: 0 });
  else addByTiles(target, inputs, weights);
}

/** In the memory of a kernel: several inputs a pass. */
function addInPlace(
  { add }: Kernel,
  target: Float32Array,
  { inputs, weights }: { inputs: readonly Float32Array[]; weights: readonly number[] },
): void {
  // Whole turns of the kernel; the rest would reach into the next vector.
  const whole = target.length - (target.length % 16);
  const start = target.byteOffset;
  const end = start + whole * 4;
  for (let k = 0; whole > 0 && k < inputs.length; k += ADDED_AT_ONCE) {
    const some = inputs.slice(k, k + ADDED_AT_ONCE);
    const addresses = some.map((x) => x.byteOffset);
    add[some.length - 1]?.(start, end, ...addresses, ...weights.slice(k, k + some.length));
  }
  for (const [k, x] of inputs.entries()) addFrom(target, x, { w: weights[k] ?? 0, from: whole });
}

/** Tile by tile: the accumulator of a tile stays in the cache while every input passes once. */
function addByTiles(
  target: Float32Array,
  inputs: readonly Float32Array[],
  weights: readonly number[],
): void {
  const { add, acc, x } = additionKernel();
  for (let from = 0; from < target.length; from += TILE) {
    const to = Math.min(from + TILE, target.length);
    const size = to - from;
    const end = Math.ceil(size / 16) * 64;
    acc.set(target.subarray(from, to));
    for (const [k, input] of inputs.entries()) {
      x.set(input.subarray(from, to));
      add[0]?.(0, end, TILE * 4, weights[k] ?? 0);
    }
    target.set(acc.subarray(0, size), from);
  }
}

/**
 * target ← target + w·x from a value on. Copying into the kernel's memory costs more than one addition: each
 * step is rounded to float32 as the kernel does, so that the bits are the same.
 */
function addFrom(
  target: Float32Array,
  x: Float32Array,
  { w, from }: { readonly w: number; readonly from: number },
): void {
  const weight = Math.fround(w);
  for (let i = from; i < target.length; i++)
    target[i] = (target[i] ?? 0) + Math.fround(weight * (x[i] ?? 0));
}

/** target ← factor·target */
export function scale(target: Float32Array, factor: number): void {
  for (let i = 0; i < target.length; i++) target[i] = (target[i] ?? 0) * factor;
}

/** Squared L2 norm, summed in float64. */
export function squaredNorm(values: Float32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = values.length - (values.length % 4);
  for (let i = 0; i < whole; i += 4) {
    const [p, q, r, s] = [
      values[i] ?? 0,
      values[i + 1] ?? 0,
      values[i + 2] ?? 0,
      values[i + 3] ?? 0,
    ];
    a += p * p;
    b += q * q;
    c += r * r;
    d += s * s;
  }
  for (let i = whole; i < values.length; i++) a += (values[i] ?? 0) ** 2;
  return a + b + c + d;
}

/** Squared L2 distance, by difference in float64: no cancellation, however close the two are. */
export function squaredDistance(x: Float32Array, y: Float32Array): number {
  // Four sums: an addition need not wait for the one before it.
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = x.length - (x.length % 4);
  for (let i = 0; i < whole; i += 4) {
    const p = (x[i] ?? 0) - (y[i] ?? 0);
    const q = (x[i + 1] ?? 0) - (y[i + 1] ?? 0);
    const r = (x[i + 2] ?? 0) - (y[i + 2] ?? 0);
    const s = (x[i + 3] ?? 0) - (y[i + 3] ?? 0);
    a += p * p;
    b += q * q;
    c += r * r;
    d += s * s;
  }
  for (let i = whole; i < x.length; i++) a += ((x[i] ?? 0) - (y[i] ?? 0)) ** 2;
  return a + b + c + d;
}

/** True when every value is a finite number. */
export function allFinite(values: Float32Array): boolean {
  // A sum is not finite as soon as one term is not; checking terms one by one is twice as slow.
  let [a, b, c, d] = [0, 0, 0, 0];
  const whole = values.length - (values.length % 4);
  for (let i = 0; i < whole; i += 4) {
    a += (values[i] ?? 0) * 0;
    b += (values[i + 1] ?? 0) * 0;
    c += (values[i + 2] ?? 0) * 0;
    d += (values[i + 3] ?? 0) * 0;
  }
  for (let i = whole; i < values.length; i++) a += (values[i] ?? 0) * 0;
  return a + b + c + d === 0;
}

/**
 * Comparators of a sorting network for n rows (Batcher's odd-even merge sort, Knuth TAOCP 5.2.2,
 * algorithm M): the same exchanges for every column, so that many columns go through at once.
 */
export function sortingNetwork(n: number): [low: number, high: number][] {
  const pairs: [number, number][] = [];
  for (let p = 1; p < n; p *= 2)
    for (let k = p; k >= 1; k = Math.floor(k / 2)) pairs.push(...mergeStep(n, p, k));
  return pairs;
}

/** One step of merging sorted runs of length p: exchanges at distance k within each pair of runs. */
function mergeStep(n: number, p: number, k: number): [number, number][] {
  const pairs: [number, number][] = [];
  for (let a = k % p; a + k < n; a++) {
    const insideBlock = Math.floor((a - (k % p)) / k) % 2 === 0;
    const sameRun = Math.floor(a / (2 * p)) === Math.floor((a + k) / (2 * p));
    if (insideBlock && sameRun) pairs.push([a, a + k]);
  }
  return pairs;
}

/**
 * The comparators that the ranks `from` to `to` (exclusive) of the sorted column depend on.
 *
 * @param isSet Whether those ranks are wanted in any order, as for their sum.
 */
function neededFor(
  pairs: readonly [number, number][],
  [from, to]: readonly [number, number],
  isSet: boolean,
): [number, number][] {
  // An exchange between two rows whose ranks mean the same to who asks changes nothing.
  const partOf = (row: number): number => {
    if (row < from) return -1;
    return row >= to ? -2 : isSet ? 0 : row;
  };
  const read = new Set<number>();
  const kept: [number, number][] = [];
  for (const pair of pairs.toReversed()) {
    const [low, high] = pair;
    if (!read.has(low) && !read.has(high) && partOf(low) === partOf(high)) continue;
    read.add(low).add(high);
    kept.push(pair);
  }
  return kept.reverse();
}

/** Columns sorted at once: rows of 256 bytes, so that a hundred of them fit the first-level cache. */
const COLUMNS = 64;
/** Columns copied at once: a copy has a price of its own. */
const STAGED = 1024;
/** Rows do not begin at the same place of a page: they would push each other out of the cache. */
const STRIDE_BYTES = (STAGED + COLUMNS) * 4;

/** Sorted columns, in the memory of a kernel. */
interface SortedColumns {
  readonly kernel: Kernel;
  /** `rows[rank][column]`, of {@link STAGED} columns. */
  readonly rows: readonly Float32Array[];
  readonly from: number;
  readonly count: number;
}

/** Sorts the values of all inputs coordinate by coordinate, some columns at a time. */
function sortColumns(
  inputs: readonly Float32Array[],
  pairs: readonly [number, number][],
  visit: (sorted: SortedColumns) => void,
): void {
  const n = inputs.length;
  const size = inputs[0]?.length ?? 0;
  // One row more, to add up in.
  const table = (n + 1) * STRIDE_BYTES;
  const kernel = openKernel(table + Math.max(1, pairs.length) * 8);
  const { exchange, buffer } = kernel;
  const addresses = pairs.flat().map((row) => row * STRIDE_BYTES);
  new Int32Array(buffer, table, addresses.length).set(addresses);
  const rows = Array.from(
    { length: n + 1 },
    (_, k) => new Float32Array(buffer, k * STRIDE_BYTES, STAGED),
  );
  for (let from = 0; from < size; from += STAGED) {
    const count = Math.min(STAGED, size - from);
    for (const [k, input] of inputs.entries()) rows[k]?.set(input.subarray(from, from + count));
    for (let at = 0; at < count && pairs.length > 0; at += COLUMNS)
      exchange(table, table + pairs.length * 8, COLUMNS * 4, at * 4);
    visit({ kernel, rows, from, count });
  }
}

/**
 * Sorts the values of all inputs coordinate by coordinate and lets `pick` make one value of each
 * column. Many columns go through one sorting network side by side, in vector registers.
 *
 * @param inputs Of one length; finite.
 * @param pick Gets the sorted values as `rows[rank][column]` and writes `count` results from `at`.
 */
export function perCoordinate(
  inputs: readonly Float32Array[],
  pick: (
    rows: readonly Float32Array[],
    result: Float32Array,
    at: { from: number; count: number },
  ) => void,
): Float32Array {
  const result = new Float32Array(inputs[0]?.length ?? 0);
  sortColumns(inputs, sortingNetwork(inputs.length), ({ rows, from, count }) =>
    pick(rows.slice(0, -1), result, { from, count }),
  );
  return result;
}

/**
 * Mean of the values of some ranks, coordinate by coordinate; added up in float32.
 *
 * @param inputs Of one length; finite.
 * @param ranks From (inclusive) to (exclusive) in ascending order.
 */
export function rankMeans(
  inputs: readonly Float32Array[],
  ranks: readonly [from: number, to: number],
): Float32Array {
  const n = inputs.length;
  const result = new Float32Array(inputs[0]?.length ?? 0);
  const pairs = neededFor(sortingNetwork(n), ranks, true);
  const [low, high] = ranks;
  const ones = Array.from({ length: ADDED_AT_ONCE }, () => 1);
  sortColumns(inputs, pairs, ({ kernel, rows, from, count }) => {
    const sum = rows[n]?.fill(0) ?? new Float32Array();
    const [start, end] = [n * STRIDE_BYTES, n * STRIDE_BYTES + Math.ceil(count / 16) * 64];
    for (let rank = low; rank < high; rank += ADDED_AT_ONCE) {
      const some = Array.from(
        { length: Math.min(ADDED_AT_ONCE, high - rank) },
        (_, k) => (rank + k) * STRIDE_BYTES,
      );
      kernel.add[some.length - 1]?.(start, end, ...some, ...ones.slice(0, some.length));
    }
    for (let i = 0; i < count; i++) result[from + i] = (sum[i] ?? 0) / (high - low);
  });
  return result;
}
