import { isJsonObject, rfc3339 } from '@shoal/core';
import { type ApiObject, digString } from '../../object.ts';
import { FieldSet, type Path } from './field-set.ts';

/** Who writes, and through which door. */
export interface FieldManager {
  readonly name: string;
  readonly operation: 'Apply' | 'Update';
  readonly apiVersion: string;
  readonly subresource?: string | undefined;
}

/** A manager with the fields it owns and when it last took some. */
export interface Owner extends FieldManager {
  readonly time: string | undefined;
  readonly fields: FieldSet;
}

/** Entries of updaters beyond this many are put together, oldest first. */
const MAX_UPDATERS = 10;
const ANCIENT = 'ancient-changes';

/** Fields of the server's own, which nobody manages. */
const SERVER_METADATA = [
  'name',
  'namespace',
  'creationTimestamp',
  'selfLink',
  'uid',
  'generation',
  'managedFields',
  'resourceVersion',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
].map((field) => `f:${field}`);

function isServerField([first, second]: Path): boolean {
  if (first === 'f:apiVersion' || first === 'f:kind') return true;
  return first === 'f:metadata' && (second === undefined || SERVER_METADATA.includes(second));
}

/**
 * @param skipStatus Status has a door of its own: writes to the object do not touch it.
 * @returns The fields that can be owned.
 */
export function manageable(fields: FieldSet, skipStatus: boolean): FieldSet {
  return FieldSet.of(
    [...fields.paths()].filter((p) => !isServerField(p) && !(skipStatus && p[0] === 'f:status')),
  );
}

export function isSameManager(a: FieldManager, b: FieldManager): boolean {
  const versions = a.operation === 'Apply' || a.apiVersion === b.apiVersion;
  return (
    a.name === b.name &&
    a.operation === b.operation &&
    (a.subresource ?? '') === (b.subresource ?? '') &&
    versions
  );
}

/** Reads `metadata.managedFields`; entries that cannot be read are left out. */
export function readOwners(object: ApiObject | undefined): Owner[] {
  const owners: Owner[] = [];
  for (const entry of object?.metadata.managedFields ?? []) {
    const operation = digString(entry, 'operation');
    if (!isJsonObject(entry) || (operation !== 'Apply' && operation !== 'Update')) continue;
    const owner: Owner = {
      name: digString(entry, 'manager') ?? 'unknown',
      operation,
      apiVersion: digString(entry, 'apiVersion') ?? '',
      subresource: digString(entry, 'subresource'),
      time: digString(entry, 'time'),
      fields: FieldSet.fromFieldsV1(entry['fieldsV1']),
    };
    const known = owners.findIndex((o) => isSameManager(o, owner));
    const first = owners[known];
    if (first) owners[known] = { ...first, fields: first.fields.union(owner.fields) };
    else owners.push(owner);
  }
  return owners;
}

/** True for `managedFields: [{}]`, by which a client asks to forget who owns what. */
export function isReset(object: ApiObject): boolean {
  const [only, ...more] = object.metadata.managedFields ?? [];
  return isJsonObject(only) && Object.keys(only).length === 0 && more.length === 0;
}

function withoutCrowd(owners: readonly Owner[]): Owner[] {
  const byAge = owners
    .filter((o) => o.operation === 'Update')
    .toSorted((a, b) => ((a.time ?? '') < (b.time ?? '') ? -1 : 1));
  const ancient = byAge.slice(0, Math.max(0, byAge.length - MAX_UPDATERS));
  const [first, ...others] = ancient;
  if (!first || (others.length === 0 && first.name === ANCIENT)) return [...owners];
  const fields = ancient.reduce((sum, o) => sum.union(o.fields), new FieldSet());
  const { operation, apiVersion, time } = ancient.at(-1) ?? first;
  return [
    { name: ANCIENT, operation, apiVersion, time, fields },
    ...owners.filter((o) => !ancient.includes(o)),
  ];
}

/** Writes `metadata.managedFields`, in place: appliers first, then by time. */
export function writeOwners(object: ApiObject, owners: readonly Owner[]): void {
  const kept = withoutCrowd(owners.filter((o) => !o.fields.isEmpty));
  const rank = (o: Owner): string =>
    `${o.operation === 'Apply' ? 0 : 1}\n${o.time ?? ''}\n${o.name}`;
  if (kept.length === 0) delete object.metadata.managedFields;
  else {
    object.metadata.managedFields = kept
      .toSorted((a, b) => (rank(a) < rank(b) ? -1 : 1))
      .map((o) => ({
        manager: o.name,
        operation: o.operation,
        apiVersion: o.apiVersion,
        ...(o.time === undefined ? {} : { time: o.time }),
        fieldsType: 'FieldsV1',
        fieldsV1: o.fields.toFieldsV1(),
        ...(o.subresource ? { subresource: o.subresource } : {}),
      }));
  }
}

/** The owner's new entry; its time stays when it owns what it owned before. */
export function ownedBy(
  manager: FieldManager,
  fields: FieldSet,
  at: { before: Owner | undefined; nowMs: number },
): Owner {
  const same = at.before?.fields.equals(fields) === true;
  return { ...manager, fields, time: same ? at.before?.time : rfc3339(at.nowMs) };
}
