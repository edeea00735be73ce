import type { GroupOverrides, PlacementStatus, ResolvedGroup } from '@shoal/api';
import type { PlacedNode } from './groups.ts';

/** Names of nodes that a status holds per group. */
const KEPT_MEMBERS = 100;

interface Group {
  readonly name: string;
  readonly overrides?: GroupOverrides;
}

/** What came of a placement: nodes by group, and what their workers run with. */
export function placementStatus<G extends Group>(
  groups: readonly G[],
  placed: readonly PlacedNode<G>[],
  of: {
    readonly resolved: (group: G) => ResolvedGroup;
    readonly isReady: (node: string) => boolean;
  },
): PlacementStatus {
  const ready = new Set(placed.map((p) => p.node).filter((node) => of.isReady(node)));
  return {
    nodes: placed.length,
    ready: ready.size,
    groups: groups.map((group) => {
      const members = placed.filter((p) => p.group.name === group.name).map((p) => p.node);
      return {
        name: group.name,
        nodes: members.length,
        ready: members.filter((m) => ready.has(m)).length,
        members: members.slice(0, KEPT_MEMBERS),
        resolved: of.resolved(group),
      };
    }),
  };
}

/** What a group overrides besides what its kind resolves itself. */
export function sharedPart(overrides: GroupOverrides | undefined): ResolvedGroup {
  const { resources, env } = overrides ?? {};
  return {
    ...(resources ? { resources } : {}),
    ...(env ? { env: env.map((e) => e.name) } : {}),
  };
}
