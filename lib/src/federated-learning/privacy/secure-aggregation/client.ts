import { x25519 } from '@noble/curves/ed25519.js';
import { randomBytes } from '@noble/hashes/utils.js';
import { ShoalError } from '@shoal/core';
import { split } from 'shamir-secret-sharing';
import { planFixedPoint } from './fixed-point.ts';
import { isSigned, requireSignature, type SigningIdentity, sign } from './identity.ts';
import {
  advertStatement,
  commitmentOf,
  graphSeed,
  type KeyAdvert,
  pairKey,
  SECRET_BYTES,
  type SealedShare,
  type SecureSession,
  seal,
  seedKey,
  survivorsStatement,
  unseal,
} from './keys.ts';
import { leastThreshold, neighbourCount, neighbourGraph } from './neighbours.ts';
import { applyMask, type SecureCrypto } from './secure-crypto.ts';

/** A share that is opened to the server: of the own mask of one who is in, or the keys of one who is not. */
export interface RevealedShare {
  readonly owner: string;
  readonly of: 'seed' | 'key';
  readonly share: Uint8Array;
}

/** A survivor's word that it was told the same survivors. */
export interface Confirmation {
  readonly participant: string;
  readonly signature: Uint8Array;
}

export interface SecureClientOptions {
  readonly session: SecureSession;
  readonly participant: string;
  readonly identity: SigningIdentity;
  readonly crypto: SecureCrypto;
  /** Samples behind the change, ≥ 1. */
  readonly samples: number;
  /** Largest magnitude of a value of the change; the same for everybody. */
  readonly range: number;
}

/** With two, each could take its own change off the sum. */
export const LEAST_PARTICIPANTS = 3;
/** A share carries its position in one byte more than the secret. */
const SHARE_BYTES = SECRET_BYTES + 1;

/** How this participant writes its change. */
export interface OwnFixedPoint {
  readonly range: number;
  readonly bits: number;
  readonly weight: number;
}

interface Graph {
  readonly fixedPoint: OwnFixedPoint;
  readonly threshold: number;
  readonly adverts: ReadonlyMap<string, KeyAdvert>;
  /** Neighbours of this participant. */
  readonly near: readonly string[];
}

/**
 * A participant's side of one secure aggregation (Bonawitz et al. 2017, "Practical Secure Aggregation for
 * Privacy-Preserving Machine Learning", CCS 2017, fig. 4, in its form against an active server; masks only
 * with neighbours, Bell et al. 2020, CCS 2020, eprint 2020/704). The server learns the sum of those who
 * stay, and nothing of one alone.
 *
 * Calls come in the order advertise, share, mask, confirm, reveal; each can be made again and gives
 * the same answer.
 */
export class SecureAggregationClient {
  readonly #options: SecureClientOptions;
  readonly #encryption = x25519.keygen();
  readonly #masking = x25519.keygen();
  readonly #seed = randomBytes(SECRET_BYTES);
  #graph: Graph | undefined;
  #sealed: readonly SealedShare[] | undefined;
  /** What this participant holds of others, and of itself: seed and key share by owner. */
  readonly #held = new Map<string, Uint8Array>();
  #survivors: string | undefined;

  constructor(options: SecureClientOptions) {
    this.#options = options;
  }

  get session(): SecureSession {
    return this.#options.session;
  }

