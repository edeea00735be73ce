import {
  closeSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { fromNode, ShoalError } from '@shoal/core';

/** A last line without its end that is older than this is not being written any more. */
const QUIET_MS = 5_000;

/**
 * Appends bytes to a file unless they are there already, at or after an offset. Others may append
 * meanwhile; what a killed process wrote in part is completed when it is the end of the file.
 *
 * @throws ShoalError `resource_exhausted` when the disk is full; the file is as long as before then.
 */
export function appendOnce(path: string, bytes: Buffer, offset: number): void {
  if (bytes.length === 0) return;
  let file: number | undefined;
  try {
    mkdirSync(dirname(path), { recursive: true });
    file = openSync(path, 'a+');
    const size = fstatSync(file).size;
    const written = Buffer.alloc(Math.max(0, size - offset));
    readSync(file, written, 0, written.length, offset);
    if (written.includes(bytes)) return;
    const rest = bytes.subarray(overlap(written, bytes));
    // A line without its end is somebody else's: ours begins on its own.
    const torn = rest.length === bytes.length && size > 0 && !endsLine(file, size);
    if (torn && Date.now() - fstatSync(file).mtimeMs < QUIET_MS)
      throw new ShoalError('unavailable', 'somebody is writing its last line, will retry');
    writeAll(file, torn ? Buffer.concat([Buffer.from('\n'), rest]) : rest);
    fsyncSync(file);
  } catch (error) {
    throw fromNode(error, `appending to ${path}`);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** The longest end of what was written that is a beginning of the bytes. */
function overlap(written: Buffer, bytes: Buffer): number {
  for (let n = Math.min(written.length, bytes.length - 1); n > 0; n--) {
    const from = written.length - n;
    if (written[from] === bytes[0] && written.subarray(from).equals(bytes.subarray(0, n))) return n;
  }
  return 0;
}

function endsLine(file: number, size: number): boolean {
  const last = Buffer.alloc(1);
  readSync(file, last, 0, 1, size - 1);
  return last[0] === 0x0a;
}

/** All of it, or nothing: a disk that fills up in between leaves no half line. */
function writeAll(file: number, bytes: Buffer): void {
  const before = fstatSync(file).size;
  let at = 0;
  try {
    while (at < bytes.length) at += writeSync(file, bytes, at);
  } catch (error) {
    if (fstatSync(file).size === before + at) ftruncateSync(file, before);
    throw error;
  }
}
