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

export interface TrainOptions {
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
