import type { ExampleContext } from './example.ts';
import { waitFor } from './wait.ts';

type Round = Readonly<Record<string, string | number | undefined>>;

/** What an example reads of a FederatedLearningJob's status. */
export interface FederatedStatus {
  readonly phase?: string;
  readonly currentRound?: number;
  readonly bestRound?: number;
  readonly conditions?: readonly { readonly type: string; readonly message?: string }[];
  readonly rounds?: readonly Round[];
}

/** Waits until a federation has ended, showing its rounds. @throws Error with the cause when it fails. */
export async function followRounds(
  context: ExampleContext,
  job: { readonly name: string; readonly rounds: number },
): Promise<FederatedStatus> {
  const ended = await waitFor(context, {
    kind: 'FederatedLearningJob',
    name: job.name,
    what: 'Succeeded',
    timeoutMs: 150_000,
    until: (object) => {
      const status = (object.status ?? {}) as FederatedStatus;
      const { currentRound = 0, conditions } = status;
      context.progress(currentRound / (job.rounds + 1), `round ${currentRound}`);
      if (status.phase === 'Failed')
        throw new Error(`the job failed: ${conditions?.at(-1)?.message}`);
      return status.phase === 'Succeeded';
    },
  });
  return (ended.status ?? {}) as FederatedStatus;
}

/** A score by round, as shares in [0, 1]. */
export function accuracies({ rounds = [] }: FederatedStatus, field: string): number[] {
  return rounds.map((r) => Number.parseFloat(String(r[field] ?? '0')) / 100);
}
