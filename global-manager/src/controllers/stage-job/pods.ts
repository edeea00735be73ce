import { type PodTemplate, type Stage, stageName } from '@shoal/api';
import { type KubeApi, type KubeObject, POD } from '../../kube/kube-api.ts';
import { ownerReference, randomSuffix } from '../../worker-pod/build.ts';
import type { StageJob } from './stage-job.ts';

export interface WorkerPorts {
  readonly api: KubeApi;
  readonly localControllerServer: string;
  readonly initializerImage: string;
}

export type Env = { name: string; value: string }[];

export const ROUND_LABEL = 'shoal.dev/round';

/** Variables every worker of a job with stages gets. */
export function commonEnvironment(job: StageJob, worker: string, ports: WorkerPorts): Env {
  return [
    { name: 'NAMESPACE', value: job.metadata.namespace ?? '' },
    { name: 'JOB_NAME', value: job.metadata.name },
    { name: 'WORKER_NAME', value: `${worker}-${randomSuffix()}` },
    { name: 'LC_SERVER', value: ports.localControllerServer },
  ];
}

/** Creates a worker's pod under a generated name. */
export async function createPod(
  job: StageJob,
  pod: { readonly type: string; readonly template: PodTemplate },
  api: KubeApi,
): Promise<KubeObject> {
  const { name, namespace = '' } = job.metadata;
  const { metadata, spec } = pod.template;
  return await api.create(POD, {
    metadata: {
      ...metadata,
      generateName: `${name}-${pod.type}-`,
      namespace,
      ownerReferences: [ownerReference(job)],
    },
    spec,
  });
}

/** Worker type of the pod that a stage watches. */
export function workerTypeOf(stage: Stage): string {
  return stage === 'Deploy' ? 'inference' : stageName(stage);
}
