import { ed25519 } from '@noble/curves/ed25519.js';
import { ShoalError } from '@shoal/core';
import type { SecureCrypto } from './secure-crypto.ts';

/** What a participant signs with; given by whoever sets the federation up, never by the aggregator. */
export interface SigningIdentity {
  /** Ed25519 secret key, 32 bytes, in base64. */
  readonly secretKey: string;
  /** Public keys of all participants by name, in base64. */
  readonly roster: Readonly<Record<string, string>>;
}

export const toBase64 = (bytes: Uint8Array): string => btoa(String.fromCharCode(...bytes));
export const fromBase64 = (text: string): Uint8Array =>
  Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** Signing keys for named participants, and the roster that all of them get. */
export function createIdentities(participants: readonly string[]): Map<string, SigningIdentity> {
  const pairs = participants.map((name) => [name, ed25519.keygen()] as const);
  const roster = Object.fromEntries(
    pairs.map(([name, { publicKey }]) => [name, toBase64(publicKey)]),
  );
  return new Map(
    pairs.map(([name, { secretKey }]) => [name, { secretKey: toBase64(secretKey), roster }]),
  );
}

/** Bytes to sign: parts with their lengths in front, so that no two lists look the same. */
export function statement(...parts: readonly (string | number | Uint8Array)[]): Uint8Array {
  const encoder = new TextEncoder();
  const blocks = parts.map((p) => (p instanceof Uint8Array ? p : encoder.encode(String(p))));
  const bytes = new Uint8Array(blocks.reduce((n, b) => n + 4 + b.length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const block of blocks) {
    view.setUint32(at, block.length);
    bytes.set(block, at + 4);
    at += 4 + block.length;
  }
  return bytes;
}

export function sign(identity: SigningIdentity, message: Uint8Array): Uint8Array {
  return ed25519.sign(message, fromBase64(identity.secretKey));
}

/** What somebody says it signed. */
export interface Signed {
  readonly participant: string;
  readonly message: Uint8Array;
  readonly signature: Uint8Array;
}

/** Whether a signature is that of the participant it names. */
export function isSigned(
  { roster }: SigningIdentity,
  crypto: SecureCrypto,
  { participant, message, signature }: Signed,
): boolean {
  const key = roster[participant];
  return key !== undefined && crypto.verify(signature, message, fromBase64(key));
}

/** @throws ShoalError `permission_denied` naming the participant, when the signature is not its own. */
export function requireSignature(
  identity: SigningIdentity,
  crypto: SecureCrypto,
  signed: Signed,
): void {
  const { participant } = signed;
  if (identity.roster[participant] === undefined)
    throw new ShoalError(
      'permission_denied',
      `${participant} is not in the roster of this federation`,
    );
  if (!isSigned(identity, crypto, signed))
    throw new ShoalError('permission_denied', `the signature of ${participant} is not its own`);
}
