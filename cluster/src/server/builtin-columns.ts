import { type ApiObject, dig, digList, digNumber, digObject, digString } from '../object.ts';
import type { Cell, Column } from './resource-registry.ts';

/** Kubernetes' short durations: 45s, 3m20s, 5h, 2d4h. */
export function humanDuration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 10) return s % 60 === 0 ? `${m}m` : `${m}m${s % 60}s`;
  if (m < 180) return `${m}m`;
  const h = Math.floor(m / 60);
  if (h < 8) return m % 60 === 0 ? `${h}h` : `${h}h${m % 60}m`;
  if (h < 48) return `${h}h`;
  const d = Math.floor(h / 24);
  if (d < 8) return h % 24 === 0 ? `${d}d` : `${d}d${h % 24}h`;
  return d < 730 ? `${d}d` : `${Math.floor(d / 365)}y`;
}

/** Time since an RFC 3339 stamp, or `<unknown>`. */
export function ageOf(stamp: unknown, nowMs: number): string {
  return typeof stamp === 'string' ? humanDuration(nowMs - Date.parse(stamp)) : '<unknown>';
}

type Get = (object: ApiObject, nowMs: number) => Cell;

const column = (name: string, cell: Get, extra: Partial<Column> = {}): Column => ({
  name,
  type: 'string',
  cell,
  ...extra,
});
const wide = { priority: 1 };

export const nameColumn: Column = column('Name', (o) => o.metadata.name, { format: 'name' });
export const ageColumn: Column = column('Age', (o, now) =>
  ageOf(o.metadata.creationTimestamp, now),
);

const at =
  (...path: string[]): Get =>
  (o) => {
    const value = dig(o, ...path);
    return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
      ? value
      : '<none>';
  };

function podStatus(pod: ApiObject): string {
  if (pod.metadata.deletionTimestamp) return 'Terminating';
  const statuses = [
    ...digList(pod, 'status', 'initContainerStatuses'),
    ...digList(pod, 'status', 'containerStatuses'),
  ];
  for (const s of statuses) {
    const waiting = digString(s, 'state', 'waiting', 'reason');
    if (waiting) return waiting;
  }
  for (const s of statuses) {
    const ended = digString(s, 'state', 'terminated', 'reason');
    const phase = digString(pod, 'status', 'phase');
    if (ended && ended !== 'Completed') return ended;
    if (ended && phase === 'Succeeded') return ended;
  }
  return digString(pod, 'status', 'reason') ?? digString(pod, 'status', 'phase') ?? 'Unknown';
}

function podReady(pod: ApiObject): string {
  const ready = digList(pod, 'status', 'containerStatuses').filter((s) => dig(s, 'ready') === true);
  return `${ready.length}/${digList(pod, 'spec', 'containers').length}`;
}

function podRestarts(pod: ApiObject, now: number): string {
  const statuses = digList(pod, 'status', 'containerStatuses');
  const total = statuses.reduce<number>((sum, s) => sum + (digNumber(s, 'restartCount') ?? 0), 0);
  const last = statuses
    .map((s) => digString(s, 'lastState', 'terminated', 'finishedAt'))
    .filter((t) => t !== undefined)
    .toSorted()
    .at(-1);
  return total > 0 && last ? `${total} (${ageOf(last, now)} ago)` : String(total);
}

const pods: Column[] = [
  nameColumn,
  column('Ready', podReady),
  column('Status', podStatus),
  column('Restarts', podRestarts),
  ageColumn,
  column('IP', at('status', 'podIP'), wide),
  column('Node', at('spec', 'nodeName'), wide),
  column('Nominated Node', () => '<none>', wide),
  column('Readiness Gates', () => '<none>', wide),
];

function nodeStatus(node: ApiObject): string {
  const ready = digList(node, 'status', 'conditions').find((c) => digString(c, 'type') === 'Ready');
  const word = digString(ready, 'status') === 'True' ? 'Ready' : ready ? 'NotReady' : 'Unknown';
  return dig(node, 'spec', 'unschedulable') === true ? `${word},SchedulingDisabled` : word;
}

