import { backoffMs, type Clock, type Logger, messageOf, type Random } from '@shoal/core';
import type { ApiObject } from '../object.ts';
import { type Resource, type ResourceRegistry, storeName } from '../server/resource-registry.ts';
import { StatusError } from '../server/status-error.ts';
import type { Target, Verbs } from '../server/verbs.ts';
import type { ChangeEvent } from '../store/revisioned-store.ts';

/** What every controller of the embedded cluster works with. */
export interface ControllerContext {
  readonly verbs: Verbs;
  readonly registry: ResourceRegistry;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** A level-triggered controller: changes name keys, `reconcile` brings a key to where it should be. */
export interface Controller {
  readonly name: string;
  /** Keys to look at because of a change; also called with every object at the start. */
  keysOf(event: Pick<ChangeEvent, 'type' | 'resource' | 'object'>): readonly string[];
  /** @returns Milliseconds after which to look again, if it should. */
  reconcile(key: string): Promise<number | void>;
}

/** Longer ones would fire at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;
const RETRY = { baseMs: 50, capMs: 10_000 };

/** Runs one controller: a queue of keys without duplicates, one at a time, retried with back-off. */
export class ControlLoop {
  readonly #controller: Controller;
  readonly #context: ControllerContext;
  readonly #queue = new Set<string>();
  readonly #attempts = new Map<string, number>();
  readonly #timers = new Map<string, { readonly at: number; readonly timer: NodeJS.Timeout }>();
  #stopWatch: (() => void) | undefined;
  #busy = false;
  #stopped = false;

  constructor(controller: Controller, context: ControllerContext) {
    this.#controller = controller;
    this.#context = context;
  }

  start(): void {
    const { verbs, registry } = this.#context;
    this.#stopWatch = verbs.store.watch(verbs.store.revision, (event) => this.#add(event));
    for (const resource of registry.all()) {
      for (const object of verbs.store.list(storeName(resource))) {
        this.#add({ type: 'ADDED', resource: storeName(resource), object });
      }
    }
  }

  stop(): void {
    this.#stopped = true;
    this.#stopWatch?.();
    for (const { timer } of this.#timers.values()) clearTimeout(timer);
  }

  #add(event: Pick<ChangeEvent, 'type' | 'resource' | 'object'>): void {
    for (const key of this.#controller.keysOf(event)) this.#queue.add(key);
    this.#kick();
  }

  #kick(): void {
    if (this.#busy || this.#stopped || this.#queue.size === 0) return;
    this.#busy = true;
    setImmediate(() => void this.#drain());
  }

  async #drain(): Promise<void> {
    for (const key of this.#queue) {
      this.#queue.delete(key);
      if (this.#stopped) break;
      await this.#one(key);
    }
    this.#busy = false;
    this.#kick();
  }

  async #one(key: string): Promise<void> {
    const { random, logger } = this.#context;
    try {
      const again = await this.#controller.reconcile(key);
      this.#attempts.delete(key);
      if (typeof again === 'number') this.#later(key, again);
    } catch (error) {
      const attempt = this.#attempts.get(key) ?? 0;
      this.#attempts.set(key, attempt + 1);
      const ordinary = error instanceof StatusError && (error.code === 409 || error.code === 404);
      if (!ordinary) {
        logger.warn('reconcile failed, will retry', {
          controller: this.#controller.name,
          key,
          reason: messageOf(error),
        });
      }
      this.#later(key, backoffMs(attempt, RETRY, random) + 10);
    }
  }

  /** Looks at a key again after a while; of several times the earliest counts. */
  #later(key: string, ms: number): void {
    const at = performance.now() + ms;
    const known = this.#timers.get(key);
    if (known && known.at <= at) return;
    clearTimeout(known?.timer);
    const again = (): void => {
      this.#timers.delete(key);
      this.#queue.add(key);
      this.#kick();
    };
    this.#timers.set(key, { at, timer: setTimeout(again, Math.min(ms, MAX_TIMER_MS)) });
  }
}

/** Typed access to the kinds the controllers know. */
export class Kinds {
  readonly #context: ControllerContext;

  constructor(context: ControllerContext) {
    this.#context = context;
  }

  resource(plural: string): Resource {
    const found = this.#context.registry.all().find((r) => r.builtin && r.plural === plural);
    if (!found) throw new Error(`no built-in kind ${plural}`);
    return found;
  }

  target(plural: string, namespace: string, name: string): Target {
    return { resource: this.resource(plural), namespace, name };
  }

  /** The object, or undefined when there is none. */
  find(plural: string, namespace: string, name: string): ApiObject | undefined {
    const key = { resource: storeName(this.resource(plural)), namespace, name };
    return this.#context.verbs.store.get(key);
  }

  list(plural: string, namespace?: string): ApiObject[] {
    return this.#context.verbs.store.list(storeName(this.resource(plural)), namespace);
  }

  async create(plural: string, namespace: string, body: unknown): Promise<ApiObject> {
    const admitted = await this.#context.verbs.create(
      { resource: this.resource(plural), namespace },
      body,
    );
    return admitted.object;
  }

  /** Merges into `status`; nothing is written when nothing changes. */
  async mergeStatus(plural: string, object: ApiObject, status: object): Promise<void> {
    const { namespace = '', name } = object.metadata;
    const target: Target = { ...this.target(plural, namespace, name), subresource: 'status' };
    await this.#context.verbs.modify(target, (o) => ({ ...o, status: { ...o.status, ...status } }));
  }

  async remove(plural: string, object: ApiObject): Promise<void> {
    const { namespace = '', name, uid = '' } = object.metadata;
    await ignoreNotFound(
      this.#context.verbs.delete(this.target(plural, namespace, name), { preconditions: { uid } }),
    );
  }
}

/** Resolves undefined when the object was not there. */
export async function ignoreNotFound<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof StatusError && error.code === 404) return undefined;
    throw error;
  }
}

/** `namespace/name` of an object, the usual key. */
export function keyOf(object: ApiObject): string {
  return `${object.metadata.namespace ?? ''}/${object.metadata.name}`;
}

export function splitKey(key: string): [namespace: string, name: string] {
  const slash = key.indexOf('/');
  return [key.slice(0, slash), key.slice(slash + 1)];
}
