import type { JointInferenceService, RolloutStatus } from '@shoal/api';
import { canonicalJson, digestOf } from '@shoal/core';
import type { KubeObject } from '../../kube/kube-api.ts';
import {
  beginRollout,
  lookAgainMs,
  type NodeStanding,
  nextRollout,
  type RolloutInputs,
  rolloutPolicy,
  toldOf,
} from '../../rollout/plan.ts';
import {
  ensureDeployment,
  isOfTemplate,
  isSettled,
  revertDeployment,
  type WantedDeployment,
  type WorkerPorts,
} from './workers.ts';

interface RolloutPorts extends WorkerPorts {
  readonly nowMs: number;
  readonly listeningSinceMs: number;
}

/** What edge workers run with, whichever nodes they are on. */
function digestOfWorkers(
  { spec }: JointInferenceService,
  wanted: readonly WantedDeployment[],
): string {
  const { edgeWorker, placement, cloudAccess } = spec;
  const { template, hardExampleMining } = edgeWorker;
  const models = new Map(wanted.map((w) => [w.worker.placed?.group.name, w.worker.model.spec]));
  const groups = placement?.groups ?? [];
  const byGroup = groups.map(({ name, overrides }) => [name, overrides, models.get(name)]);
  return digestOf(
    canonicalJson(
      JSON.parse(JSON.stringify({ template, hardExampleMining, cloudAccess, byGroup })) as object,
    ),
  );
}

function standing(wanted: WantedDeployment): NodeStanding {
  const { node = '', group } = wanted.worker.placed ?? {};
  const { current } = wanted;
  const isUpdated = current !== undefined && isOfTemplate(wanted) && isSettled(current);
  return { node, group: group?.name ?? '', state: isUpdated ? 'updated' : 'none' };
}

/**
 * Brings the edge workers of a service to what is wanted: at once, or group by group, and back when too
 * many of a group do not come up.
 *
 * @returns Their Deployments, and how the rollout stands where there is a policy.
 */
export async function rollOutWorkers(
  service: JointInferenceService,
  wanted: readonly WantedDeployment[],
  ports: RolloutPorts,
): Promise<{ deployments: KubeObject[]; rollout?: RolloutStatus; lookAgainMs?: number }> {
  const { rollout: asked } = service.spec.edgeWorker;
  const deployments: KubeObject[] = [];
  if (!asked) {
    for (const w of wanted) deployments.push(await ensureDeployment(service, w, ports));
    return { deployments };
  }
  const policy = rolloutPolicy({ ...asked, prePull: 'group' });
  const groups = (service.spec.placement?.groups ?? []).map((g) => g.name);
  const inputs: RolloutInputs = { ...ports, policy, groups, nodes: wanted.map(standing) };
  const rollout = stateOf(service, digestOfWorkers(service, wanted), { wanted, inputs });
  for (const w of wanted) {
    const position = Math.max(0, groups.indexOf(w.worker.placed?.group.name ?? ''));
    const isBack = rollout.phase === 'RolledBack' && w.current && isOfTemplate(w);
    const isDue = !w.current || toldOf(rollout, policy, position) === 'serve';
    if (isBack && w.current) deployments.push(await revertDeployment(w.current, ports));
    else if (isDue) deployments.push(await ensureDeployment(service, w, ports));
    else if (w.current) deployments.push(w.current);
  }
  const waitMs = lookAgainMs(rollout, policy, inputs);
  return { deployments, rollout, ...(waitMs === undefined ? {} : { lookAgainMs: waitMs }) };
}

function stateOf(
  { status, metadata }: JointInferenceService,
  digest: string,
  { wanted, inputs }: { wanted: readonly WantedDeployment[]; inputs: RolloutInputs },
): RolloutStatus {
  const before = status?.rollout;
  if (before?.digest === digest) return nextRollout(before, inputs);
  const round = metadata.generation ?? 1;
  const begun = beginRollout({ digest, previous: before?.digest ?? '', round }, inputs);
  // Where nothing runs yet there is nothing to go back to, and nobody to wait for.
  return wanted.some((w) => w.current) ? begun : { ...begun, phase: 'Completed' };
}
