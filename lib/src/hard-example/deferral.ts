import { isJsonObject, ShoalError } from '@shoal/core';
import { inverse, Matrix } from 'ml-matrix';
import { type GrownDeferral, grownScore, isGrownDeferral } from './grown-deferral.ts';
import type { ModelPair } from './model-pair.ts';

/** A logistic model of "the cloud is right and the edge is wrong". */
export interface DeferralModel {
  /** Weights of {@link deferralFeatures}, the bias last. */
  readonly weights: readonly number[];
}

/** Priors on the weights: with few helped samples the classes' own stay small. */
const RIDGE = 0.01;
const CLASS_RIDGE = 20;
/** Features before the classes' own. */
const GENERAL = 4;
const STEPS = 25;

/**
 * What the edge's answer shows of itself: the largest probability, its margin to the second and that
 * squared, the normalized entropy, and which class it is (one weight each).
 */
export function deferralFeatures(p: ArrayLike<number>): number[] {
  const classes = p.length;
  const order = Array.from({ length: classes }, (_, k) => k).toSorted(
    (a, b) => (p[b] ?? 0) - (p[a] ?? 0),
  );
  const [first = 0, second = 0] = order;
  const top = p[first] ?? 0;
  const margin = classes > 1 ? top - (p[second] ?? 0) : top;
  let entropy = 0;
  for (let k = 0; k < classes; k++) {
    const v = p[k] ?? 0;
    if (v > 0) entropy -= v * Math.log(v);
  }
  const which = Array.from({ length: classes }, (_, k) => (k === first ? 1 : 0));
  const spread = classes > 1 ? entropy / Math.log(classes) : 0;
  return [top, margin, margin * margin, spread, ...which, 1];
}

function sigmoid(z: number): number {
  return 1 / (1 + Math.exp(-z));
}

/**
 * Learned deferral (Jitkrittum et al. 2023, 2307.02764, §4.1, post hoc): fits P(cloud right ∧ edge
 * wrong | edge's answer) by logistic regression with a ridge, Newton's method. Better than
 * confidence where the cloud's errors depend on the sample.
 *
 * @throws ShoalError `failed_precondition` for fewer than 30 pairs, or when the cloud never helps.
 */
export function fitDeferral(pairs: readonly ModelPair[]): DeferralModel {
  const helped = pairs.filter((p) => p.cloudRight && !p.edgeRight).length;
  if (pairs.length < 30 || helped === 0)
    throw new ShoalError(
      'failed_precondition',
      `learned deferral needs at least 30 pairs, in some of which the cloud is right and the edge wrong; got ${pairs.length} pairs, ${helped} of them so`,
    );
  const x = new Matrix(pairs.map((p) => deferralFeatures(p.edge)));
  const y = pairs.map((p) => (p.cloudRight && !p.edgeRight ? 1 : 0));
  const ridge = Array.from({ length: x.columns }, (_, k) =>
    k < GENERAL || k === x.columns - 1 ? RIDGE : CLASS_RIDGE,
  );
  let weights = Matrix.zeros(x.columns, 1);
  for (let step = 0; step < STEPS; step++) {
    const p = x.mmul(weights).to1DArray().map(sigmoid);
    const slope = x
      .transpose()
      .mmul(Matrix.columnVector(p.map((v, i) => v - (y[i] ?? 0))))
      .add(weights.clone().mulColumnVector(ridge));
    const scaled = x.clone().mulColumnVector(p.map((v) => Math.max(1e-9, v * (1 - v))));
    const hessian = x.transpose().mmul(scaled).add(Matrix.diag(ridge));
    weights = Matrix.sub(weights, inverse(hessian).mmul(slope));
  }
  return { weights: weights.to1DArray() };
}

/** How little there is to gain from the cloud: 1 − P(cloud right ∧ edge wrong), in [0, 1]; low is hard. */
export function deferralScore(
  model: DeferralModel | GrownDeferral,
  edge: ArrayLike<number>,
): number {
  if ('trees' in model) return grownScore(model, edge);
  const features = deferralFeatures(edge);
  if (features.length !== model.weights.length)
    throw new ShoalError(
      'invalid_argument',
      `the deferral model is for ${model.weights.length - GENERAL - 1} classes, the edge has ${edge.length}`,
    );
  const z = features.reduce((sum, f, k) => sum + f * (model.weights[k] ?? 0), 0);
  return 1 - sigmoid(z);
}

/** @throws ShoalError `invalid_argument` for JSON that is no deferral model. */
export function deferralFromJson(text: string): DeferralModel | GrownDeferral {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ShoalError('invalid_argument', 'the deferral model is not JSON', { cause: error });
  }
  if (isGrownDeferral(value)) return value;
  const weights = isJsonObject(value) ? value['weights'] : undefined;
  if (!Array.isArray(weights) || weights.length < 7 || !weights.every((w) => Number.isFinite(w)))
    throw new ShoalError(
      'invalid_argument',
      'a deferral model is {"weights": [numbers]}, or what growDeferral gives',
    );
  return { weights: weights as number[] };
}
