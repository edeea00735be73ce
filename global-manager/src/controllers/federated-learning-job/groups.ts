import type { Dataset, FederatedLearningJob, PlacementGroup } from '@shoal/api';
import { ShoalError } from '@shoal/core';
import { groupOfNode } from '../../placement/groups.ts';
import { requireOverrides } from '../../placement/overrides.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';

const GATEWAY_LABEL = 'shoal.dev/gateway';

/** Nodes whose participants have an aggregator of their own. */
export interface Group {
  /** As in names of objects. */
  readonly name: string;
  /** Positions of its participants in `spec.trainingWorkers`. */
  readonly members: readonly number[];
  /** Where its aggregator runs. */
  readonly node: string;
}

interface Placed {
  readonly node: string;
  readonly group: string;
}

/** Node and group of every participant; a group is empty where a node is in none. */
export function participantPlaces(
  job: FederatedLearningJob,
  datasets: readonly Dataset[],
  nodes: ObjectCache,
): Placed[] {
  const { groupLabel } = job.spec.placement ?? {};
  return datasets.map((d, i): Placed => {
    const node = job.spec.trainingWorkers[i]?.template.spec?.nodeName ?? d.spec.nodeName ?? '';
    return { node, group: groupOfNode(nodes.get('', node), groupLabel) };
  });
}

function isHyperParameter(key: string, value: number): boolean {
  if (!Number.isFinite(value) || value <= 0) return false;
  return (
    key === 'learningRate' || (['epochs', 'batchSize'].includes(key) && Number.isInteger(value))
  );
}

/**
 * What differs for each participant: that of the group its node is in.
 *
 * @throws ShoalError `invalid_argument` for overrides that mean nothing to a participant.
 */
export function participantGroups(
  { spec }: FederatedLearningJob,
  places: readonly Placed[],
): (PlacementGroup | undefined)[] {
  const groups = spec.placement?.groups ?? [];
  requireOverrides(groups, ['parameters', 'resources', 'env']);
  for (const [i, { overrides }] of groups.entries())
    for (const { key, value } of overrides?.parameters ?? [])
      if (!isHyperParameter(key, Number(value)))
        throw new ShoalError(
          'invalid_argument',
          `spec.placement.groups[${i}].overrides.parameters: "${key}: ${value}" is none of epochs, batchSize (whole numbers above 0) and learningRate (a number above 0)`,
        );
  return places.map((p) => groups.find((g) => g.name === p.group));
}

/** @throws ShoalError `invalid_argument` naming what hierarchical jobs cannot have. */
function requireHierarchy({ spec }: FederatedLearningJob): void {
  const has = [
    spec.selection && 'spec.selection',
    spec.privacy && 'spec.privacy',
    spec.transmitter?.s3 && 'spec.transmitter.s3',
  ].filter((f) => typeof f === 'string');
  if (has.length > 0)
    throw new ShoalError(
      'invalid_argument',
      `spec.topology hierarchical does not go with ${has.join(', ')}; take it away, or use topology flat`,
    );
}

/**
 * Groups of a job by the labels of its participants' nodes; none in topology flat. Participants on nodes
 * without the label talk to the aggregator themselves, and so does one that would be alone in its group.
 */
export function groupsOf(
  job: FederatedLearningJob,
  datasets: readonly Dataset[],
  nodes: ObjectCache,
): Group[] {
  if (job.spec.topology !== 'hierarchical') return [];
  requireHierarchy(job);
  const { groupLabel, gatewayLabel = GATEWAY_LABEL } = job.spec.placement ?? {};
  const placed = participantPlaces(job, datasets, nodes);
  const names = [...new Set(placed.map((p) => p.group))].filter((g) => g !== '').toSorted();
  return names.flatMap((label) => {
    const members = placed.flatMap((p, i) => (p.group === label ? [i] : []));
    if (members.length < 2) return [];
    const gateway = nodes
      .list()
      .toSorted((a, b) => a.metadata.name.localeCompare(b.metadata.name))
      .find(
        (n) => groupOfNode(n, groupLabel) === label && n.metadata.labels?.[gatewayLabel] === 'true',
      );
    const node = gateway?.metadata.name ?? placed[members[0] ?? 0]?.node ?? '';
    return [{ name: label.toLowerCase().replace(/[^a-z0-9-]/g, '-'), members, node }];
  });
}

/** A share of participants as a count of some of them, at least one. */
export function shareOf(quorum: number | undefined, all: number, some: number): number | undefined {
  return quorum === undefined ? undefined : Math.max(1, Math.ceil((quorum / all) * some));
}
