import { ShoalError } from '@shoal/core';
import type { ResolvedFederation } from '../federation-options.ts';
import { type Strategy, sampleMean } from '../strategy.ts';

/** Strategies whose change is the mean weighted by samples. */
const MEANS = 'FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, FedProx or Ditto';

/** What does not go together, each with the reason. */
function misfits(
  { name, rule, bufferSize = 0 }: Strategy,
  { privacy, participants, topology, quorum, selected }: ResolvedFederation,
): (readonly [isThere: boolean, fault: string])[] {
  const isMean = rule === sampleMean && bufferSize === 0;
  const isNoisy = (privacy?.noiseMultiplier ?? 0) > 0 || privacy?.adaptive === true;
  const isHierarchical = topology === 'hierarchical';
  const least = rule.kind === 'joint' ? rule.least(selected) : 1;
  return [
    [
      isNoisy && !isMean,
      `strategy ${name} makes no weighted mean of a round’s changes, which noise and an adaptive bound are measured by; choose ${MEANS}`,
    ],
    [
      quorum < least,
      `strategy ${name} needs ${least} updates of ${selected}, quorum is ${quorum}: a round could end with too few`,
    ],
    [
      privacy?.secureAggregation !== undefined && !isMean,
      `strategy ${name} looks at single changes, which secure aggregation hides; choose ${MEANS}`,
    ],
    [
      isHierarchical && rule !== sampleMean,
      `strategy ${name} looks at single changes, which a group hides: topology hierarchical goes with ${MEANS}`,
    ],
    [
      isHierarchical && privacy !== undefined,
      'privacy goes with topology flat: a group would be clipped and noised as one participant',
    ],
    [
      bufferSize > participants,
      `bufferSize ${bufferSize} of strategy ${name} is more than ${participants} participants can fill`,
    ],
  ];
}

/** @throws ShoalError `invalid_argument` naming what does not go together. */
export function requireFit(strategy: Strategy, federation: ResolvedFederation): void {
  const fault = misfits(strategy, federation).find(([isThere]) => isThere);
  if (fault) throw new ShoalError('invalid_argument', fault[1]);
}
