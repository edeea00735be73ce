import { posix } from 'node:path';
import {
  hotUpdateFolder,
  knowledgeJob,
  knowledgeToken,
  type LifelongLearningJob,
  type PodTemplate,
  stageName,
} from '@shoal/api';
import { type KubeObject, SECRET } from '../../kube/kube-api.ts';
import { templateOf } from '../../placement/overrides.ts';
import { buildPodTemplate, ownerReference } from '../../worker-pod/build.ts';
import { secretEnvironment } from '../../worker-pod/secrets.ts';
import { injectStorage, type Storage, type StorageRequest } from '../../worker-pod/storage.ts';
import {
  commonEnvironment,
  createPod,
  type Env,
  ROUND_LABEL,
  type WorkerPorts,
} from '../stage-job/pods.ts';
import { placedLabels } from '../stage-job/serving-pods.ts';
import type { PlacedWorker, StagePodInputs } from '../stage-job/stage-job.ts';
import { newestOutput } from '../stage-job/status.ts';

export interface LifelongPorts extends WorkerPorts {
  readonly knowledgeBase: {
    /** `host:port` as workers reach it. */
    readonly server: string;
    /** Key of the tokens. */
    readonly key: string;
    /** PEM of the authority of its certificate. */
    readonly authority: string;
  };
}

const HOT_UPDATE_DIR = '/model-hot-update';
const HOT_UPDATE_VOLUME = 'sedna-model-hot-update-volume';
const EDGE_DIR = '/var/lib/sedna/kb';
const EDGE_VOLUME = 'shoal-knowledge-volume';
/** How often the edge looks for a new version. */
const POLL_SECONDS = 2;

const tokenSecret = (job: LifelongLearningJob): string => `${job.metadata.name}-knowledge-base`;

/** The secret with the job's token; made once. */
async function ensureToken(job: LifelongLearningJob, ports: LifelongPorts): Promise<void> {
  const { namespace = '' } = job.metadata;
  const token = knowledgeToken(ports.knowledgeBase.key, knowledgeJob(job.metadata));
  const name = tokenSecret(job);
  const known = await ports.api.get(SECRET, namespace, name);
  const data = Buffer.from(token).toString('base64');
  const isOurs =
    (known as { data?: { token?: string } } | undefined)?.data?.token === data &&
    known?.metadata.ownerReferences?.some((o) => o.uid === job.metadata.uid);
  if (isOurs) return;
  // That of an earlier job of this name, or made with an earlier key.
  if (known) await ports.api.delete(SECRET, namespace, name);
  await ports.api.create(SECRET, {
    metadata: { name, namespace, ownerReferences: [ownerReference(job)] },
    type: 'Opaque',
    data: { token: data },
  });
}

function knowledgeEnvironment(job: LifelongLearningJob, ports: LifelongPorts): Env {
  return [
    { name: 'KB_SERVER', value: ports.knowledgeBase.server },
    { name: 'KB_JOB', value: knowledgeJob(job.metadata) },
    { name: 'KB_AUTHORITY', value: ports.knowledgeBase.authority },
  ];
}

const tokenVariable = (job: LifelongLearningJob) =>
  ({
    name: 'KB_TOKEN',
    valueFrom: { secretKeyRef: { name: tokenSecret(job), key: 'token' } },
  }) as const;

function stageStorage(at: StagePodInputs, datasetUrl: string): StorageRequest[] {
  const { input } = at;
  const data = input.dataURL ?? '';
  const original = { env: 'ORIGINAL_DATASET_URL', urls: [datasetUrl], download: true };
  if (at.stage === 'Train')
    return [
      { env: 'OUTPUT_URL', urls: [input.outputDir ?? ''], download: false },
      { env: 'TRAIN_DATASET_URL', urls: [data], download: true },
      original,
    ];
  const models = (input.models ?? []).map((m) => m.url);
  return [
    { env: 'MODEL_URLS', urls: models, download: true },
    // The index of the evaluation lies beside that of the training it judges.
    { env: 'OUTPUT_URL', urls: [`${posix.dirname(models[0] ?? '/')}/evaluated`], download: false },
    { env: 'TEST_DATASET_URL', urls: [data], download: true },
    original,
  ];
}

