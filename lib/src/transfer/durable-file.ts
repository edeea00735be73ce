import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { fromNode } from '@shoal/core';

/** Ending of a file that is being written; one found at a start is of a process that was killed. */
export const DRAFT = '.tmp';

/** Bytes written at once: a write of 100 MB takes five times as long as a hundred of 1 MB. */
const PIECE_BYTES = 1024 * 1024;

/**
 * Writes a file so that it is there in full after a power cut, or not at all.
 *
 * @param spare A file nobody needs, to be written over in place of a new one.
 * @throws ShoalError when the disk is full or the folder cannot be written.
 */
export function writeDurably(path: string, parts: readonly Uint8Array[], spare?: string): void {
  const draft = `${path}.${process.pid}${DRAFT}`;
  let file: number | undefined;
  try {
    if (spare !== undefined) renameSync(spare, draft);
    file = openSync(draft, spare === undefined ? 'w' : 'r+');
    let total = 0;
    for (const part of parts) {
      for (let at = 0; at < part.length; )
        at += writeSync(file, part, at, Math.min(PIECE_BYTES, part.length - at));
      total += part.length;
    }
    if (spare !== undefined) ftruncateSync(file, total);
    fsyncSync(file);
  } catch (error) {
    rmSync(draft, { force: true });
    throw fromNode(error, `writing ${path}`);
  } finally {
    if (file !== undefined) closeSync(file);
  }
  renameSync(draft, path);
}

/** Makes the names in a folder durable, where the system has that. */
export function syncFolder(path: string): void {
  try {
    const folder = openSync(path, 'r');
    try {
      fsyncSync(folder);
    } finally {
      closeSync(folder);
    }
  } catch {
    // Not every system opens folders; there, names are durable with their files.
  }
}
