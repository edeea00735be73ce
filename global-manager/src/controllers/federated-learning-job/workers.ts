import { randomBytes } from 'node:crypto';
import type { Dataset, FederatedLearningJob, Model, PodTemplate } from '@shoal/api';
import { canonicalJson, digestOf } from '@shoal/core';
import { type KubeApi, type KubeObject, POD, SECRET, SERVICE } from '../../kube/kube-api.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import {
  buildPodTemplate,
  ownerReference,
  randomSuffix,
  workerLabels,
} from '../../worker-pod/build.ts';
import { secretEnvironment } from '../../worker-pod/secrets.ts';
import { injectStorage } from '../../worker-pod/storage.ts';

/** The port Sedna's aggregator listens on. */
export const AGGREGATION_PORT = 7363;
export const SLOT_LABEL = 'shoal.dev/slot';
export const SPEC_DIGEST = 'shoal.dev/spec-digest';

export interface WorkerPorts {
  readonly api: KubeApi;
  readonly services: ObjectCache;
  readonly localControllerServer: string;
  readonly initializerImage: string;
}

/** What the job refers to, found. */
export interface Resolved {
  readonly model: Model;
  readonly pretrained: Model | undefined;
  readonly datasets: readonly Dataset[];
}

type Env = { name: string; value: string }[];

/** The federation's options as the aggregator's environment holds them; the job's own fields by our names. */
export function federationOptions(job: FederatedLearningJob): Record<string, unknown> {
  const { spec } = job;
  const parameters = Object.fromEntries(
    (spec.strategy?.parameters ?? []).map(({ key, value }) => [key, value]),
  );
  const { privacy, localTraining } = spec;
  const options = {
    rounds: spec.rounds ?? 3,
    strategy: { name: spec.strategy?.name ?? 'FedAvg', parameters },
    selected: spec.selection?.count,
    overSelection: spec.selection?.over,
    quorum: spec.quorum,
    deadlineMs: spec.deadlineSeconds === undefined ? undefined : spec.deadlineSeconds * 1000,
    compression: spec.compression,
    privacy: privacy && {
      clipping: privacy.clipping,
      adaptive: privacy.adaptive,
      noiseMultiplier: privacy.noise ?? 0,
      delta: privacy.delta,
      epsilonBudget: privacy.epsilon,
    },
    localEpochs: localTraining?.epochs,
    batchSize: localTraining?.batchSize,
    learningRate: localTraining?.learningRate,
  };
  return JSON.parse(JSON.stringify(options)) as Record<string, unknown>;
}

/** One worker of the job: the aggregator, or a participant by its position. */
export interface Slot {
  readonly name: string;
  readonly type: 'aggregation' | 'train';
  readonly template: PodTemplate;
  readonly dataset: Dataset | undefined;
}

export function slotsOf(job: FederatedLearningJob, resolved: Resolved): Slot[] {
  const { aggregationWorker, trainingWorkers } = job.spec;
  return [
    {
      name: 'aggregation',
      type: 'aggregation',
      template: aggregationWorker.template,
      dataset: undefined,
    },
    ...trainingWorkers.map(
      ({ template }, i): Slot => ({
        name: `train-${i}`,
        type: 'train',
        template,
        dataset: resolved.datasets[i],
      }),
    ),
  ];
}

const tokenSecret = (job: FederatedLearningJob): string => `${job.metadata.name}-federation`;

/** The secret only workers of this job know; made once. */
export async function ensureToken(job: FederatedLearningJob, ports: WorkerPorts): Promise<void> {
  const { namespace = '' } = job.metadata;
  if (await ports.api.get(SECRET, namespace, tokenSecret(job))) return;
  await ports.api.create(SECRET, {
    metadata: { name: tokenSecret(job), namespace, ownerReferences: [ownerReference(job)] },
    type: 'Opaque',
    data: { token: Buffer.from(randomBytes(32).toString('hex')).toString('base64') },
  });
}

/** The Service in front of the aggregator: `<name>-aggregation`. */
export async function ensureService(job: FederatedLearningJob, ports: WorkerPorts): Promise<void> {
  const { name: jobName, namespace = '' } = job.metadata;
  const name = `${jobName}-aggregation`;
  if (ports.services.get(namespace, name) ?? (await ports.api.get(SERVICE, namespace, name)))
    return;
  const labels = workerLabels(job, 'aggregation');
  const port = {
    name: 'tcp-0',
    port: AGGREGATION_PORT,
    targetPort: AGGREGATION_PORT,
    protocol: 'TCP',
  };
  await ports.api.create(SERVICE, {
    metadata: { name, namespace, labels, ownerReferences: [ownerReference(job)] },
    spec: { selector: labels, ports: [port] },
  });
}

