import { ShoalError, seededRandom } from '@shoal/core';
import { type Tree, TreeGrower } from './grow.ts';
import { quantize } from './quantize.ts';

export interface BoostingOptions {
  /** Rounds, ≥ 1; each adds one tree per class. Default 300. */
  readonly rounds?: number;
  /** Deepest path of a tree, ≥ 1. Default 6. */
  readonly depth?: number;
  /** η in (0, 1]. Default 0.06. */
  readonly learningRate?: number;
  /** λ on leaf values, ≥ 0. Default 1. */
  readonly lambda?: number;
  /** Smallest sum of hessians in a leaf, ≥ 0. Default 1. */
  readonly minChildWeight?: number;
  /** Bins per feature, 2 to 255. Default 255. */
  readonly bins?: number;
  /** Share of the rows a round sees, in (0, 1]. Default 1. */
  readonly subsample?: number;
  /** Seed of the rows drawn. Default 1. */
  readonly seed?: number;
  /** Told after each round; throw to stop. */
  readonly onRound?: (round: number, rounds: number) => void;
}

/** What trees are grown on. */
export interface LabelledRows {
  /** `[size, width]`; NaN is missing. */
  readonly inputs: Float32Array;
  readonly width: number;
  /** Class indices, `[size]`. */
  readonly labels: ArrayLike<number | bigint>;
  readonly size: number;
  readonly classes: number;
}

/** Trees whose leaf values add up to a margin (logit) per class. */
export interface BoostedTrees {
  readonly classes: number;
  readonly width: number;
  /** Margins of no trees: logarithms of the classes' shares. */
  readonly base: Float64Array;
  /** Round after round, one tree per class. */
  readonly trees: readonly Tree[];
}

const DEFAULTS = {
  rounds: 300,
  depth: 6,
  learningRate: 0.06,
  lambda: 1,
  minChildWeight: 1,
  bins: 255,
  subsample: 1,
  seed: 1,
};

function softmax(margins: Float64Array, from: number, classes: number, into: Float64Array): void {
  let top = Number.NEGATIVE_INFINITY;
  for (let k = 0; k < classes; k++) top = Math.max(top, margins[from + k] ?? 0);
  let sum = 0;
  for (let k = 0; k < classes; k++) sum += into[k] = Math.exp((margins[from + k] ?? 0) - top);
  for (let k = 0; k < classes; k++) into[k] = (into[k] ?? 0) / sum;
}

/** Gradients p − y and hessians p(1 − p) of the cross-entropy, one column per class. */
function slopes(
  rows: LabelledRows,
  margins: Float64Array,
  slope: { gradients: Float64Array; hessians: Float64Array }[],
): void {
  const p = new Float64Array(rows.classes);
  for (let i = 0; i < rows.size; i++) {
    softmax(margins, i * rows.classes, rows.classes, p);
    const label = Number(rows.labels[i]);
    for (const [k, column] of slope.entries()) {
      const q = p[k] ?? 0;
      column.gradients[i] = q - (label === k ? 1 : 0);
      column.hessians[i] = Math.max(1e-12, q * (1 - q));
    }
  }
}

function baseOf(rows: LabelledRows): Float64Array {
  const counts = new Float64Array(rows.classes).fill(1);
  for (let i = 0; i < rows.size; i++) {
    const label = Number(rows.labels[i]);
    if (!(label >= 0 && label < rows.classes))
      throw new ShoalError(
        'invalid_argument',
        `label ${label} of row ${i} is not one of ${rows.classes} classes`,
      );
    counts[label] = (counts[label] ?? 0) + 1;
  }
  return counts.map((c) => Math.log(c / (rows.size + rows.classes)));
}

/**
 * Gradient-boosted trees for classes (Friedman 2001; second order as Chen & Guestrin 2016), on
 * quantile histograms, with a learned direction for missing values. Same rows, same result.
 *
 * @param start Margins to begin with, `[size, classes]`, from another model: the trees then correct
 *   that model, and `base` is 0. Default the classes' shares.
 * @throws ShoalError `invalid_argument` for no rows or a label out of range.
 */
export function boostTrees(
  rows: LabelledRows,
  options: BoostingOptions = {},
  start?: Float64Array,
): BoostedTrees {
  const { rounds, subsample, seed, bins, ...grow } = { ...DEFAULTS, ...options };
  if (rows.size === 0) throw new ShoalError('invalid_argument', 'there are no rows to learn from');
  const shares = baseOf(rows);
  const base = start ? new Float64Array(rows.classes) : shares;
  const margins = start
    ? Float64Array.from(start)
    : Float64Array.from(
        { length: rows.size * rows.classes },
        (_, i) => base[i % rows.classes] ?? 0,
      );
  const grower = new TreeGrower(quantize(rows.inputs, rows, bins), grow);
  const slope = Array.from({ length: rows.classes }, () => ({
    gradients: new Float64Array(rows.size),
    hessians: new Float64Array(rows.size),
  }));
  const everyRow = Uint32Array.from({ length: rows.size }, (_, i) => i);
  const random = seededRandom(seed);
  const trees: Tree[] = [];
  for (let round = 1; round <= rounds; round++) {
    slopes(rows, margins, slope);
    const drawn =
      subsample < 1
        ? random
            .permutation(rows.size)
            .subarray(0, Math.ceil(rows.size * subsample))
            .sort()
        : everyRow;
    for (const [column, each] of slope.entries()) {
      const target = { values: margins, stride: rows.classes, column };
      const before = trees.length;
      trees.push(grower.grow(drawn, each, target));
      if (subsample < 1) addLeft(rows, drawn, { tree: trees[before], target });
    }
    options.onRound?.(round, rounds);
  }
  return { classes: rows.classes, width: rows.width, base, trees };
}

/** Rows a tree did not see get its value as well. */
function addLeft(
  rows: LabelledRows,
  drawn: Uint32Array,
  at: { tree: Tree | undefined; target: { values: Float64Array; stride: number; column: number } },
): void {
  const { tree, target } = at;
  if (!tree) return;
  let next = 0;
  for (let i = 0; i < rows.size; i++) {
    if (drawn[next] === i) next++;
    else {
      const slot = i * target.stride + target.column;
      target.values[slot] =
        (target.values[slot] ?? 0) + leafValue(tree, rows.inputs, i * rows.width);
    }
  }
}

function leafValue(tree: Tree, inputs: Float32Array, from: number): number {
  const { feature, threshold, missingLeft, left, value } = tree;
  let node = 0;
  for (let f = feature[0] ?? -1; f >= 0; f = feature[node] ?? -1) {
    const x = inputs[from + f] ?? Number.NaN;
    const goesLeft = Number.isNaN(x) ? missingLeft[node] === 1 : x <= (threshold[node] ?? 0);
    node = (left[node] ?? 0) + (goesLeft ? 0 : 1);
  }
  return value[node] ?? 0;
}

/** Margins (logits) of rows, `[size, classes]`. */
export function marginsOf(model: BoostedTrees, inputs: Float32Array, size: number): Float64Array {
  const { classes, width, base, trees } = model;
  const margins = new Float64Array(size * classes);
  for (let i = 0; i < margins.length; i++) margins[i] = base[i % classes] ?? 0;
  for (const [t, tree] of trees.entries()) {
    const column = t % classes;
    for (let i = 0; i < size; i++) {
      const slot = i * classes + column;
      margins[slot] = (margins[slot] ?? 0) + leafValue(tree, inputs, i * width);
    }
  }
  return margins;
}
