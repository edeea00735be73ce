import { ShoalError } from '@shoal/core';
import type { ResolvedFederation } from '../federation-options.ts';
import { type Strategy, sampleMean } from '../strategy.ts';

/** @throws ShoalError `invalid_argument` naming what does not go together. */
export function requireFit(
  strategy: Strategy,
  { privacy, participants, topology }: ResolvedFederation,
): void {
  const { name, rule, bufferSize = 0 } = strategy;
  if (privacy?.secureAggregation && (rule !== sampleMean || bufferSize > 0))
    throw new ShoalError(
      'invalid_argument',
      `strategy ${name} looks at single changes, which secure aggregation hides; choose FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, FedProx or Ditto`,
    );
  if (topology === 'hierarchical' && rule !== sampleMean)
    throw new ShoalError(
      'invalid_argument',
      `strategy ${name} looks at single changes, which a group hides: topology hierarchical goes with FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, FedProx and Ditto`,
    );
  if (topology === 'hierarchical' && privacy)
    throw new ShoalError(
      'invalid_argument',
      'privacy goes with topology flat: a group would be clipped and noised as one participant',
    );
  if (bufferSize > participants)
    throw new ShoalError(
      'invalid_argument',
      `bufferSize ${bufferSize} of strategy ${name} is more than ${participants} participants can fill`,
    );
}
