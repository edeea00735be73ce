import type { ApiObject, OwnerRef } from '../object.ts';
import { type Resource, storeName } from '../server/resource-registry.ts';
import type { Target } from '../server/verbs.ts';
import { type Controller, type ControllerContext, ignoreNotFound } from './control-loop.ts';

/**
 * Deletes what belongs to owners that are gone (background), or that wait for it (foreground), and
 * sets free what an owner leaves behind (orphan). Keys are the uids of owners and, with a `+`,
 * of dependents.
 */
export class GarbageCollector implements Controller {
  readonly name = 'garbage-collector';
  readonly #context: ControllerContext;
  readonly #objects = new Map<string, { resource: Resource; object: ApiObject }>();
  readonly #dependents = new Map<string, Set<string>>();

  constructor(context: ControllerContext) {
    this.#context = context;
  }

  keysOf(event: { type: string; resource: string; object: ApiObject }): string[] {
    const { object } = event;
    const uid = object.metadata.uid ?? '';
    const resource = this.#context.registry.all().find((r) => storeName(r) === event.resource);
    if (!resource) return [];
    const owners = object.metadata.ownerReferences ?? [];
    if (event.type === 'DELETED') {
      this.#objects.delete(uid);
      for (const owner of owners) this.#dependents.get(owner.uid)?.delete(uid);
      return [uid, ...owners.map((o) => o.uid)];
    }
    this.#objects.set(uid, { resource, object });
    for (const owner of owners) {
      const set = this.#dependents.get(owner.uid) ?? new Set();
      this.#dependents.set(owner.uid, set.add(uid));
    }
    const keys = owners.length > 0 && !object.metadata.deletionTimestamp ? [`+${uid}`] : [];
    return object.metadata.finalizers?.length ? [...keys, uid] : keys;
  }

  async reconcile(key: string): Promise<void> {
    if (key.startsWith('+')) return await this.#checkDependent(key.slice(1));
    const owner = this.#objects.get(key);
    const finalizers = owner?.object.metadata.deletionTimestamp
      ? (owner.object.metadata.finalizers ?? [])
      : [];
    if (!owner) await this.#deleteDependents(key, () => true);
    else if (finalizers.includes('foregroundDeletion')) await this.#foreground(key, owner.object);
    else if (finalizers.includes('orphan')) await this.#orphan(key, owner.object);
  }

  /** An object whose owners are all gone goes too. */
  async #checkDependent(uid: string): Promise<void> {
    const found = this.#objects.get(uid);
    const owners = found?.object.metadata.ownerReferences ?? [];
    if (!found || owners.length === 0) return;
    if (owners.every((o) => this.#isGone(o, found.object))) await this.#remove(uid);
  }

  #isGone(owner: OwnerRef, dependent: ApiObject): boolean {
    if (this.#objects.has(owner.uid)) return false;
    const resource = this.#context.registry.ofKind(owner.apiVersion, owner.kind);
    if (!resource) return false;
    const namespace = resource.namespaced ? (dependent.metadata.namespace ?? '') : '';
    const current = this.#context.verbs.store.get({
      resource: storeName(resource),
      namespace,
      name: owner.name,
    });
    return current?.metadata.uid !== owner.uid;
  }

  async #remove(uid: string): Promise<void> {
    const found = this.#objects.get(uid);
    if (!found || found.object.metadata.deletionTimestamp) return;
    await ignoreNotFound(
      this.#context.verbs.delete(this.#target(found), { preconditions: { uid } }),
    );
  }

  #target(found: { resource: Resource; object: ApiObject }): Target {
    const { namespace = '', name } = found.object.metadata;
    return { resource: found.resource, namespace, name };
  }

  async #deleteDependents(owner: string, which: (ref: OwnerRef) => boolean): Promise<number> {
    let waiting = 0;
    for (const uid of Array.from(this.#dependents.get(owner) ?? [])) {
      const refs = this.#objects.get(uid)?.object.metadata.ownerReferences ?? [];
      const ref = refs.find((r) => r.uid === owner);
      const others = refs.filter((r) => r.uid !== owner && this.#objects.has(r.uid));
      if (!ref || others.length > 0) continue;
      await this.#remove(uid);
      if (this.#objects.has(uid) && which(ref)) waiting++;
    }
    if (!this.#objects.has(owner) && waiting === 0) this.#dependents.delete(owner);
    return waiting;
  }

  async #foreground(uid: string, owner: ApiObject): Promise<void> {
    const waiting = await this.#deleteDependents(uid, (ref) => ref.blockOwnerDeletion === true);
    if (waiting === 0) await this.#dropFinalizer(owner, 'foregroundDeletion');
  }

  async #orphan(uid: string, owner: ApiObject): Promise<void> {
    for (const dependent of Array.from(this.#dependents.get(uid) ?? [])) {
      const found = this.#objects.get(dependent);
      if (!found) continue;
      const free = (o: ApiObject): unknown => ({
        ...o,
        metadata: {
          ...o.metadata,
          ownerReferences: (o.metadata.ownerReferences ?? []).filter((r) => r.uid !== uid),
        },
      });
      await ignoreNotFound(this.#context.verbs.modify(this.#target(found), free));
    }
    await this.#dropFinalizer(owner, 'orphan');
  }

  async #dropFinalizer(owner: ApiObject, finalizer: string): Promise<void> {
    const found = this.#objects.get(owner.metadata.uid ?? '');
    if (!found) return;
    const drop = (o: ApiObject): unknown => ({
      ...o,
      metadata: {
        ...o.metadata,
        finalizers: (o.metadata.finalizers ?? []).filter((f) => f !== finalizer),
      },
    });
    await ignoreNotFound(this.#context.verbs.modify(this.#target(found), drop));
  }
}
