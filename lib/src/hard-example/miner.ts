/** What an edge model said of one sample: class probabilities, or detected boxes. */
export type EdgeResult =
  | {
      readonly kind: 'probabilities';
      readonly probabilities: ArrayLike<number>;
      /** What the probabilities are the softmax of, where the model gives it. */
      readonly logits?: ArrayLike<number>;
    }
  | {
      readonly kind: 'boxes';
      /** Each box `[x1, y1, x2, y2, score, class]`, score in [0, 1]. */
      readonly boxes: readonly (readonly number[])[];
    };

export interface Verdict {
  readonly hard: boolean;
  /** Confidence in [0, 1]; what it measures is the miner's business, low is hard. */
  readonly score: number;
  /** The score below which a sample is hard. */
  readonly threshold: number;
}

/** Decides which samples are hard. Pure, apart from `Random`. */
export interface HardExampleMiner {
  readonly name: string;
  judge(result: EdgeResult): Verdict;
}

/** Parameters as they stand in a manifest: numbers may be written as strings. */
export type MinerParameters = Readonly<Record<string, string | number>>;

/** Confidences a result is made of: its best class, or the score of every box. */
export function confidences(result: EdgeResult): number[] {
  if (result.kind === 'boxes') return result.boxes.map((b) => b[4] ?? 0);
  let best = 0;
  for (let i = 0; i < result.probabilities.length; i++)
    best = Math.max(best, result.probabilities[i] ?? 0);
  return [best];
}
