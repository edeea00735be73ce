import { isJsonObject, type JsonObject, type Random, ShoalError } from '@shoal/core';
import { Matrix } from 'ml-matrix';
import { columnOf, taskName } from './definition.ts';
import { centroid } from './relation.ts';
import type { TaskSamples } from './task-samples.ts';

/** What is known of a sample when it must be placed. */
export interface Placeable {
  readonly attributes: Readonly<Record<string, string>>;
  readonly features: Float32Array;
  /** p-value of every task's own detector; there for allocations that ask for it. */
  readonly pValues?: ReadonlyMap<string, number>;
}

export interface AllocationData {
  readonly samples: TaskSamples;
  /** `[size, width]`. */
  readonly features: Float32Array;
  readonly width: number;
  /** Task of each sample. */
  readonly taskOf: readonly string[];
  readonly random: Random;
}

/** Places samples among known tasks. What it learned is JSON, so that it can travel to the edge. */
export interface TaskAllocation {
  /** Whether it wants the p-values of all tasks' detectors, which must work on features alone. */
  readonly needsDetectors?: boolean;
  fit(data: AllocationData): JsonObject;
  /** @returns The task; undefined when it can be none of them. */
  allocate(state: JsonObject, sample: Placeable): string | undefined;
}

function listOf(state: JsonObject, name: string): readonly unknown[] {
  const value = state[name];
  return Array.isArray(value) ? value : [];
}

/** Everything is the first task (Sedna's `TaskAllocationDefault`, and `TaskAllocationStream`). */
export const firstTask: TaskAllocation = {
  fit: ({ taskOf }) => ({ task: taskOf[0] ?? '' }),
  allocate: (state) => String(state['task']),
};

/**
 * By attribute values (Sedna's `TaskAllocationByDataAttr`). Where Sedna takes task 0 for values it
 * does not know, nothing is answered: such a sample is unseen.
 */
export function allocationByAttribute(attribute: readonly string[]): TaskAllocation {
  if (attribute.length === 0)
    throw new ShoalError('invalid_argument', 'task allocation by attribute needs an attribute');
  return {
    fit({ samples, taskOf }) {
      const columns = attribute.map((name) => columnOf(samples, name));
      const tasks: Record<string, string> = {};
      for (const [i, task] of taskOf.entries())
        tasks[taskName(columns.map((c) => c[i] ?? ''))] = task;
      return { tasks };
    },
    allocate(state, { attributes }) {
      const missing = attribute.find((name) => attributes[name] === undefined);
      if (missing !== undefined)
        throw new ShoalError(
          'invalid_argument',
          `the sample has no attribute "${missing}"; it has: ${Object.keys(attributes).join(', ') || 'none'}`,
        );
      const { tasks } = state;
      const key = taskName(attribute.map((name) => attributes[name] ?? ''));
      const found = isJsonObject(tasks) && Object.hasOwn(tasks, key) ? tasks[key] : undefined;
      return typeof found === 'string' ? found : undefined;
    },
  };
}

/** By whether the origin contains a text (Sedna's `TaskAllocationByOrigin`). */
export function allocationByOrigin(options: {
  readonly names: readonly [string, string];
  readonly contains: string;
  readonly column: string;
}): TaskAllocation {
  const { names, contains, column } = options;
  return {
    fit: () => ({}),
    allocate: (_state, { attributes }) =>
      (attributes[column] ?? '').includes(contains) ? names[0] : names[1],
  };
}

/**
 * By the tasks' own detectors: each knows the space its samples lie in, and the one that finds a
 * sample least strange gets it (cf. Expert Gate, Aljundi et al. 2017, 1611.06194, with linear
 * autoencoders). Nothing is fitted over tasks, so a new one does not disturb the others.
 */
export const leastStrange: TaskAllocation = {
  needsDetectors: true,
  fit: () => ({}),
  allocate(_state, { pValues }) {
    let best: string | undefined;
    for (const [task, p] of pValues ?? [])
      if (best === undefined || p > (pValues?.get(best) ?? 0)) best = task;
    return best;
  },
};

/** By the nearest centroid of features. */
export const nearestCentroid: TaskAllocation = {
  fit({ features, width, taskOf }) {
    const names = [...new Set(taskOf)];
    const centroids = names.map((name) => [
      ...centroid(
        features,
        width,
        taskOf.flatMap((t, i) => (t === name ? [i] : [])),
      ),
    ]);
    return { names, centroids };
  },
  allocate(state, { features }) {
    const names = listOf(state, 'names');
    let [best, least] = [0, Number.POSITIVE_INFINITY];
    for (const [t, row] of (listOf(state, 'centroids') as number[][]).entries()) {
      let sum = 0;
      for (let k = 0; k < features.length; k++) sum += ((features[k] ?? 0) - (row[k] ?? 0)) ** 2;
      if (sum < least) [best, least] = [t, sum];
    }
    const name = names[best];
    return typeof name === 'string' ? name : undefined;
  },
};

