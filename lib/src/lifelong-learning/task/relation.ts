import { ShoalError } from '@shoal/core';
import type { DefinedTask } from './definition.ts';

/** How well something of one task serves another. */
export interface FoundRelation {
  readonly from: string;
  readonly to: string;
  readonly kind: 'transfer' | 'similarity';
  readonly value: number;
}

export interface RelationContext {
  readonly features: Float32Array;
  readonly width: number;
  /** Score on the second task's samples of a model trained on the first's, in [0, 1]. */
  readonly transfer: (from: DefinedTask, to: DefinedTask) => Promise<number>;
}

export interface TaskRelationDiscovery {
  /** Tasks that become one model together; every task is in exactly one group. */
  discover(
    tasks: readonly DefinedTask[],
    context: RelationContext,
  ): Promise<{
    readonly groups: readonly (readonly string[])[];
    readonly relations: readonly FoundRelation[];
  }>;
}

/** Every task by itself (Sedna's `DefaultTaskRelationDiscover`). */
export const separateTasks: TaskRelationDiscovery = {
  discover: (tasks) => Promise.resolve({ groups: tasks.map((t) => [t.name]), relations: [] }),
};

/** Groups of names connected by pairs. */
function connected(
  names: readonly string[],
  pairs: readonly (readonly [string, string])[],
): string[][] {
  const group = new Map(names.map((n) => [n, n]));
  const root = (name: string): string => {
    const up = group.get(name) ?? name;
    return up === name ? name : root(up);
  };
  for (const [a, b] of pairs) group.set(root(b), root(a));
  const found = new Map<string, string[]>();
  for (const name of names) found.set(root(name), [...(found.get(root(name)) ?? []), name]);
  return [...found.values()];
}

/** Mean of a task's features. */
export function centroid(
  features: Float32Array,
  width: number,
  positions: readonly number[],
): Float32Array {
  const mean = new Float64Array(width);
  for (const i of positions)
    for (let k = 0; k < width; k++) mean[k] = (mean[k] ?? 0) + (features[i * width + k] ?? 0);
  return Float32Array.from(mean, (v) => v / Math.max(1, positions.length));
}

/**
 * Tasks whose centroids are close become one. The value of a relation is the cosine-free similarity
 * exp(−d) of the distance between centroids.
 *
 * @param options.threshold Least similarity of tasks that are merged, in (0, 1]. Default 0.9.
 */
export function similarTasks(options: { readonly threshold?: number } = {}): TaskRelationDiscovery {
  const { threshold = 0.9 } = options;
  return {
    discover(tasks, { features, width }) {
      const centroids = tasks.map((t) => centroid(features, width, t.positions));
      const relations: FoundRelation[] = [];
      const pairs: [string, string][] = [];
      for (const [i, from] of tasks.entries()) {
        for (const [j, to] of tasks.entries()) {
          if (i === j) continue;
          const [a, b] = [centroids[i] ?? [], centroids[j] ?? []];
          const far = Math.sqrt(Array.from(a).reduce((s, v, k) => s + (v - (b[k] ?? 0)) ** 2, 0));
          const value = Math.exp(-far);
          relations.push({ from: from.name, to: to.name, kind: 'similarity', value });
          if (value >= threshold) pairs.push([from.name, to.name]);
        }
      }
      return Promise.resolve({
        groups: connected(
          tasks.map((t) => t.name),
          pairs,
        ),
        relations,
      });
    },
  };
}

/**
 * The transfer matrix: trained on i, tested on j. Tasks that serve each other almost as well as
 * themselves, both ways, become one.
 *
 * @param options.tolerance Score that may be lost by sharing, ≥ 0. Default 0.02.
 * @param options.maxTasks The matrix costs T² evaluations and T trainings; more tasks are refused. Default 30.
 */
export function transferMatrix(
  options: { readonly tolerance?: number; readonly maxTasks?: number } = {},
): TaskRelationDiscovery {
  const { tolerance = 0.02, maxTasks = 30 } = options;
  return {
    async discover(tasks, { transfer }) {
      if (tasks.length > maxTasks)
        throw new ShoalError(
          'invalid_argument',
          `a transfer matrix of ${tasks.length} tasks is too large; at most ${maxTasks}, or choose another relation discovery`,
        );
      const relations: FoundRelation[] = [];
      const score = new Map<string, number>();
      for (const from of tasks) {
        for (const to of tasks) {
          const value = await transfer(from, to);
          score.set(`${from.name}\n${to.name}`, value);
          relations.push({ from: from.name, to: to.name, kind: 'transfer', value });
        }
      }
      const at = (i: DefinedTask, j: DefinedTask): number => score.get(`${i.name}\n${j.name}`) ?? 0;
      const serves = (i: DefinedTask, j: DefinedTask): boolean => at(i, j) >= at(j, j) - tolerance;
      const pairs = tasks.flatMap((i) =>
        tasks
          .filter((j) => i !== j && serves(i, j) && serves(j, i))
          .map((j): [string, string] => [i.name, j.name]),
      );
      return {
        groups: connected(
          tasks.map((t) => t.name),
          pairs,
        ),
        relations,
      };
    },
  };
}
