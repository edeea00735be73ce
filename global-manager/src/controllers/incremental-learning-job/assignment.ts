import {
  type Dataset,
  type IncrementalAssignment,
  type IncrementalLearningJob,
  type Model,
  type StageModel,
} from '@shoal/api';
import type { StagePosition } from '../../stages/machine.ts';
import { datasetAssignment } from '../dataset/controller.ts';
import { currentInput, newestOutput } from './status.ts';

export interface AssignmentInputs {
  readonly job: IncrementalLearningJob;
  readonly dataset: Dataset;
  readonly initialModel: Model;
  readonly deployModel: Model;
  readonly evalModel: Model | undefined;
  readonly position: StagePosition;
  /** Nodes where an inference pod runs. */
  readonly deployNodes: readonly string[];
  /** Node of the stage's worker, which reports there. */
  readonly workerNode: string | undefined;
}

function stageModel(model: Model): StageModel {
  return { format: model.spec.format, url: model.spec.url };
}

/** What each node is told of a job: the dataset's node and the nodes that serve the model. */
export function assignments(inputs: AssignmentInputs): Map<string, IncrementalAssignment> {
  const { job, dataset, position, deployNodes } = inputs;
  const { name, namespace = '', uid = '', generation = 1 } = job.metadata;
  const previous =
    position.stage === 'Train'
      ? newestOutput(job, 'Train')
      : newestOutput(job, position.stage === 'Eval' ? 'Train' : 'Eval');
  const deploying =
    position.stage === 'Deploy' && ['Ready', 'Starting', 'Running'].includes(position.state);
  const accepted = deploying ? currentInput(job, 'Deploy')?.models?.[0]?.digest : undefined;
  const served = job.status?.deployedModel;
  const base = {
    metadata: { name, namespace, uid, generation },
    dataset: datasetAssignment(dataset),
    trainProb: job.spec.dataset.trainProb,
    initialModel: stageModel(inputs.initialModel),
    deployModel: stageModel(inputs.deployModel),
    ...(inputs.evalModel ? { evalModel: stageModel(inputs.evalModel) } : {}),
    hotUpdate: job.spec.deploySpec.model.hotUpdateEnabled === true,
    hardExampleMining: job.spec.deploySpec.hardExampleMining,
    trainTrigger: job.spec.trainSpec.trigger,
    deployTrigger: job.spec.deploySpec.trigger,
    outputDir: job.spec.outputDir,
    ...position,
    ...(previous ? { previous } : {}),
    ...(accepted ? { accepted } : {}),
    ...(served ? { served } : {}),
  };
  const found = new Map<string, IncrementalAssignment>();
  const add = (node: string | undefined, role: IncrementalAssignment['roles'][number]): void => {
    if (!node) return;
    const roles = [...(found.get(node)?.roles ?? []), role];
    found.set(node, { ...base, roles });
  };
  add(dataset.spec.nodeName, 'dataset');
  add(inputs.workerNode, 'worker');
  for (const node of new Set(deployNodes)) add(node, 'deploy');
  return found;
}
