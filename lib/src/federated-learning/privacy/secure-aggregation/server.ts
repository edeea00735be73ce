import { x25519 } from '@noble/curves/ed25519.js';
import { ShoalError } from '@shoal/core';
import { combine } from 'shamir-secret-sharing';
import { type Confirmation, LEAST_PARTICIPANTS, type RevealedShare } from './client.ts';
import {
  commitmentOf,
  graphSeed,
  type KeyAdvert,
  pairKey,
  type SealedShare,
  type SecureSession,
  seedKey,
} from './keys.ts';
import { defaultThreshold, neighbourCount, neighbourGraph } from './neighbours.ts';
import { applyMask, type SecureCrypto } from './secure-crypto.ts';

/** What participants are to send next. */
export type SecureStage = 'shares' | 'vectors' | 'confirmations' | 'reveals' | 'done' | 'failed';

/** What a participant is told in a stage. */
export type SecureRequest =
  | {
      readonly stage: 'shares';
      readonly adverts: readonly KeyAdvert[];
      readonly neighbours: number;
      readonly threshold: number;
    }
  | { readonly stage: 'vectors'; readonly shares: readonly SealedShare[] }
  | { readonly stage: 'confirmations'; readonly survivors: readonly string[] }
  | { readonly stage: 'reveals'; readonly confirmations: readonly Confirmation[] };

export interface SecureServerOptions {
  readonly session: SecureSession;
  readonly adverts: readonly KeyAdvert[];
  /** Words of a vector. */
  readonly size: number;
  readonly crypto: SecureCrypto;
}

/**
 * The aggregator's side of one secure aggregation: passes sealed shares on, adds masked vectors up as
 * they come, and takes the masks off the sum of those who stayed. No clock and no network: answers
 * come in, the stage moves on when all have answered or {@link expire} is called. Answers that were kept
 * can be given again after a restart; order does not matter.
 *
 * See {@link SecureAggregationClient} for the protocol.
 */
export class SecureAggregationServer {
  readonly #options: SecureServerOptions;
  readonly #adverts: ReadonlyMap<string, KeyAdvert>;
  readonly #near: ReadonlyMap<string, readonly string[]>;
  readonly #neighbours: number;
  readonly #sum: Uint32Array;
  readonly #shares = new Map<string, readonly SealedShare[]>();
  readonly #vectors = new Set<string>();
  readonly #confirmations = new Map<string, Confirmation>();
  readonly #reveals = new Map<string, readonly RevealedShare[]>();
  #stage: SecureStage = 'shares';
  /** Participants whose answer this stage waits for. */
  #awaited: Set<string>;
  #survivors: readonly string[] = [];
  #reason = '';

