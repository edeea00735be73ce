import {
  type RolloutReport,
  type RolloutStatus,
  recordKey,
  type StageAssignment,
  type StageReport,
} from '@shoal/api';
import type { Records } from '../../edge-link/records.ts';
import {
  beginRollout,
  type NodeStanding,
  nextRollout,
  type RolloutInputs,
  type RolloutPolicy,
  toldOf,
} from '../../rollout/plan.ts';
import type { StagePosition } from '../../stages/machine.ts';
import type { PlacedWorker, StageJob } from './stage-job.ts';
import { currentInput } from './status.ts';

/** A job whose models are rolled out group by group. */
export interface RolledJob {
  readonly kind: string;
  readonly job: StageJob;
  readonly policy: RolloutPolicy;
  /** Nodes of its groups, or undefined where it has none. */
  readonly placed: readonly PlacedWorker[] | undefined;
  /** Nodes that serve a model. */
  readonly serving: readonly string[];
}

/** Digest of the model that is being deployed. */
function acceptedNow(job: StageJob, { stage, state }: StagePosition): string | undefined {
  const deploying = stage === 'Deploy' && ['Ready', 'Starting', 'Running'].includes(state);
  return deploying ? currentInput(job, 'Deploy')?.models?.[0]?.digest : undefined;
}

function groupNames({ spec }: StageJob): string[] {
  return spec.placement ? spec.placement.groups.map((g) => g.name) : [''];
}

function standingOf(
  { kind, job }: RolledJob,
  at: { readonly node: string; readonly group: string; readonly digest: string },
  position: StagePosition,
  records: Records,
): NodeStanding {
  const { node, group, digest } = at;
  const { uid } = job.metadata;
  const key = (part: string): string => recordKey(kind, job.metadata, part);
  const serving = records.record<StageReport>(node, key('Serving'));
  const isOfNow =
    serving?.uid === uid && serving?.round === position.round && serving.stage === 'Deploy';
  if (isOfNow && serving.status === 'completed') return { node, group, state: 'updated' };
  if (isOfNow && serving.status === 'failed')
    return {
      node,
      group,
      state: 'failed',
      ...(serving.message ? { reason: serving.message } : {}),
    };
  const report = records.record<RolloutReport>(node, key('Rollout'));
  if (report?.uid !== uid || report?.digest !== digest) return { node, group, state: 'none' };
  return { node, group, state: report.state === 'held' ? 'held' : 'pulled' };
}

/** Where the rollout of a job stands now, or undefined while no model is being deployed. */
export function rolloutNow(
  rolled: RolledJob,
  position: StagePosition,
  ports: {
    readonly records: Records;
    readonly nowMs: number;
    readonly listeningSinceMs: number;
  },
): RolloutStatus | undefined {
  const { job, policy, placed, serving } = rolled;
  const digest = acceptedNow(job, position);
  if (digest === undefined) return undefined;
  const nodes = placed
    ? placed.map((p) => ({ node: p.node, group: p.group.name }))
    : serving.map((node) => ({ node, group: '' }));
  const inputs: RolloutInputs = {
    policy,
    groups: groupNames(job),
    nodes: nodes.map((at) => standingOf(rolled, { ...at, digest }, position, ports.records)),
    nowMs: ports.nowMs,
    listeningSinceMs: ports.listeningSinceMs,
  };
  const { rollout } = job.status ?? {};
  const { round } = position;
  if (rollout?.digest === digest && rollout.round === round) return nextRollout(rollout, inputs);
  return beginRollout({ digest, previous: job.status?.deployedModel ?? '', round }, inputs);
}

/** What the stage machine is told of the serving nodes: all of them together. */
export function rolloutReport(
  { job }: RolledJob,
  { round }: StagePosition,
): StageReport | undefined {
  const { rollout } = job.status ?? {};
  if (rollout?.round !== round) return undefined;
  const report = { uid: job.metadata.uid ?? '', round, stage: 'Deploy' } as const;
  if (rollout.phase === 'Completed') return { ...report, status: 'completed' };
  if (rollout.phase !== 'RolledBack') return undefined;
  return { ...report, status: 'failed', message: `rolled back: ${rollout.message ?? ''}` };
}

/** Assignments as the rollout has them: who serves the new model, who fetches it, who goes back. */
export function rolledOut(
  assignments: ReadonlyMap<string, StageAssignment>,
  { job, policy, placed }: RolledJob,
): ReadonlyMap<string, StageAssignment> {
  const { rollout } = job.status ?? {};
  const positions = new Map(groupNames(job).map((name, i) => [name, i]));
  const groupOf = new Map(placed?.map((p) => [p.node, p.group.name]));
  const told = (node: string, assignment: StageAssignment): StageAssignment => {
    const { accepted, ...rest } = assignment;
    // A node that was away, or comes later, waits for its release as the others did.
    const hold = policy.hold === 'edge' ? { hold: true } : {};
    const isBack = rollout?.phase === 'RolledBack' && rollout.digest !== assignment.served;
    if (isBack && rollout.digest !== undefined) return { ...rest, withdrawn: rollout.digest };
    if (accepted === undefined) return { ...assignment, ...hold };
    // Not begun yet: nobody hears of it.
    if (rollout?.digest !== accepted || rollout.round !== assignment.round) return rest;
    const what = toldOf(rollout, policy, positions.get(groupOf.get(node) ?? '') ?? 0);
    if (what === 'serve') return { ...assignment, ...hold };
    return what === 'fetch' ? { ...rest, prefetch: accepted } : rest;
  };
  return new Map(
    [...assignments].map(([node, a]) => [node, a.roles.includes('deploy') ? told(node, a) : a]),
  );
}
