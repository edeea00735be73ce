import { isJsonObject, type JsonObject } from '@shoal/core';

/** Metadata of any Kubernetes object. */
export interface Metadata {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  generateName?: string;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
  ownerReferences?: OwnerRef[];
  managedFields?: unknown[];
  [field: string]: unknown;
}

export interface OwnerRef {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

/** Any Kubernetes object. Objects read from the store are shared: copy before changing. */
export interface ApiObject {
  apiVersion: string;
  kind: string;
  metadata: Metadata;
  spec?: JsonObject;
  status?: JsonObject;
  [field: string]: unknown;
}

/** Follows keys and indices into a JSON value; undefined when the path leads nowhere. */
export function dig(value: unknown, ...path: (string | number)[]): unknown {
  let here = value;
  for (const step of path) {
    if (Array.isArray(here) && typeof step === 'number') here = here.at(step);
    else if (isJsonObject(here) && typeof step === 'string') here = here[step];
    else return undefined;
  }
  return here;
}

export function digString(value: unknown, ...path: (string | number)[]): string | undefined {
  const found = dig(value, ...path);
  return typeof found === 'string' ? found : undefined;
}

/** Text of a JSON scalar; empty for anything else. */
export function scalarText(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
    ? String(value)
    : '';
}

export function digNumber(value: unknown, ...path: (string | number)[]): number | undefined {
  const found = dig(value, ...path);
  return typeof found === 'number' ? found : undefined;
}

export function digObject(value: unknown, ...path: (string | number)[]): JsonObject {
  const found = dig(value, ...path);
  return isJsonObject(found) ? found : {};
}

export function digList(value: unknown, ...path: (string | number)[]): unknown[] {
  const found = dig(value, ...path);
  return Array.isArray(found) ? found : [];
}