  constructor(options: SecureServerOptions) {
    this.#options = options;
    const sorted = options.adverts.toSorted((a, b) => (a.participant < b.participant ? -1 : 1));
    const names = sorted.map((a) => a.participant);
    this.#adverts = new Map(sorted.map((a) => [a.participant, a]));
    this.#neighbours = neighbourCount(names.length);
    this.#near = neighbourGraph(names, this.#neighbours, graphSeed(options.session, sorted));
    this.#sum = new Uint32Array(options.size);
    this.#awaited = new Set(names);
    if (names.length < LEAST_PARTICIPANTS)
      this.#fail(
        `${names.length} participants: secure aggregation needs ${LEAST_PARTICIPANTS} or more`,
      );
  }

  get stage(): SecureStage {
    return this.#stage;
  }

  /** Why it failed; empty unless it did. */
  get reason(): string {
    return this.#reason;
  }

  /** Whose vectors are in the sum, sorted; from the stage `confirmations` on. */
  get survivors(): readonly string[] {
    return this.#survivors;
  }

  get awaited(): ReadonlySet<string> {
    return this.#awaited;
  }

  #threshold(participant: string): number {
    return defaultThreshold((this.#near.get(participant)?.length ?? 0) + 1);
  }

  #fail(reason: string): void {
    this.#stage = 'failed';
    this.#awaited = new Set();
    this.#reason = reason;
  }

  /** What to tell a participant now; undefined when nothing is wanted of it. */
  requestFor(participant: string): SecureRequest | undefined {
    if (!this.#awaited.has(participant)) return undefined;
    switch (this.#stage) {
      case 'shares':
        return {
          stage: 'shares',
          adverts: [...this.#adverts.values()],
          neighbours: this.#neighbours,
          threshold: this.#threshold(participant),
        };
      case 'vectors':
        return { stage: 'vectors', shares: this.#sharesFor(participant) };
      case 'confirmations':
        return { stage: 'confirmations', survivors: this.#survivors };
      case 'reveals':
        return { stage: 'reveals', confirmations: [...this.#confirmations.values()] };
      case 'done':
      case 'failed':
        return undefined;
    }
  }

  #sharesFor(participant: string): SealedShare[] {
    return [...this.#shares.values()].flat().filter((s) => s.to === participant);
  }

  /** @returns Whether an answer of this stage is waited for; one that comes twice is not. */
  #isAwaited(stage: SecureStage, participant: string): boolean {
    return this.#stage === stage && this.#awaited.has(participant);
  }

  /** @throws ShoalError `invalid_argument` for shares that do not go to the sender's neighbours, each once. */
  takeShares(participant: string, shares: readonly SealedShare[]): boolean {
    if (!this.#isAwaited('shares', participant)) return false;
    const to = new Set(shares.map((s) => s.to));
    const near = this.#near.get(participant) ?? [];
    const fits =
      shares.length === near.length &&
      near.every((n) => to.has(n)) &&
      shares.every((s) => s.from === participant);
    if (!fits)
      throw new ShoalError(
        'invalid_argument',
        `${participant} sent shares for ${[...to].join(', ')}, its neighbours are ${near.join(', ')}`,
      );
    this.#shares.set(participant, shares);
    this.#answered(participant);
    return true;
  }

  /** @param words A masked vector. @throws ShoalError `invalid_argument` when its length is another. */
  takeVector(participant: string, words: Uint32Array): boolean {
    if (!this.#isAwaited('vectors', participant)) return false;
    if (words.length !== this.#sum.length)
      throw new ShoalError(
        'invalid_argument',
        `${participant} sent ${words.length} words, ${this.#sum.length} are wanted`,
      );
    const sum = this.#sum;
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] ?? 0) + (words[i] ?? 0);
    this.#vectors.add(participant);
    this.#answered(participant);
    return true;
  }

  takeConfirmation(participant: string, signature: Uint8Array): boolean {
    if (!this.#isAwaited('confirmations', participant)) return false;
    this.#confirmations.set(participant, { participant, signature });
    this.#answered(participant);
    return true;
  }

  takeReveals(participant: string, shares: readonly RevealedShare[]): boolean {
    if (!this.#isAwaited('reveals', participant)) return false;
    this.#reveals.set(participant, shares);
    this.#answered(participant);
    return true;
  }

  /** A participant is gone for good, or its answer was refused. */
  drop(participant: string): void {
    if (this.#awaited.has(participant)) this.#answered(participant);
  }

  #answered(participant: string): void {
    this.#awaited.delete(participant);
    if (this.#awaited.size === 0) this.#advance();
  }

  /** The time of the stage is over: goes on with those who answered. */
  expire(): void {
    this.#awaited.clear();
    this.#advance();
  }

  #advance(): void {
    switch (this.#stage) {
      case 'shares':
        this.#goOn('vectors', [...this.#shares.keys()]);
        return;
      case 'vectors':
        this.#survivors = [...this.#vectors].toSorted();
        this.#goOn('confirmations', this.#survivors);
        return;
      case 'confirmations':
        this.#goOn('reveals', [...this.#confirmations.keys()]);
        return;
      case 'reveals':
        this.#stage = 'done';
        return;
      case 'done':
      case 'failed':
    }
  }

  /** Goes on while everyone who is left has enough holders around it. */
  #goOn(stage: SecureStage, left: readonly string[]): void {
    const here = new Set(left);
    const lonely = left.filter((p) => {
      const holders = [p, ...(this.#near.get(p) ?? [])].filter((q) => here.has(q));
      return holders.length < this.#threshold(p);
    });
    if (left.length < LEAST_PARTICIPANTS || lonely.length > 0) {
      const gone = [...this.#adverts.keys()].filter((p) => !here.has(p));
      this.#fail(
        `secure aggregation cannot go on to ${stage}: ${gone.join(', ')} of ${this.#adverts.size} participants are gone`,
      );
      return;
    }
    this.#stage = stage;
    this.#awaited = new Set(left);
  }

  /** Shares of one secret, of all who opened theirs; plain arrays, as `combine` takes no Buffer. */
  #sharesOf(owner: string, of: RevealedShare['of']): Uint8Array[] {
    // One share of each who opened theirs, however many it names.
    return [...this.#reveals.values()].flatMap((list) => {
      const own = list.find((r) => r.owner === owner && r.of === of);
      return own ? [Uint8Array.from(own.share)] : [];
    });
  }

  /** A secret that shares open, if it is the one that was promised. */
  async #opened(
    owner: string,
    of: RevealedShare['of'],
    shares: Uint8Array[],
  ): Promise<Uint8Array | undefined> {
    const advert = this.#adverts.get(owner);
    try {
      const secret = await combine(shares);
      const found = of === 'seed' ? commitmentOf(secret) : x25519.getPublicKey(secret);
      const promised = of === 'seed' ? advert?.seedCommitment : advert?.maskingKey;
      return promised && Buffer.compare(found, promised) === 0 ? secret : undefined;
    } catch {
      return undefined;
    }
  }

  async #secretOf(owner: string, of: RevealedShare['of']): Promise<Uint8Array> {
    const shares = this.#sharesOf(owner, of);
    const wanted = this.#threshold(owner);
    if (shares.length < wanted)
      throw new ShoalError(
        'unavailable',
        `${shares.length} shares of ${owner} were opened, ${wanted} are needed`,
      );
    // Of more than are needed one may be false: with each left out in turn the others open the secret.
    const choices = [shares, ...shares.map((_, i) => shares.toSpliced(i, 1))];
    for (const choice of choices) {
      if (choice.length < wanted) continue;
      const secret = await this.#opened(owner, of, choice.slice(0, wanted));
      if (secret) return secret;
    }
    throw new ShoalError('data_corrupt', `the shares of ${owner} that were opened are not genuine`);
  }

  /**
   * Takes the masks off: own masks of survivors, and those survivors share with neighbours that left.
   *
   * @returns The sum of the survivors' vectors modulo 2³²; the server is used up.
   * @throws ShoalError `unavailable` for too few shares, `data_corrupt` for shares that are not genuine.
   */
  async sum(): Promise<Uint32Array> {
    const { session, crypto } = this.#options;
    const inside = new Set(this.#survivors);
    for (const owner of this.#survivors) {
      const seed = await this.#secretOf(owner, 'seed');
      applyMask(this.#sum, -1, crypto.keystream(seedKey(session, seed)));
    }
    for (const gone of this.#shares.keys()) {
      const left = (this.#near.get(gone) ?? []).filter((n) => inside.has(n));
      if (inside.has(gone) || left.length === 0) continue;
      const secret = await this.#secretOf(gone, 'key');
      for (const name of left) {
        const theirs = this.#adverts.get(name)?.maskingKey ?? new Uint8Array();
        const key = pairKey(this.#options, secret, { theirs, names: [gone, name] });
        applyMask(this.#sum, name < gone ? -1 : 1, crypto.keystream(key));
      }
    }
    return this.#sum;
  }
}
