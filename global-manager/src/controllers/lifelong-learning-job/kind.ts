import { posix } from 'node:path';
import type { Dataset, LifelongLearningJob, StageModel } from '@shoal/api';
import { requireOverrides } from '../../placement/overrides.ts';
import { sharedPart } from '../../placement/status.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import { requireGrowingDataset } from '../references.ts';
import { addressed } from '../stage-job/assignment.ts';
import { expectOutputDir } from '../stage-job/output-dir.ts';
import { servingDigest } from '../stage-job/serving-pods.ts';
import type { StageJobKind } from '../stage-job/stage-job.ts';
import { createInferencePod, createStagePod, type LifelongPorts } from './workers.ts';

/** What a lifelong learning job refers to, found. */
export interface LifelongReferences {
  readonly dataset: Dataset;
}

/** Path of the index that is served, on the nodes that serve it (contract §3.5). */
export function deployedIndex(job: LifelongLearningJob): string {
  return posix.join(job.spec.outputDir, 'deploy', 'index.json');
}

/**
 * What lifelong learning adds to the stages: its models are indexes of the knowledge base, an
 * evaluation judges tasks by itself, and a version is deployed when it admitted one.
 */
export function lifelongLearning(
  ports: LifelongPorts & { readonly datasets: ObjectCache },
): StageJobKind<LifelongLearningJob, LifelongReferences> {
  return {
    kind: 'LifelongLearningJob',
    name: 'lifelong-learning-job',
    resolve({ metadata, spec }) {
      expectOutputDir(spec.outputDir, { s3: false });
      const dataset = requireGrowingDataset(ports.datasets, metadata.namespace ?? '', {
        name: spec.dataset.name,
        field: 'spec.dataset.name',
      });
      return { dataset };
    },
    hotUpdate: () => true,
    // Nothing is served before the first version is deployed.
    isServed: (job, position) =>
      job.status?.deployedModel !== undefined ||
      (position?.stage === 'Deploy' && ['Ready', 'Starting', 'Running'].includes(position.state)),
    createInferencePod: async (job, _references, at) =>
      await createInferencePod(job, { ...at, index: deployedIndex(job) }, ports),
    servingDigest: ({ spec }, _references, { group }) =>
      servingDigest({ overrides: group.overrides ?? null, template: spec.deploySpec.template }),
    checkPlacement: (_job, { groups }) => requireOverrides(groups, ['resources', 'env']),
    rollout: (job) => job.spec.deploySpec.rollout,
    resolvedGroup: (_job, { overrides }) => sharedPart(overrides),
    createStagePod: async (job, { dataset }, at) => {
      const { url: datasetUrl, nodeName: datasetNode } = dataset.spec;
      return await createStagePod(job, { ...at, datasetUrl, datasetNode }, ports);
    },
    assignments(inputs) {
      const index: StageModel = { format: 'json', url: deployedIndex(inputs.job) };
      return addressed(inputs, {
        initialModel: index,
        deployModel: index,
        hotUpdate: true,
        evaluatesPair: false,
        trainTrigger: inputs.job.spec.trainSpec.trigger,
        deployTrigger: { condition: { operator: '>', threshold: 0, metric: 'admitted' } },
      });
    },
    extendStatus: ({ knowledgeBase }) => (knowledgeBase ? { knowledgeBase } : {}),
  };
}
