import {
  type FieldError,
  isJsonObject,
  prune,
  type StructuralSchema,
  toRegExp,
  validate,
} from '@shoal/core';
import { type ApiObject, dig, digList, digString } from '../object.ts';
import { ruleFaults } from './validation-rules.ts';

/**
 * What a real API server demands of a CustomResourceDefinition: structural schemas, and names that
 * fit. Source: Kubernetes documentation, "Extend the Kubernetes API with CustomResourceDefinitions",
 * specifying a structural schema.
 */
const FORBIDDEN = [
  '$ref',
  'definitions',
  'dependencies',
  'deprecated',
  'discriminator',
  'id',
  'patternProperties',
  'readOnly',
  'writeOnly',
  'xml',
] as const;
/** Keywords of the structure itself; they may not stand inside `allOf` and its kin. */
const STRUCTURAL = [
  'additionalProperties',
  'default',
  'description',
  'nullable',
  'title',
  'type',
] as const;
const JUNCTORS = ['allOf', 'anyOf', 'oneOf'] as const;

type Json = Readonly<Record<string, unknown>>;

function forbidden(field: string, why: string): FieldError {
  return { field, reason: 'FieldValueForbidden', message: `Forbidden: ${why}` };
}

function required(field: string, why: string): FieldError {
  return { field, reason: 'FieldValueRequired', message: `Required value: ${why}` };
}

function invalid(field: string, value: unknown, why: string): FieldError {
  const message = `Invalid value: ${JSON.stringify(value)}: ${why}`;
  return { field, reason: 'FieldValueInvalid', message };
}

function keywordFaults(schema: Json, path: string): FieldError[] {
  const faults = FORBIDDEN.filter((k) => schema[k] !== undefined).map((k) =>
    forbidden(`${path}.${k}`, `${k} is not supported`),
  );
  if (schema['uniqueItems'] === true) {
    const why = 'uniqueItems cannot be set to true since the runtime complexity becomes quadratic';
    faults.push(forbidden(`${path}.uniqueItems`, why));
  }
  if (schema['additionalProperties'] === false)
    faults.push(
      forbidden(`${path}.additionalProperties`, 'additionalProperties cannot be set to false'),
    );
  const named = isJsonObject(schema['properties']) ? Object.keys(schema['properties']).length : 0;
  if (isJsonObject(schema['additionalProperties']) && named > 0) {
    const why = 'additionalProperties and properties are mutual exclusive';
    faults.push(forbidden(`${path}.additionalProperties`, why));
  }
  const { pattern } = schema;
  if (typeof pattern === 'string' && !compiles(pattern))
    faults.push(invalid(`${path}.pattern`, pattern, 'must be a valid regular expression'));
  return faults;
}

function compiles(pattern: string): boolean {
  try {
    toRegExp(pattern);
    return true;
  } catch {
    return false;
  }
}

function typeFaults(schema: Json, path: string, place: string): FieldError[] {
  const free =
    schema['x-kubernetes-int-or-string'] === true ||
    schema['x-kubernetes-preserve-unknown-fields'] === true;
  if (typeof schema['type'] !== 'string')
    return free ? [] : [required(`${path}.type`, `must not be empty for specified ${place}`)];
  if (schema['x-kubernetes-int-or-string'] === true)
    return [forbidden(`${path}.type`, 'must be empty if x-kubernetes-int-or-string is true')];
  if (schema['type'] === 'array' && !isJsonObject(schema['items']))
    return [required(`${path}.items`, 'must be specified')];
  return [];
}

function listFaults(schema: Json, path: string): FieldError[] {
  const kind = schema['x-kubernetes-list-type'];
  const keys = digList(schema, 'x-kubernetes-list-map-keys').map(String);
  if (kind === undefined && keys.length === 0) return [];
  if (schema['type'] !== 'array')
    return [
      invalid(
        `${path}.type`,
        schema['type'],
        'must be array if x-kubernetes-list-type is specified',
      ),
    ];
  if (kind === 'map' && keys.length === 0) {
    const why = 'must not be empty if x-kubernetes-list-type is map';
    return [required(`${path}.x-kubernetes-list-map-keys`, why)];
  }
  const mustBe = new Set(digList(schema, 'items', 'required').map(String));
  return keys.flatMap((key, i) => {
    const field = `${path}.x-kubernetes-list-map-keys[${i}]`;
    const property = dig(schema, 'items', 'properties', key);
    if (!isJsonObject(property))
      return [invalid(field, key, 'entries must all be names of item properties')];
    if (mustBe.has(key) || property['default'] !== undefined) return [];
    const why =
      'this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property';
    return [required(`${path}.items.properties[${key}].default`, why)];
  });
}

