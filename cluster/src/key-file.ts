import { randomBytes } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { fromNode } from '@shoal/core';

const KEY_BYTES = 32;

/**
 * A secret key of 32 bytes, made on first use. One that a start cut short is made anew: what was
 * sealed or signed with it is lost, as it would be anyway.
 */
export function keyFile(file: string): Buffer {
  try {
    const key = readFileSync(file);
    if (key.length === KEY_BYTES) return key;
    rmSync(file);
  } catch (error) {
    if (fromNode(error, '').code !== 'not_found') throw fromNode(error, `reading ${file}`);
  }
  const key = randomBytes(KEY_BYTES);
  writeFileSync(file, key, { mode: 0o600, flag: 'wx' });
  return key;
}