function nodeRoles(node: ApiObject): string {
  const prefix = 'node-role.kubernetes.io/';
  const roles = Object.keys(node.metadata.labels ?? {})
    .filter((l) => l.startsWith(prefix))
    .map((l) => l.slice(prefix.length));
  return roles.length > 0 ? roles.toSorted().join(',') : '<none>';
}

const nodes: Column[] = [
  nameColumn,
  column('Status', nodeStatus),
  column('Roles', nodeRoles),
  ageColumn,
  column('Version', at('status', 'nodeInfo', 'kubeletVersion')),
  column(
    'Internal-IP',
    (o) => digString(digList(o, 'status', 'addresses')[0], 'address') ?? '<none>',
    wide,
  ),
  column('External-IP', () => '<none>', wide),
  column('OS-Image', at('status', 'nodeInfo', 'osImage'), wide),
  column('Kernel-Version', at('status', 'nodeInfo', 'kernelVersion'), wide),
  column('Container-Runtime', at('status', 'nodeInfo', 'containerRuntimeVersion'), wide),
];

function servicePorts(service: ApiObject): string {
  const ports = digList(service, 'spec', 'ports').map(
    (p) => `${digNumber(p, 'port')}/${digString(p, 'protocol') ?? 'TCP'}`,
  );
  return ports.length > 0 ? ports.join(',') : '<none>';
}

function selectorText(selector: object): string {
  const pairs = Object.entries(selector).map(([k, v]) => `${k}=${v}`);
  return pairs.length > 0 ? pairs.join(',') : '<none>';
}

const services: Column[] = [
  nameColumn,
  column('Type', at('spec', 'type')),
  column('Cluster-IP', at('spec', 'clusterIP')),
  column('External-IP', () => '<none>'),
  column('Port(s)', servicePorts),
  ageColumn,
  column('Selector', (o) => selectorText(digObject(o, 'spec', 'selector')), wide),
];

const number =
  (...path: string[]): Get =>
  (o) =>
    digNumber(o, ...path) ?? 0;

function containerNames(object: ApiObject, field: 'name' | 'image'): string {
  return digList(object, 'spec', 'template', 'spec', 'containers')
    .map((c) => digString(c, field) ?? '')
    .join(',');
}

const workloadWide: Column[] = [
  column('Containers', (o) => containerNames(o, 'name'), wide),
  column('Images', (o) => containerNames(o, 'image'), wide),
  column('Selector', (o) => selectorText(digObject(o, 'spec', 'selector', 'matchLabels')), wide),
];

const deployments: Column[] = [
  nameColumn,
  column(
    'Ready',
    (o) =>
      `${digNumber(o, 'status', 'readyReplicas') ?? 0}/${digNumber(o, 'spec', 'replicas') ?? 0}`,
  ),
  column('Up-to-date', number('status', 'updatedReplicas')),
  column('Available', number('status', 'availableReplicas')),
  ageColumn,
  ...workloadWide,
];
const replicaSets: Column[] = [
  nameColumn,
  column('Desired', number('spec', 'replicas')),
  column('Current', number('status', 'replicas')),
  column('Ready', number('status', 'readyReplicas')),
  ageColumn,
  ...workloadWide,
];

function eventLastSeen(event: ApiObject, now: number): string {
  return ageOf(
    event['lastTimestamp'] ?? event['eventTime'] ?? event.metadata.creationTimestamp,
    now,
  );
}

const events: Column[] = [
  column('Last Seen', eventLastSeen),
  column('Type', at('type')),
  column('Reason', at('reason')),
  column(
    'Object',
    (o) =>
      `${digString(o, 'involvedObject', 'kind')?.toLowerCase()}/${digString(o, 'involvedObject', 'name')}`,
  ),
  column('Message', at('message')),
  column('Count', at('count'), wide),
  column('Name', (o) => o.metadata.name, { ...wide, format: 'name' }),
];

const dataCount: Get = (o) =>
  Object.keys({ ...digObject(o, 'data'), ...digObject(o, 'binaryData') }).length;

