import { digestOf } from '@shoal/core';
import type { Json } from '../config/config-node.ts';

const SECRET_KEY =
  /((api|access|private|secret|account|encryption)[_-]?key|(^|[-_.])secret$|(api|access|auth|bearer|refresh|hf|github)[_-]?token|(^|[-_.])token$|(^|[-_.])pass(word|wd|phrase)$|^pass$|(^|[-_.])pwd$|credentials?$|authorization|(^|[-_.])auth$)/i;
/** A number is a secret under names of passwords and keys only: `secret: 3` may count shares. */
const NUMBER_KEY = /(key|pass(word|wd|phrase)|pwd)$/i;
/** Tokens of a vocabulary are no secrets. */
const VOCABULARY = /(pad|eos|bos|unk|mask|sep|cls|start|end|stop)[_-]?token$/i;
const SECRET_VALUE =
  /^(sk|pk|ghp|gho|hf|xox[abp]|github_pat|glpat)[-_][A-Za-z0-9_-]{12,}$|^AKIA[0-9A-Z]{16}$|^AIza[\w-]{30,}$|^Bearer\s+\S{8,}$|^eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*$/;
/** The password of an address. */
const IN_ADDRESS = /(?<=:\/\/[^/\s:@]*:)[^/\s@]+(?=@)/g;

export const REDACTED = '(secret)';

function isSecret(key: string, value: unknown): value is string | number {
  if (typeof value === 'string' && SECRET_VALUE.test(value)) return true;
  const isScalar = typeof value === 'string' || (typeof value === 'number' && NUMBER_KEY.test(key));
  return isScalar && SECRET_KEY.test(key) && !VOCABULARY.test(key);
}

/** The same value without keys and passwords: what may be stored and shown. */
export function redacted<T>(value: T, key = ''): T {
  if (isSecret(key, value)) return REDACTED as T;
  if (typeof value === 'string') return value.replaceAll(IN_ADDRESS, REDACTED) as T;
  if (Array.isArray(value)) return value.map((v: unknown) => redacted(v, key)) as T;
  if (typeof value !== 'object' || value === null) return value;
  // A reference to the environment says where a secret is, not what it is.
  if (referenceOf(value) !== undefined) return value;
  const hidden = Object.entries(value).map(([k, v]: [string, unknown]) => [k, redacted(v, k)]);
  return Object.fromEntries(hidden) as T;
}

/**
 * The same value with a digest for every secret, also for what a reference to the environment stands
 * for: another secret is another case.
 */
export function sealed(value: unknown, environment: Environment, key = ''): unknown {
  if (isSecret(key, value)) return digestOf(`${key} ${value}`);
  if (Array.isArray(value)) return value.map((v) => sealed(v, environment, key));
  if (typeof value !== 'object' || value === null) return value;
  const reference = referenceOf(value);
  if (reference !== undefined)
    return { env: reference, digest: digestOf(environment[reference] ?? '') };
  return Object.fromEntries(
    Object.entries(value).map(([k, v]: [string, unknown]) => [k, sealed(v, environment, k)]),
  );
}

/** Variables of the environment that a value refers to. */
export function referencesIn(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(referencesIn);
  if (typeof value !== 'object' || value === null) return [];
  const reference = referenceOf(value);
  return reference === undefined ? Object.values(value).flatMap(referencesIn) : [reference];
}

/** NAME of `{env: NAME}`; undefined for anything else. */
function referenceOf(value: object): string | undefined {
  const entries: [string, unknown][] = Object.entries(value);
  const [first] = entries;
  return entries.length === 1 && first?.[0] === 'env' && typeof first[1] === 'string'
    ? first[1]
    : undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

const SHORTEST = 4;

/** Every secret in a value, those it refers to in the environment included, to be kept out of logs. */
export function secretsOf(value: unknown, environment: Environment, key = ''): string[] {
  if (isSecret(key, value)) return String(value).length < SHORTEST ? [] : [String(value)];
  if (typeof value === 'string') return value.match(IN_ADDRESS) ?? [];
  if (Array.isArray(value)) return value.flatMap((v) => secretsOf(v, environment, key));
  if (typeof value !== 'object' || value === null) return [];
  const reference = referenceOf(value);
  if (reference !== undefined) {
    const held = environment[reference] ?? '';
    return held.length < SHORTEST ? [] : [held];
  }
  return Object.entries(value).flatMap(([k, v]) => secretsOf(v, environment, k));
}

/** A text with every secret blacked out. */
export function blackened(text: string, secrets: readonly string[]): string {
  return secrets.reduce((t, secret) => t.replaceAll(secret, REDACTED), text);
}

/** `{env: NAME}` stands for a variable of the environment: a secret that no file holds. */
export function fromEnvironment(value: Json, environment: Environment): Json {
  if (Array.isArray(value)) return value.map((v) => fromEnvironment(v, environment));
  if (typeof value !== 'object' || value === null) return value;
  const reference = referenceOf(value);
  if (reference !== undefined) return environment[reference] ?? null;
  return Object.fromEntries(
    Object.entries(value as Readonly<Record<string, Json>>).map(([k, v]) => [
      k,
      fromEnvironment(v, environment),
    ]),
  );
}
