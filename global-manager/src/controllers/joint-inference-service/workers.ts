import type {
  GroupOverrides,
  HardExampleMining,
  JointInferenceService,
  Model,
  PlacementGroup,
  PodTemplate,
} from '@shoal/api';
import { canonicalJson, digestOf } from '@shoal/core';
import { DEPLOYMENT, HPA, type KubeApi, type KubeObject, SERVICE } from '../../kube/kube-api.ts';
import { NODE_LABEL, nodeLabel, type PlacedNode } from '../../placement/groups.ts';
import { miningOf, templateOf } from '../../placement/overrides.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import {
  buildPodTemplate,
  ownerReference,
  randomSuffix,
  workerLabels,
} from '../../worker-pod/build.ts';
import { secretEnvironment } from '../../worker-pod/secrets.ts';
import { injectStorage } from '../../worker-pod/storage.ts';

export const BIG_MODEL_PORT = 5000;
const TEMPLATE_DIGEST = 'shoal.dev/template-digest';
/** Annotation with the template that ran before the newest one. */
const SETTLED = 'shoal.dev/settled-template';

export interface WorkerPorts {
  readonly api: KubeApi;
  readonly deployments: ObjectCache;
  readonly services: ObjectCache;
  readonly autoscalers: ObjectCache;
  /** `LC_SERVER` of workers; `$(HOST_IP)` in it is the worker's node. */
  readonly localControllerServer: string;
  readonly initializerImage: string;
}

/** The two workers of the service, in the contract's words. */
export type WorkerType = 'Cloud' | 'Edge';

/** A worker as it is wanted. */
export interface Worker {
  readonly type: WorkerType;
  readonly model: Model;
  readonly template: PodTemplate;
  /** The node of a group it is for; undefined: where its template says. */
  readonly placed?: PlacedNode<PlacementGroup>;
}

/** `HEM_PARAMETERS`: a JSON list, `null` when there are none. */
export function minerEnvironment(mining: HardExampleMining): { name: string; value: string }[] {
  return [
    { name: 'HEM_NAME', value: mining.name },
    { name: 'HEM_PARAMETERS', value: JSON.stringify(mining.parameters ?? null) },
  ];
}

/** Whole address of the big model, for workers that do not reach its Service by name. */
function bigModelUrl(
  service: JointInferenceService,
  overrides: GroupOverrides | undefined,
  { localControllerServer }: WorkerPorts,
): string | undefined {
  const { name, namespace = '' } = service.metadata;
  if (overrides?.endpoint !== undefined) return overrides.endpoint;
  return service.spec.cloudAccess === 'relay'
    ? `${localControllerServer}/shoal/services/${namespace}/${name}-cloud/${BIG_MODEL_PORT}`
    : undefined;
}

function environment(
  service: JointInferenceService,
  { type, placed }: Worker,
  ports: WorkerPorts,
): { name: string; value: string }[] {
  const { name, namespace = '' } = service.metadata;
  const common = [
    { name: 'NAMESPACE', value: namespace },
    { name: 'SERVICE_NAME', value: name },
    { name: 'JOB_NAME', value: name },
  ];
  if (type === 'Cloud')
    return [...common, { name: 'BIG_MODEL_BIND_PORT', value: String(BIG_MODEL_PORT) }];
  const overrides = placed?.group.overrides;
  const url = bigModelUrl(service, overrides, ports);
  return [
    ...common,
    { name: 'BIG_MODEL_IP', value: `${name}-cloud.${namespace}` },
    { name: 'BIG_MODEL_PORT', value: String(BIG_MODEL_PORT) },
    ...(url === undefined ? [] : [{ name: 'BIG_MODEL_URL', value: url }]),
    ...minerEnvironment(miningOf(service.spec.edgeWorker.hardExampleMining, overrides)),
    { name: 'LC_SERVER', value: ports.localControllerServer },
  ];
}

