/** A parameter's place in the vector that travels. */
export interface LayoutEntry {
  readonly name: string;
  readonly shape: readonly number[];
}

/** What a participant is to do with the model it is given. */
export interface LocalTask {
  readonly round: number;
  /** Only scores are wanted; the model stays as it is. */
  readonly evaluateOnly: boolean;
  readonly epochs: number;
  readonly batchSize: number;
  readonly learningRate: number;
  readonly proximal: number;
  readonly controlVariates: boolean;
  readonly personal: number;
  readonly seed: number;
  /** Whether an update for an older model is taken too. */
  readonly asynchronous?: boolean;
  /** Changes are only added up masked; clipped to a bound first where there is one. */
  readonly secure?: { readonly bound?: number; readonly range: number };
  /** Encoding of the update. */
  readonly encoding:
    | { readonly name: 'none' | 'fp16' | 'int8' }
    | { readonly name: 'top-k'; readonly share: number };
}

export interface LocalResult {
  /** Change of the vector, `[size]`. */
  readonly delta: Float32Array;
  readonly samples: number;
  /** `loss` and scores at the model that was given. */
  readonly metrics: Readonly<Record<string, number>>;
}

/** Vectors by name. */
export type Vectors = Readonly<Record<string, Float32Array>>;

/** Vectors a model carries from round to round; never changed, but replaced. */
export interface Carried {
  /** What must agree with the aggregator: taken back when the update of a round does not count. */
  readonly shared: Vectors;
  /** What only this participant sees. */
  readonly own: Vectors;
}

/** A model that can be trained federated: one vector in, its change out. */
export interface FederatedModel {
  readonly layout: readonly LayoutEntry[];
  /** Values of the vector without control variates. */
  readonly size: number;
  /** Values at the front of the vector that are trained; behind them stand running statistics. Default all. */
  readonly trainedSize?: number;
  /** Samples it trains on. */
  readonly samples: number;
  /** The vector of a fresh model: what the first round starts from. */
  initial(): Float32Array;
  /** @param vector Not read any more once the update is accepted: its memory is used again. */
  train(vector: Float32Array, task: LocalTask, signal: AbortSignal): Promise<LocalResult>;
  /** What it carries from round to round; missing: nothing. */
  carried?(): Carried;
  /** Puts vectors that {@link carried} gave in place, by name; what is missing is as in a fresh model. */
  carry?(vectors: Vectors): void;
  close(): Promise<void>;
}

/** Names and shapes, in order: models of one federation have the same. */
export function layoutText(layout: readonly LayoutEntry[]): string {
  return JSON.stringify(layout.map(({ name, shape }) => [name, [...shape]]));
}
