import { isDeepStrictEqual } from 'node:util';
import { type Clock, rfc3339 } from '@shoal/core';
import type { ApiObject, OwnerRef } from '../object.ts';
import { dig, digNumber } from '../object.ts';
import type { Key, RevisionedStore, Transaction } from '../store/revisioned-store.ts';
import {
  type Admitted,
  admitConfig,
  admitCreate,
  admitUpdate,
  type FieldValidation,
  toApiObject,
} from './admission.ts';
import { applyConfig, readConfig, type Tracking, trackUpdate } from './apply/apply.ts';
import type { FieldManager } from './apply/managed-fields.ts';
import { inVersion, type Resource, type ResourceRegistry, storeName } from './resource-registry.ts';
import type { Predicate } from './selectors.ts';
import {
  ALL_SUBNETS,
  allocateAddress,
  keepAddress,
  type ServiceSubnets,
} from './service-address.ts';
import { alreadyExists, conflict, invalid, notFound, StatusError } from './status-error.ts';

/** Looks at an object before it is stored; what it throws refuses the write. */
export type WriteGuard = (object: ApiObject, isNew: boolean) => void;

export interface WriteOptions {
  readonly dryRun?: boolean;
  readonly fieldValidation?: FieldValidation;
  /** Who writes; writes of the server's own controllers are not kept track of. */
  readonly manager?: FieldManager;
  readonly guard?: WriteGuard | undefined;
}

export interface ApplyOptions extends WriteOptions {
  readonly manager: FieldManager;
  /** Takes fields that others own instead of refusing. */
  readonly force: boolean;
}

export interface DeleteOptions {
  readonly dryRun?: boolean;
  readonly gracePeriodSeconds?: number;
  readonly propagationPolicy?: 'Background' | 'Foreground' | 'Orphan';
  readonly preconditions?: { readonly uid?: string; readonly resourceVersion?: string };
}

/** Where a request points. */
export interface Target {
  readonly resource: Resource;
  readonly namespace: string;
  readonly name: string;
  readonly subresource?: 'status' | undefined;
}

const NAMESPACES = '/namespaces';
/** Namespaces a cluster cannot do without. */
const PROTECTED = new Set(['default', 'kube-system', 'kube-public']);

/** Thrown inside a transaction to give it up and hand out what it would have stored. */
class DryRun extends Error {
  readonly outcome: unknown;
  constructor(outcome: unknown) {
    super('dry run');
    this.outcome = outcome;
  }
}

/** The API's verbs over the store; used by the HTTP server and, in process, by the controllers. */
export class Verbs {
  readonly store: RevisionedStore;
  readonly registry: ResourceRegistry;
  readonly clock: Clock;

  readonly #serviceSubnets: ServiceSubnets;

  constructor(
    store: RevisionedStore,
    registry: ResourceRegistry,
    clock: Clock,
    serviceSubnets: ServiceSubnets = ALL_SUBNETS,
  ) {
    this.#serviceSubnets = serviceSubnets;
    this.store = store;
    this.registry = registry;
    this.clock = clock;
  }

