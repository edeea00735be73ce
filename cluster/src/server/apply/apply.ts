import { isJsonObject, type ResolveRef } from '@shoal/core';
import { type ApiObject, digString } from '../../object.ts';
import type { Resource } from '../resource-registry.ts';
import { StatusError } from '../status-error.ts';
import { FieldSet, type Path, pathText } from './field-set.ts';
import {
  type FieldManager,
  isReset,
  isSameManager,
  manageable,
  type Owner,
  ownedBy,
  readOwners,
  writeOwners,
} from './managed-fields.ts';
import { type Comparison, Shape, TypedValue } from './typed-value.ts';

/** What a write needs to know to keep track of who owns which field. */
export interface Tracking {
  readonly resource: Resource;
  readonly resolve: ResolveRef;
  readonly nowMs: number;
  readonly manager: FieldManager;
}

const LAST_APPLIED = 'kubectl.kubernetes.io/last-applied-configuration';
const BEFORE_FIRST_APPLY = 'before-first-apply';

function typed(object: unknown, { resource, resolve }: Tracking): TypedValue {
  return new TypedValue(object, new Shape(resource.schema, resolve));
}

function skipsStatus({ resource, manager }: Tracking): boolean {
  return resource.status && manager.subresource === undefined;
}

/** What the others own after a write took the changed fields and removed the removed ones. */
function othersAfter(owners: readonly Owner[], change: Comparison, manager: FieldManager): Owner[] {
  const taken = change.added.union(change.modified).union(change.removed);
  return owners.map((owner) =>
    isSameManager(owner, manager) ? owner : { ...owner, fields: owner.fields.difference(taken) },
  );
}

/**
 * Notes in `next.metadata.managedFields` what a create or an update changed, in place.
 * Objects that were stored before anybody kept track stay without.
 */
export function trackUpdate(
  current: ApiObject | undefined,
  next: ApiObject,
  tracking: Tracking,
): void {
  const { manager, nowMs } = tracking;
  if (isReset(next)) {
    delete next.metadata.managedFields;
    return;
  }
  const sent = readOwners(next);
  const owners = sent.length > 0 ? sent : readOwners(current);
  if (current && owners.length === 0) {
    delete next.metadata.managedFields;
    return;
  }
  const change = typed(current ?? {}, tracking).compare(typed(next, tracking));
  const before = owners.find((o) => isSameManager(o, manager));
  const own = (before?.fields ?? new FieldSet())
    .difference(change.removed)
    .union(change.added)
    .union(change.modified);
  const fields = manageable(own, skipsStatus(tracking));
  const others = othersAfter(owners, change, manager).filter((o) => !isSameManager(o, manager));
  writeOwners(next, [...others, ownedBy(manager, fields, { before, nowMs })]);
}

interface Conflict {
  readonly owner: Owner;
  readonly path: Path;
}

/** Fields that another manager owns and that this apply would change. */
function conflictsOf(
  owners: readonly Owner[],
  change: Comparison,
  manager: FieldManager,
): Conflict[] {
  const wanted = change.added.union(change.modified);
  return owners
    .filter((o) => !isSameManager(o, manager))
    .flatMap((owner) =>
      [...owner.fields.intersection(wanted).paths()].map((path) => ({ owner, path })),
    );
}

function ownerText(owner: Owner): string {
  const through = owner.subresource ? ` with subresource "${owner.subresource}"` : '';
  const name = `${JSON.stringify(owner.name)}${through}`;
  if (owner.operation === 'Apply') return name;
  return `${name} using ${owner.apiVersion}${owner.time ? ` at ${owner.time}` : ''}`;
}

function conflictMessage(conflicts: readonly Conflict[]): string {
  const [first] = conflicts;
  if (first && conflicts.length === 1) {
    return `Apply failed with 1 conflict: conflict with ${ownerText(first.owner)}: ${pathText(first.path)}`;
  }
  const lines = [...new Set(conflicts.map((c) => ownerText(c.owner)))]
    .toSorted()
    .flatMap((owner) => {
      const theirs = conflicts.filter((c) => ownerText(c.owner) === owner);
      return [`conflicts with ${owner}:`, ...theirs.map((c) => `- ${pathText(c.path)}`)];
    });
  return `Apply failed with ${conflicts.length} conflicts: ${lines.join('\n')}`;
}