  /** Public keys of this aggregation, signed. */
  advertise(): KeyAdvert {
    const { session, participant, identity, samples, range } = this.#options;
    const advert = {
      participant,
      samples,
      range,
      encryptionKey: this.#encryption.publicKey,
      maskingKey: this.#masking.publicKey,
      seedCommitment: commitmentOf(this.#seed),
    };
    return { ...advert, signature: sign(identity, advertStatement(session, advert)) };
  }

  /**
   * Checks the keys of everybody and hands out shares of the own secrets.
   *
   * @param adverts Of all participants, this one among them.
   * @param neighbours k of the graph.
   * @param threshold Shares that open a secret.
   * @throws ShoalError `permission_denied` for keys that are not signed by whom they name;
   *   `failed_precondition` for too few participants, for another range, other neighbours or a threshold
   *   than the protocol has: with them the server could tell changes apart.
   */
  async share(
    adverts: readonly KeyAdvert[],
    at: { readonly neighbours: number; readonly threshold: number },
  ): Promise<readonly SealedShare[]> {
    if (this.#sealed) return this.#sealed;
    const { session, participant, identity, crypto } = this.#options;
    const sorted = adverts.toSorted((a, b) => (a.participant < b.participant ? -1 : 1));
    const names = sorted.map((a) => a.participant);
    if (new Set(names).size < Math.max(names.length, LEAST_PARTICIPANTS))
      throw new ShoalError(
        'failed_precondition',
        `${new Set(names).size} different participants of ${names.length}: secure aggregation needs ${LEAST_PARTICIPANTS} or more, each once`,
      );
    for (const advert of sorted)
      requireSignature(identity, crypto, {
        participant: advert.participant,
        message: advertStatement(session, advert),
        signature: advert.signature,
      });
    const byName = new Map(sorted.map((a) => [a.participant, a]));
    const own = byName.get(participant);
    if (!own || !equal(own.maskingKey, this.#masking.publicKey))
      throw new ShoalError('permission_denied', 'the server tells others keys that are not ours');
    const graph = neighbourGraph(names, at.neighbours, graphSeed(session, sorted));
    const near = graph.get(participant) ?? [];
    const { range } = this.#options;
    const other = sorted.find((a) => a.range !== range || !(a.samples >= 1));
    if (other || at.neighbours !== neighbourCount(names.length))
      throw new ShoalError(
        'failed_precondition',
        other
          ? `${other.participant} was told the range ${other.range} for ${other.samples} samples, we were told ${range}`
          : `${at.neighbours} neighbours are refused: ${names.length} participants have ${neighbourCount(names.length)}`,
      );
    const plan = planFixedPoint(new Map(sorted.map((a) => [a.participant, a.samples])), range);
    const holders = near.length + 1;
    if (near.length < 2 || at.threshold < leastThreshold(holders) || at.threshold > holders)
      throw new ShoalError(
        'failed_precondition',
        `a threshold of ${at.threshold} of ${holders} holders is refused: it must be in [${leastThreshold(holders)}, ${holders}], with 2 or more neighbours`,
      );
    const fixedPoint = { range, bits: plan.bits, weight: plan.weights.get(participant) ?? 1 };
    this.#graph = { threshold: at.threshold, adverts: byName, near, fixedPoint };
    this.#sealed = await this.#sealShares(this.#graph);
    return this.#sealed;
  }

  /** How the change is to be written: everybody works it out from what all have signed. */
  get fixedPoint(): OwnFixedPoint {
    return this.#requireGraph().fixedPoint;
  }

  async #sealShares({ near, threshold, adverts }: Graph): Promise<SealedShare[]> {
    const { participant } = this.#options;
    const seeds = await split(this.#seed, near.length + 1, threshold);
    const keys = await split(this.#masking.secretKey, near.length + 1, threshold);
    const both = seeds.map((s, i) => concat(s, keys[i] ?? new Uint8Array()));
    this.#held.set(participant, both[near.length] ?? new Uint8Array());
    return near.map((to, i) =>
      seal(this.#options, this.#encryption.secretKey, {
        theirs: adverts.get(to)?.encryptionKey ?? new Uint8Array(),
        from: participant,
        to,
        plain: both[i] ?? new Uint8Array(),
      }),
    );
  }

  #requireGraph(): Graph {
    if (!this.#graph)
      throw new ShoalError('failed_precondition', 'masks were asked for before keys were told');
    return this.#graph;
  }

  /**
   * Adds the masks to a vector, in place: the own one, and one for each neighbour that is still there.
   *
   * @param shares What neighbours sealed for this participant; its names are those that are still there.
   * @throws ShoalError `data_corrupt` for a share that was changed; `failed_precondition` for too few.
   */
  mask(shares: readonly SealedShare[], words: Uint32Array): void {
    const { session, participant, crypto } = this.#options;
    const { adverts, near, threshold } = this.#requireGraph();
    const wanted = new Set(near);
    for (const share of shares) {
      const theirs = adverts.get(share.from)?.encryptionKey;
      if (!theirs || share.to !== participant || !wanted.delete(share.from))
        throw new ShoalError(
          'permission_denied',
          `a share of ${share.from} for ${share.to} is none for us`,
        );
      const plain = unseal(this.#options, this.#encryption.secretKey, { theirs, share });
      if (plain.length !== 2 * SHARE_BYTES)
        throw new ShoalError(
          'data_corrupt',
          `the share of ${share.from} has ${plain.length} bytes`,
        );
      this.#held.set(share.from, plain);
    }
    if (shares.length + 1 < threshold)
      throw new ShoalError(
        'failed_precondition',
        `${shares.length} neighbours are left: ${threshold} holders are needed`,
      );
    applyMask(words, 1, crypto.keystream(seedKey(session, this.#seed)));
    for (const { from } of shares) {
      const theirs = adverts.get(from)?.maskingKey ?? new Uint8Array();
      const key = pairKey(this.#options, this.#masking.secretKey, {
        theirs,
        names: [participant, from],
      });
      applyMask(words, participant < from ? 1 : -1, crypto.keystream(key));
    }
  }

  /**
   * Signs the list of those whose vectors the server has.
   *
   * @throws ShoalError `permission_denied` for a second, different list: it would open both masks of somebody.
   */
  confirm(survivors: readonly string[]): Confirmation {
    const { session, participant, identity } = this.#options;
    const { adverts, threshold, near } = this.#requireGraph();
    const sorted = survivors.toSorted();
    // Without a mask towards a neighbour that is in, the masks of those who are out would be all there is.
    const unmasked = near.find((n) => sorted.includes(n) && !this.#held.has(n));
    if (unmasked !== undefined)
      throw new ShoalError(
        'permission_denied',
        `${unmasked} is named as a survivor, but its share never came: our change is not masked towards it`,
      );
    const known = sorted.every((s) => adverts.has(s)) && new Set(sorted).size === sorted.length;
    if (
      !known ||
      !sorted.includes(participant) ||
      sorted.length < Math.max(threshold, LEAST_PARTICIPANTS)
    )
      throw new ShoalError(
        'permission_denied',
        `survivors ${sorted.join(', ')} are not ${LEAST_PARTICIPANTS} or more of this aggregation with us among them`,
      );
    const list = JSON.stringify(sorted);
    if (this.#survivors !== undefined && this.#survivors !== list)
      throw new ShoalError('permission_denied', 'the server names other survivors than before');
    this.#survivors = list;
    return { participant, signature: sign(identity, survivorsStatement(session, sorted)) };
  }

  /**
   * Opens shares once enough others have confirmed the same survivors: of a survivor's own mask, or of
   * the keys of one that left. Never both of one.
   *
   * @throws ShoalError `permission_denied` for confirmations that are too few or not genuine.
   */
  reveal(confirmations: readonly Confirmation[]): RevealedShare[] {
    const { session, identity, crypto } = this.#options;
    const { threshold, near } = this.#requireGraph();
    const survivors = JSON.parse(this.#survivors ?? '[]') as string[];
    const inside = new Set(survivors);
    const message = survivorsStatement(session, survivors);
    const confirmed = new Set<string>();
    // One that is not genuine counts as none: a single participant must not stop all others.
    for (const { participant, signature } of confirmations)
      if (
        inside.has(participant) &&
        isSigned(identity, crypto, { participant, message, signature })
      )
        confirmed.add(participant);
    const around = [...near, this.#options.participant].filter((p) => confirmed.has(p)).length;
    if (around < threshold || confirmed.size < leastThreshold(survivors.length))
      throw new ShoalError(
        'permission_denied',
        `${confirmed.size} of ${survivors.length} survivors have confirmed the list, ${around} of them around us, where ${threshold} are needed`,
      );
    return [...this.#held].map(([owner, both]) =>
      inside.has(owner)
        ? { owner, of: 'seed' as const, share: both.slice(0, SHARE_BYTES) }
        : { owner, of: 'key' as const, share: both.slice(SHARE_BYTES) },
    );
  }
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((v, i) => v === b[i]);
}