async function podTemplate(
  service: JointInferenceService,
  worker: Worker,
  ports: WorkerPorts,
): Promise<PodTemplate> {
  const { type, model, placed } = worker;
  const overrides = placed?.group.overrides;
  const template = placed ? templateOf(worker.template, overrides, placed.node) : worker.template;
  const { name, namespace = '' } = service.metadata;
  const storage = injectStorage([{ env: 'MODEL_URL', urls: [model.spec.url], download: true }]);
  return buildPodTemplate({
    owner: service,
    type,
    template,
    env: [...environment(service, worker, ports), ...storage.env],
    storage,
    secretEnv: await secretEnvironment(ports.api, namespace, model.spec.credentialName),
    labels: { 'app.sedna.io': `${name}-${type}-svc`, ...placedLabels(worker) },
    ...(type === 'Edge' &&
      overrides?.endpoint === undefined &&
      service.spec.cloudAccess === 'relay' && {
        services: [`svc://${namespace}/${name}-cloud:${BIG_MODEL_PORT}`],
      }),
    initializer: ports,
  });
}

function placedLabels({ placed }: Worker): Record<string, string> {
  return placed ? { [NODE_LABEL]: nodeLabel(placed.node) } : {};
}

/** Names of Deployments are at most this long, so that those of their pods fit. */
const MAX_NAME = 200;

function deploymentName(service: JointInferenceService, { type, placed }: Worker): string {
  const base = `${service.metadata.name}-deployment-${type.toLowerCase()}`;
  if (!placed) return base;
  const name = `${base}-${placed.node}`;
  return name.length <= MAX_NAME
    ? name
    : `${name.slice(0, MAX_NAME)}-${digestOf(name).slice(7, 15)}`;
}

/** Puts a fresh `WORKER_NAME` into every container of a template. */
function named(template: PodTemplate, type: WorkerType): PodTemplate {
  const worker = { name: 'WORKER_NAME', value: `${type.toLowerCase()}worker-${randomSuffix()}` };
  const containers = (template.spec?.containers ?? []).map((c) => ({
    ...c,
    env: [...(c.env ?? []), worker],
  }));
  return { ...template, spec: { ...template.spec, containers } };
}

/** A worker's Deployment as it should be, and as it is. */
export interface WantedDeployment {
  readonly worker: Worker;
  readonly name: string;
  readonly template: PodTemplate;
  readonly digest: string;
  readonly current: KubeObject | undefined;
}

export async function wantedDeployment(
  service: JointInferenceService,
  worker: Worker,
  ports: WorkerPorts,
): Promise<WantedDeployment> {
  const { namespace = '' } = service.metadata;
  const name = deploymentName(service, worker);
  const template = await podTemplate(service, worker, ports);
  const current =
    ports.deployments.get(namespace, name) ?? (await ports.api.get(DEPLOYMENT, namespace, name));
  return { worker, name, template, digest: digestOf(canonicalJson(template)), current };
}

/** Whether a Deployment is of the wanted template. */
export function isOfTemplate({ current, digest }: WantedDeployment): boolean {
  return current?.metadata.annotations?.[TEMPLATE_DIGEST] === digest;
}

interface DeploymentParts {
  readonly metadata: { readonly generation?: number };
  readonly spec: { readonly template: PodTemplate };
  readonly status?: {
    readonly observedGeneration?: number;
    readonly replicas?: number;
    readonly updatedReplicas?: number;
    readonly availableReplicas?: number;
  };
}

/** Whether the newest template of a Deployment is the one that runs. */
export function isSettled(deployment: KubeObject): boolean {
  const { metadata, status = {} } = deployment as unknown as DeploymentParts;
  const {
    observedGeneration = 0,
    replicas = 0,
    updatedReplicas = 0,
    availableReplicas = 0,
  } = status;
  const isSeen = observedGeneration >= (metadata.generation ?? 0);
  // As kubectl rollout status has it: all are new, none is old, all are available.
  const isNew = updatedReplicas > 0 && replicas === updatedReplicas;
  return isSeen && isNew && availableReplicas >= updatedReplicas;
}

function changed(
  current: KubeObject,
  template: PodTemplate,
  annotations: Readonly<Record<string, string>>,
): KubeObject {
  const metadata = {
    ...current.metadata,
    annotations: { ...current.metadata.annotations, ...annotations },
  };
  return { ...current, metadata, spec: { ...(current['spec'] as object), template } };
}

