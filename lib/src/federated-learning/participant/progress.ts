import { type Random, seededRandom } from '@shoal/core';
import { Compressor } from '../compression.ts';
import type { FederatedModel, LocalResult, LocalTask, Vectors } from '../federated-model.ts';

/** An update that is not accepted yet. */
export interface Pending {
  readonly round: number;
  /** Digest of the model it was trained on. */
  readonly model: string;
  readonly bytes: Uint8Array;
  /** Known once it was sent: hashing it first would keep the aggregator waiting. */
  digest: string;
  readonly samples: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly encoding: string;
}

/** What a participant must not forget when its process is killed. */
export interface ProgressRecord {
  /** The last round whose shares were opened in secure aggregation. */
  readonly opened: number;
  readonly pending: readonly Pending[];
  /** Vectors carried from round to round, as they are now. */
  readonly carried: Vectors;
  /** Those of them that go back when the last update turns out not to count; as they were before it. */
  readonly before: Vectors | undefined;
}

/** Where that is kept: durable when `save` returns. */
export interface ProgressStore {
  load(): ProgressRecord | undefined;
  save(record: ProgressRecord): void;
}

/** Of the vectors that are carried: what compression lost (error feedback). */
const RESIDUAL = 'residual';

/**
 * Updates on their way, and the vectors that are carried from round to round: control variates, what compression
 * lost, a personal model. An update that does not count takes its part of them back, and a process that is
 * killed at any point goes on with the bits of one that was not.
 */
export class Progress {
  readonly #model: FederatedModel;
  readonly #participant: string;
  readonly #store: ProgressStore | undefined;
  /** By round; more than one only in an asynchronous federation. */
  readonly #pending = new Map<number, Pending>();
  #opened = 0;
  #before: Vectors | undefined;
  #compressor: Compressor | undefined;
  #residual: Float32Array | undefined;

  constructor(model: FederatedModel, participant: string, store?: ProgressStore) {
    this.#model = model;
    this.#participant = participant;
    this.#store = store;
    const record = store?.load();
    if (!record) return;
    this.#opened = record.opened;
    this.#before = record.before;
    for (const pending of record.pending) this.#pending.set(pending.round, pending);
    this.#carry(record.carried);
  }

  /** The last round whose shares were opened: it has no other aggregation. */
  get opened(): number {
    return this.#opened;
  }

  /** Updates that are not accepted yet. */
  get pending(): readonly Pending[] {
    return [...this.#pending.values()];
  }

  /** The update of a round, trained on a model; one of another model is given up. */
  of(round: number, model: string): Pending | undefined {
    const found = this.#pending.get(round);
    if (!found || found.model === model) return found;
    this.refused(round);
    return undefined;
  }

  /** Shares of a round are about to be opened. Durable when this returns. */
  open(round: number): void {
    this.#opened = round;
    this.#save();
  }

  /** What is carried, before a round is trained; {@link trained} wants it back. */
  mark(): Vectors {
    const shared = this.#model.carried?.().shared ?? {};
    return this.#residual ? { ...shared, [RESIDUAL]: this.#residual } : shared;
  }

  /**
   * Keeps what came of training: durable when this returns, where it could not be trained again to the same bits.
   *
   * @param at.before What {@link mark} gave.
   * @returns The update to send.
   */
  trained(
    result: LocalResult,
    task: LocalTask,
    at: { readonly model: string; readonly before: Vectors },
  ): Pending {
    const { samples, metrics } = result;
    const { round, encoding, evaluateOnly, asynchronous = false } = task;
    const bytes = evaluateOnly ? new Uint8Array() : this.#compressed(result.delta, task);
    const pending = { round, model: at.model, bytes, samples, metrics };
    const kept = { ...pending, digest: '', encoding: encoding.name };
    this.#pending.set(round, kept);
    if (evaluateOnly) return kept;
    // Late updates of an asynchronous federation count, so nothing is ever taken back there.
    this.#before = asynchronous ? undefined : at.before;
    if (Object.keys(this.#carried()).length > 0) this.#save();
    return kept;
  }

  /** Keeps what a round that is aggregated securely leaves behind. */
  trainedSecurely(): void {
    if (Object.keys(this.#carried()).length > 0) this.#save();
  }

  #compressed(delta: Float32Array, { encoding, seed, round }: LocalTask): Uint8Array {
    const random: Random = seededRandom(seed).fork(this.#participant);
    this.#compressor ??= new Compressor(encoding, random, this.#residual);
    const bytes = this.#compressor.compress(delta, round);
    this.#residual = this.#compressor.residual;
    return bytes;
  }

  /** The update of a round counts. */
  accepted(round: number): void {
    if (this.#pending.delete(round)) this.#before = undefined;
  }

  /** The update of a round does not count: what goes with it is taken back. */
  refused(round: number): void {
    if (!this.#pending.delete(round) || !this.#before) return;
    const { own = {} } = this.#model.carried?.() ?? {};
    this.#carry({ ...own, ...this.#before });
    this.#before = undefined;
  }

  #carried(): Vectors {
    const { shared = {}, own = {} } = this.#model.carried?.() ?? {};
    const residual = this.#residual ? { [RESIDUAL]: this.#residual } : {};
    return { ...shared, ...own, ...residual };
  }

  #carry(vectors: Vectors): void {
    const { [RESIDUAL]: residual, ...rest } = vectors;
    this.#residual = residual;
    this.#compressor = undefined;
    this.#model.carry?.(rest);
  }

  #save(): void {
    this.#store?.save({
      opened: this.#opened,
      pending: this.pending.filter((p) => p.bytes.length > 0),
      carried: this.#carried(),
      before: this.#before,
    });
  }
}
