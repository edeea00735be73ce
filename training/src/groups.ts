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
  readonly #most: number;
  readonly #arrays = new Map<string, InputValues>();
  #count = 0;

  constructor(most: number) {
    this.#most = most;
  }

  get isFull(): boolean {
    return this.#count >= this.#most;
  }

  #place<T extends InputValues>(key: string, values: T): T {
    const { length } = values;
    const known = this.#arrays.get(key);
    const all = known ?? new (values.constructor as new (n: number) => T)(length * this.#most);
    this.#arrays.set(key, all);
    // Of another type or length: refused when it is fed.
    if (all.constructor !== values.constructor || all.length !== length * this.#most)
      return values.slice() as T;
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

  add({ inputs, targets, size }: Batch): Batch {
    const copy = {
      inputs: this.#placeAll('inputs', inputs),
      targets: this.#placeAll('targets', targets),
      size,
    };
    this.#count++;
    return copy;
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
  let group: Batch[] = [];
  let row = new BatchRow(1);
  try {
    for await (const batch of batches) {
      expectBatch(batch);
      if (group[0] && group[0].size !== batch.size) {
        yield group;
        group = [];
      }
      if (group.length === 0) {
        const bytes = Math.max(1, bytesOf(batch.inputs) + bytesOf(batch.targets));
        row = new BatchRow(Math.max(1, Math.min(most(), Math.floor(MOST_BYTES / bytes))));
      }
      group.push(row.add(batch));
      if (row.isFull) {
        yield group;
        group = [];
      }
    }
  } catch (error) {
    if (group.length > 0) yield group;
    throw error;
  }
  if (group.length > 0) yield group;
}
