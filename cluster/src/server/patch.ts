import { isDeepStrictEqual } from 'node:util';
import { isJsonObject, type JsonObject } from '@shoal/core';
import { StatusError } from './status-error.ts';

/** JSON Merge Patch (RFC 7386). Neither argument is changed. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isJsonObject(patch)) return patch;
  const result: JsonObject = isJsonObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = mergePatch(result[key], value);
  }
  return result;
}

interface Operation {
  readonly op: string;
  readonly path: string;
  readonly from?: string;
  readonly value?: unknown;
}

function segments(pointer: string): string[] {
  if (pointer === '') return [];
  if (!pointer.startsWith('/')) throw new StatusError('Invalid', `invalid JSON pointer ${pointer}`);
  const keys = pointer
    .slice(1)
    .split('/')
    .map((s) => s.replaceAll('~1', '/').replaceAll('~0', '~'));
  // Would lead out of the document, into what all objects share.
  if (keys.includes('__proto__'))
    throw new StatusError('Invalid', `invalid JSON pointer ${pointer}`);
  return keys;
}

function missing(pointer: string): StatusError {
  return new StatusError(
    'Invalid',
    `the server rejected our request due to an error in our request: path ${pointer} does not exist`,
  );
}

function read(document: unknown, pointer: string): unknown {
  let here = document;
  for (const key of segments(pointer)) {
    if (Array.isArray(here)) here = here[Number(key)];
    else if (isJsonObject(here)) here = Object.hasOwn(here, key) ? here[key] : undefined;
    else throw missing(pointer);
    if (here === undefined) throw missing(pointer);
  }
  return here;
}

function parentOf(document: unknown, pointer: string): [unknown, string] {
  const path = segments(pointer);
  const key = path.pop() ?? '';
  const parent = path.map((p) => `/${p.replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
  return [read(document, parent), key];
}

function add(document: unknown, pointer: string, value: unknown): unknown {
  if (pointer === '') return value;
  const [parent, key] = parentOf(document, pointer);
  if (Array.isArray(parent)) {
    const index = key === '-' ? parent.length : Number(key);
    if (!Number.isInteger(index) || index < 0 || index > parent.length) throw missing(pointer);
    parent.splice(index, 0, value);
  } else if (isJsonObject(parent)) {
    parent[key] = value;
  } else throw missing(pointer);
  return document;
}

function remove(document: unknown, pointer: string): unknown {
  read(document, pointer);
  const [parent, key] = parentOf(document, pointer);
  if (Array.isArray(parent)) parent.splice(Number(key), 1);
  else if (isJsonObject(parent)) delete parent[key];
  return document;
}

function replace(document: unknown, pointer: string, value: unknown): unknown {
  if (pointer === '') return value;
  read(document, pointer);
  const [parent, key] = parentOf(document, pointer);
  if (Array.isArray(parent)) parent[Number(key)] = value;
  else if (isJsonObject(parent)) parent[key] = value;
  return document;
}

function applyOperation(document: unknown, operation: Operation): unknown {
  const { op, path, from = '' } = operation;
  switch (op) {
    case 'add':
      return add(document, path, operation.value);
    case 'remove':
      return remove(document, path);
    case 'replace':
      return replace(document, path, operation.value);
    case 'copy':
      return add(document, path, structuredClone(read(document, from)));
    case 'move': {
      const value = read(document, from);
      return add(remove(document, from), path, value);
    }
    case 'test':
      if (!isDeepStrictEqual(read(document, path), operation.value)) {
        throw new StatusError(
          'Invalid',
          `the server rejected our request due to an error in our request: testing path ${path} failed`,
        );
      }
      return document;
    default:
      throw new StatusError('BadRequest', `unknown JSON patch operation "${op}"`);
  }
}

/** JSON Patch (RFC 6902) applied to a copy of the target. */
export function jsonPatch(target: unknown, patch: unknown): unknown {
  if (!Array.isArray(patch))
    throw new StatusError('BadRequest', 'a JSON patch must be an array of operations');
  let document = structuredClone(target);
  for (const operation of patch) {
    if (!isJsonObject(operation) || typeof operation['path'] !== 'string') {
      throw new StatusError('BadRequest', 'each JSON patch operation needs op and path');
    }
    document = applyOperation(document, operation as unknown as Operation);
  }
  return document;
}
