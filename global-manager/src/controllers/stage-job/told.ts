import type { PlacementGroup, PlacementStatus, ResolvedGroup, RolloutStatus } from '@shoal/api';
import { placementStatus } from '../../placement/status.ts';
import { nodeOf } from '../job-nodes.ts';
import { isReady } from '../pod-trouble.ts';
import type { JobPods } from './job-pods.ts';
import type { PlacedWorker, StageJob } from './stage-job.ts';

/** Groups of a job, in a sentence. */
export function groupNames({ spec }: StageJob): string {
  const names = (spec.placement?.groups ?? []).map((g) => g.name);
  return `${names.length === 1 ? 'group' : 'groups'} ${names.join(', ')}`;
}

/** Where a rollout stands, in a sentence. */
export function describeRollout({
  phase,
  group = 0,
  groups = [],
  digest = '',
  message,
}: RolloutStatus): string {
  const name = groups[group]?.name;
  const where = name && phase !== 'Completed' ? ` group ${name}` : '';
  return `${digest.slice(0, 19)}: ${phase}${where}${message ? `: ${message}` : ''}`;
}

/** What came of a job's placement; undefined for a job without one. */
export function placementOf(
  {
    job,
    placed,
    pods,
  }: { job: StageJob; placed: readonly PlacedWorker[] | undefined; pods: JobPods },
  resolved: (group: PlacementGroup) => ResolvedGroup,
): PlacementStatus | undefined {
  const { placement } = job.spec;
  if (!placement || !placed) return undefined;
  const ready = new Set(pods.serving().filter(isReady).map(nodeOf));
  return placementStatus(placement.groups, placed, {
    resolved,
    isReady: (node) => ready.has(node),
  });
}
