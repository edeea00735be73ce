import type { Random } from '@shoal/core';
import type { Samples } from '../../data/samples.ts';

/** Samples kept against forgetting, with the logits the model had for them. */
export interface Remembered {
  readonly input: Float32Array;
  readonly label: bigint;
  readonly logits: Float32Array;
}

/**
 * A bounded memory. `reservoir`: every sample ever offered is kept with equal probability (Vitter
 * 1985, algorithm R): the t-th one replaces a random slot with probability capacity / t.
 * `class-balanced`: a reservoir for each class, of equal shares, so that rare classes stay.
 */
export class Memory {
  #capacity: number;
  readonly #balanced: boolean;
  readonly #random: Random;
  /** Class → what is kept of it; one entry under `all` for a plain reservoir. */
  readonly #kept = new Map<string, Remembered[]>();
  readonly #offered = new Map<string, number>();

  /** @param capacity Samples kept, ≥ 1. */
  constructor(options: {
    readonly capacity: number;
    readonly random: Random;
    readonly kind?: 'reservoir' | 'class-balanced';
  }) {
    this.#capacity = options.capacity;
    this.#random = options.random;
    this.#balanced = options.kind === 'class-balanced';
  }

  /** Samples ever offered, by what they are kept under; with what is kept it goes on later. */
  get offered(): ReadonlyMap<string, number> {
    return this.#offered;
  }

  /** Keeps at most so many from now on. */
  limit(capacity: number): void {
    this.#capacity = Math.min(this.#capacity, capacity);
  }

  /** Goes on where another memory stopped: with what it kept and had been offered. */
  restore(kept: readonly Remembered[], offered: ReadonlyMap<string, number>): void {
    for (const sample of kept) {
      const key = this.#key(sample);
      this.#kept.set(key, [...(this.#kept.get(key) ?? []), sample]);
    }
    for (const [key, list] of this.#kept)
      this.#offered.set(key, Math.max(list.length, offered.get(key) ?? 0));
    const share = this.#share();
    for (const list of this.#kept.values()) list.length = Math.min(list.length, share);
  }

  get size(): number {
    return [...this.#kept.values()].reduce((n, list) => n + list.length, 0);
  }

  #key(sample: Remembered): string {
    return this.#balanced ? String(sample.label) : 'all';
  }

  #share(): number {
    return Math.max(1, Math.floor(this.#capacity / Math.max(1, this.#kept.size)));
  }

  /** Offers one sample. @returns Whether it was kept. */
  offer(sample: Remembered): boolean {
    const key = this.#key(sample);
    const list = this.#kept.get(key) ?? [];
    this.#kept.set(key, list);
    const seen = (this.#offered.get(key) ?? 0) + 1;
    this.#offered.set(key, seen);
    const share = this.#share();
    for (const other of this.#kept.values()) other.length = Math.min(other.length, share);
    if (list.length < share) {
      list.push(sample);
      return true;
    }
    const slot = this.#random.int(seen);
    if (slot >= share) return false;
    list[slot] = sample;
    return true;
  }

  /** Everything kept. */
  all(): Remembered[] {
    return [...this.#kept.values()].flat();
  }

  /** Some of what is kept, drawn with replacement; empty while nothing is. */
  draw(count: number): Remembered[] {
    const all = this.all();
    if (all.length === 0) return [];
    return Array.from({ length: count }, () => all[this.#random.int(all.length)] as Remembered);
  }
}

/** A sample of a set as the memory keeps it. */
export function remembered(samples: Samples, position: number, logits: Float32Array): Remembered {
  const length = samples.inputs.length / samples.size;
  return {
    input: samples.inputs.slice(position * length, (position + 1) * length),
    label: samples.labels[position] ?? 0n,
    logits,
  };
}
