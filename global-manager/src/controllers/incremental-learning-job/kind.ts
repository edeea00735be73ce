import type { IncrementalLearningJob, Model } from '@shoal/api';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import { requireDataset, requireModel } from '../references.ts';
import type { WorkerPorts } from '../stage-job/pods.ts';
import type { StageJobKind } from '../stage-job/stage-job.ts';
import { assignments, type IncrementalReferences } from './assignment.ts';
import { createInferencePod, createStagePod } from './workers.ts';

/** What incremental learning adds to the stages: models to start from, to serve and to compare with. */
export function incrementalLearning(
  ports: WorkerPorts & { readonly models: ObjectCache; readonly datasets: ObjectCache },
): StageJobKind<IncrementalLearningJob, IncrementalReferences> {
  const { models, datasets } = ports;
  return {
    kind: 'IncrementalLearningJob',
    name: 'incremental-learning-job',
    resolve({ metadata, spec }) {
      const { namespace = '' } = metadata;
      const { dataset, initialModel, deploySpec, evalSpec } = spec;
      const model = (name: string, field: string): Model =>
        requireModel(models, namespace, { name, field });
      return {
        dataset: requireDataset(datasets, namespace, {
          name: dataset.name,
          field: 'spec.dataset.name',
        }),
        initialModel: model(initialModel.name, 'spec.initialModel.name'),
        deployModel: model(deploySpec.model.name, 'spec.deploySpec.model.name'),
        evalModel: evalSpec.initialEvalModel
          ? model(evalSpec.initialEvalModel.name, 'spec.evalSpec.initialEvalModel.name')
          : undefined,
      };
    },
    hotUpdate: (job) => job.spec.deploySpec.model.hotUpdateEnabled === true,
    // The model is served from the start.
    isServed: () => true,
    createInferencePod: async (job, { deployModel }) =>
      await createInferencePod(job, deployModel, ports),
    createStagePod: async (job, { dataset }, at) => {
      const { url: datasetUrl, nodeName: datasetNode } = dataset.spec;
      return await createStagePod(job, { ...at, datasetUrl, datasetNode }, ports);
    },
    assignments,
  };
}
