import { createReadStream, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { DatasetFormat } from './formats.ts';

/** Samples `from` (inclusive) to `to` (exclusive), counted from 0 without headers and blank lines. */
export interface SampleRange {
  readonly from: number;
  readonly to: number;
}

/**
 * Reads the header and the samples of some ranges, in the order of the file.
 *
 * @returns Header lines, and for each range its lines.
 */
export async function readRanges(
  path: string,
  format: DatasetFormat,
  ranges: readonly SampleRange[],
): Promise<{ header: string[]; parts: string[][] }> {
  const header: string[] = [];
  const parts = ranges.map((): string[] => []);
  const last = Math.max(0, ...ranges.map((r) => r.to));
  let index = -format.headerLines;
  for await (const line of linesOf(path)) {
    if (line.trim() === '') continue;
    if (index < 0) header.push(line);
    else {
      const at = index;
      for (const [i, r] of ranges.entries())
        parts[i]?.push(...(at >= r.from && at < r.to ? [line] : []));
    }
    if (++index >= last) break;
  }
  return { header, parts };
}

/** Lines end at `\n` alone, as they are counted; other separators may stand inside a sample. */
async function* linesOf(path: string): AsyncGenerator<string> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let start = 0;
    for (let end = rest.indexOf(0x0a); end >= 0; end = rest.indexOf(0x0a, start)) {
      yield rest.toString('utf8', start, end).replace(/\r$/, '');
      start = end + 1;
    }
    rest = rest.subarray(start);
  }
}

/** Writes lines under a temporary name, makes them durable, then renames. */
export function writeLines(path: string, lines: readonly string[]): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.tmp`, lines.map((l) => `${l}\n`).join(''), { flush: true });
  renameSync(`${path}.tmp`, path);
}

/** Oldest first: how new samples are divided. `floor(trainProb·new)` train, the rest evaluates. */
export function divide(
  range: SampleRange,
  trainProb: number,
): { train: SampleRange; evaluation: SampleRange } {
  const cut = range.from + Math.floor(trainProb * (range.to - range.from));
  return { train: { from: range.from, to: cut }, evaluation: { from: cut, to: range.to } };
}
