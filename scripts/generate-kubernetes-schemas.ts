import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KEY_DEFAULTS, MERGE_TYPES } from './merge-types.ts';

/**
 * Reads the models of `@kubernetes/client-node` (generated from Kubernetes' own OpenAPI document)
 * and writes them as schemas: for the embedded API server with descriptions, for the pod template
 * inside our kinds without.
 */

export interface Schema {
  type?: string;
  format?: string;
  description?: string;
  properties?: Record<string, Schema>;
  additionalProperties?: Schema;
  items?: Schema;
  required?: string[];
  $ref?: string;
  'x-kubernetes-int-or-string'?: boolean;
  'x-kubernetes-preserve-unknown-fields'?: boolean;
  'x-kubernetes-list-type'?: 'map' | 'set';
  'x-kubernetes-list-map-keys'?: readonly string[];
  'x-kubernetes-map-type'?: 'atomic';
  default?: unknown;
}

interface Attribute {
  baseName: string;
  type: string;
  format: string;
}

const MODELS = join(
  dirname(fileURLToPath(import.meta.resolve('@kubernetes/client-node'))),
  'gen/models',
);

/** Quantities are plain strings in the models; the API also takes numbers (`cpu: 1`). */
const QUANTITY_FIELDS = new Set([
  'limits',
  'requests',
  'capacity',
  'allocatable',
  'divisor',
  'sizeLimit',
  'overhead',
  'value',
  'averageValue',
  'allocatedResources',
  'hard',
  'used',
]);
const QUANTITY_OWNERS =
  /^V1(ResourceRequirements|VolumeResourceRequirements|NodeStatus|ResourceFieldSelector|EmptyDirVolumeSource|PodSpec|ContainerStatus|ResourceQuota(Spec|Status))$|^V2Metric/;

const SCALARS: Record<string, Schema> = {
  string: { type: 'string' },
  boolean: { type: 'boolean' },
  Date: { type: 'string', format: 'date-time' },
  V1MicroTime: { type: 'string', format: 'date-time' },
  IntOrString: { 'x-kubernetes-int-or-string': true },
  any: { 'x-kubernetes-preserve-unknown-fields': true },
  object: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
};

function numberSchema(format: string): Schema {
  return format === 'double' || format === 'float'
    ? { type: 'number', format }
    : { type: 'integer', format: format || 'int64' };
}

function schemaOfType(type: string, format: string, refs: Set<string>): Schema {
  const array = /^Array<(.*)>$/.exec(type)?.[1];
  if (array) return { type: 'array', items: schemaOfType(array, format, refs) };
  const map = /^\{ \[key: string\]: (.*); \}$/.exec(type)?.[1];
  if (map) return { type: 'object', additionalProperties: schemaOfType(map, format, refs) };
  if (type === 'number') return numberSchema(format);
  const scalar = SCALARS[type];
  if (scalar) return { ...scalar };
  refs.add(type);
  return { $ref: `#/components/schemas/${type}` };
}

