import { Environment, type ParseResult } from '@marcbachmann/cel-js';
import {
  type FieldError,
  type FieldErrorReason,
  isJsonObject,
  messageOf,
  type StructuralSchema,
} from '@shoal/core';
import { digList, digString } from '../object.ts';
import { ruleEnvironment, withPresence } from './rule-language.ts';

/**
 * `x-kubernetes-validations`: rules in the Common Expression Language that an object must keep.
 * Source: Kubernetes documentation, "Extend the Kubernetes API with CustomResourceDefinitions",
 * validation rules.
 */
interface Rule {
  readonly text: string;
  readonly program: ParseResult;
  readonly message: string;
  readonly messageProgram: ParseResult | undefined;
  readonly reason: FieldErrorReason;
  readonly fieldPath: string;
  /** Compares with the object as it was: holds for updates only. */
  readonly isTransition: boolean;
}

const REASONS: readonly string[] = [
  'FieldValueInvalid',
  'FieldValueForbidden',
  'FieldValueRequired',
  'FieldValueDuplicate',
];

let known: Environment | undefined;
let durations: Environment | undefined;

/** @throws Error for a text that is no duration. */
function toDuration(text: string): unknown {
  durations ??= new Environment().registerVariable('text', 'string');
  return durations.evaluate('duration(text)', { text });
}

function celEnvironment(): Environment {
  known ??= ruleEnvironment();
  return known;
}

function firstLine(error: unknown): string {
  return messageOf(error).split('\n')[0] ?? '';
}

/** Compiles a rule. @throws Error saying what is wrong with it. */
function compile(written: string, returns: 'bool' | 'string'): ParseResult {
  const env = celEnvironment();
  const text = withPresence(written);
  const checked = env.check(text);
  if (!checked.valid) throw new Error(firstLine(checked.error));
  if (checked.type !== returns && checked.type !== 'dyn')
    throw new Error(`it must evaluate to a ${returns}, not a ${checked.type}`);
  return env.parse(text);
}

function readRule(rule: unknown): Rule {
  const text = digString(rule, 'rule') ?? '';
  const messageExpression = digString(rule, 'messageExpression');
  const reason = digString(rule, 'reason') ?? 'FieldValueInvalid';
  return {
    text,
    program: compile(text, 'bool'),
    message: digString(rule, 'message') ?? `failed rule: ${text}`,
    messageProgram: messageExpression ? compile(messageExpression, 'string') : undefined,
    reason: reason as FieldErrorReason,
    fieldPath: digString(rule, 'fieldPath') ?? '',
    isTransition: /\boldSelf\b/.test(text),
  };
}

/** What is wrong with the rules of a schema, for those who define kinds. */
export function ruleFaults(schema: StructuralSchema, path: string): FieldError[] {
  return digList(schema, 'x-kubernetes-validations').flatMap((rule, i): FieldError[] => {
    const field = `${path}.x-kubernetes-validations[${i}].rule`;
    const text = digString(rule, 'rule') ?? '';
    const reason = digString(rule, 'reason');
    if (isJsonObject(rule) && rule['optionalOldSelf'] !== undefined) {
      const message = 'Invalid value: optionalOldSelf is not supported by this embedded cluster';
      return [{ field, reason: 'FieldValueInvalid', message }];
    }
    if (reason !== undefined && !REASONS.includes(reason)) {
      const message = `Unsupported value: ${JSON.stringify(reason)}: supported values: ${REASONS.map((r) => JSON.stringify(r)).join(', ')}`;
      return [{ field, reason: 'FieldValueNotSupported', message }];
    }
    try {
      readRule(rule);
      return [];
    } catch (error) {
      const message = `Invalid value: ${JSON.stringify(text)}: compilation failed: ${firstLine(error)}`;
      return [{ field, reason: 'FieldValueInvalid', message }];
    }
  });
}

const compiled = new WeakMap<StructuralSchema, readonly Rule[]>();

function rulesOf(schema: StructuralSchema): readonly Rule[] {
  let rules = compiled.get(schema);
  if (!rules) {
    // A rule of a definition stored before rules were read must not stop every write of its kind.
    rules = digList(schema, 'x-kubernetes-validations').flatMap((rule) => {
      try {
        return [readRule(rule)];
      } catch {
        return [];
      }
    });
    compiled.set(schema, rules);
  }
  return rules;
}

const KEYWORDS = new Set(
  'true false null in as break const continue else for function if import let loop package namespace return var void while'.split(
    ' ',
  ),
);

/** Names of properties as rules write them: `__dash__` for `-`, `__namespace__` for a keyword. */
function escaped(name: string): string {
  if (KEYWORDS.has(name)) return `__${name}__`;
  return name
    .replaceAll('__', '__underscores__')
    .replaceAll('.', '__dot__')
    .replaceAll('-', '__dash__')
    .replaceAll('/', '__slash__');
}

function propertyOf(
  properties: Readonly<Record<string, StructuralSchema>> | undefined,
  key: string,
): StructuralSchema | undefined {
  return properties && Object.hasOwn(properties, key) ? properties[key] : undefined;
}

