import { addWeighted, scale, squaredNorm } from './kernels.ts';
import { requireUpdates } from './strategies/robust.ts';
import {
  type ModelUpdate,
  plainStep,
  type Strategy,
  type StrategyState,
  type UpdateInfo,
} from './strategy.ts';

/**
 * Adds updates up while they arrive, holding one vector however many come. Feed it in a fixed order:
 * then the same updates give the same bits.
 */
export class MeanAccumulator {
  readonly #strategy: Strategy;
  readonly #sum: Float32Array;
  readonly #infos: (UpdateInfo & { readonly weight: number; readonly squaredNorm: number })[] = [];

  /**
   * @param strategy One whose rule is a mean.
   * @param memory Where to add up, overwritten; its length is that of the updates.
   */
  constructor(strategy: Strategy, memory: Float32Array) {
    this.#strategy = strategy;
    this.#sum = memory.fill(0);
  }

  get count(): number {
    return this.#infos.length;
  }

  add(update: ModelUpdate): void {
    const { rule } = this.#strategy;
    const weight = rule.kind === 'mean' ? rule.weight(update) : 1;
    addWeighted(this.#sum, [update.delta], [weight]);
    const { participant, samples, metrics } = update;
    const usesNorms = rule.kind === 'mean' && rule.usesNorms === true;
    const norm = usesNorms ? squaredNorm(update.delta) : 0;
    this.#infos.push({ participant, samples, metrics, weight, squaredNorm: norm });
  }

  /** The combined change; the accumulator is used up. */
  finish(): Float32Array {
    const { rule } = this.#strategy;
    scale(this.#sum, rule.kind === 'mean' ? rule.scale(this.#infos) : 1 / this.count);
    return this.#sum;
  }
}

/**
 * Steps along a change, in place. Running statistics behind the trained values follow the change itself:
 * an optimizer's step could make a variance negative.
 */
export function moveModel(
  strategy: Strategy,
  model: Float32Array,
  change: Float32Array,
  at: {
    readonly state: StrategyState;
    readonly round: number;
    readonly trained?: number | undefined;
  },
): void {
  const { state, round, trained = model.length } = at;
  if (trained >= model.length || strategy.local.controlVariates) {
    strategy.step(model, change, { state, round });
    return;
  }
  strategy.step(model.subarray(0, trained), change.subarray(0, trained), { state, round });
  plainStep(model.subarray(trained), change.subarray(trained));
}

/**
 * One round's aggregation on updates that are all there: combines them and moves the model in place.
 *
 * @throws ShoalError `failed_precondition` when there are fewer updates than the strategy needs.
 */
export function aggregateRound(
  strategy: Strategy,
  model: Float32Array,
  at: {
    readonly updates: readonly ModelUpdate[];
    readonly state: StrategyState;
    readonly round: number;
    /** Values at the front of the model that are trained. Default all. */
    readonly trained?: number | undefined;
  },
): void {
  const { updates, state, round, trained } = at;
  requireUpdates(strategy, updates.length);
  let change: Float32Array;
  if (strategy.rule.kind === 'joint') change = strategy.rule.combine(updates, state);
  else {
    const sum = new MeanAccumulator(strategy, new Float32Array(model.length));
    for (const update of updates) sum.add(update);
    change = sum.finish();
  }
  moveModel(strategy, model, change, { state, round, trained });
}
