import { ShoalError } from '@shoal/core';
import type { KnowledgeTask, Neighbour } from './knowledge-base.ts';

/** The centroid a task's knowledge holds, if it does. */
export function centroidOf(task: Pick<KnowledgeTask, 'knowledge'>): Float32Array | undefined {
  const { centroid } = task.knowledge;
  if (!Array.isArray(centroid) || centroid.length === 0) return undefined;
  const values = Float32Array.from(centroid, Number);
  return values.every(Number.isFinite) ? values : undefined;
}

/** Centroids of tasks in one block of memory, searched by Euclidean distance. */
export class NeighbourIndex {
  readonly #names: string[] = [];
  readonly #centroids: Float32Array;
  readonly #width: number;

  constructor(tasks: readonly KnowledgeTask[]) {
    const found = tasks
      .map((task) => ({ name: task.name, centroid: centroidOf(task) }))
      .filter((t): t is { name: string; centroid: Float32Array } => t.centroid !== undefined);
    this.#width = found[0]?.centroid.length ?? 0;
    const fitting = found.filter((t) => t.centroid.length === this.#width);
    this.#centroids = new Float32Array(fitting.length * this.#width);
    for (const [i, { name, centroid }] of fitting.entries()) {
      this.#names.push(name);
      this.#centroids.set(centroid, i * this.#width);
    }
  }

  /**
   * @param features A point, `[width]`.
   * @throws ShoalError `invalid_argument` for another width or values that are not finite.
   */
  nearest(features: Float32Array, count: number): Neighbour[] {
    if (this.#names.length === 0) return [];
    if (features.length !== this.#width || !features.every(Number.isFinite))
      throw new ShoalError(
        'invalid_argument',
        `a point needs ${this.#width} finite features, got ${features.length}`,
      );
    const found = this.#names.map((task, i) => {
      let sum = 0;
      for (let k = 0; k < this.#width; k++)
        sum += ((features[k] ?? 0) - (this.#centroids[i * this.#width + k] ?? 0)) ** 2;
      return { task, distance: Math.sqrt(sum) };
    });
    return found.sort((a, b) => a.distance - b.distance).slice(0, count);
  }
}
