/**
 * What the global manager may do, as Kubernetes' RBAC says it: `deploy/rbac/global-manager.yaml` is
 * written from this, and the embedded cluster enforces it. A test holds it against the requests
 * recorded while the examples and the tests run: not one verb too many, not one too few.
 */
export interface AccessRule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
}

export const MANAGER_NAMESPACE = 'shoal-system';
export const MANAGER_ACCOUNT = 'global-manager';
const ROLE = 'shoal-global-manager';
const RBAC = 'rbac.authorization.k8s.io';

const JOBS = [
  'federatedlearningjobs',
  'incrementallearningjobs',
  'jointinferenceservices',
  'lifelonglearningjobs',
];

export const MANAGER_RULES: readonly AccessRule[] = [
  {
    apiGroups: ['sedna.io'],
    resources: ['datasets', 'models', ...JOBS],
    verbs: ['list', 'watch'],
  },
  {
    apiGroups: ['sedna.io'],
    resources: ['datasets/status', 'models/status', ...JOBS.map((j) => `${j}/status`)],
    verbs: ['update'],
  },
  // Links through the API server (SHOAL_GM_KUBE_LINK).
  {
    apiGroups: ['sedna.io'],
    resources: ['nodeobjects'],
    verbs: ['create', 'delete', 'list', 'update', 'watch'],
  },
  {
    apiGroups: ['sedna.io'],
    resources: ['noderecords'],
    verbs: ['delete', 'list', 'watch'],
  },
  { apiGroups: [''], resources: ['nodes'], verbs: ['list', 'watch'] },
  {
    apiGroups: [''],
    resources: ['pods'],
    verbs: ['create', 'delete', 'list', 'watch'],
  },
  { apiGroups: [''], resources: ['services'], verbs: ['create', 'get', 'list', 'watch'] },
  { apiGroups: [''], resources: ['secrets'], verbs: ['create', 'delete', 'get', 'update'] },
  { apiGroups: [''], resources: ['events'], verbs: ['create'] },
  {
    apiGroups: ['apps'],
    resources: ['deployments'],
    verbs: ['create', 'delete', 'get', 'list', 'update', 'watch'],
  },
  {
    apiGroups: ['autoscaling'],
    resources: ['horizontalpodautoscalers'],
    verbs: ['create', 'delete', 'list', 'update', 'watch'],
  },
  {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    verbs: ['create', 'get', 'update'],
  },
];

export interface AccessObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly [field: string]: unknown };
  readonly [field: string]: unknown;
}

/** The objects that give the manager's account its rights, namespace first. */
export function managerAccess(): readonly AccessObject[] {
  const labels = { 'app.kubernetes.io/part-of': 'shoal' };
  const subject = { kind: 'ServiceAccount', name: MANAGER_ACCOUNT, namespace: MANAGER_NAMESPACE };
  return [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: MANAGER_NAMESPACE, labels } },
    {
      apiVersion: 'v1',
      kind: 'ServiceAccount',
      metadata: { name: MANAGER_ACCOUNT, namespace: MANAGER_NAMESPACE, labels },
    },
    {
      apiVersion: `${RBAC}/v1`,
      kind: 'ClusterRole',
      metadata: { name: ROLE, labels },
      rules: MANAGER_RULES,
    },
    {
      apiVersion: `${RBAC}/v1`,
      kind: 'ClusterRoleBinding',
      metadata: { name: ROLE, labels },
      roleRef: { apiGroup: RBAC, kind: 'ClusterRole', name: ROLE },
      subjects: [subject],
    },
  ];
}
