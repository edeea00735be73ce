import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import {
  applyDefaults,
  dropIdleNulls,
  type FieldError,
  isJsonObject,
  prune,
  rfc3339,
  validate,
} from '@shoal/core';
import type { ApiObject } from '../object.ts';
import { applyBuiltinDefaults, completeBuiltin } from './builtin-defaults.ts';
import { builtinFaults, immutableFaults } from './builtin-rules.ts';
import { apiVersionOf, type Resource, type ResourceRegistry } from './resource-registry.ts';
import { invalid, StatusError } from './status-error.ts';
import { brokenRules } from './validation-rules.ts';

export type FieldValidation = 'Strict' | 'Warn' | 'Ignore';

export interface AdmissionOptions {
  readonly fieldValidation: FieldValidation;
  readonly nowMs: number;
}

export interface Admitted {
  readonly object: ApiObject;
  readonly warnings: readonly string[];
}

const NAME = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;
const NAME_RULE =
  "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
/** Kinds whose names may hold other characters (`system:node:x`). */
const FREE_NAMES = new Set(['roles', 'rolebindings', 'clusterroles', 'clusterrolebindings']);

function checkIdentity(resource: Resource, object: ApiObject, namespace: string): void {
  const wanted = apiVersionOf(resource);
  if (object.apiVersion !== wanted || object.kind !== resource.kind) {
    throw new StatusError(
      'BadRequest',
      `the object is a ${object.apiVersion}/${object.kind}, this endpoint takes ${wanted}/${resource.kind}`,
    );
  }
  if (resource.namespaced && object.metadata.namespace && object.metadata.namespace !== namespace) {
    throw new StatusError(
      'BadRequest',
      `the namespace of the provided object does not match the namespace sent on the request`,
    );
  }
}

/** Reads a request body into an object, or says what it lacks. */
export function toApiObject(resource: Resource, body: unknown, namespace: string): ApiObject {
  if (!isJsonObject(body)) throw new StatusError('BadRequest', 'the body must be a JSON object');
  const metadata = isJsonObject(body['metadata']) ? { ...body['metadata'] } : {};
  const object = {
    ...body,
    apiVersion: body['apiVersion'] ?? apiVersionOf(resource),
    kind: body['kind'] ?? resource.kind,
    metadata,
  } as unknown as ApiObject;
  checkIdentity(resource, object, namespace);
  if (resource.namespaced) object.metadata.namespace = namespace;
  else delete object.metadata.namespace;
  return structuredClone(object);
}

/** Removes null members, which clients write for "not set" (`creationTimestamp: null`). */
function dropNulls(value: unknown): void {
  if (Array.isArray(value)) value.forEach(dropNulls);
  else if (isJsonObject(value)) {
    for (const [key, inner] of Object.entries(value)) {
      if (inner === null) delete value[key];
      else dropNulls(inner);
    }
  }
}

function dropUnknown(
  resource: Resource,
  registry: ResourceRegistry,
  object: ApiObject,
  mode: FieldValidation,
): string[] {
  const unknown = prune(object, resource.schema, { resolve: registry.resolveRef });
  if (unknown.length === 0 || mode === 'Ignore') return [];
  const texts = unknown.map((path) => `unknown field "${path}"`);
  if (mode === 'Warn') return texts;
  const kind = `${resource.kind} in version "${resource.version}"`;
  throw new StatusError(
    'BadRequest',
    `${kind} cannot be handled as a ${resource.kind}: strict decoding error: ${texts.join(', ')}`,
  );
}

function metadataFaults(resource: Resource, object: ApiObject): FieldError[] {
  const { name } = object.metadata;
  if (!name) {
    return [
      {
        field: 'metadata.name',
        reason: 'FieldValueRequired',
        message: 'Required value: name or generateName is required',
      },
    ];
  }
  const bad = name.length > 253 || (!FREE_NAMES.has(resource.plural) && !NAME.test(name));
  return bad
    ? [
        {
          field: 'metadata.name',
          reason: 'FieldValueInvalid',
          message: `Invalid value: "${name}": ${NAME_RULE}`,
        },
      ]
    : [];
}

function check(
  resource: Resource,
  registry: ResourceRegistry,
  object: ApiObject,
  before?: ApiObject,
): void {
  const faults = [
    ...metadataFaults(resource, object),
    ...validate(object, resource.schema, {
      resolve: registry.resolveRef,
      allowDuplicates: resource.builtin,
    }),
    ...(resource.builtin ? builtinFaults(resource.plural, object) : []),
  ];
  // Rules may rely on what the schema promises.
  if (faults.length === 0) faults.push(...brokenRules(object, resource.schema, before));
  if (faults.length > 0) throw invalid(resource, object.metadata.name, faults);
}

const SUFFIX = 'bcdfghjklmnpqrstvwxz2456789';

