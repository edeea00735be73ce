import { MeanAccumulator } from './aggregate.ts';
import type { StoredUpdate } from './round-store.ts';
import type { ModelUpdate, Strategy } from './strategy.ts';

type Read = (info: StoredUpdate) => ModelUpdate;

/**
 * Adds updates up while they arrive, in the order of their participants: a later one waits on disk for
 * those before it, so that the order of arrival changes no bit.
 */
export class OrderedSum {
  readonly #sum: MeanAccumulator;
  readonly #order: readonly string[];
  #folded = 0;

  /**
   * @param memory Where to add up, overwritten.
   * @param order Participants of the round.
   */
  constructor(strategy: Strategy, memory: Float32Array, order: readonly string[]) {
    this.#sum = new MeanAccumulator(strategy, memory);
    this.#order = order;
  }

  /** Adds what is here and next in order. */
  fold(updates: readonly StoredUpdate[], read: Read): void {
    const infos = new Map(updates.map((u) => [u.participant, u]));
    for (
      let info = infos.get(this.#order[this.#folded] ?? '');
      info;
      info = infos.get(this.#order[this.#folded] ?? '')
    ) {
      this.#sum.add(read(info));
      this.#folded++;
    }
  }

  /** Adds the rest; some in between may never have come. */
  finish(updates: readonly StoredUpdate[], read: Read): Float32Array {
    this.fold(updates, read);
    const folded = new Set(this.#order.slice(0, this.#folded));
    for (const info of updates) if (!folded.has(info.participant)) this.#sum.add(read(info));
    return this.#sum.finish();
  }
}
