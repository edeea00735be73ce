/** What a model said about held-out samples, beside what is true. */
export interface TestResults {
  /** Class indices, `[size]`; empty for a regression. */
  readonly labels: Int32Array;
  readonly predicted: Int32Array;
  /** Probabilities, `[size, classes]`, where the model gives them. */
  readonly scores?: Float32Array;
  readonly classes: number;
  /** Values of a regression or risks, `[size]`, and what they are held against, `[size, width]`. */
  readonly values?: Float32Array;
  readonly targets?: Float32Array;
  readonly targetWidth?: number;
}

/** A point of a course: after a round, a task or a model update. */
export interface CurvePoint {
  readonly step: number;
  readonly value: number;
  /** Bytes up and down, and virtual seconds, from the start until here. */
  readonly bytes: number;
  readonly virtualSeconds: number;
}

export interface ParticipantScore {
  readonly name: string;
  readonly samples: number;
  readonly accuracy: number;
}

/** Scores of a sequence of tasks; NaN where R does not say. */
export interface Transfer {
  readonly accuracy: number;
  readonly backwardTransfer: number;
  readonly forwardTransfer: number;
  readonly forgetting: number;
}

/** What a case was seen to do; metrics are made of it. Every figure here repeats with the seed. */
export interface Observations {
  readonly test?: TestResults;
  /** R[i][j], `[tasks][tasks]`: score on task j after learning task i. */
  readonly matrix?: readonly (readonly number[])[];
  readonly taskNames?: readonly string[];
  /** What follows from R; see `lifelongMetrics`. */
  readonly transfer?: Transfer;
  readonly inferences?: number;
  /** Samples that went to the cloud; at most one for an inference. */
  readonly uploads?: number;
  readonly bytesUp?: number;
  readonly bytesDown?: number;
  readonly virtualSeconds?: number;
  /** Virtual milliseconds until each answer. */
  readonly latenciesMs?: readonly number[];
  /** Virtual answers per second that a pipeline can keep up. */
  readonly throughput?: number;
  readonly participants?: readonly ParticipantScore[];
  /** Course of the accuracy. */
  readonly curve?: readonly CurvePoint[];
  /** Figures of the paradigm's own, by name. */
  readonly extra?: Readonly<Record<string, number>>;
}

/** What running it took on this machine; differs from run to run. */
export interface Measurements {
  readonly wallSeconds: number;
  readonly cpuSeconds: number;
  /** Largest resident memory, bytes. */
  readonly peakMemoryBytes: number;
  /** Joules of the processor package; undefined where the machine does not tell. */
  readonly energyJoules?: number;
}
