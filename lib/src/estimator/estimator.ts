import type { Samples } from '../data/samples.ts';

/** Class probabilities of a batch. */
export interface Predictions {
  /** Row-major `[size, classes]`, each row sums to 1. */
  readonly probabilities: Float32Array;
  /** What the probabilities are the softmax of, where the model gives it; `[size, classes]`. */
  readonly logits?: Float32Array;
  readonly classes: number;
  readonly size: number;
}

export interface TrainProgress {
  readonly epoch: number;
  readonly epochs: number;
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
}

/** Samples of before, learned beside the new ones so that what was known is not forgotten. */
export interface Rehearsal {
  readonly samples: Samples;
  /**
   * `replay`: their labels again (Chaudhry et al. 2019, 1902.10486). `der++`: what the model says of
   * them before training, and their labels (Buzzega et al. 2020, 2004.07211, eq. 6). Default `replay`.
   */
  readonly method?: 'replay' | 'der++';
}

export interface TrainOptions {
  /** Estimators that know no rehearsal learn both sets as one. */
  readonly rehearsal?: Rehearsal;
  readonly onProgress?: (progress: TrainProgress) => void;
  readonly signal?: AbortSignal;
}

/** Scores of a model on labelled samples, by metric name. */
export type Metrics = Readonly<Record<string, number>>;

/** What a paradigm needs of a model, whatever runs it. */
export interface Estimator {
  load(path: string): Promise<void>;
  save(path: string): Promise<void>;
  train(samples: Samples, options?: TrainOptions): Promise<Metrics>;
  evaluate(samples: Samples): Promise<Metrics>;
  /** @param inputs Row-major, `[size, …sample shape]`. */
  predict(inputs: Float32Array, size: number): Promise<Predictions>;
  close(): Promise<void>;
}
