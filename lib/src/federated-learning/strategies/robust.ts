import { ShoalError } from '@shoal/core';
import { addWeighted, perCoordinate, rankMeans, squaredDistance } from '../kernels.ts';
import {
  type JointRule,
  type ModelUpdate,
  plainStep,
  readParameters,
  type Strategy,
  type StrategyParameters,
  stateVector,
} from '../strategy.ts';

function deltasOf(updates: readonly ModelUpdate[]): Float32Array[] {
  return updates.map((u) => u.delta);
}

function meanOf(deltas: readonly Float32Array[]): Float32Array {
  const mean = new Float32Array(deltas[0]?.length ?? 0);
  addWeighted(
    mean,
    deltas,
    deltas.map(() => 1 / deltas.length),
  );
  return mean;
}

/** Ranks of the middle value, or of the two around the middle. */
function middleRanks(n: number): readonly [number, number] {
  return [Math.floor((n - 1) / 2), Math.floor(n / 2) + 1];
}

function robust(name: string, rule: Omit<JointRule, 'kind'>): Strategy {
  return { name, local: {}, rule: { kind: 'joint', ...rule }, step: plainStep };
}

/** Coordinate-wise median (Yin et al. 2018, arXiv 1803.01498, definition 1); even counts take the mean of the two. */
export function coordinateMedian(parameters: StrategyParameters): Strategy {
  readParameters('Median', parameters, {});
  return robust('Median', {
    least: () => 1,
    combine: (updates) => rankMeans(deltasOf(updates), middleRanks(updates.length)),
  });
}

/** Coordinate-wise trimmed mean (Yin et al. 2018, definition 2): without the ⌊βn⌋ smallest and largest. */
export function trimmedMean(parameters: StrategyParameters): Strategy {
  const { beta } = readParameters('TrimmedMean', parameters, {
    beta: { fallback: 0.2, min: 0, max: 0.4999 },
  });
  return robust('TrimmedMean', {
    least: () => 1,
    combine: (updates) => {
      const cut = Math.floor(beta * updates.length);
      return rankMeans(deltasOf(updates), [cut, updates.length - cut]);
    },
  });
}

/** Squared distances between all pairs, `[n][n]`, on changes and in float64. */
function distances(deltas: readonly Float32Array[]): Float64Array[] {
  const n = deltas.length;
  const matrix = Array.from({ length: n }, () => new Float64Array(n));
  for (const [i, row] of matrix.entries()) {
    for (const [j, mirror] of matrix.entries()) {
      if (j <= i) continue;
      const d = squaredDistance(deltas[i] ?? new Float32Array(), deltas[j] ?? new Float32Array());
      row[j] = d;
      mirror[i] = d;
    }
  }
  return matrix;
}

/** Krum scores of some of the updates: the sum over the n − f − 2 nearest among them. */
function krumScores(
  matrix: readonly Float64Array[],
  among: readonly number[],
  f: number,
): Map<number, number> {
  const nearest = Math.max(1, among.length - f - 2);
  return new Map(
    among.map((i) => {
      const others = among.filter((j) => j !== i).map((j) => matrix[i]?.[j] ?? 0);
      const near = others.toSorted((a, b) => a - b).slice(0, nearest);
      return [i, near.reduce((a, b) => a + b, 0)];
    }),
  );
}

function lowest(scores: ReadonlyMap<number, number>, count: number): number[] {
  return [...scores]
    .toSorted(([i, a], [j, b]) => a - b || i - j)
    .slice(0, count)
    .map(([i]) => i);
}

/**
 * Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757, §4): the mean of the m updates with the
 * smallest sum of squared distances to their n − f − 2 nearest; m = 1 is Krum. Distances are taken
 * between changes, not models, by difference: expanding the square in float32 loses them entirely
 * when changes are small against weights. The n ≥ 2f + 3 updates of the paper are required.
 */
export function krum(parameters: StrategyParameters, multi: boolean): Strategy {
  const name = multi ? 'MultiKrum' : 'Krum';
  const { malicious, selected } = readParameters(name, parameters, {
    malicious: { fallback: 0, min: 0, max: 1e6 },
    selected: { fallback: multi ? 0 : 1, min: 0, max: 1e6 },
  });
  return robust(name, {
    least: () => 2 * malicious + 3,
    combine: (updates) => {
      const deltas = deltasOf(updates);
      const all = deltas.map((_, i) => i);
      const count = selected > 0 ? selected : deltas.length - malicious;
      const kept = lowest(krumScores(distances(deltas), all, malicious), count);
      return meanOf(kept.map((i) => deltas[i] ?? new Float32Array()));
    },
  });
}