function defaultFaults(schema: Json, path: string): FieldError[] {
  const value = schema['default'];
  if (value === undefined) return [];
  const shape = schema as StructuralSchema;
  const field = `${path}.default`;
  const copy: unknown = structuredClone(value);
  const unknown = prune(copy, shape).map((u) => invalid(`${field}.${u}`, value, 'unknown field'));
  return [...unknown, ...validate(value, shape, { path: field })];
}

function junctorFaults(schema: Json, path: string): FieldError[] {
  const inner = [
    ...JUNCTORS.flatMap((j) =>
      digList(schema, j).map((s, i) => [`${path}.${j}[${i}]`, s] as const),
    ),
    ...(schema['not'] === undefined ? [] : [[`${path}.not`, schema['not']] as const]),
  ];
  return inner.flatMap(([field, part]) => {
    if (!isJsonObject(part)) return [];
    // Whole numbers or texts: the one form in which types may be told apart there.
    const isChoice = schema['x-kubernetes-int-or-string'] === true;
    return STRUCTURAL.filter((k) => part[k] !== undefined && !(k === 'type' && isChoice)).map((k) =>
      forbidden(`${field}.${k}`, 'must be empty to be structural'),
    );
  });
}

function* childrenOf(schema: Json, path: string): Generator<[Json, string, string]> {
  const { properties, additionalProperties, items } = schema as Record<string, unknown>;
  for (const [key, child] of Object.entries(isJsonObject(properties) ? properties : {}))
    if (isJsonObject(child)) yield [child, `${path}.properties[${key}]`, 'object fields'];
  if (isJsonObject(additionalProperties))
    yield [additionalProperties, `${path}.additionalProperties`, 'object fields'];
  if (isJsonObject(items)) yield [items, `${path}.items`, 'array items'];
}

function schemaFaults(schema: Json, path: string, place: string): FieldError[] {
  return [
    ...keywordFaults(schema, path),
    ...typeFaults(schema, path, place),
    ...listFaults(schema, path),
    ...junctorFaults(schema, path),
    ...ruleFaults(schema as StructuralSchema, path),
    ...[...childrenOf(schema, path)].flatMap(([child, at, where]) =>
      schemaFaults(child, at, where),
    ),
    ...defaultFaults(schema, path),
  ];
}

/** Faults of a schema against the rules of structural schemas. */
export function structuralFaults(schema: unknown, path: string): FieldError[] {
  if (!isJsonObject(schema)) return [required(path, 'schemas are required')];
  const faults = schemaFaults(schema, path, 'object fields');
  if (typeof schema['type'] === 'string' && schema['type'] !== 'object')
    faults.push(invalid(`${path}.type`, schema['type'], 'must be object at the root'));
  const metadata = dig(schema, 'properties', 'metadata', 'properties');
  for (const key of Object.keys(isJsonObject(metadata) ? metadata : {})) {
    if (key === 'name' || key === 'generateName') continue;
    const why =
      'must not specify anything other than name and generateName, but metadata is implicitly specified';
    faults.push(forbidden(`${path}.properties[metadata].properties[${key}]`, why));
  }
  return faults;
}

function versionFaults(crd: ApiObject): FieldError[] {
  const versions = digList(crd, 'spec', 'versions');
  if (versions.length === 0) return [required('spec.versions', 'at least one version')];
  const stored = versions.filter((v) => dig(v, 'storage') === true).length;
  const storage =
    stored === 1
      ? []
      : [
          invalid(
            'spec.versions',
            stored,
            'must have exactly one version marked as storage version',
          ),
        ];
  return [
    ...storage,
    ...versions.flatMap((v, i) =>
      structuralFaults(
        dig(v, 'schema', 'openAPIV3Schema'),
        `spec.versions[${i}].schema.openAPIV3Schema`,
      ),
    ),
  ];
}

/** Everything a real API server would refuse in a CustomResourceDefinition, and what is missing here. */
export function definitionFaults(crd: ApiObject): FieldError[] {
  const at = (...path: string[]): string => digString(crd, 'spec', ...path) ?? '';
  const faults: FieldError[] = [];
  const { name } = crd.metadata;
  const wanted = `${at('names', 'plural')}.${at('group')}`;
  if (name !== wanted)
    faults.push(invalid('metadata.name', name, `must be spec.names.plural+"."+spec.group`));
  if (!at('group').includes('.'))
    faults.push(invalid('spec.group', at('group'), 'should be a domain with at least one dot'));
  if (at('conversion', 'strategy') === 'Webhook') {
    const why = 'this embedded cluster converts with strategy None only';
    faults.push(invalid('spec.conversion.strategy', 'Webhook', why));
  }
  return [...faults, ...versionFaults(crd)];
}
