import { readFileSync } from 'node:fs';
import { fromNode, isJsonObject, messageOf, ShoalError } from '@shoal/core';
import { decodeImages, type EncodedImage } from './image-files.ts';
import type { ReadOptions, TrainingData } from './training-data.ts';
import { targetColumn } from './training-data.ts';

type Row = Readonly<Record<string, unknown>>;

const MAX_FILE_BYTES = 2 * 1024 ** 3;

async function rowsOf(path: string): Promise<Row[]> {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw fromNode(error, `reading dataset ${path}`);
  }
  if (bytes.length > MAX_FILE_BYTES)
    throw new ShoalError('resource_exhausted', `${path} has more than ${MAX_FILE_BYTES} bytes`);
  const { parquetReadObjects } = await import('hyparquet');
  const { compressors } = await import('hyparquet-compressors');
  const file = new Uint8Array(bytes).buffer;
  try {
    return await parquetReadObjects({ file, compressors, utf8: false });
  } catch (error) {
    throw new ShoalError('data_corrupt', `${path} is not a Parquet file: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function toNumber(value: unknown, where: string): number {
  if (typeof value === 'bigint') return Number(value);
  if (typeof value === 'boolean') return value ? 1 : 0;
  if (typeof value === 'number' && Number.isFinite(value)) return value;
  throw new ShoalError('data_corrupt', `${where}: ${String(value)} is not a number`);
}

/** Numbers of a cell: one, or a list of them (of lists). */
function numbersOf(value: unknown, where: string): number[] {
  if (Array.isArray(value)) return value.flatMap((v: unknown) => numbersOf(v, where));
  if (ArrayBuffer.isView(value) && !(value instanceof DataView))
    return Array.from(value as unknown as ArrayLike<number>, Number);
  return [toNumber(value, where)];
}

/** The encoded image of a cell, as public image datasets hold it: bytes, or `{bytes, path}`. */
function imageOf(value: unknown): Uint8Array | undefined {
  if (value instanceof Uint8Array) return value;
  const bytes: unknown = isJsonObject(value) ? value['bytes'] : undefined;
  return bytes instanceof Uint8Array ? bytes : undefined;
}

/**
 * Reads a Parquet file: a column is the target, the others (numbers, or lists of numbers) are the
 * sample; or a column `image` with encoded images.
 *
 * @throws ShoalError naming row and column of what is wrong.
 */
export async function readParquet(path: string, options: ReadOptions): Promise<TrainingData> {
  const rows = await rowsOf(path);
  const [first] = rows;
  if (!first) throw new ShoalError('data_corrupt', `${path} has no rows`);
  const columns = Object.keys(first);
  const target = columns[targetColumn(columns, options.target, path)] ?? '';
  const label = (row: Row, i: number): number =>
    toNumber(row[target], `${path} row ${i + 1}, column "${target}"`);
  if (imageOf(first['image'])) {
    const images = rows.map(
      (row, i): EncodedImage => ({
        read: () => Buffer.from(imageOf(row['image']) ?? []),
        name: `${path} row ${i + 1}`,
        label: label(row, i),
      }),
    );
    return await decodeImages(images, options.shape ? { shape: options.shape } : {}, path);
  }
  return tableOf(rows, { columns: columns.filter((c) => c !== target), label, path, options });
}

function tableOf(
  rows: readonly Row[],
  table: {
    readonly columns: readonly string[];
    readonly label: (row: Row, i: number) => number;
    readonly path: string;
    readonly options: ReadOptions;
  },
): TrainingData {
  const { columns, label, path, options } = table;
  const sample = (row: Row, i: number): number[] =>
    columns.flatMap((c) => numbersOf(row[c], `${path} row ${i + 1}, column "${c}"`));
  const width = sample(rows[0] ?? {}, 0).length;
  const inputs = new Float32Array(rows.length * width);
  const targets = new Float32Array(rows.length);
  for (const [i, row] of rows.entries()) {
    const values = sample(row, i);
    if (values.length !== width)
      throw new ShoalError(
        'data_corrupt',
        `${path} row ${i + 1} has ${values.length} values, the first has ${width}`,
      );
    inputs.set(values, i * width);
    targets[i] = label(row, i);
  }
  return { inputs, shape: options.shape ?? [width], targets, targetWidth: 1, size: rows.length };
}
