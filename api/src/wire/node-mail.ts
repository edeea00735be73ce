import { digestOf, isJsonObject } from '@shoal/core';
import type { ObjectMeta } from '../schema/metadata.ts';

/** Label of nodes whose link is a Kubernetes API server. */
export const LINK_LABEL = 'shoal.dev/link';
export const KUBERNETES_LINK = 'kubernetes';
/** Name of the Lease of a node's session. */
export const SESSION_LEASE = 'edge-link';

const PREFIX = 'shoal-node-';
const MAX_NAME = 63;

/** Namespace with what a node should know and what it says; only the node and the cloud may use it. */
export function nodeNamespace(node: string): string {
  const name = `${PREFIX}${node.replaceAll('.', '-')}`;
  const isPlain = name.length <= MAX_NAME && !node.includes('.');
  return isPlain ? name : `${name.slice(0, MAX_NAME - 9)}-${digestOf(node).slice(7, 15)}`;
}

/** What a node should know, as an object of kind NodeObject. */
export interface NodeObject {
  readonly metadata: ObjectMeta;
  readonly spec: {
    readonly kind: string;
    readonly namespace?: string;
    readonly name: string;
    readonly uid: string;
    readonly digest: string;
    readonly body: string;
  };
}

/** What a node says, as an object of kind NodeRecord. */
export interface NodeRecord {
  readonly metadata: ObjectMeta;
  readonly spec: {
    readonly edgeStore: string;
    readonly stream: string;
    readonly seq: number;
    readonly first?: number;
    readonly idempotencyKey?: string;
    readonly key: string;
    readonly body: string;
  };
}

/** Part of the key under which a node says that it refused an object. */
export const REFUSED_PART = 'Refused';

/** Body of that record. */
export interface Refusal {
  /** Of the body that was refused. */
  readonly digest: string;
  /** Resource version of the NodeObject it was read from. */
  readonly version: string;
  readonly error: string;
}

export function isRefusal(value: unknown): value is Refusal {
  return (
    isJsonObject(value) && ['digest', 'version', 'error'].every((f) => typeof value[f] === 'string')
  );
}

/** Name of the NodeObject of an object. */
export function nodeObjectName(of: { kind: string; namespace: string; name: string }): string {
  const digest = digestOf(`${of.kind}/${of.namespace}/${of.name}`).slice(7, 27);
  return `${of.kind.toLowerCase()}-${digest}`;
}

/** Name of the NodeRecord of a record: one for every key of state, one for every entry of a log. */
export function nodeRecordName(of: {
  edgeStore: string;
  stream: string;
  seq: number;
  key: string;
}): string {
  if (of.stream === 'state') return `state-${digestOf(of.key).slice(7, 27)}`;
  const stream = digestOf(`${of.edgeStore}/${of.stream}`).slice(7, 19);
  return `log-${stream}-${String(of.seq).padStart(12, '0')}`;
}
