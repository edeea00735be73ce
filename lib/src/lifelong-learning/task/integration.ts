/** What one task's model says, and how much it counts. */
export interface Opinion {
  /** `[classes]`. */
  readonly probabilities: Float32Array;
  readonly weight: number;
}

/** Makes one answer of several. */
export interface InferenceIntegration {
  integrate(opinions: readonly Opinion[]): Float32Array;
}

function mixed(opinions: readonly Opinion[], of: (o: Opinion, k: number) => number): Float32Array {
  const classes = opinions[0]?.probabilities.length ?? 0;
  return Float32Array.from({ length: classes }, (_, k) =>
    opinions.reduce((sum, o) => sum + o.weight * of(o, k), 0),
  );
}

/** Weighted mean of probabilities; of one model, that model (Sedna's `DefaultInferenceIntegrate`). */
export const weightedMean: InferenceIntegration = {
  integrate: (opinions) => mixed(opinions, (o, k) => o.probabilities[k] ?? 0),
};

/** Weighted vote: each model gives its weight to its likeliest class. */
export const weightedVote: InferenceIntegration = {
  integrate: (opinions) =>
    mixed(opinions, ({ probabilities }, k) =>
      probabilities.indexOf(Math.max(...probabilities)) === k ? 1 : 0,
    ),
};
