import type { StructuralSchema } from '@shoal/core';
import { ageColumn, BUILTIN_COLUMNS, nameColumn } from './builtin-columns.ts';
import schemas from './builtin-schemas-generated.json' with { type: 'json' };
import type { Resource } from './resource-registry.ts';
import { WORKLOAD_SCALE } from './scale.ts';

export const BUILTIN_SCHEMAS: Readonly<Record<string, StructuralSchema>> = schemas as Record<
  string,
  StructuralSchema
>;

interface Row {
  readonly gv: string;
  readonly kind: string;
  readonly plural: string;
  readonly short?: readonly string[];
  readonly cluster?: boolean;
  readonly all?: boolean;
  readonly status?: boolean;
  readonly scale?: boolean;
  readonly model?: string;
  readonly warning?: string;
}

const ROWS: readonly Row[] = [
  { gv: 'v1', kind: 'Namespace', plural: 'namespaces', short: ['ns'], cluster: true, status: true },
  { gv: 'v1', kind: 'Node', plural: 'nodes', short: ['no'], cluster: true, status: true },
  { gv: 'v1', kind: 'Pod', plural: 'pods', short: ['po'], all: true, status: true },
  { gv: 'v1', kind: 'Service', plural: 'services', short: ['svc'], all: true, status: true },
  { gv: 'v1', kind: 'Endpoints', plural: 'endpoints', short: ['ep'] },
  { gv: 'v1', kind: 'ConfigMap', plural: 'configmaps', short: ['cm'] },
  { gv: 'v1', kind: 'Secret', plural: 'secrets' },
  { gv: 'v1', kind: 'ServiceAccount', plural: 'serviceaccounts', short: ['sa'] },
  {
    gv: 'v1',
    kind: 'ResourceQuota',
    plural: 'resourcequotas',
    short: ['quota'],
    status: true,
    warning: 'this embedded cluster stores ResourceQuotas but does not enforce them',
  },
  { gv: 'v1', kind: 'Event', plural: 'events', short: ['ev'], model: 'CoreV1Event' },
  {
    gv: 'apps/v1',
    kind: 'Deployment',
    plural: 'deployments',
    short: ['deploy'],
    all: true,
    status: true,
    scale: true,
  },
  {
    gv: 'apps/v1',
    kind: 'ReplicaSet',
    plural: 'replicasets',
    short: ['rs'],
    all: true,
    status: true,
    scale: true,
  },
  { gv: 'batch/v1', kind: 'Job', plural: 'jobs', all: true, status: true },
  { gv: 'coordination.k8s.io/v1', kind: 'Lease', plural: 'leases' },
  { gv: 'discovery.k8s.io/v1', kind: 'EndpointSlice', plural: 'endpointslices' },
  {
    gv: 'autoscaling/v2',
    kind: 'HorizontalPodAutoscaler',
    plural: 'horizontalpodautoscalers',
    short: ['hpa'],
    all: true,
    status: true,
    model: 'V2HorizontalPodAutoscaler',
  },
  { gv: 'rbac.authorization.k8s.io/v1', kind: 'Role', plural: 'roles' },
  {
    gv: 'rbac.authorization.k8s.io/v1',
    kind: 'RoleBinding',
    plural: 'rolebindings',
  },
  {
    gv: 'rbac.authorization.k8s.io/v1',
    kind: 'ClusterRole',
    plural: 'clusterroles',
    cluster: true,
  },
  {
    gv: 'rbac.authorization.k8s.io/v1',
    kind: 'ClusterRoleBinding',
    plural: 'clusterrolebindings',
    cluster: true,
  },
  {
    gv: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    plural: 'customresourcedefinitions',
    short: ['crd', 'crds'],
    cluster: true,
    status: true,
  },
];

/** Fields that Kubernetes lets field selectors of its own kinds name. */
const SELECTABLE: Readonly<Record<string, readonly string[]>> = {
  pods: [
    'spec.nodeName',
    'spec.restartPolicy',
    'spec.schedulerName',
    'spec.serviceAccountName',
    'spec.hostNetwork',
    'status.phase',
    'status.podIP',
    'status.nominatedNodeName',
  ],
  events: [
    'involvedObject.kind',
    'involvedObject.namespace',
    'involvedObject.name',
    'involvedObject.uid',
    'involvedObject.apiVersion',
    'involvedObject.resourceVersion',
    'involvedObject.fieldPath',
    'reason',
    'reportingComponent',
    'source',
    'type',
  ],
  jobs: ['status.successful'],
  namespaces: ['status.phase'],
  nodes: ['spec.unschedulable'],
  replicasets: ['status.replicas'],
  secrets: ['type'],
  services: ['spec.clusterIP', 'spec.type'],
};

function toResource(row: Row): Resource {
  const slash = row.gv.indexOf('/');
  return {
    group: slash < 0 ? '' : row.gv.slice(0, slash),
    version: row.gv.slice(slash + 1),
    kind: row.kind,
    plural: row.plural,
    singular: row.kind.toLowerCase(),
    shortNames: row.short ?? [],
    categories: row.all ? ['all'] : [],
    namespaced: row.cluster !== true,
    status: row.status === true,
    scale: row.scale ? WORKLOAD_SCALE : undefined,
    selectable: SELECTABLE[row.plural] ?? [],
    schema: BUILTIN_SCHEMAS[row.model ?? `V1${row.kind}`] ?? {},
    columns: BUILTIN_COLUMNS[row.plural] ?? [nameColumn, ageColumn],
    builtin: true,
    ...(row.warning ? { warning: row.warning } : {}),
  };
}

export const BUILTIN_RESOURCES: readonly Resource[] = ROWS.map(toResource);
