import { type ApiObject, digList, digString } from '../object.ts';

/** True when the pod passes its readiness checks. */
export function isReady(pod: ApiObject): boolean {
  const ready = digList(pod, 'status', 'conditions').find((c) => digString(c, 'type') === 'Ready');
  return digString(ready, 'status') === 'True';
}

/** True while the pod counts as a replica: neither ended nor going. */
export function isActive(pod: ApiObject): boolean {
  const phase = digString(pod, 'status', 'phase');
  return (
    phase !== 'Succeeded' && phase !== 'Failed' && pod.metadata.deletionTimestamp === undefined
  );
}

export function isOwnedBy(object: ApiObject, uid: string | undefined): boolean {
  return (
    object.metadata.ownerReferences?.some((r) => r.controller === true && r.uid === uid) ?? false
  );
}
