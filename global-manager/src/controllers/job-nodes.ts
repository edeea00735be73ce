import type { KubernetesObject } from '@shoal/api';
import type { Records, WorkObject } from '../edge-link/records.ts';
import type { KubeObject } from '../kube/kube-api.ts';
import { phaseOf } from './pod-trouble.ts';

/** Where a pod runs; undefined while that is not known. */
export function nodeOf(pod: KubeObject): string | undefined {
  return (pod as unknown as { spec?: { nodeName?: string } }).spec?.nodeName;
}

export function hasEnded(pod: KubeObject): boolean {
  return ['Succeeded', 'Failed'].includes(phaseOf(pod));
}

/** Nodes that pods are on. */
export function nodesOf(pods: Iterable<KubeObject>): string[] {
  const nodes = [...pods].map(nodeOf).filter((node) => node !== undefined);
  return [...new Set(nodes)];
}

/** A job as the records of nodes name it. */
export function workOf(kind: string, { metadata }: Pick<KubernetesObject, 'metadata'>): WorkObject {
  const { namespace = '', name, uid = '' } = metadata;
  return { kind, namespace, name, uid };
}

/**
 * Lets nodes say something of a job whose records do not name it: those of an earlier job of its name,
 * which went unnoticed, are forgotten.
 */
export function admitAnew(records: Records, work: WorkObject, nodes: readonly string[]): void {
  if (records.isSuccessor(work)) records.forget(work);
  records.admit(work, nodes);
}
