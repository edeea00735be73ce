import { type Random, ShoalError } from '@shoal/core';

/** How changes are written on the wire. */
export type CompressionOptions =
  | { readonly name: 'none' | 'fp16' | 'int8' }
  | {
      readonly name: 'top-k';
      /** Share of the values that travels, in (0, 1]. */
      readonly share: number;
    };

/** Values that share one scale in int8. */
const BLOCK = 1024;

function encodeInt8(values: Float32Array, random: Random): Uint8Array {
  const blocks = Math.ceil(values.length / BLOCK);
  const bytes = new Uint8Array(blocks * 4 + values.length);
  const scales = new Float32Array(bytes.buffer, 0, blocks);
  const codes = new Int8Array(bytes.buffer, blocks * 4);
  for (let b = 0; b < blocks; b++) {
    const block = values.subarray(b * BLOCK, (b + 1) * BLOCK);
    const top = block.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
    const scale = top / 127;
    scales[b] = scale;
    if (scale === 0) continue;
    for (let i = 0; i < block.length; i++)
      codes[b * BLOCK + i] = Math.floor((block[i] ?? 0) / scale + random.next());
  }
  return bytes;
}

function decodeInt8(bytes: Uint8Array, size: number): Float32Array {
  const blocks = Math.ceil(size / BLOCK);
  const aligned = new Uint8Array(bytes);
  const scales = new Float32Array(aligned.buffer, 0, blocks);
  const codes = new Int8Array(aligned.buffer, blocks * 4);
  return Float32Array.from(codes, (code, i) => code * (scales[Math.floor(i / BLOCK)] ?? 0));
}

/** The k-th largest magnitude, by quickselect on a copy. */
function thresholdOf(values: Float32Array, k: number): number {
  const magnitudes = values.map(Math.abs);
  let low = 0;
  let high = magnitudes.length - 1;
  while (low < high) {
    const pivot = magnitudes[(low + high) >> 1] ?? 0;
    let [i, j] = [low, high];
    while (i <= j) {
      while ((magnitudes[i] ?? 0) > pivot) i++;
      while ((magnitudes[j] ?? 0) < pivot) j--;
      if (i > j) break;
      const held = magnitudes[i] ?? 0;
      magnitudes[i++] = magnitudes[j] ?? 0;
      magnitudes[j--] = held;
    }
    if (k - 1 <= j) high = j;
    else if (k - 1 >= i) low = i;
    else break;
  }
  return magnitudes[k - 1] ?? 0;
}

function encodeTopK(values: Float32Array, share: number): Uint8Array {
  const k = Math.max(1, Math.round(values.length * share));
  const limit = thresholdOf(values, k);
  const indices: number[] = [];
  for (let i = 0; i < values.length && indices.length < k; i++)
    if (Math.abs(values[i] ?? 0) > limit) indices.push(i);
  for (let i = 0; i < values.length && indices.length < k; i++)
    if (Math.abs(values[i] ?? 0) === limit) indices.push(i);
  indices.sort((a, b) => a - b);
  const bytes = new Uint8Array(indices.length * 8);
  new Uint32Array(bytes.buffer, 0, indices.length).set(indices);
  const kept = new Float32Array(bytes.buffer, indices.length * 4);
  for (const [i, at] of indices.entries()) kept[i] = values[at] ?? 0;
  return bytes;
}

function decodeTopK(bytes: Uint8Array, size: number): Float32Array {
  const aligned = new Uint8Array(bytes);
  const count = aligned.length / 8;
  const indices = new Uint32Array(aligned.buffer, 0, count);
  const kept = new Float32Array(aligned.buffer, count * 4);
  const values = new Float32Array(size);
  for (const [i, at] of indices.entries()) {
    if (at >= size) throw new ShoalError('data_corrupt', `index ${at} is beyond ${size} values`);
    values[at] = kept[i] ?? 0;
  }
  return values;
}

/** Bytes an encoding has for `size` values; undefined when it depends on the share. */
function encodedBytes(name: string, size: number): number | undefined {
  switch (name) {
    case 'none':
      return size * 4;
    case 'fp16':
      return size * 2;
    case 'int8':
      return Math.ceil(size / BLOCK) * 4 + size;
    default:
      return undefined;
  }
}

function encode(values: Float32Array, options: CompressionOptions, random: Random): Uint8Array {
  switch (options.name) {
    case 'none':
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    case 'fp16':
      return new Uint8Array(Float16Array.from(values).buffer);
    case 'int8':
      return encodeInt8(values, random);
    case 'top-k':
      return encodeTopK(values, options.share);
  }
}

/**
 * Reads what {@link Compressor} wrote; uncompressed values may share memory with the bytes.
 *
 * @throws ShoalError `data_corrupt` when the length does not fit `size` values; `invalid_argument`
 *   for an unknown encoding.
 */
export function decompress(name: string, bytes: Uint8Array, size: number): Float32Array {
  const wanted = encodedBytes(name, size);
  const fits =
    wanted === undefined
      ? bytes.length % 8 === 0 && bytes.length <= size * 8
      : bytes.length === wanted;
  if (!fits)
    throw new ShoalError(
      'data_corrupt',
      `${bytes.length} bytes of ${name} cannot hold ${size} values${wanted === undefined ? '' : `, which take ${wanted}`}`,
    );
  switch (name) {
    case 'none':
      return bytes.byteOffset % 4 === 0
        ? new Float32Array(bytes.buffer, bytes.byteOffset, size)
        : new Float32Array(new Uint8Array(bytes).buffer);
    case 'fp16':
      return Float32Array.from(new Float16Array(new Uint8Array(bytes).buffer));
    case 'int8':
      return decodeInt8(bytes, size);
    case 'top-k':
      return decodeTopK(bytes, size);
    default:
      throw new ShoalError('invalid_argument', `unknown encoding "${name}"`);
  }
}

/**
 * Compresses a participant's changes, round after round. What an encoding loses is added to the next
 * change (error feedback, Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1): e ← Δ + e − Q(Δ + e).
 */
export class Compressor {
  readonly options: CompressionOptions;
  readonly #random: Random;
  #residual: Float32Array | undefined;

  /**
   * @param residual What was lost until here. Default nothing.
   * @throws ShoalError `invalid_argument` for a share out of range.
   */
  constructor(options: CompressionOptions, random: Random, residual?: Float32Array) {
    if (options.name === 'top-k' && !(options.share > 0 && options.share <= 1))
      throw new ShoalError('invalid_argument', `the share must be in (0, 1], got ${options.share}`);
    this.options = options;
    this.#random = random;
    this.#residual = residual;
  }

  /** What was lost until here; undefined before the first change. Replaced, and never changed. */
  get residual(): Float32Array | undefined {
    return this.#residual;
  }

  /**
   * @param delta Not changed.
   * @param round Decides what chance does: the same round gives the same bytes.
   */
  compress(delta: Float32Array, round: number): Uint8Array {
    if (this.options.name === 'none') return encode(delta, this.options, this.#random);
    const whole = delta.map((v, i) => v + (this.#residual?.[i] ?? 0));
    const bytes = encode(whole, this.options, this.#random.fork(`round ${round}`));
    const sent = decompress(this.options.name, bytes, whole.length);
    this.#residual = whole.map((v, i) => v - (sent[i] ?? 0));
    return bytes;
  }
}
