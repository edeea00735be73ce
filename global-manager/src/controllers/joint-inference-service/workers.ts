import type { HardExampleMining, JointInferenceService, Model, PodTemplate } from '@shoal/api';
import { canonicalJson, digestOf } from '@shoal/core';
import { DEPLOYMENT, HPA, type KubeApi, type KubeObject, SERVICE } from '../../kube/kube-api.ts';
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

/** `HEM_PARAMETERS`: a JSON list, `null` when there are none. */
export function minerEnvironment(mining: HardExampleMining): { name: string; value: string }[] {
  return [
    { name: 'HEM_NAME', value: mining.name },
    { name: 'HEM_PARAMETERS', value: JSON.stringify(mining.parameters ?? null) },
  ];
}

function environment(
  service: JointInferenceService,
  type: WorkerType,
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
  return [
    ...common,
    { name: 'BIG_MODEL_IP', value: `${name}-cloud.${namespace}` },
    { name: 'BIG_MODEL_PORT', value: String(BIG_MODEL_PORT) },
    ...(service.spec.cloudAccess === 'relay'
      ? [
          {
            name: 'BIG_MODEL_URL',
            value: `${ports.localControllerServer}/shoal/services/${namespace}/${name}-cloud/${BIG_MODEL_PORT}`,
          },
        ]
      : []),
    ...minerEnvironment(service.spec.edgeWorker.hardExampleMining),
    { name: 'LC_SERVER', value: ports.localControllerServer },
  ];
}

async function podTemplate(
  service: JointInferenceService,
  worker: { type: WorkerType; model: Model; template: PodTemplate },
  ports: WorkerPorts,
): Promise<PodTemplate> {
  const { type, model, template } = worker;
  const { name, namespace = '' } = service.metadata;
  const storage = injectStorage([{ env: 'MODEL_URL', urls: [model.spec.url], download: true }]);
  return buildPodTemplate({
    owner: service,
    type,
    template,
    env: [...environment(service, type, ports), ...storage.env],
    storage,
    secretEnv: await secretEnvironment(ports.api, namespace, model.spec.credentialName),
    labels: { 'app.sedna.io': `${name}-${type}-svc` },
    ...(type === 'Edge' &&
      service.spec.cloudAccess === 'relay' && {
        services: [`svc://${namespace}/${name}-cloud:${BIG_MODEL_PORT}`],
      }),
    initializer: ports,
  });
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

/** Creates or updates one worker's Deployment; nothing happens when its template is unchanged. */
export async function ensureDeployment(
  service: JointInferenceService,
  worker: { type: WorkerType; model: Model; template: PodTemplate },
  ports: WorkerPorts,
): Promise<KubeObject> {
  const { name: serviceName, namespace = '' } = service.metadata;
  const name = `${serviceName}-deployment-${worker.type.toLowerCase()}`;
  const template = await podTemplate(service, worker, ports);
  const digest = digestOf(canonicalJson(template));
  const current =
    ports.deployments.get(namespace, name) ?? (await ports.api.get(DEPLOYMENT, namespace, name));
  if (current?.metadata.annotations?.[TEMPLATE_DIGEST] === digest) return current;
  const labels = {
    'app.sedna.io': `${serviceName}-${worker.type}-svc`,
    ...workerLabels(service, worker.type),
  };
  const fresh = named(template, worker.type);
  if (current) {
    const spec = { ...(current['spec'] as object), template: fresh };
    const metadata = {
      ...current.metadata,
      annotations: { ...current.metadata.annotations, [TEMPLATE_DIGEST]: digest },
    };
    return await ports.api.update(DEPLOYMENT, { ...current, metadata, spec });
  }
  return await ports.api.create(DEPLOYMENT, {
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
