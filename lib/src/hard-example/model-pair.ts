/** What both models said of one sample whose class is known. */
export interface ModelPair {
  /** Class probabilities of the edge. */
  readonly edge: ArrayLike<number>;
  readonly edgeRight: boolean;
  readonly cloudRight: boolean;
}
