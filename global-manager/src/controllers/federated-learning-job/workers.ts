import type {
  Dataset,
  EnvVar,
  FederatedLearningJob,
  Model,
  PlacementGroup,
  PodTemplate,
} from '@shoal/api';
import { canonicalJson, digestOf } from '@shoal/core';
import { type KubeApi, type KubeObject, POD, SERVICE } from '../../kube/kube-api.ts';
import { templateOf } from '../../placement/overrides.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import {
  buildPodTemplate,
  ownerReference,
  randomSuffix,
  workerLabels,
} from '../../worker-pod/build.ts';
import { secretEnvironment } from '../../worker-pod/secrets.ts';
import { injectStorage } from '../../worker-pod/storage.ts';
import { type Group, shareOf } from './groups.ts';
import { federationSecret } from './secrets.ts';

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
  /** Held-out samples at the aggregator. */
  readonly evaluation: Dataset | undefined;
  readonly groups: readonly Group[];
  /** The group with overrides each participant is in, by its position. */
  readonly overrides: readonly (PlacementGroup | undefined)[];
}

type Env = { name: string; value: string }[];

function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : seconds * 1000;
}

function privacyOptions(privacy: FederatedLearningJob['spec']['privacy']): object | undefined {
  if (!privacy) return undefined;
  const { clipping, adaptive, noise, delta, epsilon, secureAggregation } = privacy;
  return {
    clipping,
    adaptive,
    noiseMultiplier: noise ?? 0,
    delta,
    epsilonBudget: epsilon,
    secureAggregation: secureAggregation && {
      range: secureAggregation.range,
      stageMs: milliseconds(secureAggregation.stageSeconds),
    },
  };
}

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
    deadlineMs: milliseconds(spec.deadlineSeconds),
    compression: spec.compression,
    privacy: privacyOptions(privacy),
    topology: spec.topology,
    evaluation: spec.evaluation && { every: spec.evaluation.every },
    patience: spec.evaluation?.patience,
    localEpochs: localTraining?.epochs,
    batchSize: localTraining?.batchSize,
    learningRate: localTraining?.learningRate,
  };
  return JSON.parse(JSON.stringify(options)) as Record<string, unknown>;
}

/** One worker of the job: the aggregator, that of a group, or a participant by its position. */
export interface Slot {
  readonly name: string;
  readonly type: 'aggregation' | 'group' | 'train';
  readonly template: PodTemplate;
  readonly dataset: Dataset | undefined;
  /** The group it aggregates, or belongs to. */
  readonly group?: Group;
  /** What is different in the group of nodes it is in. */
  readonly placed?: PlacementGroup;
}

export function slotsOf(job: FederatedLearningJob, resolved: Resolved): Slot[] {
  const { aggregationWorker, trainingWorkers } = job.spec;
  const { groups, datasets, evaluation } = resolved;
  return [
    {
      name: 'aggregation',
      type: 'aggregation',
      template: aggregationWorker.template,
      dataset: evaluation,
    },
    ...groups.map(
      (group): Slot => ({
        name: groupSlot(group),
        type: 'group',
        template: placedOn(aggregationWorker.template, group.node),
        dataset: undefined,
        group,
      }),
    ),
    ...trainingWorkers.map(({ template }, i): Slot => {
      const group = groups.find((g) => g.members.includes(i));
      const placed = resolved.overrides[i];
      return {
        name: `train-${i}`,
        type: 'train',
        template: placed ? templateOf(template, placed.overrides) : template,
        dataset: datasets[i],
        ...(group ? { group } : {}),
        ...(placed ? { placed } : {}),
      };
    }),
  ];
}

const groupSlot = (group: Group): string => `group-${group.name}`;

/** The template on one node, wherever it said it should run. */
function placedOn(template: PodTemplate, nodeName: string): PodTemplate {
  const {
    nodeSelector: _selector,
    affinity: _affinity,
    ...spec
  } = template.spec ?? {
    containers: [],
  };
  return { ...template, spec: { ...spec, nodeName } };
}

