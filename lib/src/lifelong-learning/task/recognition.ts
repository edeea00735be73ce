import type { JsonObject } from '@shoal/core';
import { inverse, Matrix } from 'ml-matrix';

/** What a detector sees of a sample. */
export interface Observed {
  /** Logits of the task's model; logarithms of its probabilities where it has no logits. */
  readonly logits: ArrayLike<number>;
  readonly features: Float32Array;
}

/** Samples of one task that its model did not train on, with what its model says of them. */
export interface CalibrationData {
  readonly samples: readonly Observed[];
  /** Features of the samples the task was trained on. */
  readonly trained: readonly Float32Array[];
}

/** Scores how strange a sample is to a task; a higher score is stranger. */
export interface StrangenessScore {
  /** Whether logits are needed, which cost a run of the model. */
  readonly needsLogits: boolean;
  fit(trained: readonly Float32Array[]): JsonObject;
  score(state: JsonObject, sample: Observed): number;
}

/** Energy −T·log Σ exp(z/T) (Liu et al. 2020, 2010.03759, eq. 4). */
export function energyScore(temperature: number = 1): StrangenessScore {
  return {
    needsLogits: true,
    fit: () => ({}),
    score(_state, { logits }) {
      const top = Math.max(...Array.from(logits));
      let sum = 0;
      for (let k = 0; k < logits.length; k++)
        sum += Math.exp(((logits[k] ?? 0) - top) / temperature);
      return -(top + temperature * Math.log(sum));
    },
  };
}

/**
 * 1 − the largest probability (Hendrycks & Gimpel 2017): Sedna's `ModelProbeFilter`, whose release
 * calls a sample unseen when the model is sure.
 */
export const probabilityScore: StrangenessScore = {
  needsLogits: true,
  fit: () => ({}),
  score(_state, { logits }) {
    const top = Math.max(...Array.from(logits));
    let sum = 0;
    for (let k = 0; k < logits.length; k++) sum += Math.exp((logits[k] ?? 0) - top);
    return 1 - 1 / sum;
  },
};

const states = new WeakMap<JsonObject, Map<string, Float64Array>>();

/** A list of numbers in a state, parsed once. */
function numbers(state: JsonObject, name: string): Float64Array {
  const known = states.get(state) ?? new Map<string, Float64Array>();
  states.set(state, known);
  let values = known.get(name);
  if (!values) {
    const list = state[name];
    values = Float64Array.from(Array.isArray(list) ? list : [], Number);
    known.set(name, values);
  }
  return values;
}

const rounded = (values: Iterable<number>): number[] =>
  Array.from(values, (v) => Number(v.toPrecision(7)));

/** Ridge on the covariance, as a share of its mean diagonal. */
const RIDGE = 0.05;

/** Squared Mahalanobis distance (f − μ)ᵀΣ⁻¹(f − μ) to the task's samples (Lee et al. 2018). */
export const mahalanobisScore: StrangenessScore = {
  needsLogits: false,
  fit(trained) {
    const rows = new Matrix(trained.map((f) => [...f]));
    const mean = rows.mean('column');
    const centred = rows.subRowVector(mean);
    const covariance = centred.transpose().mmul(centred).div(Math.max(1, trained.length));
    const ridge = (RIDGE * covariance.trace()) / Math.max(1, mean.length) + 1e-9;
    const precision = inverse(covariance.add(Matrix.eye(mean.length, mean.length, ridge)));
    return { mean: rounded(mean), precision: rounded(precision.to1DArray()) };
  },
  score(state, { features }) {
    const mean = numbers(state, 'mean');
    const precision = numbers(state, 'precision');
    const n = mean.length;
    let total = 0;
    for (let i = 0; i < n; i++) {
      const a = (features[i] ?? 0) - (mean[i] ?? 0);
      let row = 0;
      for (let j = 0; j < n; j++)
        row += (precision[i * n + j] ?? 0) * ((features[j] ?? 0) - (mean[j] ?? 0));
      total += a * row;
    }
    return total;
  },
};

const REFERENCES = 400;

/**
 * Distance to the k-th nearest of the task's samples (Sun et al. 2022, 2204.06507), among at most
 * 400 of them.
 */
export function neighbourScore(k: number = 3): StrangenessScore {
  return {
    needsLogits: false,
    fit(trained) {
      const step = Math.max(1, trained.length / REFERENCES);
      const chosen = Array.from(
        { length: Math.min(REFERENCES, trained.length) },
        (_, i) => trained[Math.floor(i * step)] ?? new Float32Array(),
      );
      return { references: rounded(chosen.flatMap((f) => [...f])), width: chosen[0]?.length ?? 0 };
    },
    score(state, { features }) {
      const references = numbers(state, 'references');
      const n = features.length;
      const nearest = new Float64Array(k).fill(Number.POSITIVE_INFINITY);
      for (let at = 0; at < references.length; at += n) {
        let sum = 0;
        for (let i = 0; i < n; i++) sum += ((features[i] ?? 0) - (references[at + i] ?? 0)) ** 2;
        for (let j = 0; j < k && sum < Number.POSITIVE_INFINITY; j++) {
          const held = nearest[j] ?? 0;
          if (sum < held) [nearest[j], sum] = [sum, held];
        }
      }
      const last = nearest.findLast((v) => v < Number.POSITIVE_INFINITY);
      return last === undefined ? Number.POSITIVE_INFINITY : Math.sqrt(last);
    },
  };
}

/** Scores of calibration samples kept for p-values. */
const KEPT_SCORES = 2_000;

/**
 * Says how likely a sample of a task is to look at least this strange: a split-conformal p-value
 * (Vovk et al. 2005; Bates et al. 2023, 2104.08279, eq. 4), p = (1 + #{calibration ≥ s}) / (n + 1).
 * Whatever the score, p ≤ α then happens to at most a share α of the task's own samples.
 */
export interface UnseenSampleRecognition {
  readonly needsLogits: boolean;
  fit(data: CalibrationData): JsonObject;
  /** In (0, 1]; 1 where the task could not be calibrated. */
  pValue(state: JsonObject, sample: Observed): number;
}

/** Recognition by a score, made comparable by conformal p-values. */
export function conformal(score: StrangenessScore): UnseenSampleRecognition {
  return {
    needsLogits: score.needsLogits,
    fit({ samples, trained }) {
      const state = score.fit(trained);
      const scores = samples
        .map((s) => score.score(state, s))
        .filter(Number.isFinite)
        .toSorted((a, b) => a - b);
      const step = Math.max(1, scores.length / KEPT_SCORES);
      const kept = Array.from(
        { length: Math.min(scores.length, KEPT_SCORES) },
        (_, i) => scores[Math.floor(i * step)] ?? 0,
      );
      return { state, scores: rounded(kept) };
    },
    pValue(calibration, sample) {
      const { state } = calibration;
      const scores = numbers(calibration, 'scores');
      if (scores.length === 0) return 1;
      const s = score.score(state as JsonObject, sample);
      // NaN is as strange as can be.
      if (Number.isNaN(s)) return 1 / (scores.length + 1);
      let [low, high] = [0, scores.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if ((scores[middle] ?? 0) < s) low = middle + 1;
        else high = middle;
      }
      return (1 + scores.length - low) / (scores.length + 1);
    },
  };
}

/** Never calls a sample unseen: only the allocation decides (Sedna's `TaskAttrFilter` with attributes). */
export const everySampleSeen: UnseenSampleRecognition = {
  needsLogits: false,
  fit: () => ({}),
  pValue: () => 1,
};
