import { codePoints, FORMATS, toRegExp } from './text-patterns.ts';

/**
 * Kubernetes structural schemas: pruning, defaulting and validation of JSON values.
 * Source: Kubernetes documentation, "Extend the Kubernetes API with CustomResourceDefinitions",
 * sections on structural schemas, field pruning and defaulting. Messages follow the API server's.
 */
export interface StructuralSchema {
  readonly type?: string;
  readonly format?: string;
  readonly description?: string;
  readonly title?: string;
  readonly $ref?: string;
  readonly properties?: Readonly<Record<string, StructuralSchema>>;
  readonly additionalProperties?: StructuralSchema | boolean;
  readonly items?: StructuralSchema;
  readonly required?: readonly string[];
  readonly enum?: readonly unknown[];
  readonly default?: unknown;
  readonly nullable?: boolean;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: boolean;
  readonly exclusiveMaximum?: boolean;
  readonly multipleOf?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minProperties?: number;
  readonly maxProperties?: number;
  readonly allOf?: readonly StructuralSchema[];
  readonly anyOf?: readonly StructuralSchema[];
  readonly oneOf?: readonly StructuralSchema[];
  readonly not?: StructuralSchema;
  readonly 'x-kubernetes-int-or-string'?: boolean;
  readonly 'x-kubernetes-preserve-unknown-fields'?: boolean;
  readonly 'x-kubernetes-embedded-resource'?: boolean;
  readonly 'x-kubernetes-list-type'?: 'atomic' | 'set' | 'map';
  readonly 'x-kubernetes-list-map-keys'?: readonly string[];
  readonly 'x-kubernetes-map-type'?: 'granular' | 'atomic';
  readonly 'x-kubernetes-validations'?: readonly unknown[];
}

export type FieldErrorReason =
  | 'FieldValueRequired'
  | 'FieldValueInvalid'
  | 'FieldValueTypeInvalid'
  | 'FieldValueNotSupported'
  | 'FieldValueDuplicate'
  | 'FieldValueForbidden';

/** One fault of an object: which field, and what is wrong with it. */
export interface FieldError {
  readonly field: string;
  readonly reason: FieldErrorReason;
  readonly message: string;
}

/** Looks up `$ref` targets; schemas without references need none. */
export type ResolveRef = (ref: string) => StructuralSchema | undefined;

const noRefs: ResolveRef = () => undefined;

export type JsonObject = Record<string, unknown>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function resolved(schema: StructuralSchema, resolve: ResolveRef): StructuralSchema {
  return schema.$ref === undefined ? schema : (resolve(schema.$ref) ?? {});
}

function join(path: string, key: string): string {
  return path === '' ? key : `${path}.${key}`;
}

function childSchema(schema: StructuralSchema, key: string): StructuralSchema | undefined {
  const { properties } = schema;
  // Not `properties[key]`: a field may be called `constructor`.
  if (properties && Object.hasOwn(properties, key)) return properties[key];
  return typeof schema.additionalProperties === 'object' ? schema.additionalProperties : undefined;
}

/** What every object has, also one inside another. */
function embedded(shape: StructuralSchema, key: string): StructuralSchema | undefined {
  if (shape['x-kubernetes-embedded-resource'] !== true) return undefined;
  if (key === 'metadata') return { 'x-kubernetes-preserve-unknown-fields': true };
  return key === 'apiVersion' || key === 'kind' ? {} : undefined;
}

/**
 * Removes members that are null where null means nothing: not nullable, and without a default to
 * take their place (source: Kubernetes, defaulting and nullable), in place. Items of lists stay.
 */
export function dropIdleNulls(
  value: unknown,
  schema: StructuralSchema,
  resolve: ResolveRef = noRefs,
): void {
  const shape = resolved(schema, resolve);
  if (Array.isArray(value)) {
    const { items } = shape;
    if (items) for (const item of value) dropIdleNulls(item, items, resolve);
  } else if (isJsonObject(value)) {
    for (const [key, inner] of Object.entries(value)) {
      const child = childSchema(shape, key);
      if (!child) continue;
      const target = resolved(child, resolve);
      if (inner !== null) dropIdleNulls(inner, child, resolve);
      else if (!target.nullable && target.default === undefined) delete value[key];
    }
  }
}

/**
 * Removes fields the schema does not name, in place.
 *
 * @returns Paths of what was removed, e.g. `spec.bogus`.
 */
export function prune(
  value: unknown,
  schema: StructuralSchema,
  options: { path?: string; resolve?: ResolveRef } = {},
): string[] {
  const { path = '', resolve = noRefs } = options;
  const shape = resolved(schema, resolve);
  if (Array.isArray(value)) {
    const { items } = shape;
    return items
      ? value.flatMap((v, i) => prune(v, items, { path: `${path}[${i}]`, resolve }))
      : [];
  }
  if (!isJsonObject(value)) return [];
  const open =
    shape['x-kubernetes-preserve-unknown-fields'] === true || shape.additionalProperties === true;
  const unknown: string[] = [];
  for (const key of Object.keys(value)) {
    const child = childSchema(shape, key) ?? embedded(shape, key);
    if (child) {
      unknown.push(...prune(value[key], child, { path: join(path, key), resolve }));
    } else if (!open) {
      unknown.push(join(path, key));
      delete value[key];
    }
  }
  return unknown;
}

