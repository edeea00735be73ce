/** Float32 values a tile holds: 64 KiB, so that accumulator and input stay in the cache. */
const TILE = 16_384;
const PAGE_BYTES = 65_536;

const unsigned = (n: number): number[] => {
  const bytes: number[] = [];
  let rest = n;
  do {
    bytes.push((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    rest >>>= 7;
  } while (rest > 0);
  return bytes;
};
const signed = (n: number): number[] => (n < 64 ? [n] : [(n & 0x7f) | 0x80, n >> 7]);
const section = (id: number, body: readonly number[]): number[] => [
  id,
  ...unsigned(body.length),
  ...body,
];

const LOCAL_GET = 0x20;
const LOCAL_SET = 0x21;
const load = (offset: number): number[] => [0xfd, 0x00, 0x02, offset];
const store = (offset: number): number[] => [0xfd, 0x0b, 0x02, offset];
const advance = (local: number, by: number): number[] => [
  ...[LOCAL_GET, local, 0x41, ...signed(by), 0x6a],
  ...[LOCAL_SET, local],
];
/** Goes round again while one local is below another. */
const whileBelow = (local: number, end: number): number[] => [
  ...[LOCAL_GET, local, LOCAL_GET, end, 0x49],
  ...[0x0d, 0x00],
];
const LOOP: readonly number[] = [0x03, 0x40];
const END = 0x0b;

/** `axpy(acc, x, end, w)`: acc ← acc + w·x, sixteen floats a turn, from address `acc` to `end`. */
function axpyCode(): number[] {
  const one = (offset: number): number[] => [
    ...[LOCAL_GET, 0, LOCAL_GET, 0, ...load(offset)],
    ...[LOCAL_GET, 1, ...load(offset), LOCAL_GET, 4, 0xfd, 0xe6, 0x01], // f32x4.mul
    ...[0xfd, 0xe4, 0x01, ...store(offset)], // f32x4.add
  ];
  return [
    ...[0x01, 0x01, 0x7b], // one local of type v128: w in every lane
    ...[LOCAL_GET, 3, 0xfd, 0x13, LOCAL_SET, 4],
    ...[...LOOP, ...[0, 16, 32, 48].flatMap(one), ...advance(0, 64), ...advance(1, 64)],
    ...[...whileBelow(0, 2), END, END],
  ];
}

/**
 * `exchange(pairs, end, bytes)`: for each pair of addresses from `pairs` to `end`, the smaller
 * value of every lane goes to the first row, the larger to the second.
 */
function exchangeCode(): number[] {
  const [pairs, end, bytes, a, b, stop, va, vb] = [0, 1, 2, 3, 4, 5, 6, 7];
  const both = (op: number): number[] => [LOCAL_GET, va, LOCAL_GET, vb, 0xfd, op, 0x01];
  return [
    ...[0x02, 0x03, 0x7f, 0x02, 0x7b], // three i32, two v128
    ...LOOP,
    ...[LOCAL_GET, pairs, 0x28, 0x02, 0x00, LOCAL_SET, a],
    ...[LOCAL_GET, pairs, 0x28, 0x02, 0x04, LOCAL_SET, b],
    ...[LOCAL_GET, a, LOCAL_GET, bytes, 0x6a, LOCAL_SET, stop],
    ...LOOP,
    ...[LOCAL_GET, a, ...load(0), LOCAL_SET, va],
    ...[LOCAL_GET, b, ...load(0), LOCAL_SET, vb],
    ...[LOCAL_GET, a, ...both(0xea), ...store(0)], // f32x4.pmin
    ...[LOCAL_GET, b, ...both(0xeb), ...store(0)], // f32x4.pmax
    ...[...advance(a, 16), ...advance(b, 16), ...whileBelow(a, stop), END],
    ...[...advance(pairs, 8), ...whileBelow(pairs, end), END],
    END,
  ];
}

/** A module with both loops, written by hand: no compiler is needed for two loops. */
function kernelModule(): Uint8Array<ArrayBuffer> {
  const text = (name: string): number[] => [name.length, ...new TextEncoder().encode(name)];
  const body = (code: readonly number[]): number[] => [...unsigned(code.length), ...code];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, [2, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7d, 0, 0x60, 3, 0x7f, 0x7f, 0x7f, 0]),
    ...section(2, [1, ...text('m'), ...text('m'), 0x02, 0x00, 0x01]),
    ...section(3, [2, 0, 1]),
    ...section(7, [2, ...text('axpy'), 0x00, 0x00, ...text('exchange'), 0x00, 0x01]),
    ...section(10, [2, ...body(axpyCode()), ...body(exchangeCode())]),
  ]);
}

interface Kernel {
  readonly axpy: (acc: number, x: number, end: number, w: number) => void;
  readonly exchange: (pairs: number, end: number, bytes: number) => void;
  readonly buffer: ArrayBuffer;
}