function randomSuffix(): string {
  return Array.from(
    crypto.getRandomValues(new Uint8Array(5)),
    (b) => SUFFIX[b % SUFFIX.length],
  ).join('');
}

function shape(
  resource: Resource,
  registry: ResourceRegistry,
  object: ApiObject,
  mode: FieldValidation,
): string[] {
  if (resource.builtin) dropNulls(object);
  else dropNulls(object.metadata);
  const warnings = dropUnknown(resource, registry, object, mode);
  dropIdleNulls(object, resource.schema, registry.resolveRef);
  applyDefaults(object, resource.schema, registry.resolveRef);
  if (resource.builtin) applyBuiltinDefaults(resource.plural, object);
  return warnings;
}

/** Takes unknown fields out of what a manager states; completes nothing. */
export function admitConfig(
  resource: Resource,
  registry: ResourceRegistry,
  object: ApiObject,
  options: AdmissionOptions,
): Admitted {
  dropNulls(resource.builtin ? object : object.metadata);
  const warnings = dropUnknown(resource, registry, object, options.fieldValidation);
  return { object, warnings };
}

/** Makes a new object complete and checks it. */
export function admitCreate(
  resource: Resource,
  registry: ResourceRegistry,
  object: ApiObject,
  options: AdmissionOptions,
): Admitted {
  const { metadata } = object;
  if (!metadata.name && metadata.generateName)
    metadata.name = `${metadata.generateName}${randomSuffix()}`;
  if (metadata.resourceVersion) {
    throw new StatusError(
      'BadRequest',
      'resourceVersion should not be set on objects to be created',
    );
  }
  const warnings = shape(resource, registry, object, options.fieldValidation);
  if (resource.status && !resource.builtin) delete object.status;
  metadata.uid = randomUUID();
  metadata.creationTimestamp = rfc3339(options.nowMs);
  if (hasGeneration(resource)) metadata.generation = 1;
  else delete metadata.generation;
  if (resource.builtin) completeBuiltin(resource.plural, object);
  delete metadata.deletionTimestamp;
  delete metadata.deletionGracePeriodSeconds;
  check(resource, registry, object);
  return { object, warnings };
}

/** Built-in kinds whose changes are counted. */
const COUNTED: ReadonlySet<string> = new Set([
  'deployments',
  'replicasets',
  'jobs',
  'pods',
  'endpointslices',
  'horizontalpodautoscalers',
  'customresourcedefinitions',
]);

function hasGeneration({ builtin, plural }: Resource): boolean {
  return !builtin || COUNTED.has(plural);
}

/** Who owns what, as the write says it: the one thing besides status that goes through its door. */
function ownersOf({ metadata }: ApiObject): { managedFields?: unknown[] } {
  return metadata.managedFields ? { managedFields: metadata.managedFields } : {};
}

/** The parts of an object whose change counts as a new generation. */
function desired(object: ApiObject): unknown {
  const { metadata: _m, status: _s, apiVersion: _v, kind: _k, ...rest } = object;
  return rest;
}

/** Keeps what the server owns, whatever the client sent. */
function keepServerFields(next: ApiObject, current: ApiObject): void {
  const { metadata } = next;
  const old = current.metadata;
  metadata.uid = old.uid ?? '';
  const owned = [
    'creationTimestamp',
    'deletionTimestamp',
    'deletionGracePeriodSeconds',
    'generateName',
  ];
  for (const field of owned) delete metadata[field];
  Object.assign(
    metadata,
    Object.fromEntries(Object.entries(old).filter(([field]) => owned.includes(field))),
  );
}

/** Makes an update complete and checks it against what is stored. */
export function admitUpdate(
  resource: Resource,
  registry: ResourceRegistry,
  change: { next: ApiObject; current: ApiObject; subresource: 'status' | undefined },
  options: AdmissionOptions,
): Admitted {
  const { current, subresource } = change;
  const next =
    subresource === 'status'
      ? {
          ...structuredClone(current),
          ...(change.next.status === undefined ? {} : { status: change.next.status }),
          metadata: {
            ...structuredClone(current.metadata),
            ...ownersOf(change.next),
          },
        }
      : change.next;
  const warnings = shape(resource, registry, next, options.fieldValidation);
  if (resource.status && subresource === undefined) {
    if (current.status === undefined) delete next.status;
    else next.status = structuredClone(current.status);
  }
  keepServerFields(next, current);
  const changed = !isDeepStrictEqual(desired(next), desired(current));
  if (hasGeneration(resource))
    next.metadata.generation = (current.metadata.generation ?? 1) + (changed ? 1 : 0);
  else delete next.metadata.generation;
  check(resource, registry, next, current);
  const frozen = resource.builtin ? immutableFaults(resource.plural, next, current) : [];
  if (frozen.length > 0) throw invalid(resource, next.metadata.name, frozen);
  return { object: next, warnings };
}
