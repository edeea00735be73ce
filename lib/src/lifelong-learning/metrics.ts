import { ShoalError } from '@shoal/core';

/**
 * R, `[tasks][tasks]`: R[i][j] is the score on task j after learning task i (both from 0). Scores of
 * tasks not learned yet (j > i) count for forward transfer only and may be NaN.
 */
export type TransferMatrix = readonly (readonly number[])[];

export interface LifelongMetrics {
  /** ACC = 1/T Σ_j R[T−1][j]. */
  readonly accuracy: number;
  /** BWT; NaN for fewer than two tasks. */
  readonly backwardTransfer: number;
  /** FWT; NaN without baselines or for fewer than two tasks. */
  readonly forwardTransfer: number;
  /** Mean of F_j over the tasks before the last; NaN for fewer than two tasks. */
  readonly forgetting: number;
}

function square(matrix: TransferMatrix): number {
  const tasks = matrix.length;
  const bad = matrix.findIndex((row) => row.length !== tasks);
  if (tasks > 0 && bad < 0) return tasks;
  throw new ShoalError(
    'invalid_argument',
    tasks === 0
      ? 'the transfer matrix has no tasks'
      : `the transfer matrix has ${tasks} rows, row ${bad} has ${matrix[bad]?.length} columns`,
  );
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? Number.NaN : values.reduce((a, b) => a + b, 0) / values.length;
}

/**
 * Scores of a sequence of tasks (Lopez-Paz & Ranzato 2017, eqs. 2–4; Chaudhry et al. 2018 for
 * forgetting), with T tasks numbered from 0:
 *
 * BWT = 1/(T−1) Σ_{j<T−1} (R[T−1][j] − R[j][j]),
 * FWT = 1/(T−1) Σ_{j≥1} (R[j−1][j] − b[j]),
 * F_j = max_{i≥j} R[i][j] − R[T−1][j], averaged over j < T−1. (Chaudhry et al. take the maximum before the
 * last task only: a task that gained by it then counts as negative forgetting, here as none.)
 *
 * @param baselines b[j]: score of the untrained model on task j.
 * @throws ShoalError `invalid_argument` for a matrix that is not square.
 */
export function lifelongMetrics(
  matrix: TransferMatrix,
  baselines: readonly number[] = [],
): LifelongMetrics {
  const tasks = square(matrix);
  const last = matrix[tasks - 1] ?? [];
  const at = (i: number, j: number): number => matrix[i]?.[j] ?? Number.NaN;
  const earlier = Array.from({ length: tasks - 1 }, (_, j) => j);
  const later = earlier.map((j) => j + 1);
  return {
    accuracy: mean(last),
    backwardTransfer: mean(earlier.map((j) => at(tasks - 1, j) - at(j, j))),
    forwardTransfer: mean(later.map((j) => at(j - 1, j) - (baselines[j] ?? Number.NaN))),
    forgetting: mean(
      earlier.map((j) => {
        const since = matrix.slice(j).map((row) => row[j] ?? Number.NaN);
        return Math.max(...since) - at(tasks - 1, j);
      }),
    ),
  };
}

/**
 * Share of inferences whose sample went to the cloud.
 *
 * @throws ShoalError `invalid_argument` for more uploads than inferences: a sample counts once.
 */
export function samplesTransferRatio(uploads: number, inferences: number): number {
  if (inferences === 0 && uploads === 0) return 0;
  if (uploads >= 0 && inferences > 0 && uploads <= inferences) return uploads / inferences;
  throw new ShoalError('invalid_argument', `${uploads} uploads of ${inferences} inferences`);
}
