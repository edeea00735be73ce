import { seededRandom } from '@shoal/core';
import { aggregateRound } from './aggregate.ts';
import { Compressor, decompress } from './compression.ts';
import type { FederatedModel, LocalTask } from './federated-model.ts';
import { type FederationOptions, resolveFederation } from './federation-options.ts';
import { createStrategy } from './strategies/strategies.ts';
import type { ModelUpdate, StrategyState } from './strategy.ts';

export interface SimulatedRound {
  readonly round: number;
  /** Scores of the participants at the model the round started from, weighted by samples. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Bytes the updates would have taken on the wire. */
  readonly bytesUp: number;
}

export interface SimulationResult {
  readonly model: Float32Array;
  readonly rounds: readonly SimulatedRound[];
}

type Options = Omit<FederationOptions, 'job' | 'participants'> & {
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

/**
 * The rounds of a federation in one process, without a network: the same models, strategies and
 * order of addition as the aggregator's, compression included. For experiments; privacy is left out.
 *
 * @param models One per participant; the caller closes them.
 */
export async function simulateFederation(
  models: readonly FederatedModel[],
  options: Options,
): Promise<SimulationResult> {
  const federation = resolveFederation({
    ...options,
    job: 'simulation',
    participants: models.length,
  });
  const strategy = createStrategy(federation.strategy.name, federation.strategy.parameters);
  const { proximal = 0, controlVariates = false, personal = 0 } = strategy.local;
  const first = models[0]?.initial() ?? new Float32Array();
  const model = new Float32Array(controlVariates ? first.length * 2 : first.length);
  model.set(first);
  const state: StrategyState = {};
  const random = seededRandom(federation.seed);
  const compressors = models.map(
    (_, i) => new Compressor(federation.compression, random.fork(`p${i}`)),
  );
  const rounds: SimulatedRound[] = [];
  const signal = options.signal ?? new AbortController().signal;
  for (let round = 1; round <= federation.rounds; round++) {
    const chosen = [
      ...seededRandom(federation.seed).fork(`round ${round}`).permutation(models.length),
    ]
      .slice(0, federation.selected)
      .toSorted((a, b) => a - b);
    const task: LocalTask = {
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
    const updates: ModelUpdate[] = [];
    let bytesUp = 0;
    for (const i of chosen) {
      const result = await models[i]?.train(model, task, signal);
      if (!result) continue;
      const { name } = federation.compression;
      const bytes = compressors[i]?.compress(result.delta) ?? new Uint8Array();
      bytesUp += bytes.length;
      const delta = decompress(name, bytes, model.length);
      updates.push({ participant: `p${i}`, ...result, delta });
    }
    aggregateRound(strategy, model, { updates, state, round });
    const summary = { round, metrics: weightedMean(updates), bytesUp };
    rounds.push(summary);
    await options.onRound?.(summary, model);
  }
  return { model, rounds };
}
