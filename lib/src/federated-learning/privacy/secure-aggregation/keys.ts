import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { hkdf } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { ShoalError } from '@shoal/core';
import { statement } from './identity.ts';
import type { SecureCrypto } from './secure-crypto.ts';

/** The aggregation a key belongs to: keys of one are worth nothing in another. */
export interface SecureSession {
  readonly job: string;
  readonly round: number;
  readonly attempt: number;
  /**
   * The model and the instructions of the round, as they were told. Signed with the keys: an aggregator that
   * told others to change nothing would get the change of one.
   */
  readonly task: string;
}

export interface SecureContext {
  readonly session: SecureSession;
  readonly crypto: SecureCrypto;
}

/** Public keys of a participant for one aggregation. */
export interface KeyAdvert {
  readonly participant: string;
  /** X25519, for the shares on their way to others. */
  readonly encryptionKey: Uint8Array;
  /** X25519, for masks shared with neighbours. */
  readonly maskingKey: Uint8Array;
  /** Digest of the seed of the own mask. */
  readonly seedCommitment: Uint8Array;
  /** Samples behind its change, ≥ 1. */
  readonly samples: number;
  /** Largest magnitude of a value, as it was told. */
  readonly range: number;
  readonly signature: Uint8Array;
}

/** Shares of a participant's two secrets for one holder, sealed. */
export interface SealedShare {
  readonly from: string;
  readonly to: string;
  readonly ciphertext: Uint8Array;
}

export const SECRET_BYTES = 32;

export function advertStatement(
  session: SecureSession,
  advert: Omit<KeyAdvert, 'signature'>,
): Uint8Array {
  const { job, round, attempt, task } = session;
  const { participant, encryptionKey, maskingKey, seedCommitment, samples, range } = advert;
  const names = [
    'shoal secure aggregation keys',
    job,
    round,
    attempt,
    task,
    participant,
    samples,
    range,
  ] as const;
  return statement(...names, encryptionKey, maskingKey, seedCommitment);
}

export function survivorsStatement(
  session: SecureSession,
  survivors: readonly string[],
): Uint8Array {
  const { job, round, attempt } = session;
  return statement('shoal secure aggregation survivors', job, round, attempt, ...survivors);
}

/** What the neighbours follow from: all public keys, in order of the names. */
export function graphSeed(session: SecureSession, adverts: readonly KeyAdvert[]): Uint8Array {
  return sha256(statement(...adverts.map((a) => advertStatement(session, a))));
}

export function commitmentOf(seed: Uint8Array): Uint8Array {
  return sha256(statement('shoal secure aggregation seed', seed));
}

/** Key of the mask two participants share: HKDF-SHA256 over X25519. */
export function pairKey(
  { crypto, session }: SecureContext,
  ownSecret: Uint8Array,
  pair: { readonly theirs: Uint8Array; readonly names: readonly [string, string] },
): Uint8Array {
  const shared = crypto.sharedSecret(ownSecret, pair.theirs);
  const { job, round, attempt } = session;
  const info = statement(
    'shoal secure aggregation mask',
    job,
    round,
    attempt,
    ...pair.names.toSorted(),
  );
  return hkdf(sha256, shared, undefined, info, SECRET_BYTES);
}

/** Key of a participant's own mask. */
export function seedKey(session: SecureSession, seed: Uint8Array): Uint8Array {
  const { job, round, attempt } = session;
  const info = statement('shoal secure aggregation own mask', job, round, attempt);
  return hkdf(sha256, seed, undefined, info, SECRET_BYTES);
}

function sealingCipher(
  { crypto, session }: SecureContext,
  ownSecret: Uint8Array,
  at: { readonly theirs: Uint8Array; readonly from: string; readonly to: string },
): ReturnType<typeof chacha20poly1305> {
  const { job, round, attempt } = session;
  const shared = crypto.sharedSecret(ownSecret, at.theirs);
  const context = statement('shoal secure aggregation share', job, round, attempt, at.from, at.to);
  // A key for one message: from, to and session are in it, so the nonce may be fixed.
  const key = hkdf(sha256, shared, undefined, context, SECRET_BYTES);
  return chacha20poly1305(key, new Uint8Array(12), context);
}

export function seal(
  { crypto, session }: SecureContext,
  ownSecret: Uint8Array,
  at: {
    readonly theirs: Uint8Array;
    readonly from: string;
    readonly to: string;
    readonly plain: Uint8Array;
  },
): SealedShare {
  const ciphertext = sealingCipher({ crypto, session }, ownSecret, at).encrypt(at.plain);
  return { from: at.from, to: at.to, ciphertext };
}

/** @throws ShoalError `data_corrupt` for a share that was changed, replayed or meant for another. */
export function unseal(
  { crypto, session }: SecureContext,
  ownSecret: Uint8Array,
  at: { readonly theirs: Uint8Array; readonly share: SealedShare },
): Uint8Array {
  const { from, to, ciphertext } = at.share;
  try {
    return sealingCipher({ crypto, session }, ownSecret, { theirs: at.theirs, from, to }).decrypt(
      ciphertext,
    );
  } catch {
    throw new ShoalError(
      'data_corrupt',
      `the share of ${from} for ${to} is not what ${from} sealed`,
    );
  }
}
