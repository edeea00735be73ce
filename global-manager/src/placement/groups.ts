import { digestOf } from '@shoal/core';
import type { KubeObject } from '../kube/kube-api.ts';
import type { ObjectCache } from '../reconcile/object-cache.ts';

const GROUP_LABEL = 'shoal.dev/group';
/** What the node groups of KubeEdge write on their nodes. */
const KUBEEDGE_LABEL = 'apps.kubeedge.io/belonging-to';

/** Label of a worker that is the one of its node, with the node as value. */
export const NODE_LABEL = 'shoal.dev/placed-on';
const MAX_LABEL = 63;

/** A node's name as a label's value: those that are too long by their digest. */
export function nodeLabel(node: string): string {
  return node.length <= MAX_LABEL ? node : digestOf(node).slice(7, 47);
}

/** The group of a node: what a label says, by default ours or else KubeEdge's; empty for none. */
export function groupOfNode(node: KubeObject | undefined, groupLabel?: string): string {
  const { labels = {} } = node?.metadata ?? {};
  if (groupLabel !== undefined) return labels[groupLabel] ?? '';
  return labels[GROUP_LABEL] ?? labels[KUBEEDGE_LABEL] ?? '';
}

/** Whether workers may be there: a node that is being drained or deleted gets none. */
function takesWorkers(node: KubeObject): boolean {
  const { unschedulable } = (node['spec'] ?? {}) as { unschedulable?: boolean };
  return unschedulable !== true && node.metadata.deletionTimestamp === undefined;
}

/** A node of a group of a job. */
export interface PlacedNode<Group> {
  readonly node: string;
  readonly group: Group;
}

/** Nodes of the groups of a placement by name; one that is in several is in the first. */
export function placedNodes<Group extends { readonly name: string }>(
  placement: { readonly groupLabel?: string; readonly groups: readonly Group[] },
  nodes: readonly KubeObject[],
): PlacedNode<Group>[] {
  const byName = new Map(placement.groups.toReversed().map((g) => [g.name, g]));
  return nodes
    .filter(takesWorkers)
    .flatMap((node) => {
      const group = byName.get(groupOfNode(node, placement.groupLabel));
      return group ? [{ node: node.metadata.name, group }] : [];
    })
    .toSorted((a, b) => (a.node < b.node ? -1 : 1));
}

/** Calls back when a node may have joined or left a group; what else happens to nodes is no concern. */
export function onGroupChange(nodes: ObjectCache, changed: () => void): void {
  const known = new Map<string, string>();
  nodes.onChange((node) => {
    const { name, labels } = node.metadata;
    const here = nodes.get('', name) !== undefined;
    const now = here ? JSON.stringify([labels, takesWorkers(node)]) : '';
    if (known.get(name) === now) return;
    if (here) known.set(name, now);
    else known.delete(name);
    changed();
  });
}