/** Our own wording for text that the models escape for JavaScript. */
function plain(doc: string): string {
  return doc.replace(/\\(['"])/g, '$1').trim();
}

function readAttributes(model: string): Attribute[] {
  const source = readFileSync(join(MODELS, `${model}.js`), 'utf8');
  const list = /attributeTypeMap = (\[[\s\S]*?\n\]);/.exec(source)?.[1];
  return list ? (JSON.parse(list) as Attribute[]) : [];
}

function quantified(model: string, name: string, schema: Schema): Schema {
  if (!QUANTITY_OWNERS.test(model) || !QUANTITY_FIELDS.has(name)) return schema;
  const quantity = { 'x-kubernetes-int-or-string': true };
  return schema.additionalProperties ? { ...schema, additionalProperties: quantity } : quantity;
}

/** What server-side apply must know of a field: see {@link MERGE_TYPES}. */
function merged(model: string, name: string, schema: Schema): Schema {
  const rule = MERGE_TYPES[model]?.[name];
  const fallback = KEY_DEFAULTS[model]?.[name];
  if (fallback !== undefined) return { ...schema, default: fallback };
  if (rule === 'atomic') return { ...schema, 'x-kubernetes-map-type': 'atomic' };
  if (rule === 'set') return { ...schema, 'x-kubernetes-list-type': 'set' };
  if (rule === undefined) return schema;
  return { ...schema, 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': rule };
}

function readModel(model: string, refs: Set<string>): Schema {
  const declarations = readFileSync(join(MODELS, `${model}.d.ts`), 'utf8');
  const classDoc = /\/\*\*\n\* (.*)\n\*\/\nexport declare class/.exec(declarations)?.[1];
  const docs = new Map<string, { doc?: string; optional: boolean }>();
  const member = /(?:\/\*\*\n\s*\* (.*)\n\s*\*\/\n)?\s*'([^']+)'(\??): /g;
  for (const [, doc, name, mark] of declarations.matchAll(member)) {
    if (name) docs.set(name, { optional: mark === '?', ...(doc ? { doc } : {}) });
  }
  const properties: Record<string, Schema> = {};
  const required: string[] = [];
  const attributes = readAttributes(model);
  const names = new Map([...docs.keys()].map((n, i) => [attributes[i]?.baseName ?? n, n]));
  for (const { baseName, type, format } of attributes) {
    const info = docs.get(names.get(baseName) ?? baseName);
    const plainSchema = quantified(model, baseName, schemaOfType(type, format, refs));
    const schema = merged(model, baseName, plainSchema);
    properties[baseName] = info?.doc ? { ...schema, description: plain(info.doc) } : schema;
    if (info && !info.optional) required.push(baseName);
  }
  return {
    type: 'object',
    ...(MERGE_TYPES[model]?.['.'] ? { 'x-kubernetes-map-type': 'atomic' as const } : {}),
    ...(classDoc ? { description: plain(classDoc) } : {}),
    properties,
    ...(required.length > 0 ? { required } : {}),
  };
}

/** All models reachable from the roots, keyed by model name. */
export function readSchemas(roots: readonly string[]): Record<string, Schema> {
  const done: Record<string, Schema> = {};
  const queue = [...roots];
  for (let model = queue.pop(); model; model = queue.pop()) {
    if (done[model]) continue;
    const refs = new Set<string>();
    done[model] = readModel(model, refs);
    queue.push(...refs);
  }
  return Object.fromEntries(Object.entries(done).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

/** A schema with references replaced by what they name, without descriptions. */
export function inline(schema: Schema, all: Record<string, Schema>): Schema {
  if (schema.$ref) return inline(all[schema.$ref.split('/').at(-1) ?? ''] ?? {}, all);
  const { description: _dropped, ...rest } = schema;
  return {
    ...rest,
    ...(schema.properties
      ? {
          properties: Object.fromEntries(
            Object.entries(schema.properties).map(([k, v]) => [k, inline(v, all)]),
          ),
        }
      : {}),
    ...(schema.items ? { items: inline(schema.items, all) } : {}),
    ...(schema.additionalProperties
      ? { additionalProperties: inline(schema.additionalProperties, all) }
      : {}),
  };
}

export const SERVED_MODELS = [
  'V1Namespace',
  'V1Node',
  'V1Pod',
  'V1Service',
  'V1Endpoints',
  'V1EndpointSlice',
  'V1ConfigMap',
  'V1Secret',
  'V1ServiceAccount',
  'V1ResourceQuota',
  'CoreV1Event',
  'V1Deployment',
  'V1ReplicaSet',
  'V1Job',
  'V1Lease',
  'V2HorizontalPodAutoscaler',
  'V1Role',
  'V1RoleBinding',
  'V1ClusterRole',
  'V1ClusterRoleBinding',
  'V1CustomResourceDefinition',
  'V1Scale',
  'V1Binding',
] as const;
