import { ShoalError } from '@shoal/core';
import { aggregateRound, moveModel } from './aggregate.ts';
import { decompress } from './compression.ts';
import { kernelVectors, squaredDistance } from './kernels.ts';
import { OrderedSum } from './ordered-sum.ts';
import type { PrivacyGuard } from './privacy/privacy-guard.ts';
import type { RoundStore, StoredUpdate } from './round-store.ts';
import type { ModelUpdate, Strategy, StrategyState } from './strategy.ts';

interface Parts {
  readonly strategy: Strategy;
  readonly store: RoundStore;
  readonly guard: PrivacyGuard;
  /** Values at the front of the model that are trained; undefined: all. */
  readonly trained: number | undefined;
}

/** Bytes that stay as they are until they are given back. */
export interface Loan {
  readonly bytes: Uint8Array;
  readonly giveBack: () => void;
}

/** The model of a federation, and how the updates of a round move it. */
export class ModelMover {
  readonly #parts: Parts;
  #model: Float32Array;
  /** The model this round started from, once it has moved. */
  #previous: Float32Array | undefined;
  /** Memory of a model before that: fresh memory takes longer than the move. */
  #spare: Float32Array | undefined;
  /** Who still reads a model, by model. */
  readonly #readers = new Map<Float32Array, number>();
  #norm = 0;
  #sum: OrderedSum | undefined;
  readonly #memory: Float32Array;

  constructor(parts: Parts, model: Float32Array) {
    this.#parts = parts;
    this.#model = model;
    // Fresh memory costs more than the sum itself, and so does copying what is read to where it is added.
    const [memory, read] = kernelVectors(2, model.length);
    this.#memory = memory ?? new Float32Array(model.length);
    if (read) parts.store.readInto(read);
  }

  get model(): Float32Array {
    return this.#model;
  }

  /** The model as bytes that stay as they are until they are given back. */
  lend(): Loan {
    const model = this.#model;
    const { buffer, byteOffset, byteLength } = model;
    this.#readers.set(model, (this.#readers.get(model) ?? 0) + 1);
    const giveBack = (): void => {
      const rest = (this.#readers.get(model) ?? 1) - 1;
      if (rest > 0) this.#readers.set(model, rest);
      else this.#readers.delete(model);
    };
    return { bytes: new Uint8Array(buffer, byteOffset, byteLength), giveBack };
  }

  /** An update; until the next is read. */
  readonly #read = (info: StoredUpdate): ModelUpdate => {
    const { store, guard } = this.#parts;
    const delta = decompress(info.encoding, store.read(info), this.#model.length);
    guard.clip(delta);
    return { ...info, delta };
  };

  #ordered(order: readonly string[]): OrderedSum {
    this.#sum ??= new OrderedSum(this.#parts.strategy, this.#memory, order);
    return this.#sum;
  }

  /** Adds what is here and next in order to the running sum. */
  fold(updates: readonly StoredUpdate[], order: readonly string[]): void {
    this.#ordered(order).fold(updates, this.#read);
  }

  /**
   * Combines the updates of a round and moves the model.
   *
   * @param at.order Participants in the order their updates are added; empty where it is that of the updates.
   * @returns The state the strategy keeps.
   */
  combine(
    infos: readonly StoredUpdate[],
    at: { readonly round: number; readonly order: readonly string[] },
  ): StrategyState {
    const { strategy, store, guard, trained } = this.#parts;
    const { round, order } = at;
    if (strategy.rule.kind === 'joint') {
      const state = store.strategyState(round - 1);
      this.#depart();
      const updates = infos.map((info) => {
        const update = this.#read(info);
        return { ...update, delta: update.delta.slice() };
      });
      aggregateRound(strategy, this.#model, { updates, state, round, trained });
      this.#requireFinite();
      return state;
    }
    const change = this.#ordered(order).finish(infos, this.#read);
    const weights = infos.map((i) => i.samples);
    return this.move(change, { round, within: guard.within, weights });
  }

  /** Moves the model along a mean change, with noise where privacy asks for it. */
  move(
    change: Float32Array,
    at: { readonly round: number; readonly within: number; readonly weights: readonly number[] },
  ): StrategyState {
    const { strategy, store, guard, trained } = this.#parts;
    const state = store.strategyState(at.round - 1);
    guard.noise(change, at.weights);
    guard.adapt(at.within, at.weights.length);
    this.#depart();
    moveModel(strategy, this.#model, change, { state, round: at.round, trained });
    this.#requireFinite();
    return state;
  }

  /** Leaves the model of this round as it is, and goes on with a copy. */
  #depart(): void {
    this.#sum = undefined;
    const isFree = this.#spare !== undefined && !this.#readers.has(this.#spare);
    const memory = isFree ? this.#spare : undefined;
    this.#spare = undefined;
    this.#previous = this.#model;
    this.#model = memory ?? new Float32Array(this.#previous.length);
    this.#model.set(this.#previous);
  }

  /** @throws ShoalError `out_of_range`, and goes back, when the model is none any more. */
  #requireFinite(): void {
    // Not finite as soon as one value is not.
    this.#norm = Math.sqrt(squaredDistance(this.#model, this.#previous ?? this.#model));
    if (Number.isFinite(this.#norm)) return;
    this.#norm = 0;
    this.#model = this.#previous ?? this.#model;
    this.#previous = undefined;
    throw new ShoalError(
      'out_of_range',
      'the changes of this round add up to values beyond float32; privacy.clipping or a robust strategy keeps one participant from that',
    );
  }

  /** L2 norm of the last move; 0 when the model stayed. */
  changeNorm(): number {
    const norm = this.#norm;
    this.#norm = 0;
    this.#spare = this.#previous ?? this.#spare;
    this.#previous = undefined;
    return norm;
  }
}