function defaultObject(value: JsonObject, shape: StructuralSchema, resolve: ResolveRef): void {
  for (const [key, property] of Object.entries(shape.properties ?? {})) {
    const target = resolved(property, resolve);
    const missing = value[key] === undefined || (value[key] === null && !target.nullable);
    if (missing && target.default !== undefined) value[key] = structuredClone(target.default);
  }
  for (const [key, inner] of Object.entries(value)) {
    const child = childSchema(shape, key);
    if (child) applyDefaults(inner, child, resolve);
  }
}

/** Fills in defaults, in place, from the outside in (as the API server does). */
export function applyDefaults(
  value: unknown,
  schema: StructuralSchema,
  resolve: ResolveRef = noRefs,
): void {
  const shape = resolved(schema, resolve);
  if (Array.isArray(value)) {
    const { items } = shape;
    if (items) for (const v of value) applyDefaults(v, items, resolve);
  } else if (isJsonObject(value)) {
    defaultObject(value, shape, resolve);
  }
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  if (typeof value === 'number') return Number.isInteger(value) ? 'integer' : 'number';
  return typeof value;
}

function show(value: unknown): string {
  return typeof value === 'object' ? `"${typeName(value)}"` : JSON.stringify(value);
}

function invalid(field: string, message: string): FieldError {
  return { field, reason: 'FieldValueInvalid', message };
}

function typeFault(value: unknown, shape: StructuralSchema, field: string): FieldError | undefined {
  if (shape['x-kubernetes-int-or-string']) {
    const ok = typeof value === 'string' || Number.isInteger(value);
    return ok ? undefined : wrongType(value, 'integer,string', field);
  }
  const { type } = shape;
  if (type === undefined) return undefined;
  const actual = typeName(value);
  if (actual === type || (type === 'number' && actual === 'integer')) return undefined;
  return wrongType(value, type, field);
}

function wrongType(value: unknown, wanted: string, field: string): FieldError {
  const name = field === '' ? 'the object' : field;
  return {
    field,
    reason: 'FieldValueTypeInvalid',
    message: `Invalid value: ${show(value)}: ${name} in body must be of type ${wanted}: "${typeName(value)}"`,
  };
}

function numberFaults(value: number, shape: StructuralSchema, field: string): FieldError[] {
  const faults: FieldError[] = [];
  const { minimum, maximum, multipleOf } = shape;
  if (minimum !== undefined) {
    const low = shape.exclusiveMinimum ? value <= minimum : value < minimum;
    const words = shape.exclusiveMinimum ? 'greater than' : 'greater than or equal to';
    if (low)
      faults.push(
        invalid(field, `Invalid value: ${value}: ${field} in body should be ${words} ${minimum}`),
      );
  }
  if (maximum !== undefined) {
    const high = shape.exclusiveMaximum ? value >= maximum : value > maximum;
    const words = shape.exclusiveMaximum ? 'less than' : 'less than or equal to';
    if (high)
      faults.push(
        invalid(field, `Invalid value: ${value}: ${field} in body should be ${words} ${maximum}`),
      );
  }
  if (multipleOf !== undefined && value % multipleOf !== 0) {
    faults.push(
      invalid(
        field,
        `Invalid value: ${value}: ${field} in body should be a multiple of ${multipleOf}`,
      ),
    );
  }
  return faults;
}

function stringFaults(value: string, shape: StructuralSchema, field: string): FieldError[] {
  const faults: FieldError[] = [];
  const say = (what: string): void => {
    faults.push(invalid(field, `Invalid value: ${show(value)}: ${field} in body should ${what}`));
  };
  const length =
    shape.minLength === undefined && shape.maxLength === undefined ? 0 : codePoints(value);
  if (shape.minLength !== undefined && length < shape.minLength) {
    say(`be at least ${shape.minLength} chars long`);
  }
  if (shape.maxLength !== undefined && length > shape.maxLength) {
    say(`be at most ${shape.maxLength} chars long`);
  }
  if (shape.pattern !== undefined && !toRegExp(shape.pattern).test(value)) {
    say(`match '${shape.pattern}'`);
  }
  const name = shape.format ?? '';
  const format = Object.hasOwn(FORMATS, name) ? FORMATS[name] : undefined;
  if (format && !format(value)) say(`be of type ${name}`);
  return faults;
}

/** Items of a set, or of a list with keys, that are there twice. */
function duplicates(
  value: readonly unknown[],
  shape: StructuralSchema,
  field: string,
): FieldError[] {
  const kind = shape['x-kubernetes-list-type'];
  if (kind !== 'set' && kind !== 'map') return [];
  const keys = shape['x-kubernetes-list-map-keys'] ?? [];
  const idOf = (item: unknown): unknown =>
    kind === 'map' && isJsonObject(item)
      ? Object.fromEntries(keys.map((k) => [k, item[k] ?? shape.items?.properties?.[k]?.default]))
      : item;
  const seen = new Set<string>();
  return value.flatMap((item, i) => {
    const id = JSON.stringify(idOf(item));
    if (!seen.has(id)) {
      seen.add(id);
      return [];
    }
    const message = `Duplicate value: ${id}`;
    return [{ field: `${field}[${i}]`, reason: 'FieldValueDuplicate' as const, message }];
  });
}

