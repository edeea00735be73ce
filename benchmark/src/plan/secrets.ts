import type { Json } from '../config/config-node.ts';

const SECRET_KEY = /(api[_-]?key|access[_-]?key|secret|token$|password|passwd|credential|auth$)/i;
const SECRET_VALUE = /^(sk|pk|ghp|gho|hf|xox[abp])[-_][A-Za-z0-9_-]{12,}$|^AKIA[0-9A-Z]{16}$/;

export const REDACTED = '(secret)';

function isSecret(key: string, value: unknown): value is string {
  return typeof value === 'string' && (SECRET_KEY.test(key) || SECRET_VALUE.test(value));
}

/** The same value without keys and passwords: what may be stored, hashed and shown. */
export function redacted<T>(value: T, key = ''): T {
  if (isSecret(key, value)) return REDACTED as T;
  if (Array.isArray(value)) return value.map((v: unknown) => redacted(v, key)) as T;
  if (typeof value !== 'object' || value === null) return value;
  const hidden = Object.entries(value).map(([k, v]: [string, unknown]) => [k, redacted(v, k)]);
  return Object.fromEntries(hidden) as T;
}

/** Every secret in a value, to be kept out of logs. */
export function secretsOf(value: unknown, key = ''): string[] {
  if (isSecret(key, value)) return [value];
  if (Array.isArray(value)) return value.flatMap((v) => secretsOf(v, key));
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([k, v]) => secretsOf(v, k));
}

/** `{env: NAME}` stands for a variable of the environment: a secret that no file holds. */
export function fromEnvironment(
  value: Json,
  environment: Readonly<Record<string, string | undefined>>,
): Json {
  if (Array.isArray(value)) return value.map((v) => fromEnvironment(v, environment));
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value as Readonly<Record<string, Json>>);
  const [first] = entries;
  if (entries.length === 1 && first?.[0] === 'env' && typeof first[1] === 'string')
    return environment[first[1]] ?? null;
  return Object.fromEntries(entries.map(([k, v]) => [k, fromEnvironment(v, environment)]));
}
