import type { Kinds } from './control-loop.ts';

const RBAC = 'rbac.authorization.k8s.io';
const READ = ['get', 'list', 'watch'];
const ALL_VERBS = [...READ, 'create', 'delete', 'deletecollection', 'patch', 'update'];
const WORKLOADS = [
  {
    apiGroups: ['apps'],
    resources: ['deployments', 'deployments/scale', 'replicasets', 'replicasets/scale'],
  },
  { apiGroups: ['batch'], resources: ['jobs'] },
  { apiGroups: ['autoscaling'], resources: ['horizontalpodautoscalers'] },
  { apiGroups: ['sedna.io'], resources: ['*'] },
];
const READABLE = [
  'configmaps',
  'endpoints',
  'events',
  'pods',
  'pods/log',
  'pods/status',
  'serviceaccounts',
  'services',
];
const STREAMS = ['pods/attach', 'pods/exec', 'pods/portforward'];

const VIEW = [
  { apiGroups: [''], resources: [...READABLE, 'namespaces', 'resourcequotas'], verbs: READ },
  ...WORKLOADS.map((w) => ({ ...w, verbs: READ })),
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: READ },
  { apiGroups: ['metrics.k8s.io'], resources: ['pods'], verbs: ['get', 'list'] },
];
const EDIT = [
  ...VIEW,
  {
    apiGroups: [''],
    resources: ['configmaps', 'endpoints', 'pods', 'secrets', 'serviceaccounts', 'services'],
    verbs: ALL_VERBS,
  },
  { apiGroups: [''], resources: [...STREAMS, 'pods/eviction'], verbs: ['create', 'get'] },
  { apiGroups: [''], resources: ['serviceaccounts/token'], verbs: ['create'] },
  ...WORKLOADS.map((w) => ({ ...w, verbs: ALL_VERBS })),
];
const ADMIN = [
  ...EDIT,
  { apiGroups: [RBAC], resources: ['roles', 'rolebindings'], verbs: ALL_VERBS },
];
const EVERYTHING = [
  { apiGroups: ['*'], resources: ['*'], verbs: ['*'] },
  { nonResourceURLs: ['*'], verbs: ['*'] },
];

/** The roles every cluster has for people: `view`, `edit`, `admin` in a namespace, `cluster-admin`. */
export async function ensureDefaultRoles(kinds: Kinds): Promise<void> {
  const roles = { 'cluster-admin': EVERYTHING, admin: ADMIN, edit: EDIT, view: VIEW };
  const labels = { 'kubernetes.io/bootstrapping': 'rbac-defaults' };
  for (const [name, rules] of Object.entries(roles)) {
    if (!kinds.find('clusterroles', '', name))
      await kinds.create('clusterroles', '', { metadata: { name, labels }, rules });
  }
  if (kinds.find('clusterrolebindings', '', 'cluster-admin')) return;
  await kinds.create('clusterrolebindings', '', {
    metadata: { name: 'cluster-admin', labels },
    roleRef: { apiGroup: RBAC, kind: 'ClusterRole', name: 'cluster-admin' },
    subjects: [{ apiGroup: RBAC, kind: 'Group', name: 'system:masters' }],
  });
}
