import type { StageAssignment } from '@shoal/api';
import type { StagePosition } from '../../stages/machine.ts';
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
  | 'guards'
  | 'spool'
  | 'pinned'
>;

/** What came before this stage, and what is being or was deployed. */
function standing(
  job: StageJob,
  position: StagePosition,
): Pick<StageAssignment, 'previous' | 'accepted' | 'served'> {
  const previous = newestOutput(job, position.stage === 'Deploy' ? 'Eval' : 'Train');
  const deploying =
    position.stage === 'Deploy' && ['Ready', 'Starting', 'Running'].includes(position.state);
  const accepted = deploying ? currentInput(job, 'Deploy')?.models?.[0]?.digest : undefined;
  const served = job.status?.deployedModel;
  return {
    ...(previous ? { previous } : {}),
    ...(accepted ? { accepted } : {}),
    ...(served ? { served } : {}),
  };
}

/** Where stages write on their node: `outputDir`, or a folder of the job when that is in S3. */
export function workingFolder(job: StageJob): string {
  const { outputDir } = job.spec;
  if (!outputDir.startsWith('s3://')) return outputDir;
  const { namespace = 'default', name, uid = '' } = job.metadata;
  return `/var/lib/sedna/output/${namespace}/${name}-${uid.slice(0, 8)}`;
}

/**
 * An assignment for each node that works for a job, with the roles it has.
 *
 * @param ofNode What is different on a node.
 */
export function addressed<Job extends StageJob, References extends StageReferences>(
  inputs: AssignmentInputs<Job, References>,
  own: OwnPart,
  ofNode: (node: string) => Partial<OwnPart> = () => ({}),
): Map<string, StageAssignment> {
  const { job, references, position, deployNodes } = inputs;
  const { name, namespace = '', uid = '', generation = 1 } = job.metadata;
  const { dataset } = references;
  const base = {
    ...own,
    metadata: { name, namespace, uid, generation },
    dataset: datasetAssignment(dataset),
    trainProb: job.spec.dataset.trainProb,
    outputDir: workingFolder(job),
    ...position,
    ...standing(job, position),
  };
  const found = new Map<string, StageAssignment>();
  const add = (node: string | undefined, role: StageAssignment['roles'][number]): void => {
    if (!node) return;
    const known = found.get(node);
    const part = ofNode(node);
    found.set(node, { ...base, ...part, ...known, roles: [...(known?.roles ?? []), role] });
  };
  add(dataset.spec.nodeName, 'dataset');
  const { labelled, driftAlarms } = inputs.observed ?? {};
  for (const [node, assignment] of found)
    found.set(node, {
      ...assignment,
      ...(labelled ? { labelled } : {}),
      ...(driftAlarms ? { driftAlarms } : {}),
    });
  add(inputs.workerNode, 'worker');
  for (const node of new Set(deployNodes)) add(node, 'deploy');
  for (const node of inputs.observed?.spooling ?? [])
    if (!found.has(node)) found.set(node, { ...base, roles: [] });
  return found;
}
