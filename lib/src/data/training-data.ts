import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { extname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { fromNode, ShoalError } from '@shoal/core';
import { unzipSync } from 'fflate';
import { parseIdx } from './idx.ts';
import { parseImageLines } from './image-lines.ts';
import { type NpyArray, parseNpy } from './npy.ts';

/** Samples with what a loss compares against, as read from a file of any format. */
export interface TrainingData {
  /** Row-major, `[size, …shape]`. */
  readonly inputs: Float32Array;
  /** Shape of one sample. */
  readonly shape: readonly number[];
  /** Row-major, `[size, width]`: class indices (width 1) or values. */
  readonly targets: Float32Array;
  readonly targetWidth: number;
  readonly size: number;
}

export interface ReadOptions {
  /** Shape of one sample; needed for image lines, otherwise taken from the file. */
  readonly shape?: readonly number[];
  /** Column of a CSV file to predict; default `label`, `target` or `y`, else the last. */
  readonly target?: string;
}

/** Formats `readTrainingData` knows, for help texts. */
export const TRAINING_FORMATS =
  '.csv, .jsonl (image lines), .npz (x and y), or a folder of IDX files';

function read(path: string): Buffer {
  try {
    const bytes = readFileSync(path);
    return path.endsWith('.gz') ? gunzipSync(bytes) : bytes;
  } catch (error) {
    throw fromNode(error, `reading dataset ${path}`);
  }
}

/** Usual names, the surest first: a column called y may well be a coordinate. */
const TARGET_NAMES: readonly string[] = ['label', 'target', 'class', 'y'];

/** Index of the column to predict. @throws ShoalError `invalid_argument` naming the columns there are. */
export function targetColumn(
  head: readonly string[],
  wanted: string | undefined,
  path: string,
): number {
  if (wanted !== undefined) {
    const found = head.indexOf(wanted);
    if (found >= 0) return found;
    throw new ShoalError(
      'invalid_argument',
      `${path} has no column "${wanted}"; it has: ${head.join(', ')}`,
    );
  }
  const lower = head.map((h) => h.toLowerCase());
  const named = TARGET_NAMES.find((n) => lower.includes(n));
  return named === undefined ? head.length - 1 : lower.indexOf(named);
}

/** A CSV file with a head line and numbers; one column is the target, the others are the sample. */
function fromCsv(path: string, options: ReadOptions): TrainingData {
  const lines = read(path)
    .toString('utf8')
    .split(/\r?\n/)
    .filter((l) => l.trim() !== '');
  const head = (lines[0] ?? '').split(',').map((h) => h.trim());
  const at = targetColumn(head, options.target, path);
  const width = head.length - 1;
  const size = lines.length - 1;
  const inputs = new Float32Array(size * width);
  const targets = new Float32Array(size);
  for (let row = 0; row < size; row++) {
    const cells = (lines[row + 1] ?? '').split(',');
    const numbers = cells.map((c) => (c.trim() === '' ? Number.NaN : Number(c)));
    const broken = numbers.findIndex((v) => Number.isNaN(v));
    if (cells.length !== head.length || broken >= 0) {
      throw new ShoalError(
        'data_corrupt',
        cells.length === head.length
          ? `${path} line ${row + 2}, column "${head[broken]}": "${cells[broken]}" is not a number`
          : `${path} line ${row + 2} has ${cells.length} columns, the head has ${head.length}`,
      );
    }
    targets[row] = numbers[at] ?? 0;
    numbers.splice(at, 1);
    inputs.set(numbers, row * width);
  }
  return { inputs, shape: options.shape ?? [width], targets, targetWidth: 1, size };
}

function pick<T>(from: ReadonlyMap<string, T>, names: readonly string[], path: string): T {
  const found = names.map((n) => from.get(n)).find((v) => v !== undefined);
  if (found !== undefined) return found;
  throw new ShoalError(
    'invalid_argument',
    `${path} has no array ${names.map((n) => `"${n}"`).join(' or ')}; it has: ${[...from.keys()].join(', ')}`,
  );
}

/** The arrays of a sample set, by the names people give them. */
function fromArrays(arrays: ReadonlyMap<string, NpyArray>, path: string): TrainingData {
  const x = pick(arrays, ['x', 'inputs', 'X', 'x_train'], path);
  const y = pick(arrays, ['y', 'labels', 'targets', 'y_train'], path);
  const [size = 0, ...shape] = x.dims;
  if (y.dims[0] !== size) {
    throw new ShoalError('data_corrupt', `${path}: x has ${size} samples, y has ${y.dims[0] ?? 0}`);
  }
  const targetWidth = y.dims.slice(1).reduce((n, d) => n * d, 1);
  return { inputs: x.values, shape, targets: y.values, targetWidth, size };
}

/** A folder with `x.npy` and `y.npy`. */
function fromNpyFolder(path: string): TrainingData {
  const files = readdirSync(path).filter((f) => f.endsWith('.npy'));
  const arrays = files.map(
    (f) => [f.replace(/\.npy$/, ''), parseNpy(read(join(path, f)), join(path, f))] as const,
  );
  return fromArrays(new Map(arrays), path);
}

function fromNpz(path: string): TrainingData {
  const bytes = read(path);
  let files: ReturnType<typeof unzipSync>;
  try {
    files = unzipSync(bytes);
  } catch (error) {
    throw new ShoalError('data_corrupt', `${path} is not a NumPy archive (.npz)`, { cause: error });
  }
  const arrays = new Map(
    Object.entries(files).map(([name, data]) => [
      name.replace(/\.npy$/, ''),
      parseNpy(data, `${path}:${name}`),
    ]),
  );
  return fromArrays(arrays, path);
}

function fromIdxFolder(path: string): TrainingData {
  const names = readdirSync(path);
  const find = (word: string): string => {
    const matching = names.filter((n) => n.includes(word) && n.includes('idx'));
    const name = matching.find((n) => n.startsWith('train')) ?? matching[0];
    if (name !== undefined) return name;
    throw new ShoalError(
      'not_found',
      `${path} has no file with "${word}" and "idx" in its name; a folder of IDX files has one for images and one for labels`,
    );
  };
  const [imageFile, labelFile] = [find('images'), find('labels')];
  const images = parseIdx(read(join(path, imageFile)), imageFile);
  const labels = parseIdx(read(join(path, labelFile)), labelFile);
  const [size = 0, ...pixels] = images.dims;
  if (labels.dims[0] !== size)
    throw new ShoalError(
      'data_corrupt',
      `${imageFile} has ${size} images, ${labelFile} ${labels.dims[0] ?? 0} labels`,
    );
  return {
    inputs: Float32Array.from(images.data, (b) => b / 255),
    shape: [1, ...pixels],
    targets: Float32Array.from(labels.data),
    targetWidth: 1,
    size,
  };
}

/**
 * Reads labelled samples. CSV with a head line, image lines (`.jsonl`), a NumPy archive (`.npz`,
 * arrays `x` and `y`), a folder with `x.npy` and `y.npy`, or one of IDX files (MNIST). Pixels of images are scaled to [0, 1].
 *
 * @throws ShoalError naming file, line and column of what is wrong.
 */
export function readTrainingData(path: string, options: ReadOptions = {}): TrainingData {
  if (!existsSync(path)) throw new ShoalError('not_found', `there is no dataset ${path}`);
  if (statSync(path).isDirectory())
    return readdirSync(path).some((f) => f.endsWith('.npy'))
      ? fromNpyFolder(path)
      : fromIdxFolder(path);
  switch (extname(path)) {
    case '.csv':
      return fromCsv(path, options);
    case '.npz':
      return fromNpz(path);
    case '.jsonl': {
      if (!options.shape)
        throw new ShoalError('invalid_argument', `${path}: image lines need the shape of an image`);
      const { inputs, labels, shape, size } = parseImageLines(
        read(path).toString('utf8'),
        options.shape,
        path,
      );
      return { inputs, shape, targets: Float32Array.from(labels, Number), targetWidth: 1, size };
    }
    default:
      throw new ShoalError(
        'unsupported',
        `${path}: unknown format "${extname(path)}"; known are ${TRAINING_FORMATS}`,
      );
  }
}