function refuseConflicts(conflicts: readonly Conflict[]): void {
  if (conflicts.length === 0) return;
  throw new StatusError('Conflict', conflictMessage(conflicts), {
    causes: conflicts.map(({ owner, path }) => ({
      reason: 'FieldManagerConflict',
      message: `conflict with ${ownerText(owner)}`,
      field: pathText(path),
    })),
  });
}

/** What `kubectl apply` without `--server-side` last stated; it may take these from itself. */
function lastApplied(current: ApiObject | undefined, tracking: Tracking): FieldSet {
  const text = current?.metadata.annotations?.[LAST_APPLIED];
  if (text === undefined || tracking.manager.name !== 'kubectl') return new FieldSet();
  try {
    return typed(JSON.parse(text), tracking).fieldSet();
  } catch {
    return new FieldSet();
  }
}

/**
 * Takes out what this manager stated last time, does not state now, and nobody else owns.
 *
 * @param owned What this manager states now and what others own.
 */
function prune(merged: TypedValue, owned: FieldSet, before: Owner | undefined): unknown {
  if (!before) return merged.value;
  const named = (set: FieldSet): FieldSet => merged.withNamedFields(set);
  const stay = (value: unknown): FieldSet => named(merged.with(value).fieldSet());
  const present = named(merged.fieldSet());
  const last = named(before.fields);
  // First without all it stated, then with what anybody owns again, then with what it never stated.
  const bare = stay(merged.without(last));
  const kept = stay(merged.without(present.difference(bare.union(named(owned)))));
  return merged.without(present.difference(kept).intersection(last));
}

function checkConfig(config: ApiObject): void {
  if (config.metadata.managedFields !== undefined)
    throw new StatusError('BadRequest', 'metadata.managedFields must be nil');
}

/**
 * Server-side apply: the object with what a manager states of it.
 *
 * @param current The stored object; undefined creates it.
 * @param config What the manager states; not to be changed.
 * @returns The next object with its managed fields.
 * @throws StatusError `Conflict` when it would change what others own and `force` is not set.
 */
export function applyConfig(
  current: ApiObject | undefined,
  config: ApiObject,
  tracking: Tracking & { readonly force: boolean },
): ApiObject {
  checkConfig(config);
  const { manager, nowMs } = tracking;
  const skipStatus = skipsStatus(tracking);
  const live = typed(current ?? {}, tracking);
  const known = readOwners(current);
  const owners = known.length > 0 || !current ? known : [firstOwner(current, tracking)];
  const before = owners.find((o) => isSameManager(o, manager));
  const stated = typed(config, tracking).fieldSet();
  const own = ownedBy(manager, manageable(stated, skipStatus), { before, nowMs });
  const others = owners.filter((o) => o !== before);
  const all = [...others, own];
  const merged = live.with(live.merge(typed(config, tracking)));
  const keep = others.reduce((sum, o) => sum.union(o.fields), stated);
  const next = structuredClone(prune(merged, keep, before)) as ApiObject;
  const change = live.compare(typed(next, tracking));
  const allowed = lastApplied(current, tracking);
  const conflicts = conflictsOf(all, change, manager).filter(({ path }) => !allowed.has(path));
  if (!tracking.force) refuseConflicts(conflicts);
  writeOwners(next, othersAfter(all, change, manager));
  renewLastApplied(next, config, manager);
  return next;
}

function firstOwner(current: ApiObject, tracking: Tracking): Owner {
  const { apiVersion } = tracking.manager;
  const manager: FieldManager = { name: BEFORE_FIRST_APPLY, operation: 'Update', apiVersion };
  const fields = manageable(typed(current, tracking).fieldSet(), tracking.resource.status);
  return ownedBy(manager, fields, { before: undefined, nowMs: tracking.nowMs });
}

/** Keeps the annotation of client-side apply true, so that one can go back to it. */
function renewLastApplied(next: ApiObject, config: ApiObject, manager: FieldManager): void {
  const { annotations } = next.metadata;
  if (manager.name !== 'kubectl' || annotations?.[LAST_APPLIED] === undefined) return;
  annotations[LAST_APPLIED] = `${JSON.stringify(config)}\n`;
}

/** Reads the body of an apply patch. */
export function readConfig(body: unknown): ApiObject {
  if (!isJsonObject(body) || !digString(body, 'apiVersion') || !digString(body, 'kind')) {
    throw new StatusError('BadRequest', 'an apply patch must name apiVersion and kind');
  }
  const metadata = isJsonObject(body['metadata']) ? body['metadata'] : {};
  return { ...body, metadata } as ApiObject;
}
