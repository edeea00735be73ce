import { ShoalError } from '@shoal/core';

/** Class probabilities of several models for the same rows: each `[size, classes]`. */
export type ModelProbabilities = readonly ArrayLike<number>[];

export interface BlendOptions {
  /** Weights to be near to without much evidence; default equal ones. */
  readonly prior?: readonly number[];
  /** Rows the prior is worth, ≥ 0. Default 0. */
  readonly priorRows?: number;
  /** Steps of expectation–maximization. Default 100. */
  readonly steps?: number;
}

/**
 * Weights of a mixture of models, Σ_m w_m·p_m(y | x) with w on the simplex, by expectation–maximization
 * on the likelihood of labels (Dempster et al. 1977), with a Dirichlet prior of `priorRows` rows.
 *
 * @param labels Class indices, `[size]`. The probabilities must come from models that did not train
 *   on these rows.
 * @throws ShoalError `invalid_argument` for no models.
 */
export function blendWeights(
  probabilities: ModelProbabilities,
  labels: ArrayLike<number | bigint>,
  options: BlendOptions = {},
): number[] {
  const models = probabilities.length;
  if (models === 0) throw new ShoalError('invalid_argument', 'there are no models to blend');
  const { steps = 100, priorRows = 0 } = options;
  const prior = options.prior ?? probabilities.map(() => 1 / models);
  const size = labels.length;
  if (size === 0) return [...prior];
  const classes = (probabilities[0]?.length ?? 0) / size;
  const likelihood = probabilities.map((p) =>
    Float64Array.from({ length: size }, (_, i) =>
      Math.max(1e-12, p[i * classes + Number(labels[i])] ?? 0),
    ),
  );
  let weights = [...prior];
  for (let step = 0; step < steps; step++) {
    const counts = responsibilities(likelihood, weights, size);
    weights = counts.map((c, m) => (c + (prior[m] ?? 0) * priorRows) / (size + priorRows));
  }
  return weights;
}

/** E-step: how many rows each model accounts for. */
function responsibilities(
  likelihood: readonly Float64Array[],
  weights: readonly number[],
  size: number,
): number[] {
  const counts = weights.map(() => 0);
  for (let i = 0; i < size; i++) {
    const shares = weights.map((w, m) => w * (likelihood[m]?.[i] ?? 0));
    const total = shares.reduce((a, b) => a + b, 0);
    for (const [m, share] of shares.entries()) counts[m] = (counts[m] ?? 0) + share / total;
  }
  return counts;
}

/** The mixture: Σ_m w_m·p_m, `[size, classes]`. */
export function blend(probabilities: ModelProbabilities, weights: readonly number[]): Float64Array {
  const mixed = new Float64Array(probabilities[0]?.length ?? 0);
  for (const [m, p] of probabilities.entries())
    for (let i = 0; i < mixed.length; i++)
      mixed[i] = (mixed[i] ?? 0) + (weights[m] ?? 0) * (p[i] ?? 0);
  return mixed;
}
