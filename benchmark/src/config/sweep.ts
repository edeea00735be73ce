import { isJsonObject } from '@shoal/core';
import {
  type ConfigFile,
  ConfigNode,
  type Json,
  type JsonMap,
  type Path,
  textOf,
} from './config-node.ts';

/** Something a configuration gives several values for: `{values: […]}` in place of the value. */
export interface Axis {
  readonly path: Path;
  readonly values: readonly Json[];
}

const MAX_COMBINATIONS = 100_000;

function isAxis(value: Json): value is JsonMap {
  return isJsonObject(value) && Object.keys(value).length === 1 && 'values' in value;
}

function found(file: ConfigFile, value: Json, path: Path, axes: Axis[]): void {
  if (isAxis(value)) {
    const { values } = value;
    const node = new ConfigNode(file, value, path);
    if (!Array.isArray(values))
      node
        .at('values')
        .fail(`must be a list, got ${JSON.stringify(values)}; write values: [${textOf(values)}]`);
    else if (values.length === 0) node.at('values').fail('is empty: there would be no case');
    else axes.push({ path, values });
    return;
  }
  if (Array.isArray(value))
    for (const [i, v] of value.entries()) found(file, v, [...path, i], axes);
  else if (isJsonObject(value))
    for (const [k, v] of Object.entries(value)) found(file, v as Json, [...path, k], axes);
}

/** Every axis of a file, in the order it is written. */
export function axesOf(file: ConfigFile): Axis[] {
  const axes: Axis[] = [];
  found(file, file.value, [], axes);
  return axes;
}

function replaced(value: Json, path: Path, by: Json): Json {
  const [key, ...rest] = path;
  if (key === undefined) return by;
  if (Array.isArray(value)) return value.map((v, i) => (i === key ? replaced(v, rest, by) : v));
  const map = value as JsonMap;
  return { ...map, [key]: replaced(map[key] ?? null, rest, by) };
}

/** One choice of a value for every axis of a file. */
export interface Combination {
  /** The file's value with every axis replaced by one of its values. */
  readonly value: Json;
  readonly chosen: readonly { readonly path: Path; readonly value: Json }[];
}

/** Every combination of the axes of a file, the first axis changing slowest. */
export function combinations(file: ConfigFile): Combination[] {
  const axes = axesOf(file);
  const count = axes.reduce((n, a) => n * a.values.length, 1);
  if (count > MAX_COMBINATIONS)
    new ConfigNode(file).fail(
      `${count} combinations of ${axes.length} axes; at most ${MAX_COMBINATIONS} can be planned`,
    );
  let all: Combination[] = [{ value: file.value, chosen: [] }];
  for (const { path, values } of axes)
    all = all.flatMap((c) =>
      values.map((v) => ({
        value: replaced(c.value, path, v),
        chosen: [...c.chosen, { path, value: v }],
      })),
    );
  return all;
}