/** A JSON value as the language sees it: whole numbers are integers, times are timestamps. */
function toCel(value: unknown, schema: StructuralSchema | undefined): unknown {
  if (Array.isArray(value)) return value.map((item) => toCel(item, schema?.items));
  if (isJsonObject(value)) {
    const { properties, additionalProperties } = schema ?? {};
    const rest = typeof additionalProperties === 'object' ? additionalProperties : undefined;
    return Object.fromEntries(
      Object.entries(value).map(([key, inner]) => [
        propertyOf(properties, key) ? escaped(key) : key,
        toCel(inner, propertyOf(properties, key) ?? rest),
      ]),
    );
  }
  if (typeof value === 'number') {
    const whole =
      schema?.type === 'integer' || (schema?.type !== 'number' && Number.isInteger(value));
    return whole && Number.isSafeInteger(value) ? BigInt(value) : value;
  }
  return typeof value === 'string' && schema?.type === 'string'
    ? textToCel(value, schema.format)
    : value;
}

/** Texts with a format are times, durations or bytes. */
function textToCel(value: string, format: string | undefined): unknown {
  if (format === 'date-time' || format === 'date') return new Date(value);
  if (format === 'byte') return new Uint8Array(Buffer.from(value, 'base64'));
  return format === 'duration' ? toDuration(value) : value;
}

interface Place {
  readonly field: string;
  readonly schema: StructuralSchema;
  readonly value: unknown;
  /** The same place before the update; undefined when there was none. */
  readonly before: unknown;
}

function typeName(value: unknown): string {
  return Array.isArray(value) ? 'array' : value === null ? 'null' : typeof value;
}

function shown(value: unknown): string {
  return typeof value === 'object' ? `"${typeName(value)}"` : JSON.stringify(value);
}

function judge(rule: Rule, place: Place): FieldError[] {
  const { field, schema, value, before } = place;
  if (rule.isTransition && before === undefined) return [];
  const context = { self: toCel(value, schema), oldSelf: toCel(before, schema) };
  const at = `${field}${rule.fieldPath}`.replace(/^\./, '');
  const fault = (what: string): FieldError[] => [
    { field: at, reason: rule.reason, message: `Invalid value: ${shown(value)}: ${what}` },
  ];
  try {
    if (rule.program(context) === true) return [];
    return fault(messageFor(rule, context));
  } catch (error) {
    return fault(`${firstLine(error)} evaluating rule: ${rule.text}`);
  }
}

function messageFor(rule: Rule, context: Record<string, unknown>): string {
  try {
    const text: unknown = rule.messageProgram?.(context);
    return typeof text === 'string' && text.trim() !== '' ? text : rule.message;
  } catch {
    return rule.message;
  }
}

/** The item of an older list with the same keys; lists without keys have no history. */
function counterpart(item: unknown, list: unknown, schema: StructuralSchema): unknown {
  if (schema['x-kubernetes-list-type'] !== 'map' || !Array.isArray(list)) return undefined;
  const keys = schema['x-kubernetes-list-map-keys'] ?? [];
  const idOf = (o: unknown): string =>
    JSON.stringify(keys.map((k) => (isJsonObject(o) ? o[k] : o)));
  return list.find((other) => idOf(other) === idOf(item));
}

function* placesBelow({ field, schema, value, before }: Place): Generator<Place> {
  if (Array.isArray(value) && schema.items) {
    for (const [i, item] of value.entries()) {
      const old = counterpart(item, before, schema);
      yield { field: `${field}[${i}]`, schema: schema.items, value: item, before: old };
    }
  } else if (isJsonObject(value)) {
    const { properties, additionalProperties } = schema;
    const rest = typeof additionalProperties === 'object' ? additionalProperties : undefined;
    for (const [key, inner] of Object.entries(value)) {
      const child = propertyOf(properties, key) ?? rest;
      if (!child) continue;
      const old = isJsonObject(before) ? before[key] : undefined;
      yield {
        field: field === '' ? key : `${field}.${key}`,
        schema: child,
        value: inner,
        before: old,
      };
    }
  }
}

function check(place: Place): FieldError[] {
  if (place.value === null) return [];
  const own = rulesOf(place.schema).flatMap((rule) => judge(rule, place));
  return [...own, ...[...placesBelow(place)].flatMap(check)];
}

const marked = new WeakMap<StructuralSchema, boolean>();

function hasRules(schema: StructuralSchema): boolean {
  let found = marked.get(schema);
  if (found === undefined) {
    found = JSON.stringify(schema).includes('"x-kubernetes-validations"');
    marked.set(schema, found);
  }
  return found;
}

/**
 * The rules of its schema that an object breaks.
 *
 * @param before The object before an update; undefined for a new one.
 */
export function brokenRules(
  object: unknown,
  schema: StructuralSchema,
  before?: unknown,
): FieldError[] {
  return hasRules(schema) ? check({ field: '', schema, value: object, before }) : [];
}
