import {
  closeSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import { extname, join } from 'node:path';
import { fromNode, messageOf, ShoalError } from '@shoal/core';

/** Formats that are read as a whole: counted, but not cut into rounds. */
export const WHOLE_FORMATS = ['parquet', 'npz', 'idx', 'images'] as const;

const IMAGES = /\.(png|jpe?g|webp|gif|tiff)$/i;
/** Bytes at the end of a Parquet file that hold its description, at most. */
const MAX_FOOTER_BYTES = 64 * 1024 * 1024;

async function parquetRows(path: string): Promise<number> {
  // Loaded with the first dataset of this format: a node without one need not hold it.
  const { parquetMetadata } = await import('hyparquet');
  const file = openSync(path, 'r');
  try {
    const { size } = fstatSync(file);
    const read = (length: number): Buffer => {
      const bytes = Buffer.alloc(length);
      readSync(file, bytes, 0, length, size - length);
      return bytes;
    };
    const tail = read(Math.min(8, size));
    if (tail.subarray(-4).toString('latin1') !== 'PAR1')
      throw new ShoalError('data_corrupt', `${path} is not a Parquet file`);
    const footer = tail.readUInt32LE(0) + 8;
    if (footer > Math.min(size, MAX_FOOTER_BYTES))
      throw new ShoalError('data_corrupt', `${path}: its footer claims ${footer} bytes`);
    const bytes = new Uint8Array(read(footer));
    return Number(parquetMetadata(bytes.buffer).num_rows);
  } finally {
    closeSync(file);
  }
}

/** First dimension of the array `y` (or any other) of a NumPy archive. */
async function npzRows(path: string): Promise<number> {
  const { unzipSync } = await import('fflate');
  const files = unzipSync(readFileSync(path), {
    filter: ({ name }) => /^(y|labels|targets|y_train)\.npy$/.test(name),
  });
  const [header] = Object.values(files).map((f) =>
    Buffer.from(f.subarray(0, 4096)).toString('latin1'),
  );
  const size = /'shape':\s*\((\d+)/.exec(header ?? '')?.[1];
  if (size === undefined)
    throw new ShoalError('data_corrupt', `${path} has no array "y" with a shape`);
  return Number(size);
}

function idxRows(folder: string): number {
  const names = readdirSync(folder).filter((n) => n.includes('labels') && n.includes('idx'));
  const name = names.find((n) => n.startsWith('train')) ?? names[0];
  if (name === undefined || name.endsWith('.gz'))
    throw new ShoalError('not_found', `${folder} has no file with "labels" and "idx" in its name`);
  const file = openSync(join(folder, name), 'r');
  try {
    const head = Buffer.alloc(8);
    readSync(file, head, 0, 8, 0);
    return head.readUInt32BE(4);
  } finally {
    closeSync(file);
  }
}

function imageFiles(folder: string): number {
  return readdirSync(folder, { withFileTypes: true })
    .filter((e) => e.isDirectory())
    .reduce(
      (n, e) => n + readdirSync(join(folder, e.name)).filter((f) => IMAGES.test(extname(f))).length,
      0,
    );
}

const COUNT: Readonly<Record<string, (path: string) => number | Promise<number>>> = {
  parquet: parquetRows,
  npz: npzRows,
  idx: idxRows,
  images: imageFiles,
};

export function isWholeFormat(format: string): boolean {
  return Object.hasOwn(COUNT, format.toLowerCase());
}

/** Changes when a file, or what is in a folder, has changed. */
export function stampOf(path: string): string {
  try {
    const stat = statSync(path);
    // Of a folder, what lies one step below counts: new images, files written again.
    const inside = stat.isDirectory() ? readdirSync(path).map((f) => statSync(join(path, f))) : [];
    const all = [stat, ...inside];
    const newest = Math.max(...all.map((s) => s.mtimeMs));
    return `${newest}/${all.reduce((n, s) => n + s.size, 0)}/${all.length}`;
  } catch (error) {
    throw fromNode(error, `reading ${path}`);
  }
}

/**
 * Samples of a dataset that is read as a whole.
 *
 * @throws ShoalError `data_corrupt` or `not_found` saying what is wrong with it.
 */
export async function countWhole(path: string, format: string): Promise<number> {
  try {
    return (await COUNT[format.toLowerCase()]?.(path)) ?? 0;
  } catch (error) {
    if (error instanceof ShoalError) throw error;
    const known = fromNode(error, `reading ${path}`);
    throw known.code === 'internal'
      ? new ShoalError('data_corrupt', `${path} is not ${format}: ${messageOf(error)}`)
      : known;
  }
}