function open(bytes: number): Kernel {
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE_BYTES) });
  const module = new WebAssembly.Module(kernelModule());
  const { exports } = new WebAssembly.Instance(module, { m: { m: memory } });
  return {
    axpy: exports['axpy'] as Kernel['axpy'],
    exchange: exports['exchange'] as Kernel['exchange'],
    buffer: memory.buffer,
  };
}

interface AdditionKernel {
  readonly axpy: Kernel['axpy'];
  readonly acc: Float32Array;
  readonly x: Float32Array;
}

let addition: AdditionKernel | undefined;

function additionKernel(): AdditionKernel {
  if (addition) return addition;
  const { axpy, buffer } = open(2 * TILE * 4);
  addition = {
    axpy,
    acc: new Float32Array(buffer, 0, TILE),
    x: new Float32Array(buffer, TILE * 4, TILE),
  };
  return addition;
}

/**
 * target ← target + Σ_k weights[k]·inputs[k], always in the order of the inputs: the same inputs in
 * the same order give the same bits.
 *
 * Works tile by tile: the accumulator of a tile stays in the cache while every input passes once.
 *
 * @param inputs Each as long as `target`.
 */
export function addWeighted(
  target: Float32Array,
  inputs: readonly Float32Array[],
  weights: readonly number[],
): void {
  const [only] = inputs;
  if (inputs.length === 1 && only) {
    addOne(target, only, Math.fround(weights[0] ?? 0));
    return;
  }
  const { axpy, acc, x } = additionKernel();
  for (let from = 0; from < target.length; from += TILE) {
    const to = Math.min(from + TILE, target.length);
    const size = to - from;
    const end = Math.ceil(size / 16) * 64;
    acc.set(target.subarray(from, to));
    for (const [k, input] of inputs.entries()) {
      x.set(input.subarray(from, to));
      axpy(0, TILE * 4, end, weights[k] ?? 0);
    }
    target.set(acc.subarray(0, size), from);
  }
}

/**
 * target ← target + w·x. Copying into the kernel's memory costs more than one addition: each step is rounded
 * to float32 as the kernel does, so that the bits are the same.
 */
function addOne(target: Float32Array, x: Float32Array, w: number): void {
  for (let i = 0; i < target.length; i++)
    target[i] = (target[i] ?? 0) + Math.fround(w * (x[i] ?? 0));
}

/** target ← w·x, with the bits that {@link addWeighted} makes of a target of zeros. */
export function setWeighted(target: Float32Array, x: Float32Array, weight: number): void {
  const w = Math.fround(weight);
  for (let i = 0; i < target.length; i++) target[i] = 0 + Math.fround(w * (x[i] ?? 0));
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

/** The comparators that rows `from` to `to` (exclusive) of the sorted column depend on. */
function neededFor(
  pairs: readonly [number, number][],
  from: number,
  to: number,
): [number, number][] {
  const wanted = new Set(Array.from({ length: to - from }, (_, i) => from + i));
  const kept: [number, number][] = [];
  for (const pair of pairs.toReversed()) {
    if (!wanted.has(pair[0]) && !wanted.has(pair[1])) continue;
    wanted.add(pair[0]).add(pair[1]);
    kept.push(pair);
  }
  return kept.reverse();
}

/** Columns sorted at once: rows of 256 bytes, so that a hundred of them fit the first-level cache. */
const COLUMNS = 64;

/**
 * Sorts the values of all inputs coordinate by coordinate and lets `pick` make one value of each
 * column. Many columns go through one sorting network side by side, in vector registers.
 *
 * @param inputs Of one length; finite.
 * @param pick Gets the sorted values as `rows[rank][column]` and writes `count` results from `at`.
 * @param ranks Which ranks `pick` looks at, from (inclusive) to (exclusive); default all.
 */
export function perCoordinate(
  inputs: readonly Float32Array[],
  pick: (
    rows: readonly Float32Array[],
    result: Float32Array,
    at: { from: number; count: number },
  ) => void,
  ranks: readonly [from: number, to: number] = [0, inputs.length],
): Float32Array {
  const n = inputs.length;
  const size = inputs[0]?.length ?? 0;
  const result = new Float32Array(size);
  const pairs = neededFor(sortingNetwork(n), ...ranks);
  const rowBytes = COLUMNS * 4;
  const table = n * rowBytes;
  const { exchange, buffer } = open(table + Math.max(1, pairs.length) * 8);
  new Int32Array(buffer, table, pairs.length * 2).set(pairs.flat().map((row) => row * rowBytes));
  const rows = inputs.map((_, k) => new Float32Array(buffer, k * rowBytes, COLUMNS));
  for (let from = 0; from < size; from += COLUMNS) {
    const count = Math.min(COLUMNS, size - from);
    for (const [k, input] of inputs.entries()) rows[k]?.set(input.subarray(from, from + count));
    if (pairs.length > 0) exchange(table, table + pairs.length * 8, rowBytes);
    pick(rows, result, { from, count });
  }
  return result;
}
