import { isJsonObject, type StructuralSchema } from '@shoal/core';
import { type ApiObject, dig, digList, digObject, digString, scalarText } from '../object.ts';
import { ageColumn, ageOf, nameColumn } from './builtin-columns.ts';
import { evaluateJsonPath } from './json-path.ts';
import type { Cell, Column, Resource } from './resource-registry.ts';
import { customScale } from './scale.ts';

function cellOf(values: unknown[] | undefined, type: string, nowMs: number): Cell {
  const value = values?.[0];
  if (value === undefined || value === null) return null;
  if (type === 'date') return ageOf(value, nowMs);
  if (typeof value === 'object') return JSON.stringify(value);
  return type === 'string' ? scalarText(value) : (value as Cell);
}

function printerColumn(definition: unknown): Column {
  const type = digString(definition, 'type') ?? 'string';
  const path = digString(definition, 'jsonPath') ?? '';
  const priority = dig(definition, 'priority');
  const description = digString(definition, 'description');
  return {
    name: digString(definition, 'name') ?? '',
    type,
    ...(typeof priority === 'number' ? { priority } : {}),
    ...(description ? { description } : {}),
    cell: (object, nowMs) => cellOf(evaluateJsonPath(object, path), type, nowMs),
  };
}

/** The fields every object has, added to schemas that leave them out (as most CRDs do). */
function withObjectFields(schema: StructuralSchema): StructuralSchema {
  return {
    ...schema,
    type: 'object',
    properties: {
      ...schema.properties,
      apiVersion: {
        type: 'string',
        description: 'APIVersion defines the versioned schema of this representation of an object.',
      },
      kind: {
        type: 'string',
        description:
          'Kind is a string value representing the REST resource this object represents.',
      },
      metadata: { $ref: '#/components/schemas/V1ObjectMeta' },
    },
  };
}

/** The resources a CustomResourceDefinition adds: one per served version. */
export function resourcesOf(crd: ApiObject): Resource[] {
  const names = digObject(crd, 'spec', 'names');
  const strings = (value: unknown): string[] => (Array.isArray(value) ? value.map(String) : []);
  return digList(crd, 'spec', 'versions')
    .filter((v) => dig(v, 'served') === true)
    .map((version) => {
      const columns = digList(version, 'additionalPrinterColumns').map(printerColumn);
      return {
        group: digString(crd, 'spec', 'group') ?? '',
        version: digString(version, 'name') ?? '',
        kind: String(names['kind']),
        plural: String(names['plural']),
        singular: digString(names, 'singular') ?? String(names['kind']).toLowerCase(),
        shortNames: strings(names['shortNames']),
        categories: strings(names['categories']),
        namespaced: dig(crd, 'spec', 'scope') !== 'Cluster',
        status: isJsonObject(dig(version, 'subresources', 'status')),
        scale: customScale(version),
        selectable: digList(version, 'selectableFields').map((f) =>
          (digString(f, 'jsonPath') ?? '').replace(/^\./, ''),
        ),
        schema: withObjectFields(
          digObject(version, 'schema', 'openAPIV3Schema') as StructuralSchema,
        ),
        columns: columns.length > 0 ? [nameColumn, ...columns] : [nameColumn, ageColumn],
        builtin: false,
      };
    });
}
