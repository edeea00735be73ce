import type { StageAssignment } from '@shoal/api';
import { datasetAssignment } from '../dataset/controller.ts';
import type { AssignmentInputs, StageJob, StageReferences } from './stage-job.ts';
import { currentInput, newestOutput } from './status.ts';

/** What a paradigm says of a job beside what all jobs with stages have. */
export type OwnPart = Pick<
  StageAssignment,
  | 'initialModel'
  | 'deployModel'
  | 'evalModel'
  | 'hotUpdate'
  | 'evaluatesPair'
  | 'trainTrigger'
  | 'deployTrigger'
>;

/** An assignment for each node that works for a job, with the roles it has. */
export function addressed<Job extends StageJob, References extends StageReferences>(
  inputs: AssignmentInputs<Job, References>,
  own: OwnPart,
): Map<string, StageAssignment> {
  const { job, references, position, deployNodes } = inputs;
  const { dataset } = references;
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
    ...own,
    metadata: { name, namespace, uid, generation },
    dataset: datasetAssignment(dataset),
    trainProb: job.spec.dataset.trainProb,
    outputDir: job.spec.outputDir,
    ...position,
    ...(previous ? { previous } : {}),
    ...(accepted ? { accepted } : {}),
    ...(served ? { served } : {}),
  };
  const found = new Map<string, StageAssignment>();
  const add = (node: string | undefined, role: StageAssignment['roles'][number]): void => {
    if (!node) return;
    const roles = [...(found.get(node)?.roles ?? []), role];
    found.set(node, { ...base, roles });
  };
  add(dataset.spec.nodeName, 'dataset');
  add(inputs.workerNode, 'worker');
  for (const node of new Set(deployNodes)) add(node, 'deploy');
  return found;
}
