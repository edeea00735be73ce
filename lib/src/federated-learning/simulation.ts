import { seededRandom } from '@shoal/core';
import { aggregateRound } from './aggregate.ts';
import { Compressor, decompress } from './compression.ts';
import type { FederatedModel, LocalTask } from './federated-model.ts';
import {
  type FederationOptions,
  type ResolvedFederation,
  resolveFederation,
} from './federation-options.ts';
import { scoreOf } from './round-end.ts';
import { createStrategy } from './strategies/strategies.ts';
import type { ModelUpdate, Strategy, StrategyState } from './strategy.ts';

/** What a participant did in a simulated round. */
export interface SimulatedWork {
  /** Index of its model. */
  readonly participant: number;
  readonly samples: number;
  /** Passes over them. */
  readonly epochs: number;
  readonly bytesDown: number;
  readonly bytesUp: number;
}

export interface SimulatedRound {
  readonly round: number;
  /** Participants whose update counted. */
  readonly participants: readonly number[];
  /** Scores of the participants at the model the round started from, weighted by samples. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Bytes the updates would have taken on the wire. */
  readonly bytesUp: number;
  /** Bytes of the model on its way to those who were asked. */
  readonly bytesDown: number;
}

export interface SimulationResult {
  readonly model: Float32Array;
  /** With `chooseBest`: the model that did best with the participants, as an aggregator deploys it. */
  readonly best?: Float32Array;
  /** With `chooseBest`: bytes of the last model on its way to those who looked at it. */
  readonly lookBytesDown?: number;
  readonly rounds: readonly SimulatedRound[];
}

export type SimulationOptions = Omit<FederationOptions, 'job' | 'participants' | 'strategy'> & {
  /** By name, or one's own. */
  readonly strategy?: FederationOptions['strategy'] | Strategy;
  /** What the first round starts from. Default: the first model's own start. */
  readonly initial?: Float32Array;
  /** Whether the participants also choose the best of the models; it costs one more look at the last. */
  readonly chooseBest?: boolean;
  /** Who can be asked in a round; default everyone. */
  readonly available?: (round: number) => readonly number[];
  /** Whose update arrives in time; default everyone's. A round without any leaves the model as it is. */
  readonly arrivals?: (round: number, work: readonly SimulatedWork[]) => readonly boolean[];
  readonly signal?: AbortSignal;
  readonly onRound?: (round: SimulatedRound, model: Float32Array) => void | Promise<void>;
};

function weightedMean(updates: readonly ModelUpdate[]): Record<string, number> {
  const total = updates.reduce((n, u) => n + u.samples, 0);
  const names = new Set(updates.flatMap((u) => Object.keys(u.metrics)));
  return Object.fromEntries(
    [...names].map((name) => [
      name,
      updates.reduce((sum, u) => sum + (u.metrics[name] ?? 0) * u.samples, 0) / total,
    ]),
  );
}

function strategyOf(given: SimulationOptions['strategy']): Strategy {
  if (given && 'rule' in given) return given;
  return createStrategy(given?.name ?? 'FedAvg', given?.parameters);
}

/**
 * The rounds of a federation in one process, without a network: the same models, strategies and
 * order of addition as the aggregator's, compression included. For experiments; privacy is left out.
 *
 * @param models One per participant; the caller closes them.
 */