/** Creates or updates one worker's Deployment; nothing happens when its template is unchanged. */
export async function ensureDeployment(
  service: JointInferenceService,
  wanted: WantedDeployment,
  { api }: WorkerPorts,
): Promise<KubeObject> {
  const { worker, name, template, digest, current } = wanted;
  const { name: serviceName, namespace = '' } = service.metadata;
  if (current && isOfTemplate(wanted)) return current;
  const fresh = named(template, worker.type);
  if (current) {
    const { spec } = current as unknown as DeploymentParts;
    const before = current.metadata.annotations?.[TEMPLATE_DIGEST] ?? '';
    // What runs well is remembered: a rollout that fails goes back to it.
    const settled = isSettled(current)
      ? { [SETTLED]: JSON.stringify({ digest: before, template: spec.template }) }
      : {};
    return await api.update(
      DEPLOYMENT,
      changed(current, fresh, { ...settled, [TEMPLATE_DIGEST]: digest }),
    );
  }
  const labels = {
    'app.sedna.io': `${serviceName}-${worker.type}-svc`,
    ...workerLabels(service, worker.type),
    ...placedLabels(worker),
  };
  return await api.create(DEPLOYMENT, {
    metadata: {
      name,
      namespace,
      labels,
      annotations: { [TEMPLATE_DIGEST]: digest },
      ownerReferences: [ownerReference(service)],
    },
    spec: { replicas: 1, selector: { matchLabels: labels }, template: fresh },
  });
}

/** Goes back to the template that ran well before; one that never had another stays as it is. */
export async function revertDeployment(
  current: KubeObject,
  { api }: WorkerPorts,
): Promise<KubeObject> {
  const text = current.metadata.annotations?.[SETTLED];
  if (text === undefined) return current;
  const settled = JSON.parse(text) as { digest: string; template: PodTemplate };
  if (current.metadata.annotations?.[TEMPLATE_DIGEST] === settled.digest) return current;
  const annotations = { [TEMPLATE_DIGEST]: settled.digest };
  return await api.update(DEPLOYMENT, changed(current, settled.template, annotations));
}

/** Removes the Deployments of edge workers that are not wanted any more: their nodes left. */
export async function removeOthers(
  service: JointInferenceService,
  wanted: readonly KubeObject[],
  { api, deployments }: WorkerPorts,
): Promise<void> {
  const { namespace = '', uid } = service.metadata;
  const names = new Set(wanted.map((d) => d.metadata.name));
  for (const { metadata } of deployments.list(namespace)) {
    const isOurs = metadata.ownerReferences?.some((o) => o.uid === uid);
    if (!isOurs || metadata.deletionTimestamp || names.has(metadata.name)) continue;
    await api.delete(DEPLOYMENT, namespace, metadata.name);
  }
}

/** The Service in front of the cloud worker: `<name>-cloud`, port `tcp-0`. */
export async function ensureService(
  service: JointInferenceService,
  ports: WorkerPorts,
): Promise<void> {
  const { name: serviceName, namespace = '' } = service.metadata;
  const name = `${serviceName}-cloud`;
  if (ports.services.get(namespace, name) ?? (await ports.api.get(SERVICE, namespace, name)))
    return;
  const labels = workerLabels(service, 'cloud');
  await ports.api.create(SERVICE, {
    metadata: { name, namespace, labels, ownerReferences: [ownerReference(service)] },
    spec: {
      selector: labels,
      ports: [{ name: 'tcp-0', port: BIG_MODEL_PORT, targetPort: BIG_MODEL_PORT, protocol: 'TCP' }],
    },
  });
}

/** Creates, updates or removes a worker's HorizontalPodAutoscaler. */
export async function ensureAutoscaler(
  service: JointInferenceService,
  type: WorkerType,
  ports: WorkerPorts,
): Promise<void> {
  const { name: serviceName, namespace = '' } = service.metadata;
  const deployment = `${serviceName}-deployment-${type.toLowerCase()}`;
  const name = `hpa-${deployment}`;
  const wanted = type === 'Cloud' ? service.spec.cloudWorker.hpa : service.spec.edgeWorker.hpa;
  const current = ports.autoscalers.get(namespace, name);
  if (!wanted) {
    if (current) await ports.api.delete(HPA, namespace, name);
    return;
  }
  const spec = {
    scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: deployment },
    ...wanted,
  };
  const digest = digestOf(canonicalJson(spec));
  if (current?.metadata.annotations?.[TEMPLATE_DIGEST] === digest) return;
  const annotations = { [TEMPLATE_DIGEST]: digest };
  if (current)
    await ports.api.update(HPA, {
      ...current,
      metadata: { ...current.metadata, annotations },
      spec,
    });
  else
    await ports.api.create(HPA, {
      metadata: { name, namespace, annotations, ownerReferences: [ownerReference(service)] },
      spec,
    });
}
