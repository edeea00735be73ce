import {
  type EnvVar,
  hotUpdateFolder,
  type IncrementalLearningJob,
  type Model,
  type StageData,
  stageName,
} from '@shoal/api';
import type { KubeObject } from '../../kube/kube-api.ts';
import { miningOf, templateOf } from '../../placement/overrides.ts';
import { buildPodTemplate } from '../../worker-pod/build.ts';
import { secretEnvironment } from '../../worker-pod/secrets.ts';
import { injectStorage, type StorageRequest } from '../../worker-pod/storage.ts';
import { minerEnvironment } from '../joint-inference-service/workers.ts';
import {
  commonEnvironment,
  createPod,
  type Env,
  ROUND_LABEL,
  type WorkerPorts,
} from '../stage-job/pods.ts';
import { placedLabels } from '../stage-job/serving-pods.ts';
import type { PlacedWorker } from '../stage-job/stage-job.ts';

const HOT_UPDATE_DIR = '/model-hot-update';
const HOT_UPDATE_VOLUME = 'sedna-model-hot-update-volume';

function stageStorage(
  stage: 'Train' | 'Eval',
  input: StageData,
  datasetUrl: string,
): StorageRequest[] {
  const models = (input.models ?? []).map((m) => m.url);
  const data = input.dataURL ?? '';
  const original: StorageRequest = {
    env: 'ORIGINAL_DATASET_URL',
    urls: [datasetUrl],
    download: true,
  };
  if (stage === 'Eval') {
    return [
      { env: 'MODEL_URLS', urls: models, download: true },
      { env: 'TEST_DATASET_URL', urls: [data], download: true },
      original,
    ];
  }
  return [
    { env: 'BASE_MODEL_URL', urls: models.slice(0, 1), download: true },
    { env: 'MODEL_URL', urls: [input.outputDir ?? ''], download: false },
    { env: 'TRAIN_DATASET_URL', urls: [data], download: true },
    original,
  ];
}

/** Creates the pod of a training or evaluation stage. */
export async function createStagePod(
  job: IncrementalLearningJob,
  at: {
    stage: 'Train' | 'Eval';
    round: number;
    input: StageData;
    datasetUrl: string;
    datasetNode: string | undefined;
    guardUrls: readonly string[];
    /** Secret of the dataset, for a job that names none. */
    datasetCredential: string | undefined;
  },
  ports: WorkerPorts,
): Promise<KubeObject> {
  const { stage, round, input } = at;
  const guards = stage === 'Eval' ? (job.spec.evalSpec.guards ?? []) : [];
  const storage = injectStorage([
    ...stageStorage(stage, input, at.datasetUrl),
    ...(guards.some((g) => g.dataset)
      ? [{ env: 'GUARD_DATASET_URLS', urls: at.guardUrls, download: true }]
      : []),
  ]);
  const type = stageName(stage);
  const user = stage === 'Train' ? job.spec.trainSpec.template : job.spec.evalSpec.template;
  const { namespace = '' } = job.metadata;
  const secretEnv = await secretEnvironment(
    ports.api,
    namespace,
    job.spec.credentialName ?? at.datasetCredential,
  );
  const template = buildPodTemplate({
    owner: job,
    type,
    template: user,
    storage,
    env: [
      ...commonEnvironment(job, `${type}-worker`, ports),
      ...(stage === 'Train' ? mirrorEnvironment(job, round, secretEnv) : []),
      ...(guards.length > 0 ? [{ name: 'GUARDS', value: JSON.stringify(guards) }] : []),
      ...storage.env,
    ],
    secretEnv,
    hostNetwork: true,
    restartPolicy: 'OnFailure',
    defaultNode: at.datasetNode,
    labels: { [ROUND_LABEL]: String(round) },
    initializer: ports,
  });
  return await createPod(job, { type, template }, ports.api);
}

/** Where a copy of the trained model goes when `outputDir` is in S3, and the keys to write it. */
function mirrorEnvironment(
  { spec }: IncrementalLearningJob,
  round: number,
  secretEnv: readonly EnvVar[],
): EnvVar[] {
  if (!spec.outputDir.startsWith('s3://')) return [];
  const folder = spec.outputDir.replace(/\/+$/, '');
  return [{ name: 'MODEL_MIRROR_URL', value: `${folder}/train/${round}` }, ...secretEnv];
}

/** What the serving worker does beside answering: keep hard examples, watch for drift. */
function loopEnvironment({ hardExamples, deploySpec }: IncrementalLearningJob['spec']): Env {
  const { driftDetection } = deploySpec;
  return [
    ...(hardExamples ? [{ name: 'HARD_EXAMPLES', value: 'true' }] : []),
    ...(driftDetection
      ? [
          { name: 'DRIFT_NAME', value: driftDetection.name },
          { name: 'DRIFT_PARAMETERS', value: JSON.stringify(driftDetection.parameters ?? null) },
        ]
      : []),
  ];
}

/** Creates the pod that serves the deployed model. */
export async function createInferencePod(
  job: IncrementalLearningJob,
  at: { readonly model: Model; readonly placed: PlacedWorker | undefined; readonly digest: string },
  ports: WorkerPorts,
): Promise<KubeObject> {
  const { deploySpec } = job.spec;
  const { model, placed } = at;
  const overrides = placed?.group.overrides;
  const storage = injectStorage([{ env: 'MODEL_URL', urls: [model.spec.url], download: true }]);
  const hot = deploySpec.model.hotUpdateEnabled === true;
  const hotEnv: Env = hot
    ? [
        { name: 'MODEL_HOT_UPDATE', value: 'true' },
        {
          name: 'MODEL_POLL_PERIOD_SECONDS',
          value: String(deploySpec.model.pollPeriodSeconds ?? 60),
        },
        { name: 'MODEL_HOT_UPDATE_CONFIG', value: `${HOT_UPDATE_DIR}/model_config.json` },
      ]
    : [];
  const withHotUpdate = hot
    ? {
        ...storage,
        volumes: [
          ...storage.volumes,
          {
            name: HOT_UPDATE_VOLUME,
            hostPath: { path: hotUpdateFolder(job.kind, job.metadata), type: 'DirectoryOrCreate' },
          },
        ],
        mounts: [...storage.mounts, { name: HOT_UPDATE_VOLUME, mountPath: HOT_UPDATE_DIR }],
      }
    : storage;
  const template = buildPodTemplate({
    owner: job,
    type: 'inference',
    template: placed
      ? templateOf(deploySpec.template, overrides, placed.node)
      : deploySpec.template,
    storage: withHotUpdate,
    env: [
      ...commonEnvironment(job, 'inferworker', ports),
      ...minerEnvironment(miningOf(deploySpec.hardExampleMining, overrides)),
      ...loopEnvironment(job.spec),
      ...storage.env,
      ...hotEnv,
    ],
    secretEnv: await secretEnvironment(
      ports.api,
      job.metadata.namespace ?? '',
      model.spec.credentialName,
    ),
    hostNetwork: true,
    labels: placed ? placedLabels(placed.node, at.digest) : {},
    initializer: ports,
  });
  return await createPod(job, { type: 'inference', template }, ports.api);
}