function environment(
  job: FederatedLearningJob,
  slot: Slot,
  resolved: Resolved,
  ports: WorkerPorts,
): Env {
  const { name, namespace = '' } = job.metadata;
  const { s3 } = job.spec.transmitter ?? {};
  const common: Env = [
    { name: 'NAMESPACE', value: namespace },
    { name: 'JOB_NAME', value: name },
    { name: 'PARTICIPANTS_COUNT', value: String(job.spec.trainingWorkers.length) },
    { name: 'TRANSMITTER', value: s3 ? 's3' : 'ws' },
    ...(s3 ? [{ name: 'AGG_DATA_PATH', value: s3.aggDataPath }] : []),
    { name: 'FEDERATED_STRATEGY', value: JSON.stringify(federationOptions(job)['strategy']) },
  ];
  if (slot.type === 'aggregation')
    return [
      ...common,
      { name: 'WORKER_NAME', value: `aggworker-${randomSuffix()}` },
      { name: 'AGG_BIND_PORT', value: String(AGGREGATION_PORT) },
      { name: 'FEDERATED_OPTIONS', value: JSON.stringify(federationOptions(job)) },
    ];
  return [
    ...common,
    // A name that stays: a restarted participant is the same one to the federation.
    { name: 'WORKER_NAME', value: `trainworker-${name}-${slot.name}` },
    { name: 'AGG_IP', value: `${name}-aggregation.${namespace}` },
    { name: 'AGG_PORT', value: String(AGGREGATION_PORT) },
    { name: 'LC_SERVER', value: ports.localControllerServer },
    { name: 'MODEL_NAME', value: resolved.model.metadata.name },
    { name: 'DATASET_NAME', value: slot.dataset?.metadata.name ?? '' },
  ];
}

/** Digest of everything that decides about a worker's pod: when it changes, the pod is replaced. */
export function slotDigest(job: FederatedLearningJob, slot: Slot, resolved: Resolved): string {
  return digestOf(
    canonicalJson({
      template: slot.template,
      options: federationOptions(job),
      model: resolved.model.spec,
      pretrained: resolved.pretrained?.spec ?? null,
      dataset: slot.dataset?.spec ?? null,
      workers: job.spec.trainingWorkers.length,
    }),
  ).slice(7, 23);
}

/** Creates the pod of one worker. */
export async function createWorkerPod(
  job: FederatedLearningJob,
  at: { readonly slot: Slot; readonly resolved: Resolved },
  ports: WorkerPorts,
): Promise<KubeObject> {
  const { slot, resolved } = at;
  const { name, namespace = '' } = job.metadata;
  const storage = injectStorage([
    { env: 'MODEL_URL', urls: [resolved.model.spec.url], download: true },
    ...(resolved.pretrained
      ? [{ env: 'PRETRAINED_MODEL_URL', urls: [resolved.pretrained.spec.url], download: true }]
      : []),
    ...(slot.dataset
      ? [{ env: 'TRAIN_DATASET_URL', urls: [slot.dataset.spec.url], download: true }]
      : []),
  ]);
  const token = {
    name: 'FEDERATED_TOKEN',
    valueFrom: { secretKeyRef: { name: tokenSecret(job), key: 'token' } },
  };
  const credential =
    job.spec.transmitter?.s3?.credentialName ??
    slot.dataset?.spec.credentialName ??
    resolved.model.spec.credentialName;
  const { metadata, spec } = buildPodTemplate({
    owner: job,
    type: slot.type,
    template: slot.template,
    storage,
    env: [...environment(job, slot, resolved, ports), ...storage.env, token],
    secretEnv: await secretEnvironment(ports.api, namespace, credential),
    hostNetwork: slot.type === 'train',
    restartPolicy: 'OnFailure',
    defaultNode: slot.dataset?.spec.nodeName,
    labels: { [SLOT_LABEL]: slot.name, [SPEC_DIGEST]: slotDigest(job, slot, resolved) },
    initializer: ports,
  });
  return await ports.api.create(POD, {
    metadata: {
      ...metadata,
      generateName: `${name}-${slot.name}-`,
      namespace,
      ownerReferences: [ownerReference(job)],
    },
    spec,
  });
}
