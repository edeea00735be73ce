import { ShoalError } from '@shoal/core';

/** What a participant did in a round, without the values. */
export interface UpdateInfo {
  readonly participant: string;
  /** Samples it trained on, ≥ 1. */
  readonly samples: number;
  /** Scores it reports; `loss` is the mean training loss at the model it was given. */
  readonly metrics: Readonly<Record<string, number>>;
}

/** A participant's change of the model in a round: w_k − w_t, every parameter in one vector. */
export interface ModelUpdate extends UpdateInfo {
  /** `[d]` float32 */
  readonly delta: Float32Array;
}

/** Vectors a strategy keeps on the server from round to round, each `[d]`, by name. */
export type StrategyState = Record<string, Float32Array>;

/** What participants are told to do differently from plain local training. */
export interface LocalRule {
  /** μ of the proximal term (FedProx); 0 for none. */
  readonly proximal?: number;
  /** Whether local steps are corrected by control variates, which travel with the update (SCAFFOLD). */
  readonly controlVariates?: boolean;
  /** λ of a personal model kept beside the shared one (Ditto); 0 for none. */
  readonly personal?: number;
}

/** Makes one change of the model out of many, while they arrive. Order matters only for the last bits. */
export interface MeanRule {
  readonly kind: 'mean';
  /** Whether `scale` looks at the norms of the updates. Default false: then they are 0. */
  readonly usesNorms?: boolean;
  /** Factor of this update in the sum. */
  readonly weight: (update: ModelUpdate) => number;
  /** Factor of the sum, once all are in: 1/Σ weights for a mean. */
  readonly scale: (
    updates: readonly (UpdateInfo & { readonly weight: number; readonly squaredNorm: number })[],
  ) => number;
}

/** Makes one change of the model out of many that must all be there. */
export interface JointRule {
  readonly kind: 'joint';
  /** Fewest updates it can work with. */
  readonly least: (participants: number) => number;
  readonly combine: (updates: readonly ModelUpdate[], state: StrategyState) => Float32Array;
}

/**
 * A federated optimization method as values and pure functions: what participants do, how their
 * changes become one, and how the server steps along it.
 */
export interface Strategy {
  readonly name: string;
  readonly local: LocalRule;
  readonly rule: MeanRule | JointRule;
  /** Updates that make a new model, whoever brings them; default all who are asked, round by round. */
  readonly bufferSize?: number;
  /**
   * Moves the model along the combined change, in place.
   *
   * @param round Counted from 1.
   */
  readonly step: (
    model: Float32Array,
    change: Float32Array,
    at: { readonly state: StrategyState; readonly round: number },
  ) => void;
}

/** Parameters of a strategy as a manifest gives them: numbers, also written as strings. */
export type StrategyParameters = Readonly<Record<string, number | string>>;

/**
 * Reads the parameters a strategy knows; all others are faults.
 *
 * @throws ShoalError `invalid_argument` naming strategy and parameter.
 */
export function readParameters<K extends string>(
  strategy: string,
  given: StrategyParameters,
  known: Readonly<
    Record<K, { readonly fallback: number; readonly min: number; readonly max: number }>
  >,
): Record<K, number> {
  const names = Object.keys(known) as K[];
  for (const name of Object.keys(given)) {
    if (names.includes(name as K)) continue;
    throw new ShoalError(
      'invalid_argument',
      `strategy ${strategy} has no parameter "${name}"; it has: ${names.join(', ') || 'none'}`,
    );
  }
  return Object.fromEntries(
    names.map((name) => {
      const { fallback, min, max } = known[name];
      const value = given[name] === undefined ? fallback : Number(given[name]);
      if (!(value >= min && value <= max))
        throw new ShoalError(
          'invalid_argument',
          `parameter ${name} of strategy ${strategy} must be in [${min}, ${max}], got ${given[name]}`,
        );
      return [name, value];
    }),
  ) as Record<K, number>;
}

/** The mean weighted by samples: Σ n_k Δ_k / Σ n_k (McMahan et al. 2017, algorithm 1). */
export const sampleMean: MeanRule = {
  kind: 'mean',
  weight: (update) => update.samples,
  scale: (updates) => 1 / updates.reduce((n, u) => n + u.samples, 0),
};

/** w ← w + Δ */
export function plainStep(model: Float32Array, change: Float32Array): void {
  for (let i = 0; i < model.length; i++) model[i] = (model[i] ?? 0) + (change[i] ?? 0);
}

/** A vector of the strategy's state, made on first use. */
export function stateVector(
  state: StrategyState,
  name: string,
  size: number,
  first = 0,
): Float32Array {
  const known = state[name];
  if (known) return known;
  const made = new Float32Array(size).fill(first);
  state[name] = made;
  return made;
}
