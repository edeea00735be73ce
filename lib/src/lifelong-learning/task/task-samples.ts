import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { fromNode, isJsonObject, ShoalError } from '@shoal/core';
import { parseImageLines } from '../../data/image-lines.ts';
import { concatenate, type Samples, select } from '../../data/samples.ts';

/** Labelled samples with what is known of each beside its features: city, season, camera. */
export interface TaskSamples extends Samples {
  /** Columns of text, `[size]` each. */
  readonly attributes: Readonly<Record<string, readonly string[]>>;
}

/** The samples at the given positions, in that order. */
export function selectTask(samples: TaskSamples, positions: ArrayLike<number>): TaskSamples {
  const attributes = Object.fromEntries(
    Object.entries(samples.attributes).map(([name, column]) => [
      name,
      Array.from(positions, (p) => column[p] ?? ''),
    ]),
  );
  return { ...select(samples, positions), attributes };
}

/** One set after another; an attribute only some have is empty for the others. */
export function concatenateTasks(parts: readonly TaskSamples[]): TaskSamples {
  const names = new Set(parts.flatMap((p) => Object.keys(p.attributes)));
  const attributes = Object.fromEntries(
    [...names].map((name) => [
      name,
      parts.flatMap((p) => p.attributes[name] ?? Array.from({ length: p.size }, () => '')),
    ]),
  );
  return { ...concatenate(parts), attributes };
}

export interface TaskReadOptions {
  /** Shape of one sample; needed for image lines. */
  readonly shape?: readonly number[];
  /** Columns that are attributes, not features (CSV). */
  readonly attributes?: readonly string[];
  /** Column of the label (CSV). Default `label`. */
  readonly target?: string;
  /** Names of the classes in the order of their indices; default labels are whole numbers. */
  readonly classes?: readonly string[];
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading dataset ${path}`);
  }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : value === undefined ? '' : JSON.stringify(value);
}

/** Image lines whose JSON may hold `"attributes": {"camera": "north"}`. */
function fromLines(path: string, shape: readonly number[] | undefined): TaskSamples {
  if (!shape)
    throw new ShoalError('invalid_argument', `${path}: image lines need the shape of an image`);
  const text = read(path);
  const samples = parseImageLines(text, shape, path);
  const rows = text
    .split('\n')
    .filter((l) => l.trim() !== '')
    .map((l) => (JSON.parse(l) as { attributes?: unknown }).attributes)
    .map((a) => (isJsonObject(a) ? a : {}));
  const names = new Set(rows.flatMap(Object.keys));
  const attributes = Object.fromEntries(
    [...names].map((name) => [name, rows.map((r) => textOf(r[name]))]),
  );
  return { ...samples, attributes };
}

function labelOf(cell: string, classes: readonly string[] | undefined, where: string): bigint {
  const known = classes?.indexOf(cell) ?? -1;
  if (known >= 0) return BigInt(known);
  const number = Number(cell);
  const whole = cell.trim() !== '' && Number.isInteger(number) && number >= 0;
  if (whole && (classes === undefined || number < classes.length)) return BigInt(number);
  throw new ShoalError(
    'data_corrupt',
    `${where}: label "${cell}" is not ${classes ? `one of ${classes.join(', ')}` : 'a whole number from 0'}`,
  );
}

/** CSV with a head line: features are numbers (empty is missing), attributes are text. */
function fromCsv(path: string, options: TaskReadOptions): TaskSamples {
  const lines = read(path)
    .split(/\r?\n/)
    .filter((l) => l.trim() !== '');
  const head = (lines[0] ?? '').split(',').map((h) => h.trim());
  const { target = 'label', attributes: named = [], classes } = options;
  const unknown = [target, ...named].find((name) => !head.includes(name));
  if (unknown !== undefined)
    throw new ShoalError(
      'invalid_argument',
      `${path} has no column "${unknown}"; it has: ${head.join(', ')}`,
    );
  const features = head.flatMap((h, c) => (h === target || named.includes(h) ? [] : [c]));
  const size = lines.length - 1;
  const inputs = new Float32Array(size * features.length);
  const labels = new BigInt64Array(size);
  const columns = new Map(named.map((name) => [name, [] as string[]]));
  for (let row = 0; row < size; row++) {
    const where = `${path} line ${row + 2}`;
    const cells = (lines[row + 1] ?? '').split(',').map((c) => c.trim());
    if (cells.length !== head.length)
      throw new ShoalError(
        'data_corrupt',
        `${where} has ${cells.length} columns, the head has ${head.length}`,
      );
    for (const [f, c] of features.entries()) {
      const cell = cells[c] ?? '';
      const value = cell === '' ? Number.NaN : Number(cell);
      if (cell !== '' && Number.isNaN(value) && cell.toLowerCase() !== 'nan')
        throw new ShoalError(
          'data_corrupt',
          `${where}, column "${head[c]}": "${cell}" is not a number`,
        );
      inputs[row * features.length + f] = value;
    }
    labels[row] = labelOf(cells[head.indexOf(target)] ?? '', classes, where);
    for (const [name, column] of columns) column.push(cells[head.indexOf(name)] ?? '');
  }
  return {
    inputs,
    labels,
    shape: [features.length],
    size,
    attributes: Object.fromEntries(columns),
  };
}

/**
 * Reads samples with attributes: CSV with a head line, or image lines (`.jsonl`).
 *
 * @throws ShoalError naming file, line and column of what is wrong.
 */
export function readTaskSamples(path: string, options: TaskReadOptions = {}): TaskSamples {
  switch (extname(path)) {
    case '.csv':
      return fromCsv(path, options);
    case '.jsonl':
      return fromLines(path, options.shape);
    default:
      throw new ShoalError(
        'unsupported',
        `${path}: unknown format "${extname(path)}"; known are .csv and .jsonl (image lines)`,
      );
  }
}
