import type { ApiObject } from '../object.ts';
import { apiVersionOf, type Resource } from './resource-registry.ts';

export interface Table {
  readonly kind: 'Table';
  readonly apiVersion: 'meta.k8s.io/v1';
  readonly metadata: Record<string, unknown>;
  readonly columnDefinitions: readonly unknown[];
  readonly rows: readonly unknown[];
}

export interface TableOptions {
  readonly nowMs: number;
  readonly includeObject: string;
  readonly metadata?: Record<string, unknown>;
  /** Watches send the headers with the first event only. */
  readonly headers?: boolean;
}

function rowObject(resource: Resource, object: ApiObject, includeObject: string): unknown {
  if (includeObject === 'None') return undefined;
  if (includeObject === 'Object')
    return { ...object, apiVersion: apiVersionOf(resource), kind: resource.kind };
  return { kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata: object.metadata };
}

/** Objects as the rows and columns that `kubectl get` prints. */
export function toTable(
  resource: Resource,
  objects: readonly ApiObject[],
  options: TableOptions,
): Table {
  return {
    kind: 'Table',
    apiVersion: 'meta.k8s.io/v1',
    metadata: options.metadata ?? {},
    columnDefinitions:
      options.headers === false
        ? []
        : resource.columns.map((c) => ({
            name: c.name,
            type: c.type,
            format: c.format ?? '',
            description: c.description ?? '',
            priority: c.priority ?? 0,
          })),
    rows: objects.map((o) => ({
      cells: resource.columns.map((c) => c.cell(o, options.nowMs)),
      object: rowObject(resource, o, options.includeObject),
    })),
  };
}
