import type { Batch } from './batch.ts';

/** A run is to take about so long: everything else in the process waits for it. */
const RUN_MS = 20;
const MOST_STEPS = 32;
/** Inputs are laid one behind the other for a run. */
const MOST_BYTES = 16 * 2 ** 20;

function bytesOf({ inputs }: Batch): number {
  if (ArrayBuffer.isView(inputs)) return inputs.byteLength;
  return Object.values(inputs).reduce((n, values) => n + values.byteLength, 0);
}

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

/** Consecutive batches of one size, at most as many as wanted when the first of them is read. */
export async function* grouped(
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  size: GroupSize,
): AsyncGenerator<readonly Batch[]> {
  let group: Batch[] = [];
  let most = 1;
  for await (const batch of batches) {
    const [first] = group;
    const isFull = group.length >= most || group.length * bytesOf(batch) >= MOST_BYTES;
    if (first && (isFull || first.size !== batch.size)) {
      yield group;
      group = [];
    }
    if (group.length === 0) most = size.most;
    group.push(batch);
  }
  if (group.length > 0) yield group;
}
