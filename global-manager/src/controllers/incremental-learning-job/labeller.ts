import { type IncrementalLearningJob, knowledgeJob, type Model, sampleToken } from '@shoal/api';
import { canonicalJson, digestOf } from '@shoal/core';
import { DEPLOYMENT, type KubeObject, SECRET } from '../../kube/kube-api.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import { buildPodTemplate, ownerReference, workerLabels } from '../../worker-pod/build.ts';
import { secretEnvironment } from '../../worker-pod/secrets.ts';
import { injectStorage } from '../../worker-pod/storage.ts';
import type { WorkerPorts } from '../stage-job/pods.ts';

export interface LabellerPorts extends WorkerPorts {
  readonly deployments: ObjectCache;
  readonly sampleService: {
    /** `host:port` as workers reach it. */
    readonly server: string;
    /** Key of the tokens. */
    readonly key: string;
    /** PEM of the authority of its certificate. */
    readonly authority: string;
  };
}

const TEMPLATE_DIGEST = 'shoal.dev/template-digest';

const nameOf = (job: IncrementalLearningJob): string => `${job.metadata.name}-deployment-label`;
const secretOf = (job: IncrementalLearningJob): string => `${job.metadata.name}-samples`;

/** The secret with the job's token; made once. */
async function ensureToken(job: IncrementalLearningJob, ports: LabellerPorts): Promise<void> {
  const { namespace = '', uid } = job.metadata;
  const token = sampleToken(ports.sampleService.key, knowledgeJob(job.metadata));
  const name = secretOf(job);
  const known = await ports.api.get(SECRET, namespace, name);
  const data = Buffer.from(token).toString('base64');
  const holds = (known as { data?: { token?: string } } | undefined)?.data?.token === data;
  if (holds && known?.metadata.ownerReferences?.some((o) => o.uid === uid)) return;
  if (known) await ports.api.delete(SECRET, namespace, name);
  await ports.api.create(SECRET, {
    metadata: { name, namespace, ownerReferences: [ownerReference(job)] },
    type: 'Opaque',
    data: { token: data },
  });
}

async function podTemplate(
  job: IncrementalLearningJob,
  model: Model,
  ports: LabellerPorts,
): Promise<ReturnType<typeof buildPodTemplate>> {
  const { namespace = '', name } = job.metadata;
  const source = job.spec.hardExamples?.labels?.model;
  const storage = injectStorage([{ env: 'MODEL_URL', urls: [model.spec.url], download: true }]);
  return buildPodTemplate({
    owner: job,
    type: 'label',
    template: source?.template ?? {},
    storage,
    env: [
      { name: 'NAMESPACE', value: namespace },
      { name: 'JOB_NAME', value: name },
      { name: 'WORKER_NAME', value: `${name}-label` },
      { name: 'LC_SERVER', value: ports.localControllerServer },
      { name: 'SAMPLES_SERVER', value: ports.sampleService.server },
      { name: 'SAMPLES_JOB', value: knowledgeJob(job.metadata) },
      { name: 'SAMPLES_AUTHORITY', value: ports.sampleService.authority },
      {
        name: 'SAMPLES_TOKEN',
        valueFrom: { secretKeyRef: { name: secretOf(job), key: 'token' } },
      },
      { name: 'LABEL_MIN_CONFIDENCE', value: String(source?.minConfidence ?? 0.9) },
      { name: 'LABEL_MODEL', value: source?.name ?? '' },
      ...storage.env,
    ],
    secretEnv: await secretEnvironment(ports.api, namespace, model.spec.credentialName),
    initializer: ports,
  });
}

async function removeLabeller(job: IncrementalLearningJob, ports: LabellerPorts): Promise<void> {
  const { namespace = '' } = job.metadata;
  if (ports.deployments.get(namespace, nameOf(job)))
    await ports.api.delete(DEPLOYMENT, namespace, nameOf(job));
}

/** Creates, updates or removes the worker that labels hard examples with a model. */
export async function ensureLabeller(
  job: IncrementalLearningJob,
  model: Model | undefined,
  ports: LabellerPorts,
): Promise<void> {
  if (!model) return await removeLabeller(job, ports);
  const { namespace = '' } = job.metadata;
  const name = nameOf(job);
  const template = await podTemplate(job, model, ports);
  const digest = digestOf(canonicalJson(template));
  const current: KubeObject | undefined =
    ports.deployments.get(namespace, name) ?? (await ports.api.get(DEPLOYMENT, namespace, name));
  if (current?.metadata.annotations?.[TEMPLATE_DIGEST] === digest) return;
  await ensureToken(job, ports);
  const annotations = { ...current?.metadata.annotations, [TEMPLATE_DIGEST]: digest };
  if (current) {
    const spec = { ...(current['spec'] as object), template };
    const metadata = { ...current.metadata, annotations };
    await ports.api.update(DEPLOYMENT, { ...current, metadata, spec });
    return;
  }
  const labels = workerLabels(job, 'label');
  await ports.api.create(DEPLOYMENT, {
    metadata: { name, namespace, labels, annotations, ownerReferences: [ownerReference(job)] },
    spec: { replicas: 1, selector: { matchLabels: labels }, template },
  });
}
