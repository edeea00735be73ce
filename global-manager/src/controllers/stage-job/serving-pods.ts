import { type Clock, canonicalJson, digestOf } from '@shoal/core';
import { type KubeApi, type KubeObject, POD } from '../../kube/kube-api.ts';
import { NODE_LABEL, nodeLabel } from '../../placement/groups.ts';
import type { ObjectCache } from '../../reconcile/object-cache.ts';
import { hasEnded, nodeOf } from '../job-nodes.ts';
import { endedAt } from '../pod-trouble.ts';
import { type JobPods } from './job-pods.ts';
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

/** Label with the digest of what a placed worker runs with. */
const SERVING_DIGEST = 'shoal.dev/serving-digest';

/** Labels of a placed worker. */
export function placedLabels(node: string, digest: string): Record<string, string> {
  return { [NODE_LABEL]: nodeLabel(node), [SERVING_DIGEST]: digest };
}

/** A digest as a label's value. */
export function servingDigest(of: object): string {
  return digestOf(canonicalJson(of)).slice(7, 23);
}

/**
 * Keeps a pod that serves on every node of the groups, or one where the template says: also again, after
 * a while, when it has ended. One that runs with something else than its group has now is replaced.
 *
 * @param wanted.placed Nodes of the groups; undefined for a job that has none.
 * @returns Milliseconds until a new pod is due, while one is missing.
 */
export async function ensureServing(
  own: JobPods,
  wanted: {
    readonly placed: readonly PlacedWorker[] | undefined;
    readonly create: (at: PlacedWorker | undefined, digest: string) => Promise<KubeObject>;
    readonly digest: (at: PlacedWorker) => string;
  },
  ports: ServingPorts,
): Promise<number | undefined> {
  const { placed, create, digest } = wanted;
  const places = new Map(placed?.map((p) => [nodeLabel(p.node), p]));
  const isWanted = (pod: KubeObject): boolean => {
    const { labels } = pod.metadata;
    if (!placed) return labels?.[NODE_LABEL] === undefined;
    const place = places.get(labels?.[NODE_LABEL] ?? '');
    return place !== undefined && labels?.[SERVING_DIGEST] === digest(place);
  };
  const all = own.of('inference');
  for (const pod of all) if (!isWanted(pod)) await deletePod(ports.api, pod);
  const here = grouped(all.filter(isWanted));
  // What is going still has its ports and files: also where it went by another label.
  const going = new Set([...own.going(), ...all.filter((p) => !isWanted(p))].map(nodeOf));
  const waits: number[] = [];
  for (const at of placed ?? [undefined]) {
    if (at ? going.has(at.node) : going.size > 0) continue;
    const pods = here.get(at && nodeLabel(at.node)) ?? [];
    const wait = await ensureOne(pods, {
      ...ports,
      create: async () => await create(at, at ? digest(at) : ''),
    });
    if (wait !== undefined) waits.push(wait);
  }
  return waits.length > 0 ? Math.min(...waits) : undefined;
}

/** Pods by the label of their node. */
function grouped(pods: readonly KubeObject[]): Map<string | undefined, KubeObject[]> {
  const found = new Map<string | undefined, KubeObject[]>();
  for (const pod of pods) {
    const label = pod.metadata.labels?.[NODE_LABEL];
    found.set(label, [...(found.get(label) ?? []), pod]);
  }
  return found;
}

async function ensureOne(
  here: readonly KubeObject[],
  { api, pods, clock, create }: ServingPorts & { create: () => Promise<KubeObject> },
): Promise<number | undefined> {
  if (here.some((p) => !hasEnded(p))) return undefined;
  const last = Math.max(0, ...here.map((p) => endedAt(p) ?? 0));
  const wait = last + RESTART_DELAY_MS - clock.now();
  if (here.length > 0 && wait > 0) return wait;
  for (const pod of here) await deletePod(api, pod);
  pods.observe(await create());
  return undefined;
}
