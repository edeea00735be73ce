import { ShoalError } from '@shoal/core';
import type { Batch, InputValues } from './batch.ts';

/** A run is to take about so long: everything else in the process waits for it. */
const RUN_MS = 20;
/** Most steps in one run. */
export const MOST_STEPS = 32;
/** Batches are laid one behind the other for a run. */
const MOST_BYTES = 16 * 2 ** 20;

type Named = Batch['inputs'] | Batch['targets'];

/** How many steps to take in one run: as many as pass unnoticed. */
export class GroupSize {
  #most = 1;

  get most(): number {
    return this.#most;
  }

  /** Learns from a run; grows slowly, for the first runs say little. */
  took(milliseconds: number, steps: number): void {
    const fitting = Math.floor(RUN_MS / (milliseconds / steps));
    this.#most = Math.max(1, Math.min(fitting, this.#most * 2, MOST_STEPS));
  }
}

function bytesOf(given: Named): number {
  if (ArrayBuffer.isView(given)) return given.byteLength;
  return Object.values(given).reduce((n, values) => n + values.byteLength, 0);
}

/** @throws ShoalError `invalid_argument` for what is no batch. */
function expectBatch(batch: Batch): void {
  const { inputs, targets } = (batch ?? {}) as Partial<Batch>;
  if (typeof inputs === 'object' && inputs && typeof targets === 'object' && targets) return;
  const got = batch ? `{ ${Object.keys(batch).join(', ')} }` : String(batch);
  throw new ShoalError(
    'invalid_argument',
    `a batch is { inputs, targets, size }, with typed arrays; got ${got}`,
  );
}

/**
 * Copies of batches, each array behind that of the batch before, as a run wants them. The source may use its arrays
 * again.
 */
class BatchRow {
  readonly most: number;
  readonly #arrays = new Map<string, InputValues>();
  #count = 0;

  constructor(most: number) {
    this.most = most;
  }

  get isFull(): boolean {
    return this.#count >= this.most;
  }

  /** Begins anew in the same memory: the run of what was there is over. */
  restart(): void {
    this.#count = 0;
  }

  #place<T extends InputValues>(key: string, values: T): T {
    const { length } = values;
    const known = this.#arrays.get(key);
    const fits = known?.constructor === values.constructor && known.length === length * this.most;
    // Of another type or length than those before it: refused when it is fed.
    if (!fits && this.#count > 0) return values.slice() as T;
    const all = fits ? known : new (values.constructor as new (n: number) => T)(length * this.most);
    this.#arrays.set(key, all);
    const from = this.#count * length;
    (all as Float32Array).set(values as Float32Array, from);
    return all.subarray(from, from + length) as T;
  }

  #placeAll<T extends Named>(kind: string, given: T): T {
    if (ArrayBuffer.isView(given))
      return this.#place(kind, given as unknown as InputValues) as unknown as T;
    return Object.fromEntries(
      Object.entries(given).map(([k, v]) => [k, this.#place(`${kind}/${k}`, v as InputValues)]),
    ) as T;
  }

  add(batch: Batch): Batch {
    const { inputs, targets, size } = batch;
    if (this.most === 1) {
      this.#count++;
      return batch;
    }
    const copy = {
      inputs: this.#placeAll('inputs', inputs),
      targets: this.#placeAll('targets', targets),
      size,
    };
    this.#count++;
    return copy;
  }
}

/** How many batches like this one go into a run. */
function fitting({ inputs, targets }: Batch, most: number): number {
  const bytes = Math.max(1, bytesOf(inputs) + bytesOf(targets));
  return Math.max(1, Math.min(most, Math.floor(MOST_BYTES / bytes)));
}

/** The group under way. */
class Group {
  #batches: Batch[] = [];
  #row = new BatchRow(1);

  get isEmpty(): boolean {
    return this.#batches.length === 0;
  }

  get isFull(): boolean {
    return this.#row.isFull;
  }

  goesWith({ size }: Batch): boolean {
    return this.#batches[0]?.size === size;
  }

  add(batch: Batch, most: () => number): void {
    // One that is a run of its own is taken before the source is asked again: nothing to copy.
    if (this.isEmpty) {
      const wanted = fitting(batch, most());
      if (this.#row.most === wanted) this.#row.restart();
      else this.#row = new BatchRow(wanted);
    }
    this.#batches.push(this.#row.add(batch));
  }

  /** Gives what is there, and begins anew. */
  take(): readonly Batch[] {
    const batches = this.#batches;
    this.#batches = [];
    return batches;
  }
}

/**
 * Consecutive batches of one size, at most as many as wanted when the first of them is read. What was read before the
 * source fails comes first.
 *
 * @throws ShoalError `invalid_argument` for what is no batch.
 */
export async function* grouped(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  most: () => number,
): AsyncGenerator<readonly Batch[]> {
  const group = new Group();
  try {
    for await (const batch of batches) {
      expectBatch(batch);
      if (!group.isEmpty && !group.goesWith(batch)) yield group.take();
      group.add(batch, most);
      if (group.isFull) yield group.take();
    }
  } catch (error) {
    if (!group.isEmpty) yield group.take();
    throw error;
  }
  if (!group.isEmpty) yield group.take();
}
