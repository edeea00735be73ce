import type { ResolvedFederation } from './federation-options.ts';
import { meanMetrics, spreadOf } from './metrics.ts';
import type { StoredUpdate } from './round-store.ts';
import type { RoundSummary } from './round-summary.ts';

/** Scores a model is judged by: accuracy, else the loss; higher is better. */
/** What models are compared by: accuracy, or the loss where there is none. */
export function scoreOf({
  validation,
  metrics,
}: Pick<RoundSummary, 'metrics'> & Partial<Pick<RoundSummary, 'validation'>>): number {
  const scores = validation ?? metrics;
  return scores['accuracy'] ?? -(scores['loss'] ?? Number.POSITIVE_INFINITY);
}

/** Whether the model a round started from scored better than those of all rounds before. */
export function isBest(summary: RoundSummary, history: readonly RoundSummary[]): boolean {
  return history.every((h) => scoreOf(h) < scoreOf(summary));
}

type Measured = Pick<
  RoundSummary,
  'round' | 'bytesDown' | 'durationMs' | 'changeNorm' | 'validation' | 'epsilon'
>;

/** A finished round as people see it. */
export function summaryOf(updates: readonly StoredUpdate[], measured: Measured): RoundSummary {
  return {
    ...measured,
    participants: updates.length,
    samples: updates.reduce((n, u) => n + u.samples, 0),
    metrics: meanMetrics(updates),
    spread: spreadOf(updates),
    bytesUp: updates.reduce((n, u) => n + u.bytes, 0),
  };
}

/** Why training ends after a round; undefined while it goes on. */
export function endReason(
  { rounds, patience, privacy }: ResolvedFederation,
  at: { readonly done: number; readonly best: number; readonly spent: number },
): string | undefined {
  const { done, best, spent } = at;
  if (done > rounds) return `all ${rounds} rounds are done`;
  if (done - best >= patience) return `no better score for ${patience} rounds`;
  if (privacy?.epsilonBudget !== undefined && spent >= privacy.epsilonBudget)
    return `the privacy budget is spent: ε = ${spent.toFixed(3)} of ${privacy.epsilonBudget}`;
  return undefined;
}
