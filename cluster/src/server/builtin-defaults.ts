import { isJsonObject, type JsonObject } from '@shoal/core';
import { type ApiObject, digList, digObject } from '../object.ts';

function setDefault(target: JsonObject, key: string, value: unknown): void {
  target[key] ??= value;
}

function section(object: ApiObject, key: 'spec' | 'status'): JsonObject {
  const found = object[key];
  if (isJsonObject(found)) return found;
  const fresh: JsonObject = {};
  object[key] = fresh;
  return fresh;
}

function defaultProbe(probe: unknown): void {
  if (!isJsonObject(probe)) return;
  setDefault(probe, 'timeoutSeconds', 1);
  setDefault(probe, 'periodSeconds', 10);
  setDefault(probe, 'successThreshold', 1);
  setDefault(probe, 'failureThreshold', 3);
  const http = probe['httpGet'];
  if (isJsonObject(http)) {
    setDefault(http, 'path', '/');
    setDefault(http, 'scheme', 'HTTP');
  }
}

function defaultContainer(container: unknown): void {
  if (!isJsonObject(container)) return;
  setDefault(container, 'imagePullPolicy', 'IfNotPresent');
  setDefault(container, 'terminationMessagePath', '/dev/termination-log');
  setDefault(container, 'terminationMessagePolicy', 'File');
  setDefault(container, 'resources', {});
  for (const port of digList(container, 'ports'))
    if (isJsonObject(port)) setDefault(port, 'protocol', 'TCP');
  for (const probe of ['livenessProbe', 'readinessProbe', 'startupProbe'])
    defaultProbe(container[probe]);
}

function defaultPodSpec(spec: JsonObject): void {
  setDefault(spec, 'restartPolicy', 'Always');
  setDefault(spec, 'dnsPolicy', 'ClusterFirst');
  setDefault(spec, 'terminationGracePeriodSeconds', 30);
  setDefault(spec, 'schedulerName', 'default-scheduler');
  setDefault(spec, 'enableServiceLinks', true);
  setDefault(spec, 'securityContext', {});
  for (const list of ['containers', 'initContainers'])
    digList(spec, list).forEach(defaultContainer);
}

function defaultTemplate(spec: JsonObject): void {
  const template = digObject(spec, 'template', 'spec');
  if (Object.keys(template).length > 0) defaultPodSpec(template);
}

function defaultDeployment(spec: JsonObject): void {
  setDefault(spec, 'replicas', 1);
  setDefault(spec, 'revisionHistoryLimit', 10);
  setDefault(spec, 'progressDeadlineSeconds', 600);
  setDefault(spec, 'strategy', {
    type: 'RollingUpdate',
    rollingUpdate: { maxSurge: '25%', maxUnavailable: '25%' },
  });
  defaultTemplate(spec);
}

function defaultService(spec: JsonObject): void {
  setDefault(spec, 'type', 'ClusterIP');
  setDefault(spec, 'sessionAffinity', 'None');
  for (const port of digList(spec, 'ports')) {
    if (!isJsonObject(port)) continue;
    setDefault(port, 'protocol', 'TCP');
    setDefault(port, 'targetPort', port['port']);
  }
}

function defaultJob(spec: JsonObject): void {
  // Neither given: one pod, once. Only parallelism given: a queue of work, ended by its workers.
  if (spec['completions'] === undefined && spec['parallelism'] === undefined)
    setDefault(spec, 'completions', 1);
  setDefault(spec, 'parallelism', 1);
  setDefault(spec, 'backoffLimit', 6);
  setDefault(spec, 'completionMode', 'NonIndexed');
  setDefault(spec, 'suspend', false);
  setDefault(spec, 'podReplacementPolicy', 'TerminatingOrFailed');
  defaultTemplate(spec);
}

/** A Job finds its pods by its uid, which only now is known. */
function completeJob(job: ApiObject): void {
  const spec = section(job, 'spec');
  const { uid = '', name } = job.metadata;
  if (spec['manualSelector'] === true) return;
  const own = { 'batch.kubernetes.io/controller-uid': uid };
  spec['selector'] = { matchLabels: own };
  const template = section({ ...job, spec } as ApiObject, 'spec')['template'];
  if (!isJsonObject(template)) return;
  const metadata = isJsonObject(template['metadata']) ? template['metadata'] : {};
  const labels = isJsonObject(metadata['labels']) ? metadata['labels'] : {};
  const names = { 'batch.kubernetes.io/job-name': name, 'controller-uid': uid, 'job-name': name };
  template['metadata'] = { ...metadata, labels: { ...labels, ...own, ...names } };
}

/** Fills in what needs the uid of a new object. */
export function completeBuiltin(plural: string, object: ApiObject): void {
  if (plural === 'jobs') completeJob(object);
}

const DEFAULTERS: Readonly<Record<string, (object: ApiObject) => void>> = {
  pods: (o) => {
    defaultPodSpec(section(o, 'spec'));
    setDefault(section(o, 'status'), 'phase', 'Pending');
  },
  deployments: (o) => defaultDeployment(section(o, 'spec')),
  replicasets: (o) => {
    setDefault(section(o, 'spec'), 'replicas', 1);
    defaultTemplate(section(o, 'spec'));
  },
  jobs: (o) => defaultJob(section(o, 'spec')),
  horizontalpodautoscalers: (o) => {
    const spec = section(o, 'spec');
    setDefault(spec, 'minReplicas', 1);
    const target = { type: 'Utilization', averageUtilization: 80 };
    setDefault(spec, 'metrics', [{ type: 'Resource', resource: { name: 'cpu', target } }]);
  },
  services: (o) => {
    defaultService(section(o, 'spec'));
    setDefault(section(o, 'status'), 'loadBalancer', {});
  },
  namespaces: (o) => {
    setDefault(section(o, 'spec'), 'finalizers', ['kubernetes']);
    setDefault(section(o, 'status'), 'phase', 'Active');
    o.metadata.labels = { ...o.metadata.labels, 'kubernetes.io/metadata.name': o.metadata.name };
  },
  secrets: (o) => {
    o['type'] ??= 'Opaque';
    const plain = o['stringData'];
    if (!isJsonObject(plain)) return;
    const encoded = Object.entries(plain).map(([k, v]) => [
      k,
      Buffer.from(String(v)).toString('base64'),
    ]);
    o['data'] = { ...digObject(o, 'data'), ...Object.fromEntries(encoded) };
    delete o['stringData'];
  },
};

/** Fills in what Kubernetes fills in for its own kinds, in place. */
export function applyBuiltinDefaults(plural: string, object: ApiObject): void {
  DEFAULTERS[plural]?.(object);
}
