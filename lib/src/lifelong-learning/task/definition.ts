import { createRequire } from 'node:module';
import { type Random, ShoalError } from '@shoal/core';
import type { kmeans as KMeans } from 'ml-kmeans';
import type { TaskSamples } from './task-samples.ts';

/** Loaded on first use: few processes part samples this way, and none should wait for it. */
function loadKMeans(): typeof KMeans {
  const require = createRequire(import.meta.url);
  return (require('ml-kmeans') as { kmeans: typeof KMeans }).kmeans;
}

/** Samples that belong together. */
export interface DefinedTask {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  /** Positions of its samples. */
  readonly positions: readonly number[];
}

export interface DefinitionContext {
  /** `[size, width]`. */
  readonly features: Float32Array;
  readonly width: number;
  readonly random: Random;
}

/** Parts samples into tasks. */
export interface TaskDefinition {
  define(samples: TaskSamples, context: DefinitionContext): readonly DefinedTask[];
}

/** The column of an attribute. @throws ShoalError `invalid_argument` naming those there are. */
export function columnOf(samples: TaskSamples, name: string): readonly string[] {
  const column = samples.attributes[name];
  if (column) return column;
  const known = Object.keys(samples.attributes);
  throw new ShoalError(
    'invalid_argument',
    `samples have no attribute "${name}"; they have: ${known.length > 0 ? known.join(', ') : 'none'}`,
  );
}

function grouped(
  keys: readonly string[],
  attributesFor: (position: number) => Record<string, string>,
): DefinedTask[] {
  const found = new Map<string, number[]>();
  for (const [i, key] of keys.entries()) {
    const list = found.get(key) ?? [];
    list.push(i);
    found.set(key, list);
  }
  return [...found].map(([name, positions]) => ({
    name,
    attributes: attributesFor(positions[0] ?? 0),
    positions,
  }));
}

/** Name of a task from attribute values, as Sedna joins them. */
export function taskName(values: readonly string[]): string {
  return values.map((v) => (v === '' ? 'unknown' : v)).join('_');
}

/** One task for every combination of values (Sedna's `TaskDefinitionByDataAttr`). */
export function definitionByAttribute(attribute: readonly string[]): TaskDefinition {
  if (attribute.length === 0)
    throw new ShoalError('invalid_argument', 'task definition by attribute needs an attribute');
  return {
    define(samples) {
      const columns = attribute.map((name) => columnOf(samples, name));
      const keys = Array.from({ length: samples.size }, (_, i) =>
        taskName(columns.map((c) => c[i] ?? '')),
      );
      return grouped(keys, (i) =>
        Object.fromEntries(attribute.map((name, c) => [name, columns[c]?.[i] ?? ''])),
      );
    },
  };
}

/**
 * Two tasks: samples whose origin contains a text, and the others (Sedna's `TaskDefinitionByOrigin`,
 * there: whose path contains the name of a city).
 */
export function definitionByOrigin(options: {
  readonly names: readonly [string, string];
  readonly contains: string;
  readonly column: string;
}): TaskDefinition {
  const { names, contains, column } = options;
  return {
    define(samples) {
      const origin = columnOf(samples, column);
      const keys = origin.map((o) => (o.includes(contains) ? names[0] : names[1]));
      return grouped(keys, (i) => ({ [column]: keys[i] ?? '' }));
    },
  };
}

function rowsOf(features: Float32Array, width: number, positions: ArrayLike<number>): number[][] {
  return Array.from(positions, (i) => [...features.subarray(i * width, (i + 1) * width)]);
}

function distance(a: readonly number[], b: readonly number[]): number {
  return Math.sqrt(a.reduce((sum, v, k) => sum + (v - (b[k] ?? 0)) ** 2, 0));
}

/**
 * Mean silhouette with distances to centroids in place of all pairs (Rousseeuw 1987; the simplified
 * form of Hruschka et al. 2004): (b − a) / max(a, b), in [−1, 1].
 */
