import { isJsonObject } from '@shoal/core';

/**
 * The part of JSONPath that printer columns use: `.a.b`, `[0]`, `[-1:]`, `[*]`,
 * `[?(@.key=="value")]`, `['a.b']`.
 */
const STEP =
  /\.([\w$-]+)|\['([^']+)'\]|\[(-?\d+)\]|\[(-?\d*):(-?\d*)\]|\[\*\]|\[\?\(@\.([\w.]+)\s*==\s*["']([^"']*)["']\)\]/gy;

function step(value: unknown, match: RegExpExecArray): unknown[] {
  const [whole, dot, quoted, index, from, to, key, wanted] = match;
  const name = dot ?? quoted;
  if (name !== undefined) return isJsonObject(value) && name in value ? [value[name]] : [];
  if (!Array.isArray(value)) return [];
  if (index !== undefined) return value.length > 0 ? [value.at(Number(index))] : [];
  if (whole === '[*]') return value;
  if (key !== undefined) return value.filter((v) => isJsonObject(v) && String(v[key]) === wanted);
  return value.slice(from ? Number(from) : 0, to ? Number(to) : undefined);
}

/** All values a path leads to; undefined when the path is not of the supported form. */
export function evaluateJsonPath(object: unknown, path: string): unknown[] | undefined {
  const text = path.startsWith('.') || path.startsWith('[') ? path : `.${path}`;
  STEP.lastIndex = 0;
  let values: unknown[] = [object];
  while (STEP.lastIndex < text.length) {
    const match = STEP.exec(text);
    if (!match) return undefined;
    values = values.flatMap((v) => step(v, match)).filter((v) => v !== undefined);
  }
  return values;
}
