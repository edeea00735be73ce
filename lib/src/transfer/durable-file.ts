import { closeSync, fsyncSync, openSync, renameSync, writeSync } from 'node:fs';
import { fromNode } from '@shoal/core';

/** Ending of a file that is being written; one found at a start is of a process that was killed. */
export const DRAFT = '.tmp';

/** Bytes written at once: a write of 100 MB takes five times as long as a hundred of 1 MB. */
const PIECE_BYTES = 1024 * 1024;

/** Writes a file so that it is there in full after a power cut, or not at all. */
export function writeDurably(path: string, parts: readonly Uint8Array[]): void {
  const draft = `${path}.${process.pid}${DRAFT}`;
  let file: number | undefined;
  try {
    file = openSync(draft, 'w');
    for (const part of parts) {
      for (let at = 0; at < part.length; )
        at += writeSync(file, part, at, Math.min(PIECE_BYTES, part.length - at));
    }
    fsyncSync(file);
  } catch (error) {
    throw fromNode(error, `writing ${path}`);
  } finally {
    if (file !== undefined) closeSync(file);
  }
  renameSync(draft, path);
}
