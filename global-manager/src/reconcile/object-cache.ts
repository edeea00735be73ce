import { isShoalError, type LoopPorts, superviseLoop } from '@shoal/core';
import type { KindRef, KubeApi, KubeObject } from '../kube/kube-api.ts';

const MAX_GONE = 1_000;

/** A view of one kind that follows the API server: list, watch, list again when needed. */
export class ObjectCache {
  readonly kind: KindRef;
  readonly #api: KubeApi;
  readonly #objects = new Map<string, KubeObject>();
  readonly #listeners: ((object: KubeObject) => void)[] = [];
  /** Uids of objects seen going, newest last: a late answer to a write must not bring one back. */
  readonly #gone = new Set<string>();
  #synced = false;

  constructor(kind: KindRef, api: KubeApi) {
    this.kind = kind;
    this.#api = api;
  }

  /** True after the first complete list. */
  get synced(): boolean {
    return this.#synced;
  }

  /** Calls `listener` for every change (also deletions: with the last known object). */
  onChange(listener: (object: KubeObject) => void): void {
    this.#listeners.push(listener);
  }

  get(namespace: string, name: string): KubeObject | undefined {
    return this.#objects.get(`${namespace}/${name}`);
  }

  list(namespace?: string): KubeObject[] {
    const all = [...this.#objects.values()];
    return namespace === undefined ? all : all.filter((o) => o.metadata.namespace === namespace);
  }

  /** Takes an object that was just written, so that the next reconcile does not see the old one. */
  observe(object: KubeObject): void {
    if (this.#gone.has(object.metadata.uid ?? '')) return;
    const key = keyOf(object);
    const known = this.#objects.get(key);
    if (known && Number(known.metadata.resourceVersion) >= Number(object.metadata.resourceVersion))
      return;
    this.#objects.set(key, object);
  }

  /** Follows the API server until the signal aborts. */
  async run(ports: LoopPorts, signal: AbortSignal): Promise<void> {
    await superviseLoop(
      `watch ${this.kind.plural}`,
      async () => await this.#follow(signal),
      ports,
      { baseMs: 200, capMs: 10_000, signal },
    );
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const { items, resourceVersion } = await this.#api.list(this.kind);
    this.#replace(items);
    let version = resourceVersion;
    while (!signal.aborted) {
      try {
        await this.#api.watch(this.kind, version, {
          signal,
          onEvent: (event) => {
            version = event.object.metadata.resourceVersion ?? version;
            if (event.type === 'BOOKMARK') return;
            if (event.type === 'DELETED') this.#forget(event.object);
            else this.#objects.set(keyOf(event.object), event.object);
            this.#tell(event.object);
          },
        });
      } catch (error) {
        if (isShoalError(error) && error.code === 'out_of_range') return;
        throw error;
      }
    }
  }

  #forget(object: KubeObject): void {
    this.#objects.delete(keyOf(object));
    this.#gone.add(object.metadata.uid ?? '');
    const [oldest] = this.#gone;
    if (this.#gone.size > MAX_GONE && oldest !== undefined) this.#gone.delete(oldest);
  }

  #replace(items: readonly KubeObject[]): void {
    const gone = new Map(this.#objects);
    this.#objects.clear();
    for (const object of items) {
      gone.delete(keyOf(object));
      this.#objects.set(keyOf(object), object);
    }
    this.#synced = true;
    for (const object of [...items, ...gone.values()]) this.#tell(object);
  }

  #tell(object: KubeObject): void {
    for (const listener of this.#listeners) listener(object);
  }
}

/** `namespace/name` of an object. */
export function keyOf(object: KubeObject): string {
  return `${object.metadata.namespace ?? ''}/${object.metadata.name}`;
}