/** A participant's name, which stays: restarted, it is the same one to the federation. */
export function participantName(job: FederatedLearningJob, slot: Slot): string {
  return `trainworker-${job.metadata.name}-${slot.name}`;
}

function trainName(job: FederatedLearningJob, position: number): string {
  return `trainworker-${job.metadata.name}-train-${position}`;
}

/** Longest list of names that fits a variable of the environment (Linux: 128 KiB); behind a longer one the token alone counts. */
const MAX_NAMES_LENGTH = 100_000;

function listed(names: readonly string[]): string {
  const text = names.join(',');
  return text.length > MAX_NAMES_LENGTH ? '' : text;
}

/** Who talks to the aggregator itself: groups, and participants that are in none. */
function directNames(job: FederatedLearningJob, groups: readonly Group[]): string[] {
  const grouped = new Set(groups.flatMap((g) => g.members));
  const others = [...job.spec.trainingWorkers.keys()].filter((i) => !grouped.has(i));
  return [...groups.map(groupSlot), ...others.map((i) => trainName(job, i))];
}

/** Services in front of the aggregators: `<name>-aggregation`, and `<name>-group-<group>`. */
export async function ensureServices(
  job: FederatedLearningJob,
  slots: readonly Slot[],
  ports: WorkerPorts,
): Promise<void> {
  const { namespace = '' } = job.metadata;
  for (const slot of slots) {
    if (slot.type === 'train') continue;
    const name = serviceName(job, slot.name);
    if (ports.services.get(namespace, name) ?? (await ports.api.get(SERVICE, namespace, name)))
      continue;
    const labels = { ...workerLabels(job, slot.type), [SLOT_LABEL]: slot.name };
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
}

function serviceName(job: FederatedLearningJob, slot: string): string {
  return `${job.metadata.name}-${slot}`;
}

function environment(
  job: FederatedLearningJob,
  slot: Slot,
  resolved: Resolved,
  ports: WorkerPorts,
): Env {
  const { name, namespace = '' } = job.metadata;
  const { s3 } = job.spec.transmitter ?? {};
  const options = federationOptions(job);
  const common: Env = [
    { name: 'NAMESPACE', value: namespace },
    { name: 'JOB_NAME', value: name },
    { name: 'TRANSMITTER', value: s3 ? 's3' : 'ws' },
    ...(s3 ? [{ name: 'AGG_DATA_PATH', value: s3.aggDataPath }] : []),
    { name: 'FEDERATED_STRATEGY', value: JSON.stringify(options['strategy']) },
    { name: 'FEDERATED_INSTANCE', value: digestOf(canonicalJson(options)).slice(7, 19) },
  ];
  const above: Env = [
    { name: 'AGG_IP', value: `${serviceName(job, aboveOf(slot))}.${namespace}` },
    { name: 'AGG_PORT', value: String(AGGREGATION_PORT) },
  ];
  switch (slot.type) {
    case 'aggregation':
      return [...common, ...aggregatorEnvironment(job, resolved, options)];
    case 'group':
      return [...common, ...above, ...groupEnvironment(job, slot)];
    case 'train':
      return [
        ...common,
        ...above,
        { name: 'PARTICIPANTS_COUNT', value: String(job.spec.trainingWorkers.length) },
        { name: 'WORKER_NAME', value: participantName(job, slot) },
        { name: 'LC_SERVER', value: ports.localControllerServer },
        { name: 'MODEL_NAME', value: resolved.model.metadata.name },
        { name: 'DATASET_NAME', value: slot.dataset?.metadata.name ?? '' },
        ...localTraining(slot),
      ];
  }
}

/** Hyper-parameters of the group of nodes a participant is in. */
function localTraining({ placed }: Slot): Env {
  const { parameters } = placed?.overrides ?? {};
  if (!parameters) return [];
  const value = Object.fromEntries(parameters.map((p) => [p.key, Number(p.value)]));
  return [{ name: 'LOCAL_TRAINING', value: JSON.stringify(value) }];
}

/** The slot a worker dials. */
function aboveOf({ type, group }: Slot): string {
  return type === 'train' && group ? groupSlot(group) : 'aggregation';
}

function aggregatorEnvironment(
  job: FederatedLearningJob,
  { groups }: Resolved,
  options: Record<string, unknown>,
): Env {
  const all = job.spec.trainingWorkers.length;
  // What talks to it: groups, and participants that are in none.
  const own = all - groups.reduce((n, g) => n + g.members.length - 1, 0);
  const quorum = groups.length > 0 ? shareOf(job.spec.quorum, all, own) : job.spec.quorum;
  return [
    { name: 'PARTICIPANTS_COUNT', value: String(own) },
    { name: 'WORKER_NAME', value: `aggworker-${randomSuffix()}` },
    { name: 'AGG_BIND_PORT', value: String(AGGREGATION_PORT) },
    { name: 'FEDERATED_NAMES', value: listed(directNames(job, groups)) },
    { name: 'FEDERATED_OPTIONS', value: JSON.stringify({ ...options, quorum }) },
  ];
}

/** A group has four fifths of a round's time, so that what it has comes in time. */
const GROUP_SHARE = 0.8;

function groupEnvironment(job: FederatedLearningJob, slot: Slot): Env {
  const { quorum, deadlineSeconds = 600, trainingWorkers } = job.spec;
  const members = slot.group?.members.length ?? 1;
  const options = {
    quorum: shareOf(quorum, trainingWorkers.length, members),
    deadlineMs: deadlineSeconds * 1000 * GROUP_SHARE,
  };
  return [
    { name: 'PARTICIPANTS_COUNT', value: String(members) },
    {
      name: 'FEDERATED_NAMES',
      value: listed((slot.group?.members ?? []).map((i) => trainName(job, i))),
    },
    { name: 'WORKER_NAME', value: slot.name },
    { name: 'FEDERATED_GROUP', value: slot.name },
    { name: 'AGG_BIND_PORT', value: String(AGGREGATION_PORT) },
    { name: 'FEDERATED_OPTIONS', value: JSON.stringify(options) },
  ];
}

/** What a worker may know of the job's secret. */
function secretEnvironmentOf(job: FederatedLearningJob, slot: Slot): EnvVar[] {
  const from = (name: string, key: string): EnvVar => ({
    name,
    valueFrom: { secretKeyRef: { name: federationSecret(job), key } },
  });
  const isSecure = job.spec.privacy?.secureAggregation !== undefined;
  return [
    from('FEDERATED_TOKEN', 'token'),
    from('FEDERATED_AUTHORITY', 'authority'),
    ...(slot.type === 'train' && isSecure
      ? [from('FEDERATED_IDENTITY', `identity-${slot.name}`)]
      : []),
    ...(slot.type === 'train'
      ? []
      : [
          from('FEDERATED_CERTIFICATE', 'certificate'),
          from('FEDERATED_PRIVATE_KEY', 'privateKey'),
        ]),
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
      groups: resolved.groups,
      // A label alone restarts nobody: only what differs counts.
      ...(slot.placed?.overrides ? { overrides: slot.placed.overrides } : {}),
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
      ? [
          {
            env: slot.type === 'train' ? 'TRAIN_DATASET_URL' : 'TEST_DATASET_URL',
            urls: [slot.dataset.spec.url],
            download: true,
          },
        ]
      : []),
  ]);
  const credential =
    job.spec.transmitter?.s3?.credentialName ??
    slot.dataset?.spec.credentialName ??
    resolved.model.spec.credentialName;
  const { metadata, spec } = buildPodTemplate({
    owner: job,
    type: slot.type,
    template: slot.template,
    storage,
    env: [
      ...environment(job, slot, resolved, ports),
      ...storage.env,
      ...secretEnvironmentOf(job, slot),
    ],
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