const HIDDEN = 32;
const FITTED_ON = 4_000;
const STEPS = 400;

/** The classifier: features → 32 rectified units → one score per task. */
interface Classifier {
  /** `[width + 1, hidden]`; the last row is the bias. */
  readonly first: Matrix;
  /** `[hidden + 1, tasks]`. */
  readonly second: Matrix;
}

/** Rows with a column of ones behind them, for the bias. */
function withOne(rows: Matrix): Matrix {
  return rows.clone().addColumn(rows.columns, Matrix.ones(rows.rows, 1));
}

function hiddenOf({ first }: Classifier, rows: Matrix): Matrix {
  const hidden = withOne(rows).mmul(first);
  return hidden.apply((i, k) => {
    if (hidden.get(i, k) < 0) hidden.set(i, k, 0);
  });
}

/** One step of gradient descent with momentum on the cross-entropy of a batch. */
function descend(classifier: Classifier, momentum: Classifier, rows: Matrix, hot: Matrix): void {
  const hidden = hiddenOf(classifier, rows);
  const scores = withOne(hidden).mmul(classifier.second);
  const top = scores.max('row');
  const powers = scores.subColumnVector(top).exp();
  const slope = powers.divColumnVector(powers.sum('row')).sub(hot).div(rows.rows);
  const weights = classifier.second.subMatrix(0, HIDDEN - 1, 0, slope.columns - 1);
  const back = slope.mmul(weights.transpose());
  back.apply((i, k) => {
    if (hidden.get(i, k) <= 0) back.set(i, k, 0);
  });
  momentum.second.mul(0.9).add(withOne(hidden).transpose().mmul(slope));
  momentum.first.mul(0.9).add(withOne(rows).transpose().mmul(back));
  classifier.second.sub(Matrix.mul(momentum.second, 0.1));
  classifier.first.sub(Matrix.mul(momentum.first, 0.1));
}

function randomMatrix(rows: number, columns: number, scale: number, random: Random): Matrix {
  const values = Array.from({ length: rows }, (_, r) =>
    Array.from({ length: columns }, () => (r === rows - 1 ? 0 : random.normal() * scale)),
  );
  return new Matrix(values);
}

const shortened = (matrix: Matrix): number[][] =>
  matrix.to2DArray().map((row) => row.map((v) => Number(v.toPrecision(7))));

/** By a small classifier on features (in place of Sedna's `TaskAllocationBySVC`). */
export const taskClassifier: TaskAllocation = {
  fit({ features, width, taskOf, random }) {
    const names = [...new Set(taskOf)];
    const classifier: Classifier = {
      first: randomMatrix(width + 1, HIDDEN, Math.sqrt(2 / width), random),
      second: randomMatrix(HIDDEN + 1, names.length, 0.2, random),
    };
    const momentum: Classifier = {
      first: Matrix.zeros(width + 1, HIDDEN),
      second: Matrix.zeros(HIDDEN + 1, names.length),
    };
    const order = random.permutation(taskOf.length).subarray(0, FITTED_ON);
    const index = new Map(names.map((n, i) => [n, i]));
    for (let step = 0; step < STEPS; step++) {
      const size = Math.min(64, order.length);
      const drawn = Array.from({ length: size }, () => order[random.int(order.length)] ?? 0);
      const rows = drawn.map((i) => [...features.subarray(i * width, (i + 1) * width)]);
      const hot = Matrix.zeros(size, names.length);
      for (const [row, i] of drawn.entries()) hot.set(row, index.get(taskOf[i] ?? '') ?? 0, 1);
      descend(classifier, momentum, new Matrix(rows), hot);
    }
    return { names, first: shortened(classifier.first), second: shortened(classifier.second) };
  },
  allocate(state, { features }) {
    const classifier = classifierOf(state);
    const hidden = hiddenOf(classifier, new Matrix([[...features]]));
    const scores = withOne(hidden).mmul(classifier.second).to1DArray();
    const name = listOf(state, 'names')[scores.indexOf(Math.max(...scores))];
    return typeof name === 'string' ? name : undefined;
  },
};

/** Parsed once per state: allocation is on the way of every sample. */
const parsed = new WeakMap<JsonObject, Classifier>();

function classifierOf(state: JsonObject): Classifier {
  const known = parsed.get(state);
  if (known) return known;
  const of = (name: string): Matrix => new Matrix(listOf(state, name) as number[][]);
  const classifier = { first: of('first'), second: of('second') };
  parsed.set(state, classifier);
  return classifier;
}
