import type { ResolvedFederation } from './federation-options.ts';
import { meanMetrics, spreadOf } from './metrics.ts';
import type { StoredUpdate } from './round-store.ts';
import type { RoundSummary } from './round-summary.ts';

/** What models are compared by, higher is better: accuracy, or the loss where there is none. */
export function scoreOf({
  validation,
  metrics,
}: Pick<RoundSummary, 'metrics'> & Partial<Pick<RoundSummary, 'validation'>>): number {
  const scores = validation ?? metrics;
  return scores['accuracy'] ?? -(scores['loss'] ?? Number.POSITIVE_INFINITY);
}

/** Whether the model a round started from scored better than those of all rounds before. */
export function isBest(
  summary: Parameters<typeof scoreOf>[0],
  history: readonly RoundSummary[],
): boolean {
  return history.every((h) => scoreOf(h) < scoreOf(summary));
}

type Measured = Pick<RoundSummary, 'round' | 'bytesDown' | 'durationMs' | 'changeNorm'> & {
  readonly validation: RoundSummary['validation'];
  readonly epsilon: number | undefined;
};

/**
 * A finished round as people see it.
 *
 * @param history Rounds before it.
 */
export function summaryOf(
  updates: readonly StoredUpdate[],
  history: readonly RoundSummary[],
  { validation, epsilon, ...counted }: Measured,
): RoundSummary {
  const measured = {
    ...counted,
    ...(validation ? { validation } : {}),
    ...(epsilon === undefined ? {} : { epsilon }),
  };
  const bytesUp = updates.reduce((n, u) => n + u.bytes, 0);
  const metrics = meanMetrics(updates);
  const before = history.at(-1);
  const isBetter = isBest({ ...measured, metrics }, history);
  return {
    ...measured,
    totalBytesUp: (before?.totalBytesUp ?? 0) + bytesUp,
    totalBytesDown: (before?.totalBytesDown ?? 0) + measured.bytesDown,
    bestRound: isBetter ? measured.round : (before?.bestRound ?? measured.round),
    participants: updates.length,
    samples: updates.reduce((n, u) => n + u.samples, 0),
    metrics,
    spread: spreadOf(updates),
    bytesUp,
  };
}

/** Why training ends after a round; undefined while it goes on. */
export function endReason(
  { rounds, patience, privacy }: ResolvedFederation,
  at: {
    readonly done: number;
    readonly best: number;
    readonly spent: number;
    /** ε after one more round. */
    readonly next: number;
  },
): string | undefined {
  const { done, best, spent, next } = at;
  if (done > rounds) return `all ${rounds} rounds are done`;
  if (done - best >= patience) return `no better score for ${patience} rounds`;
  // Where the next round only scores, nothing more is spent.
  if (privacy?.epsilonBudget !== undefined && done < rounds && next > privacy.epsilonBudget)
    return `the privacy budget is spent: ε = ${spent.toFixed(3)} of ${privacy.epsilonBudget}, another round would make it ${next.toFixed(3)}`;
  return undefined;
}
