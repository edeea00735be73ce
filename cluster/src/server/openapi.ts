import { createHash } from 'node:crypto';
import type { StructuralSchema } from '@shoal/core';
import { BUILTIN_SCHEMAS } from './builtin-resources.ts';
import { apiVersionOf, type Resource, type ResourceRegistry } from './resource-registry.ts';

function groupPath(gv: { group: string; version: string }): string {
  return gv.group === '' ? `api/${gv.version}` : `apis/${gv.group}/${gv.version}`;
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32).toUpperCase();
}

function schemaName(r: Resource): string {
  return `${r.group === '' ? 'core' : r.group}.${r.version}.${r.kind}`;
}

function collectRefs(schema: unknown, into: Set<string>): void {
  if (typeof schema !== 'object' || schema === null) return;
  for (const [key, value] of Object.entries(schema)) {
    if (key === '$ref' && typeof value === 'string') {
      const name = value.slice(value.lastIndexOf('/') + 1);
      if (into.has(name)) continue;
      into.add(name);
      collectRefs(BUILTIN_SCHEMAS[name], into);
    } else collectRefs(value, into);
  }
}

const query = (name: string): unknown => ({
  name,
  in: 'query',
  schema: { type: 'string', uniqueItems: true },
});
const PATCH_PARAMETERS = ['dryRun', 'fieldManager', 'fieldValidation', 'force'].map(query);

function pathsOf(r: Resource): Record<string, unknown> {
  const base = `/${groupPath(r)}${r.namespaced ? '/namespaces/{namespace}' : ''}/${r.plural}`;
  const gvk = { group: r.group, version: r.version, kind: r.kind };
  const body = {
    content: { 'application/json': { schema: { $ref: `#/components/schemas/${schemaName(r)}` } } },
  };
  const operation = (action: string, parameters: unknown[]): unknown => ({
    operationId: `${action}${r.kind}`,
    parameters,
    responses: { '200': { description: 'OK', ...body } },
    'x-kubernetes-action': action,
    'x-kubernetes-group-version-kind': gvk,
  });
  return {
    [base]: { get: operation('list', []), post: operation('post', PATCH_PARAMETERS) },
    [`${base}/{name}`]: {
      get: operation('get', []),
      put: operation('put', PATCH_PARAMETERS),
      patch: operation('patch', PATCH_PARAMETERS),
      delete: operation('delete', []),
    },
  };
}

/** The OpenAPI v3 document of one group version. */
function documentOf(resources: readonly Resource[]): unknown {
  const refs = new Set<string>();
  const schemas: Record<string, StructuralSchema> = {};
  for (const r of resources) {
    collectRefs(r.schema, refs);
    const gvk = [{ group: r.group, version: r.version, kind: r.kind }];
    schemas[schemaName(r)] = {
      ...r.schema,
      'x-kubernetes-group-version-kind': gvk,
    } as StructuralSchema;
  }
  for (const name of refs) {
    const schema = BUILTIN_SCHEMAS[name];
    if (schema) schemas[name] = schema;
  }
  return {
    openapi: '3.0.0',
    info: { title: 'Shoal embedded cluster', version: 'v1' },
    paths: Object.assign({}, ...resources.map(pathsOf)) as unknown,
    components: { schemas },
  };
}

/** OpenAPI v3 documents, built when asked for and kept until a kind comes or goes. */
export class OpenApi {
  readonly #registry: ResourceRegistry;
  readonly #texts = new Map<string, string>();
  #generation = -1;

  constructor(registry: ResourceRegistry) {
    this.#registry = registry;
  }

  #fresh(): void {
    if (this.#generation === this.#registry.generation) return;
    this.#generation = this.#registry.generation;
    this.#texts.clear();
  }

  /** `/openapi/v3`: where each group's document is; the hash changes when it does. */
  index(): unknown {
    const paths = this.#registry.groupVersions().map((gv) => {
      const identity = gv.resources.map((r) => `${apiVersionOf(r)}/${r.kind}`).join();
      const hash = hashOf(gv.group === '' ? identity : `${identity}#${this.#registry.generation}`);
      return [groupPath(gv), { serverRelativeURL: `/openapi/v3/${groupPath(gv)}?hash=${hash}` }];
    });
    return { paths: Object.fromEntries(paths) as unknown };
  }

  /** One document as JSON text; undefined when the group version is not served. */
  document(path: string): string | undefined {
    this.#fresh();
    const known = this.#texts.get(path);
    if (known !== undefined) return known;
    const found = this.#registry.groupVersions().find((gv) => groupPath(gv) === path);
    if (!found) return undefined;
    const text = JSON.stringify(documentOf(found.resources));
    this.#texts.set(path, text);
    return text;
  }
}