export async function simulateFederation(
  models: readonly FederatedModel[],
  options: SimulationOptions,
): Promise<SimulationResult> {
  const { strategy: given, available, arrivals, initial, onRound, chooseBest, ...rest } = options;
  const strategy = strategyOf(given);
  const federation = resolveFederation({
    ...rest,
    job: 'simulation',
    participants: models.length,
  });
  const model = startOf(models, strategy, initial);
  const state: StrategyState = {};
  const random = seededRandom(federation.seed);
  const compressors = models.map(
    (_, i) => new Compressor(federation.compression, random.fork(`p${i}`)),
  );
  const rounds: SimulatedRound[] = [];
  const signal = options.signal ?? new AbortController().signal;
  const everyone = models.map((_, i) => i);
  const choice = new BestModel();
  for (let round = 1; round <= federation.rounds; round++) {
    const chosen = chosenOf(available?.(round) ?? everyone, federation, round);
    const task = taskOf(strategy, federation, round);
    const { updates, work } = await trained(chosen, model, { models, compressors, task, signal });
    const arrived = arrivals?.(round, work) ?? work.map(() => true);
    const counted = updates.filter((_, i) => arrived[i]);
    if (chooseBest && counted.length > 0) choice.see(model, weightedMean(counted));
    if (counted.length > 0) {
      const trained = models[0]?.trainedSize;
      aggregateRound(strategy, model, { updates: counted, state, round, trained });
    }
    const summary = {
      round,
      participants: work.filter((_, i) => arrived[i]).map((w) => w.participant),
      metrics: weightedMean(counted),
      bytesUp: work.reduce((n, w) => n + w.bytesUp, 0),
      bytesDown: work.reduce((n, w) => n + w.bytesDown, 0),
    };
    rounds.push(summary);
    await onRound?.(summary, model);
  }
  if (!chooseBest) return { model, rounds };
  const last = { ...taskOf(strategy, federation, federation.rounds + 1), evaluateOnly: true };
  const looks: ModelUpdate[] = [];
  const lookers = chosenOf(everyone, federation, federation.rounds + 1);
  for (const i of lookers) {
    const look = await models[i]?.train(model, last, signal);
    if (look) looks.push({ participant: '', ...look });
  }
  choice.see(model, weightedMean(looks));
  const lookBytesDown = lookers.length * model.byteLength;
  return { model, rounds, best: choice.model ?? model, lookBytesDown };
}

/** Local training of those who were asked, and what it would have cost to bring here. */
async function trained(
  chosen: readonly number[],
  model: Float32Array,
  at: {
    readonly models: readonly FederatedModel[];
    readonly compressors: readonly Compressor[];
    readonly task: LocalTask;
    readonly signal: AbortSignal;
  },
): Promise<{ updates: ModelUpdate[]; work: SimulatedWork[] }> {
  const updates: ModelUpdate[] = [];
  const work: SimulatedWork[] = [];
  for (const i of chosen) {
    const result = await at.models[i]?.train(model, at.task, at.signal);
    if (!result) continue;
    const bytes = at.compressors[i]?.compress(result.delta, at.task.round) ?? new Uint8Array();
    const delta = decompress(at.task.encoding.name, bytes, model.length);
    updates.push({ participant: `p${i}`, ...result, delta });
    work.push({
      participant: i,
      samples: result.samples,
      epochs: at.task.epochs,
      bytesDown: model.byteLength,
      bytesUp: bytes.length,
    });
  }
  return { updates, work };
}

/** The model with the best score so far; of equal ones the first. */
class BestModel {
  model: Float32Array | undefined;
  #score = Number.NEGATIVE_INFINITY;

  see(model: Float32Array, metrics: Readonly<Record<string, number>>): void {
    const score = scoreOf({ metrics });
    if (score <= this.#score) return;
    this.#score = score;
    this.model = model.slice();
  }
}

/** The vector of the first round; behind the model stand the control variates, where there are some. */
function startOf(
  models: readonly FederatedModel[],
  strategy: Strategy,
  initial: Float32Array | undefined,
): Float32Array {
  const first = initial ?? models[0]?.initial() ?? new Float32Array();
  const model = new Float32Array(strategy.local.controlVariates ? first.length * 2 : first.length);
  model.set(first);
  return model;
}

function chosenOf(
  able: readonly number[],
  federation: ResolvedFederation,
  round: number,
): readonly number[] {
  const order = seededRandom(federation.seed).fork(`round ${round}`).permutation(able.length);
  return Array.from(order.subarray(0, federation.selected), (k) => able[k] ?? 0).toSorted(
    (a, b) => a - b,
  );
}

function taskOf(strategy: Strategy, federation: ResolvedFederation, round: number): LocalTask {
  const { proximal = 0, controlVariates = false, personal = 0 } = strategy.local;
  return {
    round,
    evaluateOnly: false,
    epochs: federation.localEpochs,
    batchSize: federation.batchSize,
    learningRate: federation.learningRate,
    proximal,
    controlVariates,
    personal,
    seed: federation.seed,
    encoding: federation.compression,
  };
}
