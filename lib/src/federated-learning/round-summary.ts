/** One finished round, as people see it. */
export interface RoundSummary {
  readonly round: number;
  readonly participants: number;
  readonly samples: number;
  /** Scores at the model the round started from, weighted by samples. */
  readonly metrics: Readonly<Record<string, number>>;
  /** 10th, 50th and 90th percentile of each score over the participants. */
  readonly spread?: Readonly<Record<string, readonly number[]>>;
  /** Scores of that model on the aggregator's own samples. */
  readonly validation?: Readonly<Record<string, number>>;
  readonly bytesUp: number;
  readonly bytesDown: number;
  /** From the first round until here. */
  readonly totalBytesUp: number;
  readonly totalBytesDown: number;
  /** The round, until here, whose model scored best. */
  readonly bestRound: number;
  readonly durationMs: number;
  /** Norm of the combined change. */
  readonly changeNorm: number;
  readonly epsilon?: number;
}
