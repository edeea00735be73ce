import { ShoalError } from '@shoal/core';
import type { BenchmarkData } from '../data/benchmark-data.ts';
import type { CaseContext } from '../paradigms/case-context.ts';
import { redacted } from '../plan/secrets.ts';

/** An object as the API server returns it. */
export interface StoredObject {
  readonly status?: unknown;
  readonly spec?: unknown;
}

/** What a case needs of the cluster it runs on. */
export interface ClusterAccess {
  readonly cloudNode: string;
  readonly edgeNodes: readonly string[];
  /** A path of a node's file system as this process sees it (parents are made). */
  readonly nodePath: (node: string, path: string) => string;
  readonly apply: (objects: readonly object[]) => Promise<void>;
  readonly get: (kind: string, name: string) => Promise<StoredObject | undefined>;
  readonly remove: (kind: string, name: string) => Promise<void>;
  /** The last lines of a pod’s log; empty where there is none. */
  readonly logOf: (pod: string) => Promise<string>;
}

/** A case on its way through the cluster. */
export interface ClusterCase {
  readonly access: ClusterAccess;
  readonly context: CaseContext;
  readonly data: BenchmarkData;
  /** Name of its objects. */
  readonly name: string;
  readonly timeLimitSeconds: number;
}

/**
 * Removes what a case made, or what one that was killed left behind. What cannot be removed does not
 * hide why the case ended.
 */
export async function removeAll(
  { access }: ClusterCase,
  objects: readonly (readonly [kind: string, name: string])[],
): Promise<void> {
  await Promise.allSettled(objects.map(async ([kind, name]) => await access.remove(kind, name)));
}

const POLL_MS = 150;

/** Waits for an object to get somewhere. @throws ShoalError `deadline_exceeded` with its last state. */
export async function until(
  { access, context, timeLimitSeconds }: ClusterCase,
  object: { readonly kind: string; readonly name: string; readonly what: string },
  reached: (object: StoredObject) => boolean,
): Promise<StoredObject> {
  const deadline = Date.now() + timeLimitSeconds * 1000;
  for (;;) {
    context.signal.throwIfAborted();
    const found = await access.get(object.kind, object.name);
    if (found && reached(found)) return found;
    if (Date.now() > deadline)
      throw new ShoalError(
        'deadline_exceeded',
        `${object.kind} ${object.name} did not get to "${object.what}" in ${timeLimitSeconds} s: ${JSON.stringify(found?.status ?? null).slice(0, 400)}`,
      );
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

const IMAGE = 'shoal/examples:0.1.0';

interface MoreOfContainer {
  readonly env?: readonly EnvironmentVariable[];
  readonly ports?: readonly object[];
  readonly readinessProbe?: object;
}

interface EnvironmentVariable {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: object;
}

/** A container that runs a file of the suite with a case. */
export function container(file: string, c: ClusterCase, more: MoreOfContainer = {}): object {
  const { env = [], ...rest } = more;
  // Whoever can read pods reads this: it holds no secrets.
  const planned = { name: 'SHOAL_BENCH_CASE', value: JSON.stringify(redacted(c.context.case)) };
  return {
    name: 'worker',
    image: IMAGE,
    command: ['node', `benchmark/src/on-cluster/${file}`],
    env: [planned, ...env],
    ...rest,
  };
}

/** Where a pod of a case finds the case's folder of its node. */
export const CASE_FOLDER = '/home/data/case';

/** The pod of one container that uses the case's folder of its node. */
export function podOf(c: ClusterCase, nodeName: string, worker: object): object {
  const path = `/bench/${c.name}`;
  return {
    nodeName,
    containers: [{ ...worker, volumeMounts: [{ name: 'case', mountPath: CASE_FOLDER }] }],
    volumes: [{ name: 'case', hostPath: { path, type: 'DirectoryOrCreate' } }],
  };
}

export function edgeOf({ access }: ClusterCase, i = 0): string {
  return access.edgeNodes[i % access.edgeNodes.length] ?? access.cloudNode;
}

export function object(kind: string, name: string, spec: object): object {
  return { apiVersion: 'sedna.io/v1alpha1', kind, metadata: { name }, spec };
}

/** Whether an Endpoints object has a worker that is ready. */
export function hasAddress(endpoints: StoredObject): boolean {
  const { subsets } = endpoints as { subsets?: { addresses?: unknown[] }[] };
  return (subsets?.[0]?.addresses?.length ?? 0) > 0;
}