/**
 * Bulyan (El Mhamdi et al. 2018, arXiv 1802.07927, §4): θ = n − 2f updates chosen one after the
 * other by Krum among those left, then per coordinate the mean of the β = θ − 2f values nearest the
 * median. Needs n ≥ 4f + 3.
 */
export function bulyan(parameters: StrategyParameters): Strategy {
  const { malicious } = readParameters('Bulyan', parameters, {
    malicious: { fallback: 0, min: 0, max: 1e6 },
  });
  return robust('Bulyan', {
    least: () => 4 * malicious + 3,
    combine: (updates) => {
      const deltas = deltasOf(updates);
      const matrix = distances(deltas);
      const theta = deltas.length - 2 * malicious;
      let left = deltas.map((_, i) => i);
      const chosen: Float32Array[] = [];
      while (chosen.length < theta) {
        const [best = 0] = lowest(krumScores(matrix, left, malicious), 1);
        chosen.push(deltas[best] ?? new Float32Array());
        left = left.filter((i) => i !== best);
      }
      const beta = theta - 2 * malicious;
      return perCoordinate(chosen, (rows, result, { from, count }) => {
        for (let i = 0; i < count; i++)
          result[from + i] = nearestMean(
            rows.map((row) => row[i] ?? 0),
            beta,
          );
      });
    },
  });
}

/** Mean of the `count` values of a sorted column that are nearest its median: they stand side by side. */
function nearestMean(sorted: readonly number[], count: number): number {
  const [low, high] = middleRanks(sorted.length);
  const centre = ((sorted[low] ?? 0) + (sorted[high - 1] ?? 0)) / 2;
  let from = 0;
  while (
    from + count < sorted.length &&
    Math.abs((sorted[from + count] ?? 0) - centre) < Math.abs((sorted[from] ?? 0) - centre)
  )
    from++;
  return sorted.slice(from, from + count).reduce((a, b) => a + b, 0) / count;
}

/**
 * Geometric median by smoothed Weiszfeld iterations (RFA, Pillutla et al. 2022, arXiv 1912.13445,
 * algorithm 2): z ← Σ β_k Δ_k / Σ β_k with β_k = n_k / max(ν, ‖z − Δ_k‖), from the weighted mean.
 */
export function geometricMedian(parameters: StrategyParameters): Strategy {
  const { iterations, smoothing } = readParameters('GeometricMedian', parameters, {
    iterations: { fallback: 8, min: 1, max: 1000 },
    smoothing: { fallback: 1e-6, min: 1e-12, max: 1 },
  });
  return robust('GeometricMedian', {
    least: () => 1,
    combine: (updates) => {
      const deltas = deltasOf(updates);
      let weights = updates.map((u) => u.samples);
      let z = new Float32Array(deltas[0]?.length ?? 0);
      for (let i = 0; i <= iterations; i++) {
        const total = weights.reduce((a, b) => a + b, 0);
        z = new Float32Array(z.length);
        addWeighted(
          z,
          deltas,
          weights.map((w) => w / total),
        );
        weights = updates.map(
          (u) => u.samples / Math.max(smoothing, Math.sqrt(squaredDistance(z, u.delta))),
        );
      }
      return z;
    },
  });
}

/**
 * Centered clipping (Karimireddy et al. 2021, arXiv 2012.10333, algorithm 1):
 * v ← v + (1/n)·Σ (Δ_k − v)·min(1, τ/‖Δ_k − v‖), from last round's v.
 */
export function centeredClipping(parameters: StrategyParameters): Strategy {
  const { radius, iterations } = readParameters('CenteredClipping', parameters, {
    radius: { fallback: 1, min: 1e-12, max: 1e9 },
    iterations: { fallback: 3, min: 1, max: 100 },
  });
  return robust('CenteredClipping', {
    least: () => 1,
    combine: (updates, state) => {
      const deltas = deltasOf(updates);
      const v = stateVector(state, 'centre', deltas[0]?.length ?? 0);
      for (let i = 0; i < iterations; i++) {
        const factors = deltas.map(
          (d) =>
            Math.min(1, radius / Math.max(1e-300, Math.sqrt(squaredDistance(d, v)))) /
            deltas.length,
        );
        const kept = 1 - factors.reduce((a, b) => a + b, 0);
        for (let k = 0; k < v.length; k++) v[k] = (v[k] ?? 0) * kept;
        addWeighted(v, deltas, factors);
      }
      return v.slice();
    },
  });
}

/** Refuses too few updates for a rule's promise. */
export function requireUpdates(strategy: Strategy, count: number): void {
  if (strategy.rule.kind !== 'joint') return;
  const least = strategy.rule.least(count);
  if (count >= least) return;
  throw new ShoalError(
    'failed_precondition',
    `strategy ${strategy.name} needs at least ${least} updates for its promise, there are ${count}`,
  );
}
