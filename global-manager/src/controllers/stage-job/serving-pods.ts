import type { Clock } from '@shoal/core';
import { type KubeApi, type KubeObject, POD } from '../../kube/kube-api.ts';
import { NODE_LABEL, nodeLabel } from '../../placement/groups.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import { endedAt } from '../pod-trouble.ts';
import type { JobPods } from './job-pods.ts';
import type { PlacedWorker } from './stage-job.ts';

/** A pod that serves and ended is started again after this long. */
const RESTART_DELAY_MS = 10_000;

export interface ServingPorts {
  readonly api: KubeApi;
  readonly pods: ObjectCache;
  readonly clock: Clock;
}

export async function deletePod(api: KubeApi, pod: KubeObject): Promise<void> {
  await api.delete(POD, pod.metadata.namespace ?? '', pod.metadata.name);
}

/**
 * Keeps a pod that serves on every node of the groups, or one where the template says: also again, after
 * a while, when it has ended.
 *
 * @param placed Nodes of the groups; undefined for a job that has none.
 * @returns Milliseconds until a new pod is due, while one is missing.
 */
export async function ensureServing(
  own: JobPods,
  wanted: {
    readonly placed: readonly PlacedWorker[] | undefined;
    readonly create: (at: PlacedWorker | undefined) => Promise<KubeObject>;
  },
  ports: ServingPorts,
): Promise<number | undefined> {
  const { placed, create } = wanted;
  const labels = new Set(placed ? placed.map((p) => nodeLabel(p.node)) : [undefined]);
  for (const pod of own.of('inference'))
    if (!labels.has(pod.metadata.labels?.[NODE_LABEL])) await deletePod(ports.api, pod);
  const waits: number[] = [];
  for (const at of placed ?? [undefined]) {
    const wait = await ensureOne(own, at && nodeLabel(at.node), {
      ...ports,
      create: async () => await create(at),
    });
    if (wait !== undefined) waits.push(wait);
  }
  return waits.length > 0 ? Math.min(...waits) : undefined;
}

async function ensureOne(
  own: JobPods,
  label: string | undefined,
  { api, pods, clock, create }: ServingPorts & { create: () => Promise<KubeObject> },
): Promise<number | undefined> {
  const isHere = (pod: KubeObject): boolean => pod.metadata.labels?.[NODE_LABEL] === label;
  if (own.serving().some(isHere) || own.going().some(isHere)) return undefined;
  const ended = own.of('inference').filter(isHere);
  const last = Math.max(0, ...ended.map((p) => endedAt(p) ?? 0));
  const wait = last + RESTART_DELAY_MS - clock.now();
  if (ended.length > 0 && wait > 0) return wait;
  for (const pod of ended) await deletePod(api, pod);
  pods.observe(await create());
  return undefined;
}
