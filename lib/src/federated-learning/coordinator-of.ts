import { AsyncCoordinator } from './async-coordinator.ts';
import type { ResolvedFederation } from './federation-options.ts';
import { type Coordinator, RoundCoordinator } from './round.ts';
import type { RoundStore } from './round-store.ts';
import type { SecureRounds } from './secure-rounds.ts';

/** Who decides about a round and those after it, as it stands in the store. */
export function coordinatorOf(
  federation: ResolvedFederation,
  at: {
    readonly round: number;
    readonly nowMs: number;
    readonly store: RoundStore;
    readonly secure: SecureRounds | undefined;
    /** Of a strategy that waits for nobody. */
    readonly bufferSize: number | undefined;
  },
): Coordinator {
  const { round, nowMs, store, secure, bufferSize } = at;
  const isEvaluation = round > federation.rounds;
  if (bufferSize !== undefined && !isEvaluation) {
    const arrived = store.updates(round).map((u) => u.participant);
    return new AsyncCoordinator({ ...federation, bufferSize }, { round, nowMs, arrived });
  }
  const isSecure = secure !== undefined && !isEvaluation;
  const restored = store.restored(round, isSecure);
  if (restored && isSecure) secure.restore(restored, nowMs);
  const options = {
    ...federation,
    freshAttempts: isSecure,
    // What is asked of whom must not be known before: ε is counted for a secret draw.
    isSecretDraw: (federation.privacy?.noiseMultiplier ?? 0) > 0,
    ...(bufferSize === undefined ? {} : { quorum: 1 }),
  };
  return new RoundCoordinator(options, restored ? { round, nowMs, restored } : { round, nowMs });
}
