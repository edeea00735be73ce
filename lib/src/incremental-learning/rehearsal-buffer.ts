import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromNode, messageOf, ShoalError, seededRandom } from '@shoal/core';
import { unzipSync, zipSync } from 'fflate';
import { type NpyArray, parseNpy, toNpy } from '../data/npy.ts';
import type { Samples } from '../data/samples.ts';
import type { Rehearsal } from '../estimator/estimator.ts';
import { Memory, remembered } from '../lifelong-learning/continual/memory.ts';

export interface RehearsalOptions {
  /** Samples kept, ≥ 1. */
  readonly capacity: number;
  /** Default `class-balanced`. */
  readonly keep?: 'reservoir' | 'class-balanced';
  /** Default 1. */
  readonly seed?: number;
}

const FILE = 'rehearsal.npz';
const MAX_BYTES = 2 * 1024 ** 3;
/** Large samples are fewer, so that a buffer can always be read again. */
const KEPT_BYTES = 512 * 1024 * 1024;

/**
 * Samples kept against forgetting, in a file beside the model that learned them: a NumPy archive with
 * `x`, `y`, and how many samples of each class were ever offered, so that the choice stays fair
 * (see {@link Memory}) however often it is written and read.
 */
export class RehearsalBuffer {
  readonly #memory: Memory;
  #shape: readonly number[] | undefined;

  private constructor(options: RehearsalOptions) {
    const { capacity, keep = 'class-balanced', seed = 1 } = options;
    this.#memory = new Memory({ capacity, kind: keep, random: seededRandom(seed) });
  }

  /** A buffer with nothing in it yet. */
  static empty(options: RehearsalOptions): RehearsalBuffer {
    return new RehearsalBuffer(options);
  }

  /**
   * The buffer in a folder; empty when there is none.
   *
   * @throws ShoalError `data_corrupt` when the file is not one.
   */
  static open(folder: string, options: RehearsalOptions): RehearsalBuffer {
    const buffer = new RehearsalBuffer(options);
    const path = join(folder, FILE);
    if (existsSync(path)) buffer.#read(path);
    return buffer;
  }

  get size(): number {
    return this.#memory.size;
  }

  #read(path: string): void {
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch (error) {
      throw fromNode(error, `reading ${path}`);
    }
    const arrays = parseArchive(bytes, path);
    const [x, y, offered] = ['x', 'y', 'offered'].map((name) => arrays[name]);
    if (!x || !y || x.dims[0] !== y.dims[0])
      throw new ShoalError('data_corrupt', `${path} needs arrays x and y of one length`);
    const [size = 0, ...shape] = x.dims;
    const samples: Samples = {
      inputs: x.values,
      labels: BigInt64Array.from(y.values, (v) => BigInt(Math.round(v))),
      shape,
      size,
    };
    const counts = new Map<string, number>();
    for (let i = 0; offered && i < offered.values.length; i += 2) {
      const key = offered.values[i] ?? 0;
      counts.set(key < 0 ? 'all' : String(key), offered.values[i + 1] ?? 0);
    }
    this.#shape = shape;
    const kept = Array.from({ length: size }, (_, i) => remembered(samples, i, new Float32Array()));
    this.#memory.restore(kept, counts);
  }

  /** Offers samples that have been learned. @throws ShoalError `invalid_argument` for another shape. */
  offer(samples: Samples): void {
    if (samples.size === 0) return;
    this.#expectShape(samples.shape);
    for (let i = 0; i < samples.size; i++)
      this.#memory.offer(remembered(samples, i, new Float32Array()));
  }

  #expectShape(shape: readonly number[]): void {
    if (!this.#shape) {
      const bytes = 4 * shape.reduce((n, d) => n * d, 1);
      this.#memory.limit(Math.max(1, Math.floor(KEPT_BYTES / Math.max(1, bytes))));
    }
    this.#shape ??= shape;
    if (this.#shape.join() !== shape.join())
      throw new ShoalError(
        'invalid_argument',
        `samples of shape [${shape.join(', ')}] cannot join a rehearsal buffer of [${this.#shape.join(', ')}]`,
      );
  }

  /** What is kept, as training takes it; undefined while there is nothing. */
  rehearsal(method: Rehearsal['method'] = 'replay'): Rehearsal | undefined {
    const samples = this.#samples();
    return samples && { samples, method };
  }

  #samples(): Samples | undefined {
    const all = this.#memory.all();
    if (all.length === 0 || !this.#shape) return undefined;
    const length = all[0]?.input.length ?? 0;
    const inputs = new Float32Array(all.length * length);
    for (const [i, { input }] of all.entries()) inputs.set(input, i * length);
    const labels = BigInt64Array.from(all, (s) => s.label);
    return { inputs, labels, shape: this.#shape, size: all.length };
  }

  /** Writes the buffer into a folder, complete or not at all. */
  write(folder: string): void {
    const samples = this.#samples();
    if (!samples) return;
    const { inputs, labels, shape, size } = samples;
    const offered = [...this.#memory.offered].flatMap(([key, n]) => [
      key === 'all' ? -1 : Number(key),
      n,
    ]);
    const archive = zipSync({
      'x.npy': toNpy([size, ...shape], inputs),
      'y.npy': toNpy([size], Float32Array.from(labels, Number)),
      'offered.npy': toNpy([offered.length / 2, 2], Float32Array.from(offered)),
    });
    const path = join(folder, FILE);
    try {
      mkdirSync(folder, { recursive: true });
      writeFileSync(`${path}.tmp`, archive, { flush: true });
      renameSync(`${path}.tmp`, path);
    } catch (error) {
      throw fromNode(error, `writing ${path}`);
    }
  }
}

function parseArchive(bytes: Buffer, path: string): Record<string, NpyArray> {
  try {
    let total = 0;
    const files = unzipSync(bytes, {
      filter: (file) => {
        total += file.originalSize;
        if (total > MAX_BYTES) throw new Error(`it unpacks to more than ${MAX_BYTES} bytes`);
        return true;
      },
    });
    return Object.fromEntries(
      Object.entries(files).map(([name, data]) => [
        name.replace(/\.npy$/, ''),
        parseNpy(data, `${path}:${name}`),
      ]),
    );
  } catch (error) {
    throw new ShoalError('data_corrupt', `${path} is not a rehearsal buffer: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
