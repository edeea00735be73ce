import { apiVersionOf, type Resource, type ResourceRegistry } from './resource-registry.ts';

const VERBS = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'];
const SUB_VERBS = ['get', 'patch', 'update'];

interface Gvk {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
}

interface Subresource {
  readonly name: string;
  readonly verbs: readonly string[];
  /** What it takes, when not the kind it belongs to. */
  readonly kind?: Gvk;
}

const SCALE: Gvk = { group: 'autoscaling', version: 'v1', kind: 'Scale' };
/** `kubectl drain` evicts only where discovery says so. */
const EVICTION: Gvk = { group: 'policy', version: 'v1', kind: 'Eviction' };
const TOKEN_REQUEST: Gvk = {
  group: 'authentication.k8s.io',
  version: 'v1',
  kind: 'TokenRequest',
};

function subresources(r: Resource): Subresource[] {
  return [
    ...(r.status ? [{ name: 'status', verbs: SUB_VERBS }] : []),
    ...(r.scale ? [{ name: 'scale', verbs: SUB_VERBS, kind: SCALE }] : []),
    ...(r.plural === 'pods' && r.group === ''
      ? [
          { name: 'log', verbs: ['get'] },
          { name: 'binding', verbs: ['create'] },
          { name: 'eviction', verbs: ['create'], kind: EVICTION },
          { name: 'exec', verbs: ['create', 'get'] },
          { name: 'attach', verbs: ['create', 'get'] },
          { name: 'portforward', verbs: ['create', 'get'] },
        ]
      : []),
    ...(r.plural === 'serviceaccounts'
      ? [{ name: 'token', verbs: ['create'], kind: TOKEN_REQUEST }]
      : []),
  ];
}

function aggregatedResource(r: Resource): unknown {
  const responseKind = { group: r.group, version: r.version, kind: r.kind };
  return {
    resource: r.plural,
    responseKind,
    scope: r.namespaced ? 'Namespaced' : 'Cluster',
    singularResource: r.singular,
    verbs: r.verbs ?? VERBS,
    shortNames: r.shortNames,
    categories: r.categories,
    subresources: subresources(r).map((s) => ({
      subresource: s.name,
      responseKind: s.kind ?? responseKind,
      verbs: s.verbs,
    })),
  };
}

/** `APIGroupDiscoveryList` for `/api` (core) or `/apis` (all other groups). */
export function aggregatedDiscovery(
  registry: ResourceRegistry,
  core: boolean,
  version: string,
): unknown {
  const groups = new Map<string, { version: string; [field: string]: unknown }[]>();
  for (const gv of registry.groupVersions()) {
    if ((gv.group === '') !== core) continue;
    const versions = groups.get(gv.group) ?? [];
    versions.push({
      version: gv.version,
      freshness: 'Current',
      resources: gv.resources.map(aggregatedResource),
    });
    groups.set(gv.group, versions);
  }
  return {
    kind: 'APIGroupDiscoveryList',
    apiVersion: `apidiscovery.k8s.io/${version}`,
    metadata: {},
    items: [...groups].map(([name, versions]) => ({
      metadata: { name: name === '' ? undefined : name },
      versions: versions.toSorted((a, b) => byStability(a.version, b.version)),
    })),
  };
}

/** Stable versions first, then beta, then alpha; newer ones first among their kind. */
function byStability(a: string, b: string): number {
  const rank = (version: string): readonly number[] => {
    const [, major = '0', stage, minor = '0'] =
      /^v(\d+)(?:(alpha|beta)(\d+))?$/.exec(version) ?? [];
    return [stage === 'alpha' ? 2 : stage === 'beta' ? 1 : 0, -Number(major), -Number(minor)];
  };
  const [left, right] = [rank(a), rank(b)];
  const at = left.findIndex((value, i) => value !== right[i]);
  return at < 0 ? 0 : (left[at] ?? 0) - (right[at] ?? 0);
}

function groupOf(group: string, versions: readonly string[]): unknown {
  const list = versions
    .toSorted(byStability)
    .map((version) => ({ groupVersion: `${group}/${version}`, version }));
  return {
    kind: 'APIGroup',
    apiVersion: 'v1',
    name: group,
    versions: list,
    preferredVersion: list[0],
  };
}

function versionsByGroup(registry: ResourceRegistry): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const { group, version } of registry.groupVersions()) {
    if (group !== '') groups.set(group, [...(groups.get(group) ?? []), version]);
  }
  return groups;
}

/** `APIGroupList`, for clients that do not ask for the aggregated form. */
export function groupList(registry: ResourceRegistry): unknown {
  const groups = [...versionsByGroup(registry)].map(([g, v]) => groupOf(g, v));
  return { kind: 'APIGroupList', apiVersion: 'v1', groups };
}

/** One `APIGroup`; undefined for a group that is not served. */
export function oneGroup(registry: ResourceRegistry, group: string): unknown {
  const versions = versionsByGroup(registry).get(group);
  return versions ? groupOf(group, versions) : undefined;
}

/** `APIResourceList` of one group version; undefined when it is not served. */
export function resourceList(registry: ResourceRegistry, group: string, version: string): unknown {
  const found = registry.groupVersions().find((gv) => gv.group === group && gv.version === version);
  if (!found) return undefined;
  const resources = found.resources.flatMap((r) => [
    {
      name: r.plural,
      singularName: r.singular,
      namespaced: r.namespaced,
      kind: r.kind,
      verbs: r.verbs ?? VERBS,
      shortNames: r.shortNames,
      categories: r.categories,
    },
    ...subresources(r).map((s) => ({
      name: `${r.plural}/${s.name}`,
      singularName: '',
      namespaced: r.namespaced,
      ...(s.kind ?? { kind: r.kind }),
      verbs: s.verbs,
    })),
  ]);
  return {
    kind: 'APIResourceList',
    apiVersion: 'v1',
    groupVersion: apiVersionOf({ group, version }),
    resources,
  };
}
