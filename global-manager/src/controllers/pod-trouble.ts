import { isJsonObject, type JsonObject } from '@shoal/core';
import type { KubeObject } from '../kube/kube-api.ts';

function objects(value: unknown): JsonObject[] {
  return Array.isArray(value) ? value.filter(isJsonObject) : [];
}

/** A pod's phase. */
export function phaseOf(pod: KubeObject): string {
  const status = pod['status'];
  return isJsonObject(status) && typeof status['phase'] === 'string' ? status['phase'] : 'Pending';
}

/** What keeps a pod from running, in one sentence; undefined when nothing does. */
export function troubleOf(pod: KubeObject): string | undefined {
  const status = isJsonObject(pod['status']) ? pod['status'] : {};
  const unscheduled = objects(status['conditions']).find(
    (c) => c['type'] === 'PodScheduled' && c['status'] === 'False',
  );
  if (unscheduled) return String(unscheduled['message']);
  for (const container of [
    ...objects(status['initContainerStatuses']),
    ...objects(status['containerStatuses']),
  ]) {
    const state = isJsonObject(container['state']) ? container['state'] : {};
    const waiting = isJsonObject(state['waiting']) ? state['waiting'] : undefined;
    const reason = waiting?.['reason'];
    if (waiting && typeof waiting['message'] === 'string')
      return `container ${container['name']}: ${reason}: ${waiting['message']}`;
    const ended = isJsonObject(state['terminated']) ? state['terminated'] : undefined;
    if (ended && ended['exitCode'] !== 0)
      return `container ${container['name']} ended with exit code ${ended['exitCode']}; see: kubectl logs ${pod.metadata.name} -n ${pod.metadata.namespace}`;
  }
  return undefined;
}

/** When a pod's last container ended, in milliseconds since the epoch; undefined while one runs. */
export function endedAt(pod: KubeObject): number | undefined {
  const status = isJsonObject(pod['status']) ? pod['status'] : {};
  const times = objects(status['containerStatuses']).map((c) => {
    const ended = isJsonObject(c['state']) ? c['state']['terminated'] : undefined;
    return isJsonObject(ended) ? Date.parse(String(ended['finishedAt'])) : Number.NaN;
  });
  return times.length > 0 && times.every((t) => Number.isFinite(t))
    ? Math.max(...times)
    : undefined;
}

/** Whether every container of a pod is ready. */
export function isReady(pod: KubeObject): boolean {
  const status = isJsonObject(pod['status']) ? pod['status'] : {};
  const containers = objects(status['containerStatuses']);
  return containers.length > 0 && containers.every((c) => c['ready'] === true);
}
