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

/**
 * `add(acc, end, x…, w…)`: acc ← ((acc + w₁·x₁) + w₂·x₂) + …, sixteen floats a turn, from address `acc` to `end`.
 * Several inputs in one pass keep several streams of memory busy, and read the accumulator once.
 */
function addCode(inputs: number): number[] {
  const [acc, end] = [0, 1];
  const each = Array.from({ length: inputs }, (_, k) => ({
    x: 2 + k,
    weight: 2 + inputs + k,
    lanes: 2 + 2 * inputs + k,
  }));
  const one = (offset: number): number[] => [
    ...[LOCAL_GET, acc, LOCAL_GET, acc, ...load(offset)],
    ...each.flatMap(({ x, lanes }) => [
      ...[LOCAL_GET, x, ...load(offset), LOCAL_GET, lanes, 0xfd, 0xe6, 0x01], // f32x4.mul
      ...[0xfd, 0xe4, 0x01], // f32x4.add
    ]),
    ...store(offset),
  ];
  return [
    ...[0x01, inputs, 0x7b], // locals of type v128: a weight in every lane
    ...each.flatMap(({ weight, lanes }) => [LOCAL_GET, weight, 0xfd, 0x13, LOCAL_SET, lanes]),
    ...[...LOOP, ...[0, 16, 32, 48].flatMap(one), ...advance(acc, 64)],
    ...each.flatMap(({ x }) => advance(x, 64)),
    ...[...whileBelow(acc, end), END, END],
  ];
}

/**
 * `exchange(pairs, end, bytes, base)`: for each pair of rows from `pairs` to `end`, the smaller value of every lane
 * goes to the first, the larger to the second; `bytes` of each, from `base` behind its address on.
 */
function exchangeCode(): number[] {
  const [pairs, end, bytes, base, a, b, stop, va, vb] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const both = (op: number): number[] => [LOCAL_GET, va, LOCAL_GET, vb, 0xfd, op, 0x01];
  const row = (offset: number, local: number): number[] => [
    ...[LOCAL_GET, pairs, 0x28, 0x02, offset, LOCAL_GET, base, 0x6a, LOCAL_SET, local],
  ];
  return [
    ...[0x02, 0x03, 0x7f, 0x02, 0x7b], // three i32, two v128
    ...LOOP,
    ...[...row(0, a), ...row(4, b)],
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

/** Inputs that the kernel adds in one pass, at most. */
export const ADDED_AT_ONCE = 5;

/** A module with the loops, written by hand: no compiler is needed for two loops. */
function kernelModule(): Uint8Array<ArrayBuffer> {
  const text = (name: string): number[] => [name.length, ...new TextEncoder().encode(name)];
  const counts = Array.from({ length: ADDED_AT_ONCE }, (_, k) => k + 1);
  const types = counts.map((n) => [
    ...[0x60, 2 + 2 * n, 0x7f, 0x7f],
    ...Array<number>(n).fill(0x7f),
    ...Array<number>(n).fill(0x7d),
    0,
  ]);
  const all = [...types, [0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 0]];
  const names = [...counts.map((n) => `add${n}`), 'exchange'];
  const codes = [...counts.map(addCode), exchangeCode()];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, [all.length, ...all.flat()]),
    ...section(2, [1, ...text('m'), ...text('m'), 0x02, 0x00, 0x01]),
    ...section(3, [all.length, ...all.keys()]),
    ...section(7, [all.length, ...names.flatMap((name, i) => [...text(name), 0x00, i])]),
    ...section(10, [all.length, ...codes.flatMap((code) => [...unsigned(code.length), ...code])]),
  ]);
}

type Add = (acc: number, end: number, ...inputs: readonly number[]) => void;

/** Loops over addresses of their own memory; float32 in SIMD lanes. */
export interface Kernel {
  /**
   * acc ← acc + w·x for one input, the next one for two, one after the other, and so on: from address `acc` to
   * `end` in turns of 64 bytes, then the addresses of the inputs, then their weights.
   */
  readonly add: readonly Add[];
  /** Exchanges values between rows, pair after pair. */
  readonly exchange: (pairs: number, end: number, bytes: number, base: number) => void;
  readonly buffer: ArrayBuffer;
}

/** @throws RangeError where there is no room for so many bytes. */
export function openKernel(bytes: number): Kernel {
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE_BYTES) });
  const module = new WebAssembly.Module(kernelModule());
  const { exports } = new WebAssembly.Instance(module, { m: { m: memory } });
  return {
    add: Array.from({ length: ADDED_AT_ONCE }, (_, k) => exports[`add${k + 1}`] as Add),
    exchange: exports['exchange'] as Kernel['exchange'],
    buffer: memory.buffer,
  };
}