function endpointsText(endpoints: ApiObject): string {
  const list = digList(endpoints, 'subsets').flatMap((s) =>
    digList(s, 'addresses').flatMap((a) =>
      digList(s, 'ports').map((p) => `${digString(a, 'ip')}:${digNumber(p, 'port')}`),
    ),
  );
  return list.length > 0 ? list.join(',') : '<none>';
}

/** Running, Complete, Failed, Suspended or Terminating, as kubectl 1.32 shows it. */
function jobStatus(job: ApiObject): string {
  const holds = (type: string): boolean =>
    digList(job, 'status', 'conditions').some(
      (c) => digString(c, 'type') === type && digString(c, 'status') === 'True',
    );
  if (holds('Complete')) return 'Complete';
  if (holds('Failed')) return 'Failed';
  if (job.metadata.deletionTimestamp) return 'Terminating';
  if (holds('Suspended')) return 'Suspended';
  return 'Running';
}

function jobDuration(job: ApiObject, nowMs: number): string {
  const from = Date.parse(digString(job, 'status', 'startTime') ?? '');
  if (Number.isNaN(from)) return '';
  const to = Date.parse(digString(job, 'status', 'completionTime') ?? '');
  return humanDuration((Number.isNaN(to) ? nowMs : to) - from);
}

function jobCompletions(job: ApiObject): string {
  return `${digNumber(job, 'status', 'succeeded') ?? 0}/${digNumber(job, 'spec', 'completions') ?? 1}`;
}

/** `cpu: 12%/50%`: what is measured and what is aimed at. */
function autoscalerTargets(hpa: ApiObject): string {
  const current = digList(hpa, 'status', 'currentMetrics');
  const targets = digList(hpa, 'spec', 'metrics').map((m) => {
    const name = digString(m, 'resource', 'name') ?? digString(m, 'type') ?? '';
    const now = current.find((c) => digString(c, 'resource', 'name') === name);
    const percent = digNumber(m, 'resource', 'target', 'averageUtilization');
    const value = digString(m, 'resource', 'target', 'averageValue') ?? '<unknown>';
    if (percent === undefined) {
      const used = digString(now, 'resource', 'current', 'averageValue') ?? '<unknown>';
      return `${name}: ${used}/${value}`;
    }
    const used = digNumber(now, 'resource', 'current', 'averageUtilization');
    return `${name}: ${used === undefined ? '<unknown>' : `${used}%`}/${percent}%`;
  });
  return targets.length > 0 ? targets.join(', ') : '<none>';
}

const created: Column = column('Created At', (o) => o.metadata.creationTimestamp ?? null);

/** Columns of the built-in kinds that have more than a name and an age. */
export const BUILTIN_COLUMNS: Readonly<Record<string, readonly Column[]>> = {
  pods,
  nodes,
  services,
  deployments,
  events,
  replicasets: replicaSets,
  namespaces: [nameColumn, column('Status', at('status', 'phase')), ageColumn],
  configmaps: [nameColumn, column('Data', dataCount), ageColumn],
  secrets: [nameColumn, column('Type', at('type')), column('Data', dataCount), ageColumn],
  endpoints: [nameColumn, column('Endpoints', endpointsText), ageColumn],
  leases: [nameColumn, column('Holder', at('spec', 'holderIdentity')), ageColumn],
  horizontalpodautoscalers: [
    nameColumn,
    column('Reference', (o) => {
      const { kind, name } = digObject(o, 'spec', 'scaleTargetRef');
      return typeof kind === 'string' && typeof name === 'string' ? `${kind}/${name}` : '';
    }),
    column('Targets', autoscalerTargets),
    column('MinPods', (o) => String(digNumber(o, 'spec', 'minReplicas') ?? '<unset>')),
    column('MaxPods', at('spec', 'maxReplicas'), { type: 'integer' }),
    column('Replicas', (o) => digNumber(o, 'status', 'currentReplicas') ?? 0, { type: 'integer' }),
    ageColumn,
  ],
  jobs: [
    nameColumn,
    column('Status', jobStatus),
    column('Completions', jobCompletions),
    column('Duration', jobDuration),
    ageColumn,
  ],
  customresourcedefinitions: [nameColumn, created],
};
