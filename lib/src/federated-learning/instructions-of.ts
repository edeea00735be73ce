import type { LocalTask } from './federated-model.ts';
import type { ResolvedFederation } from './federation-options.ts';
import type { Strategy } from './strategy.ts';

/** What participants are told to do in a round. */
export function instructionsOf(
  { localEpochs, batchSize, learningRate, seed, compression }: ResolvedFederation,
  { local }: Strategy,
  at: {
    readonly round: number;
    readonly isEvaluation: boolean;
    readonly isAsynchronous: boolean;
    /** Largest norm of a change. */
    readonly bound: number | undefined;
    /** Largest magnitude of a value where changes are added up masked. */
    readonly range: number | undefined;
  },
): LocalTask {
  const { proximal = 0, controlVariates = false, personal = 0 } = local;
  const { bound, range } = at;
  return {
    round: at.round,
    evaluateOnly: at.isEvaluation,
    epochs: localEpochs,
    batchSize,
    learningRate,
    proximal,
    controlVariates,
    personal,
    seed,
    encoding: compression,
    ...(at.isAsynchronous ? { asynchronous: true } : {}),
    ...(range === undefined
      ? {}
      : { secure: { range, ...(bound === undefined ? {} : { bound }) } }),
  };
}
