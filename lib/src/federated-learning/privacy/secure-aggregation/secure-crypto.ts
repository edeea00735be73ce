import { chacha20 } from '@noble/ciphers/chacha.js';
import { ed25519, x25519 } from '@noble/curves/ed25519.js';

/** The bytes of a stream cipher, one block after the other. */
export type Keystream = (block: Uint8Array) => void;

/** The costly parts of secure aggregation, which a platform may bring along. */
export interface SecureCrypto {
  /** The ChaCha20 keystream (RFC 8439) of a 256-bit key, nonce and counter 0. */
  keystream(key: Uint8Array): Keystream;
  /** X25519 (RFC 7748). */
  sharedSecret(secretKey: Uint8Array, publicKey: Uint8Array): Uint8Array;
  /** Ed25519 (RFC 8032). */
  verify(signature: Uint8Array, message: Uint8Array, publicKey: Uint8Array): boolean;
}

/** Bytes of a keystream made at once: they fit the cache. */
export const BLOCK_BYTES: number = 64 * 1024;

/** In JavaScript, for browsers. */
export const portableCrypto: SecureCrypto = {
  keystream: (key) => {
    const nonce = new Uint8Array(12);
    let counter = 0;
    return (block) => {
      block.fill(0);
      chacha20(key, nonce, block, block, counter);
      counter += block.length / 64;
    };
  },
  sharedSecret: (secretKey, publicKey) => x25519.getSharedSecret(secretKey, publicKey),
  verify: (signature, message, publicKey) =>
    signature.length === 64 && ed25519.verify(signature, message, publicKey),
};

/** words ← words ± keystream, each word modulo 2³², in place. */
export function applyMask(words: Uint32Array, sign: 1 | -1, next: Keystream): void {
  const bytes = new Uint8Array(BLOCK_BYTES);
  const mask = new Uint32Array(bytes.buffer);
  for (let from = 0; from < words.length; from += mask.length) {
    next(bytes);
    const part = words.subarray(from, from + mask.length);
    if (sign === 1) for (let i = 0; i < part.length; i++) part[i] = (part[i] ?? 0) + (mask[i] ?? 0);
    else for (let i = 0; i < part.length; i++) part[i] = (part[i] ?? 0) - (mask[i] ?? 0);
  }
}