function arrayFaults(value: readonly unknown[], at: Position): FieldError[] {
  const { shape, field, ...rest } = at;
  const { items } = shape;
  const faults: FieldError[] = [];
  if (shape.minItems !== undefined && value.length < shape.minItems) {
    faults.push(
      invalid(
        field,
        `Invalid value: ${value.length}: ${field} in body should have at least ${shape.minItems} items`,
      ),
    );
  }
  if (shape.maxItems !== undefined && value.length > shape.maxItems) {
    faults.push(
      invalid(field, `Too many: ${value.length}: must have at most ${shape.maxItems} items`),
    );
  }
  if (!at.allowDuplicates) faults.push(...duplicates(value, shape, field));
  if (items) {
    for (const [i, v] of value.entries())
      faults.push(...validate(v, items, { ...rest, path: `${field}[${i}]` }));
  }
  return faults;
}

function objectFaults(value: JsonObject, at: Position): FieldError[] {
  const { shape, field, ...rest } = at;
  const faults: FieldError[] = [];
  for (const key of shape.required ?? []) {
    if (value[key] === undefined) {
      faults.push({
        field: join(field, key),
        reason: 'FieldValueRequired',
        message: 'Required value',
      });
    }
  }
  if (shape.minProperties !== undefined && Object.keys(value).length < shape.minProperties) {
    faults.push(
      invalid(
        field,
        `Invalid value: ${field} in body should have at least ${shape.minProperties} properties`,
      ),
    );
  }
  if (shape.maxProperties !== undefined && Object.keys(value).length > shape.maxProperties) {
    faults.push(
      invalid(
        field,
        `Invalid value: ${field} in body should have at most ${shape.maxProperties} properties`,
      ),
    );
  }
  for (const [key, inner] of Object.entries(value)) {
    const child = childSchema(shape, key);
    if (child) faults.push(...validate(inner, child, { ...rest, path: join(field, key) }));
  }
  return faults;
}

interface Position {
  readonly shape: StructuralSchema;
  readonly field: string;
  readonly resolve: ResolveRef;
  readonly allowDuplicates: boolean;
}

function enumFault(value: unknown, shape: StructuralSchema, field: string): FieldError[] {
  if (!shape.enum || shape.enum.includes(value)) return [];
  const supported = shape.enum.map((e) => JSON.stringify(e)).join(', ');
  const message = `Unsupported value: ${show(value)}: supported values: ${supported}`;
  return [{ field, reason: 'FieldValueNotSupported', message }];
}

/**
 * All faults of a value against a schema; empty when it fits.
 *
 * @param options.allowDuplicates Lets lists with keys repeat them, as Kubernetes does for some of
 *   its own kinds (`env`, `ports`).
 */
export function validate(
  value: unknown,
  schema: StructuralSchema,
  options: { path?: string; resolve?: ResolveRef; allowDuplicates?: boolean } = {},
): FieldError[] {
  const { path: field = '', resolve = noRefs, allowDuplicates = false } = options;
  const rest = { resolve, allowDuplicates };
  const shape = resolved(schema, resolve);
  if (value === null && shape.nullable) return [];
  const fault = typeFault(value, shape, field);
  if (fault) return [fault];
  const faults = enumFault(value, shape, field);
  if (typeof value === 'number') faults.push(...numberFaults(value, shape, field));
  else if (typeof value === 'string') faults.push(...stringFaults(value, shape, field));
  else if (Array.isArray(value)) faults.push(...arrayFaults(value, { shape, field, ...rest }));
  else if (isJsonObject(value)) faults.push(...objectFaults(value, { shape, field, ...rest }));
  faults.push(...junctorFaults(value, { shape, field, ...rest }));
  return faults;
}

/** `allOf`, `anyOf`, `oneOf`, `not`. */
function junctorFaults(value: unknown, { shape, field, ...rest }: Position): FieldError[] {
  const fits = (schema: StructuralSchema): boolean =>
    validate(value, schema, { ...rest, path: field }).length === 0;
  const say = (what: string): FieldError =>
    invalid(field, `Invalid value: ${show(value)}: ${field} in body must ${what}`);
  const faults: FieldError[] = [];
  for (const schema of shape.allOf ?? [])
    faults.push(...validate(value, schema, { ...rest, path: field }));
  if (shape.anyOf && !shape.anyOf.some(fits))
    faults.push(say('validate at least one schema (anyOf)'));
  const valid = shape.oneOf?.filter(fits).length;
  if (valid !== undefined && valid !== 1)
    faults.push(
      say(`validate one and only one schema (oneOf). Found ${valid === 0 ? 'none' : valid} valid`),
    );
  if (shape.not && fits(shape.not)) faults.push(say('not validate the schema (not)'));
  return faults;
}
