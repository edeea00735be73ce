import type { ApiObject } from '../object.ts';
import { storeName } from '../server/resource-registry.ts';
import {
  type Controller,
  type ControllerContext,
  ignoreNotFound,
  type Kinds,
} from './control-loop.ts';

const ALWAYS = ['default', 'kube-system', 'kube-public', 'kube-node-lease'];

/** Creates the namespaces every cluster has, and each one's account; empties and removes those being deleted. */
export class NamespaceController implements Controller {
  readonly name = 'namespace';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
  }

  /** To be called once, before the server is ready. */
  async ensureDefaults(): Promise<void> {
    for (const name of ALWAYS) {
      if (!this.#kinds.find('namespaces', '', name))
        await this.#kinds.create('namespaces', '', { metadata: { name } });
    }
  }

  /** Pods that name no account run as this one. */
  async #ensureAccount(namespace: string): Promise<void> {
    if (this.#kinds.find('serviceaccounts', namespace, 'default')) return;
    await this.#kinds.create('serviceaccounts', namespace, { metadata: { name: 'default' } });
  }

  keysOf(event: { resource: string; object: ApiObject }): string[] {
    return event.resource === '/namespaces' ? [event.object.metadata.name] : [];
  }

  async reconcile(key: string): Promise<number | void> {
    const namespace = this.#kinds.find('namespaces', '', key);
    if (!namespace) return;
    if (!namespace.metadata.deletionTimestamp) return await this.#ensureAccount(key);
    let left = 0;
    for (const resource of this.#context.registry.all().filter((r) => r.namespaced)) {
      for (const object of this.#context.verbs.store.list(storeName(resource), key)) {
        left++;
        if (!object.metadata.deletionTimestamp) {
          await ignoreNotFound(
            this.#context.verbs.delete({ resource, namespace: key, name: object.metadata.name }),
          );
        }
      }
    }
    if (left > 0) return 200;
    const target = this.#kinds.target('namespaces', '', key);
    await this.#context.verbs.modify(target, (o) => ({
      ...o,
      spec: { ...o.spec, finalizers: [] },
    }));
  }
}