export function silhouette(
  rows: readonly (readonly number[])[],
  centroids: readonly (readonly number[])[],
  clusters: readonly number[],
): number {
  const scores = rows.map((row, i) => {
    const own = distance(row, centroids[clusters[i] ?? 0] ?? []);
    const other = Math.min(
      ...centroids.map((c, k) => (k === clusters[i] ? Number.POSITIVE_INFINITY : distance(row, c))),
    );
    return (other - own) / Math.max(own, other, 1e-12);
  });
  return scores.reduce((a, b) => a + b, 0) / Math.max(1, scores.length);
}

const CLUSTERED = 3_000;

/**
 * Tasks are clusters of features: k-means++ for every count up to `clusters`, of which the best mean
 * silhouette is taken; a fixed count when `fixed` (Sedna's `TaskDefinitionBySVC` with `n_class`).
 */
export function definitionByCluster(options: {
  readonly clusters: number;
  readonly fixed?: boolean;
}): TaskDefinition {
  const { clusters, fixed = false } = options;
  if (!Number.isInteger(clusters) || clusters < 2)
    throw new ShoalError(
      'invalid_argument',
      `clusters must be a whole number from 2, got ${clusters}`,
    );
  return {
    define(samples, { features, width, random }) {
      if (samples.size < 2 * clusters)
        throw new ShoalError(
          'invalid_argument',
          `${clusters} clusters need at least ${2 * clusters} samples, got ${samples.size}`,
        );
      const seed = random.int(2 ** 31);
      const some = random.permutation(samples.size).subarray(0, CLUSTERED);
      const rows = rowsOf(features, width, some);
      const counts = fixed ? [clusters] : Array.from({ length: clusters - 1 }, (_, i) => i + 2);
      const kmeans = loadKMeans();
      const tried = counts.map((count) => {
        const found = kmeans(rows, count, { seed, initialization: 'kmeans++' });
        return { found, score: silhouette(rows, found.centroids, found.clusters) };
      });
      const best = tried.toSorted((a, b) => b.score - a.score)[0];
      const everyone = Array.from({ length: samples.size }, (_, i) => i);
      const all = rowsOf(features, width, everyone);
      const nearest = best?.found.nearest(all) ?? [];
      const keys = Array.from(nearest, (k) => `cluster-${k + 1}`);
      return grouped(keys, (i) => ({ cluster: keys[i] ?? '' }));
    },
  };
}

/**
 * Tasks are stretches of a stream between changes, found where a Page–Hinkley test (Page 1954) on
 * the distance from the stretch's own mean alarms: m_t = Σ (x_i − x̄_t − δ), alarm when
 * m_t − min m > λ.
 */
export function definitionByDrift(
  options: { readonly delta?: number; readonly lambda?: number; readonly warmUp?: number } = {},
): TaskDefinition {
  const { delta = 0.2, lambda = 25, warmUp = 30 } = options;
  return {
    define(samples, { features, width }) {
      const keys: string[] = [];
      let stretch = 1;
      let state = newStretch(width);
      for (let i = 0; i < samples.size; i++) {
        const row = features.subarray(i * width, (i + 1) * width);
        const far = state.count === 0 ? 0 : distanceTo(row, state.mean);
        if (state.count >= warmUp && pageHinkley(state, far, delta) > lambda) {
          stretch++;
          state = newStretch(width);
        } else if (state.count < warmUp) {
          state.count++;
          for (let k = 0; k < width; k++)
            state.mean[k] =
              (state.mean[k] ?? 0) + ((row[k] ?? 0) - (state.mean[k] ?? 0)) / state.count;
        }
        keys.push(`stretch-${stretch}`);
      }
      return grouped(keys, (i) => ({ stretch: keys[i] ?? '' }));
    },
  };
}

interface Stretch {
  readonly mean: Float64Array;
  count: number;
  seen: number;
  average: number;
  sum: number;
  least: number;
}

function newStretch(width: number): Stretch {
  return { mean: new Float64Array(width), count: 0, seen: 0, average: 0, sum: 0, least: 0 };
}

function distanceTo(row: Float32Array, mean: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < row.length; k++) sum += ((row[k] ?? 0) - (mean[k] ?? 0)) ** 2;
  return Math.sqrt(sum);
}

function pageHinkley(state: Stretch, value: number, delta: number): number {
  state.seen++;
  state.average += (value - state.average) / state.seen;
  state.sum += value - state.average - delta;
  state.least = Math.min(state.least, state.sum);
  return state.sum - state.least;
}
