import type { ResolveRef, StructuralSchema } from '@shoal/core';
import type { ApiObject } from '../object.ts';
import type { ScalePaths } from './scale.ts';

export type Cell = string | number | boolean | null;

export interface Column {
  readonly name: string;
  readonly type: string;
  readonly format?: string;
  readonly description?: string;
  readonly priority?: number;
  readonly cell: (object: ApiObject, nowMs: number) => Cell;
}

/** Everything the server needs to know of one kind. */
export interface Resource {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly plural: string;
  readonly singular: string;
  readonly shortNames: readonly string[];
  readonly categories: readonly string[];
  readonly namespaced: boolean;
  /** Subresources besides the object itself. */
  readonly status: boolean;
  readonly scale: ScalePaths | undefined;
  /** Fields that field selectors may name, besides `metadata.name` and `metadata.namespace`. */
  readonly selectable?: readonly string[];
  readonly schema: StructuralSchema;
  readonly columns: readonly Column[];
  /** Built-in kinds take strategic merge patches; custom kinds do not. */
  readonly builtin: boolean;
  /** What can be done with it; default everything. */
  readonly verbs?: readonly string[];
  /** Stored, but nothing here acts on it: every write answers with this warning. */
  readonly warning?: string;
}

/** `group/plural`: the collection's name in the store. */
export function storeName(resource: Pick<Resource, 'group' | 'plural'>): string {
  return `${resource.group}/${resource.plural}`;
}

export function apiVersionOf(resource: Pick<Resource, 'group' | 'version'>): string {
  return resource.group === '' ? resource.version : `${resource.group}/${resource.version}`;
}

const converted = new WeakMap<ApiObject, Map<string, ApiObject>>();

/** An object in the version it is asked for in: the same but for `apiVersion` (conversion `None`). */
export function inVersion(resource: Resource, object: ApiObject): ApiObject {
  const apiVersion = apiVersionOf(resource);
  if (object.apiVersion === apiVersion) return object;
  const known = converted.get(object) ?? new Map<string, ApiObject>();
  const other = known.get(apiVersion) ?? { ...object, apiVersion };
  converted.set(object, known.set(apiVersion, other));
  return other;
}

/** The kinds served now: the built-in ones, and those that CustomResourceDefinitions add. */
export class ResourceRegistry {
  readonly #byName = new Map<string, Resource>();
  readonly resolveRef: ResolveRef;
  /** Rises whenever a kind comes or goes; part of the OpenAPI hash. */
  generation = 0;

  readonly #unstored: readonly Resource[];

  /** @param unstored Kinds that discovery shows but that are answered elsewhere. */
  constructor(
    builtins: readonly Resource[],
    definitions: Readonly<Record<string, StructuralSchema>>,
    unstored: readonly Resource[] = [],
  ) {
    this.#unstored = unstored;
    this.resolveRef = (ref) => definitions[ref.slice(ref.lastIndexOf('/') + 1)];
    for (const resource of builtins) this.add(resource);
  }

  add(resource: Resource): void {
    this.#byName.set(`${resource.group}/${resource.version}/${resource.plural}`, resource);
    this.generation++;
  }

  removeGroupPlural(group: string, plural: string): void {
    for (const [id, r] of this.#byName) {
      if (r.group === group && r.plural === plural) this.#byName.delete(id);
    }
    this.generation++;
  }

  find(group: string, version: string, plural: string): Resource | undefined {
    return this.#byName.get(`${group}/${version}/${plural}`);
  }

  /** The resource of an object, by its apiVersion and kind. */
  ofKind(apiVersion: string, kind: string): Resource | undefined {
    return this.all().find((r) => r.kind === kind && apiVersionOf(r) === apiVersion);
  }

  /** Kinds in a stable order: core first, then by group. */
  all(): Resource[] {
    return [...this.#byName.values()];
  }

  groupVersions(): { group: string; version: string; resources: Resource[] }[] {
    const found = new Map<string, { group: string; version: string; resources: Resource[] }>();
    for (const r of [...this.all(), ...this.#unstored]) {
      const id = apiVersionOf(r);
      const entry = found.get(id) ?? { group: r.group, version: r.version, resources: [] };
      entry.resources.push(r);
      found.set(id, entry);
    }
    return [...found.values()];
  }
}
