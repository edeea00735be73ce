import {
  createCipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  type KeyObject,
  verify,
} from 'node:crypto';
import { BLOCK_BYTES, type SecureCrypto } from './secure-crypto.ts';

/** DER in front of raw keys (RFC 8410, §4 and §7). */
const PUBLIC_HEADS = { X25519: '302a300506032b656e032100', Ed25519: '302a300506032b6570032100' };
const PRIVATE_HEAD = '302e020100300506032b656e04220420';

function publicKeyOf(curve: keyof typeof PUBLIC_HEADS, raw: Uint8Array): KeyObject {
  const key = Buffer.concat([Buffer.from(PUBLIC_HEADS[curve], 'hex'), raw]);
  return createPublicKey({ key, format: 'der', type: 'spki' });
}

/** By OpenSSL: the results of the portable one, many times faster. */
export const nativeCrypto: SecureCrypto = {
  keystream: (key) => {
    const cipher = createCipheriv('chacha20', key, new Uint8Array(16));
    const zeros = new Uint8Array(BLOCK_BYTES);
    return (block) => {
      block.set(cipher.update(zeros.subarray(0, block.length)));
    };
  },
  sharedSecret: (secretKey, publicKey) => {
    const key = Buffer.concat([Buffer.from(PRIVATE_HEAD, 'hex'), secretKey]);
    const privateKey = createPrivateKey({ key, format: 'der', type: 'pkcs8' });
    return diffieHellman({ privateKey, publicKey: publicKeyOf('X25519', publicKey) });
  },
  verify: (signature, message, publicKey) => {
    try {
      return verify(null, message, publicKeyOf('Ed25519', publicKey), signature);
    } catch {
      return false; // no key at all
    }
  },
};
