import type {
  Dataset,
  GuardedFigure,
  IncrementalLearningJob,
  Model,
  SpoolLimits,
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
  /** Models that groups begin with instead, by the group. */
  readonly groupModels: ReadonlyMap<string, Model>;
  readonly evalModel: Model | undefined;
  /** Labels what it is sure of. */
  readonly labelModel: Model | undefined;
  /** Datasets of the guards that have one, in their order. */
  readonly guardDatasets: readonly Dataset[];
}

const EDGE_SPOOL = { maxSamples: 1_000, maxBytes: 64 * 1024 * 1024 };
const IN_CLOUD = 10_000;

function spoolOf({ hardExamples }: IncrementalLearningJob['spec']): SpoolLimits | undefined {
  if (!hardExamples) return undefined;
  const { maxSamples, maxBytes } = { ...EDGE_SPOOL, ...hardExamples.edgeSpool };
  return { maxSamples, maxBytes, inCloud: hardExamples.maxSamples ?? IN_CLOUD };
}

function guardsOf({ evalSpec }: IncrementalLearningJob['spec']): GuardedFigure[] {
  return (evalSpec.guards ?? []).map(({ name, metric = 'accuracy', maxDrop = 0 }) => ({
    name,
    figure: `${metric}@${name}`,
    maxDrop,
  }));
}

function stageModel(model: Model): StageModel {
  return { format: model.spec.format, url: model.spec.url };
}

/** What each node is told of a job: the dataset's node and the nodes that serve the model. */
export function assignments(
  inputs: AssignmentInputs<IncrementalLearningJob, IncrementalReferences>,
): Map<string, StageAssignment> {
  const { job, references } = inputs;
  const spool = spoolOf(job.spec);
  const guards = guardsOf(job.spec);
  const { pin } = job.spec.deploySpec.model;
  const own = {
    initialModel: stageModel(references.initialModel),
    deployModel: stageModel(references.deployModel),
    ...(references.evalModel ? { evalModel: stageModel(references.evalModel) } : {}),
    hotUpdate: job.spec.deploySpec.model.hotUpdateEnabled === true,
    evaluatesPair: true,
    trainTrigger: job.spec.trainSpec.trigger,
    deployTrigger: job.spec.deploySpec.trigger,
    ...(spool ? { spool } : {}),
    ...(guards.length > 0 ? { guards } : {}),
    ...(pin ? { pinned: pin } : {}),
  };
  const groupOf = new Map(inputs.placed?.map((p) => [p.node, p.group.name]));
  return addressed(inputs, own, (node) => {
    const group = groupOf.get(node);
    const model = group === undefined ? undefined : references.groupModels.get(group);
    return model ? { deployModel: stageModel(model) } : {};
  });
}