  #key(target: Omit<Target, 'subresource'>): Key {
    const namespace = target.resource.namespaced ? target.namespace : '';
    return { resource: storeName(target.resource), namespace, name: target.name };
  }

  #options(options: WriteOptions): { fieldValidation: FieldValidation; nowMs: number } {
    return { fieldValidation: options.fieldValidation ?? 'Warn', nowMs: this.clock.now() };
  }

  async #write<T>(dryRun: boolean | undefined, op: (tx: Transaction) => T): Promise<T> {
    try {
      return await this.store.write((tx) => {
        const outcome = op(tx);
        if (dryRun) throw new DryRun(outcome);
        return outcome;
      });
    } catch (error) {
      if (error instanceof DryRun) return error.outcome as T;
      throw error;
    }
  }

  get(target: Target): ApiObject {
    const object = this.store.get(this.#key(target));
    if (!object) throw notFound(target.resource, target.name);
    return object;
  }

  /** Objects of a collection that pass the filter, and the revision they were read at. */
  list(
    resource: Resource,
    namespace: string | undefined,
    filter: Predicate,
  ): { items: ApiObject[]; revision: number } {
    const items = this.store.list(storeName(resource), namespace).filter(filter);
    return { items, revision: this.store.revision };
  }

  create(
    target: Omit<Target, 'name'>,
    body: unknown,
    options: WriteOptions = {},
  ): Promise<Admitted> {
    const { resource, namespace } = target;
    const object = toApiObject(resource, body, namespace);
    const admitted = admitCreate(resource, this.registry, object, this.#options(options));
    if (options.manager)
      trackUpdate(undefined, admitted.object, this.#tracking(resource, options.manager));
    options.guard?.(admitted.object, true);
    return this.#write(options.dryRun, (tx) => this.#insert(tx, target, admitted));
  }

  #insert(tx: Transaction, target: Omit<Target, 'name'>, admitted: Admitted): Admitted {
    const { resource, namespace } = target;
    const key = this.#key({ ...target, name: admitted.object.metadata.name });
    if (resource.namespaced) this.#checkNamespace(tx, resource, namespace, key.name);
    if (tx.get(key)) throw alreadyExists(resource, key.name);
    if (resource.plural === 'services')
      allocateAddress(admitted.object, this.store.list('/services'), this.#serviceSubnets);
    return { ...admitted, object: tx.put(key, admitted.object) };
  }

  #tracking(resource: Resource, manager: FieldManager): Tracking {
    const { resolveRef: resolve } = this.registry;
    return { resource, resolve, manager, nowMs: this.clock.now() };
  }

  /**
   * Server-side apply: creates the object, or puts what the manager states into it.
   *
   * @throws StatusError `Conflict` when it would change fields of other managers.
   */
  apply(
    target: Target,
    body: unknown,
    options: ApplyOptions,
  ): Promise<Admitted & { readonly created: boolean }> {
    const { resource, name } = target;
    const key = this.#key(target);
    const stated = toApiObject(resource, statedFor(target, readConfig(body)), key.namespace);
    const { object: config, warnings } = admitConfig(resource, this.registry, stated, {
      ...this.#options(options),
    });
    if (config.metadata.name !== name) {
      const message = `the name of the object (${config.metadata.name}) does not match the name on the URL (${name})`;
      throw new StatusError('BadRequest', message);
    }
    const tracking = { ...this.#tracking(resource, options.manager), force: options.force };
    return this.#write(options.dryRun, (tx) => {
      const stored = tx.get(key);
      const current = stored && inVersion(resource, stored);
      const next = applyConfig(current, config, tracking);
      if (current)
        return { ...this.#replace(tx, target, { current, next, options }), created: false };
      if (target.subresource) throw notFound(resource, name);
      const admitted = admitCreate(resource, this.registry, next, this.#options(options));
      options.guard?.(admitted.object, true);
      const { object } = this.#insert(tx, target, admitted);
      return { object, warnings, created: true };
    });
  }

  #checkNamespace(tx: Transaction, resource: Resource, namespace: string, name: string): void {
    const found = tx.get({ resource: NAMESPACES, namespace: '', name: namespace });
    if (!found) {
      throw new StatusError('NotFound', `namespaces "${namespace}" not found`, {
        name: namespace,
        kind: 'namespaces',
      });
    }
    if (found.metadata.deletionTimestamp) {
      const message = `${resource.plural} "${name}" is forbidden: unable to create new content in namespace ${namespace} because it is being terminated`;
      throw new StatusError('Forbidden', message, { name, kind: resource.plural });
    }
  }

  /** Replaces an object (or its status). `body` may carry the resourceVersion it was read at. */
  update(target: Target, body: unknown, options: WriteOptions = {}): Promise<Admitted> {
    return this.modify(target, () => body, options);
  }

  /**
   * Reads, changes and writes an object in one transaction.
   *
   * @param change Gets the stored object (not to be changed) and returns the next one.
   */
  modify(
    target: Target,
    change: (current: ApiObject) => unknown,
    options: WriteOptions = {},
  ): Promise<Admitted> {
    const { resource, name } = target;
    const key = this.#key(target);
    return this.#write(options.dryRun, (tx) => {
      const current = tx.get(key);
      if (!current) throw notFound(resource, name);
      const seen = inVersion(resource, current);
      const next = toApiObject(resource, change(seen), key.namespace);
      return this.#replace(tx, target, { current: seen, next, options, track: options.manager });
    });
  }

  #replace(
    tx: Transaction,
    target: Target,
    move: {
      readonly current: ApiObject;
      readonly next: ApiObject;
      readonly options: WriteOptions;
      readonly track?: FieldManager | undefined;
    },
  ): Admitted {
    const { resource, subresource } = target;
    const { current, next, track } = move;
    const key = this.#key(target);
    if (resource.plural === 'services') keepAddress(next, current);
    this.#checkPreconditions(target, next, current);
    const change = { next, current, subresource };
    const admitted = admitUpdate(resource, this.registry, change, this.#options(move.options));
    const { object } = admitted;
    object.metadata.resourceVersion = current.metadata.resourceVersion ?? '';
    if (track) trackUpdate(current, object, this.#tracking(resource, track));
    if (isDeepStrictEqual(object, current)) return { ...admitted, object: current };
    move.options.guard?.(object, false);
    if (this.#isFinished(object)) {
      tx.delete(key);
      return admitted;
    }
    return { ...admitted, object: tx.put(key, object) };
  }

  #checkPreconditions(target: Target, next: ApiObject, current: ApiObject): void {
    const { resource, name } = target;
    const { resourceVersion, uid } = next.metadata;
    if (next.metadata.name !== name) {
      throw new StatusError(
        'BadRequest',
        `the name of the object (${next.metadata.name}) does not match the name on the URL (${name})`,
      );
    }
    if (uid && uid !== current.metadata.uid) {
      throw conflict(
        resource,
        name,
        `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${current.metadata.uid}`,
      );
    }
    if (!resourceVersion && !resource.builtin) {
      const message = 'Invalid value: 0x0: must be specified for an update';
      throw invalid(resource, name, [
        { field: 'metadata.resourceVersion', reason: 'FieldValueInvalid', message },
      ]);
    }
    if (resourceVersion && resourceVersion !== current.metadata.resourceVersion)
      throw conflict(resource, name);
  }

  /** A deleted object goes for good when nothing holds it any more. */
  #isFinished(object: ApiObject): boolean {
    const { deletionTimestamp, finalizers, deletionGracePeriodSeconds } = object.metadata;
    if (!deletionTimestamp || (finalizers?.length ?? 0) > 0) return false;
    if (object.kind === 'Namespace')
      return (object.spec?.['finalizers'] as unknown[] | undefined)?.length === 0;
    return object.kind !== 'Pod' || deletionGracePeriodSeconds === 0;
  }

  /**
   * Deletes an object: at once, or by marking it when finalizers or a running pod hold it.
   *
   * @returns The object as it is now, and whether it is gone.
   */
  delete(
    target: Target,
    options: DeleteOptions = {},
  ): Promise<{ object: ApiObject; gone: boolean }> {
    const { resource, name } = target;
    const key = this.#key(target);
    return this.#write(options.dryRun, (tx) => {
      const current = tx.get(key);
      if (!current) throw notFound(resource, name);
      if (resource.plural === 'namespaces' && PROTECTED.has(name)) {
        const message = `namespaces "${name}" is forbidden: this namespace may not be deleted`;
        throw new StatusError('Forbidden', message, { name, kind: 'namespaces' });
      }
      this.#checkDeletePreconditions(target, options, current);
      const marked = this.#markDeleted(current, options);
      if (this.#isFinished(marked)) return { object: tx.delete(key) ?? current, gone: true };
      if (isDeepStrictEqual(marked, current)) return { object: current, gone: false };
      return { object: tx.put(key, marked), gone: false };
    });
  }

  #checkDeletePreconditions(target: Target, options: DeleteOptions, current: ApiObject): void {
    const { uid, resourceVersion } = options.preconditions ?? {};
    const { metadata } = current;
    if (
      (uid && uid !== metadata.uid) ||
      (resourceVersion && resourceVersion !== metadata.resourceVersion)
    ) {
      throw conflict(target.resource, target.name, 'Precondition failed');
    }
  }

  #markDeleted(current: ApiObject, options: DeleteOptions): ApiObject {
    const object = structuredClone(current);
    const { metadata } = object;
    const extra = { Foreground: 'foregroundDeletion', Orphan: 'orphan', Background: undefined }[
      options.propagationPolicy ?? 'Background'
    ];
    if (extra && !metadata.finalizers?.includes(extra))
      metadata.finalizers = [...(metadata.finalizers ?? []), extra];
    const grace = gracePeriod(object, options.gracePeriodSeconds);
    metadata.deletionGracePeriodSeconds = Math.min(
      grace,
      metadata.deletionGracePeriodSeconds ?? grace,
    );
    metadata.deletionTimestamp ??= rfc3339(this.clock.now() + grace * 1000);
    if (object.kind === 'Namespace') object.status = { ...object.status, phase: 'Terminating' };
    else if (current.metadata.deletionTimestamp === undefined)
      metadata.generation = (metadata.generation ?? 1) + 1;
    return object;
  }
}

/** Through the door of its status nothing but status is stated. */
function statedFor(target: Target, config: ApiObject): ApiObject {
  if (target.subresource !== 'status') return config;
  const { apiVersion, kind, metadata, status } = config;
  return { apiVersion, kind, metadata, ...(status ? { status } : {}) };
}

/** How long a pod may take to stop: 0 when it is not running anywhere; other kinds never wait. */
function gracePeriod(object: ApiObject, asked: number | undefined): number {
  if (object.kind !== 'Pod') return 0;
  const phase = dig(object, 'status', 'phase');
  if (!dig(object, 'spec', 'nodeName') || phase === 'Succeeded' || phase === 'Failed') return 0;
  return asked ?? digNumber(object, 'spec', 'terminationGracePeriodSeconds') ?? 30;
}

/** The owner that manages an object, if any. */
export function controllerOf(object: ApiObject): OwnerRef | undefined {
  return object.metadata.ownerReferences?.find((r) => r.controller === true);
}