/** Creates the pod of a training or evaluation stage. */
export async function createStagePod(
  job: LifelongLearningJob,
  at: StagePodInputs & {
    readonly datasetUrl: string;
    readonly datasetNode: string | undefined;
  },
  ports: LifelongPorts,
): Promise<KubeObject> {
  await ensureToken(job, ports);
  const { stage, round } = at;
  const storage = injectStorage(stageStorage(at, at.datasetUrl));
  const type = stageName(stage);
  const trained = newestOutput(job, 'Train')?.models?.[0]?.url;
  const history: Env = [
    {
      name: 'HAS_COMPLETED_INITIAL_TRAINING',
      value: String(job.status?.deployedModel !== undefined),
    },
    ...(trained === undefined ? [] : [{ name: 'CLOUD_KB_INDEX', value: trained }]),
  ];
  const template = buildPodTemplate({
    owner: job,
    type,
    template: stage === 'Train' ? job.spec.trainSpec.template : job.spec.evalSpec.template,
    storage,
    env: [
      ...commonEnvironment(job, `${type}-worker`, ports),
      ...knowledgeEnvironment(job, ports),
      ...(stage === 'Train' ? history : []),
      ...storage.env,
      tokenVariable(job),
    ],
    secretEnv: await secretEnvironment(
      ports.api,
      job.metadata.namespace ?? '',
      job.spec.credentialName,
    ),
    hostNetwork: true,
    restartPolicy: 'OnFailure',
    defaultNode: at.datasetNode,
    labels: { [ROUND_LABEL]: String(round) },
    initializer: ports,
  });
  return await createPod(job, { type, template }, ports.api);
}

/** Folders of the host that the edge's worker keeps its knowledge in. */
function edgeStorage(job: LifelongLearningJob, storage: Storage): Storage {
  const { namespace = 'default', name, uid = '' } = job.metadata;
  const knowledge = `${EDGE_DIR}/${namespace}/${name}-${uid.slice(0, 8)}`;
  const volume = (volumeName: string, path: string) => ({
    name: volumeName,
    hostPath: { path, type: 'DirectoryOrCreate' },
  });
  return {
    ...storage,
    volumes: [
      ...storage.volumes,
      volume(HOT_UPDATE_VOLUME, hotUpdateFolder(job.kind, job.metadata)),
      volume(EDGE_VOLUME, knowledge),
    ],
    mounts: [
      ...storage.mounts,
      { name: HOT_UPDATE_VOLUME, mountPath: HOT_UPDATE_DIR },
      { name: EDGE_VOLUME, mountPath: EDGE_DIR },
    ],
  };
}

/** Creates the pod that answers with the tasks of the knowledge base. */
export async function createInferencePod(
  job: LifelongLearningJob,
  at: {
    readonly index: string;
    readonly placed: PlacedWorker | undefined;
    readonly digest: string;
  },
  ports: LifelongPorts,
): Promise<KubeObject> {
  const { index, placed } = at;
  await ensureToken(job, ports);
  const storage = edgeStorage(job, injectStorage([]));
  const { template: own } = job.spec.deploySpec;
  const userTemplate: PodTemplate = placed
    ? templateOf(own, placed.group.overrides, placed.node)
    : own;
  const template = buildPodTemplate({
    owner: job,
    type: 'inference',
    template: userTemplate,
    storage,
    env: [
      ...commonEnvironment(job, 'inferworker', ports),
      ...knowledgeEnvironment(job, ports),
      { name: 'OUTPUT_URL', value: job.spec.outputDir },
      { name: 'MODEL_URLS', value: index },
      { name: 'edge_output_url', value: EDGE_DIR },
      { name: 'NODE_NAME', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
      { name: 'MODEL_HOT_UPDATE', value: 'true' },
      { name: 'MODEL_POLL_PERIOD_SECONDS', value: String(POLL_SECONDS) },
      { name: 'MODEL_HOT_UPDATE_CONFIG', value: `${HOT_UPDATE_DIR}/model_config.json` },
      tokenVariable(job),
    ],
    secretEnv: [],
    hostNetwork: true,
    labels: placed ? placedLabels(placed.node, at.digest) : {},
    initializer: ports,
  });
  return await createPod(job, { type: 'inference', template }, ports.api);
}
