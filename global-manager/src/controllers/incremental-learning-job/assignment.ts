import type {
  Dataset,
  IncrementalLearningJob,
  Model,
  StageAssignment,
  StageModel,
} from '@shoal/api';
import { addressed } from '../stage-job/assignment.ts';
import type { AssignmentInputs } from '../stage-job/stage-job.ts';

/** What an incremental learning job refers to, found. */
export interface IncrementalReferences {
  readonly dataset: Dataset;
  readonly initialModel: Model;
  readonly deployModel: Model;
  readonly evalModel: Model | undefined;
}

function stageModel(model: Model): StageModel {
  return { format: model.spec.format, url: model.spec.url };
}

/** What each node is told of a job: the dataset's node and the nodes that serve the model. */
export function assignments(
  inputs: AssignmentInputs<IncrementalLearningJob, IncrementalReferences>,
): Map<string, StageAssignment> {
  const { job, references } = inputs;
  return addressed(inputs, {
    initialModel: stageModel(references.initialModel),
    deployModel: stageModel(references.deployModel),
    ...(references.evalModel ? { evalModel: stageModel(references.evalModel) } : {}),
    hotUpdate: job.spec.deploySpec.model.hotUpdateEnabled === true,
    evaluatesPair: true,
    trainTrigger: job.spec.trainSpec.trigger,
    deployTrigger: job.spec.deploySpec.trigger,
  });
}
