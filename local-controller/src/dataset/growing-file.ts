import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { digestOf, fromNode, ShoalError } from '@shoal/core';
import { type DatasetFormat } from './formats.ts';

/** How far a growing file has been counted; survives restarts. */
export interface FileProgress {
  /** Bytes counted: always just after a newline. */
  readonly offset: number;
  /** Non-empty lines up to there, headers included. */
  readonly lines: number;
  /** Digest of the last bytes before `offset`: tells an append from a rewrite. */
  readonly tail: string;
}

export const NOTHING_READ: FileProgress = { offset: 0, lines: 0, tail: '' };

const CHUNK_BYTES = 1 << 20;
const TAIL_BYTES = 4096;
/** A sample longer than this is taken for a broken file. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;

function tailDigest(file: number, offset: number): string {
  const bytes = Buffer.alloc(Math.min(TAIL_BYTES, offset));
  readSync(file, bytes, 0, bytes.length, offset - bytes.length);
  return digestOf(bytes);
}

function isBlank(bytes: Buffer, from: number, to: number): boolean {
  for (let i = from; i < to; i++) {
    const b = bytes[i] ?? 0;
    if (b !== 0x20 && b !== 0x09 && b !== 0x0d) return false;
  }
  return true;
}

function countFrom(file: number, from: FileProgress, size: number): FileProgress {
  let { offset, lines } = from;
  const buffer = Buffer.alloc(CHUNK_BYTES);
  let pendingBlank = true;
  let position = offset;
  while (position < size) {
    const read = readSync(file, buffer, 0, Math.min(CHUNK_BYTES, size - position), position);
    if (read === 0) break;
    let start = 0;
    for (
      let end = buffer.indexOf(0x0a);
      end >= 0 && end < read;
      end = buffer.indexOf(0x0a, start)
    ) {
      if (!pendingBlank || !isBlank(buffer, start, end)) lines++;
      pendingBlank = true;
      start = end + 1;
      offset = position + start;
    }
    pendingBlank &&= isBlank(buffer, start, read);
    position += read;
    if (position - offset > MAX_LINE_BYTES)
      throw new ShoalError(
        'data_corrupt',
        `a line after byte ${offset} is longer than ${MAX_LINE_BYTES} bytes`,
      );
  }
  return { offset, lines, tail: offset === 0 ? '' : tailDigest(file, offset) };
}

export interface CountResult {
  readonly progress: FileProgress;
  /** True when the file is not what it was: counted again from the start. */
  readonly rewritten: boolean;
}

/**
 * Counts the lines of a growing file, reading only what is new. A line counts once it ends in a
 * newline: a sample that is still being written is not half a sample.
 *
 * @throws ShoalError `not_found` and the like when the file cannot be read.
 */
export function countLines(path: string, known: FileProgress): CountResult {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    throw fromNode(error, `reading ${path}`);
  }
  try {
    const { size } = fstatSync(file);
    const rewritten =
      known.offset > 0 && (size < known.offset || tailDigest(file, known.offset) !== known.tail);
    const from = rewritten ? NOTHING_READ : known;
    return { progress: size === from.offset ? from : countFrom(file, from, size), rewritten };
  } finally {
    closeSync(file);
  }
}

/** Samples among counted lines. */
export function samplesIn(progress: FileProgress, format: DatasetFormat): number {
  return Math.max(0, progress.lines - format.headerLines);
}
