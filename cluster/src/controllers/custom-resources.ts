import { rfc3339 } from '@shoal/core';
import { type ApiObject, digList, digObject, digString } from '../object.ts';
import { resourcesOf } from '../server/custom-resources.ts';
import { storeName } from '../server/resource-registry.ts';
import {
  type Controller,
  type ControllerContext,
  ignoreNotFound,
  type Kinds,
} from './control-loop.ts';

const CRDS = 'apiextensions.k8s.io/customresourcedefinitions';

/** Serves the kinds that CustomResourceDefinitions declare, and removes them with their objects. */
export class CustomResourceController implements Controller {
  readonly name = 'custom-resources';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
  }

  keysOf(event: { resource: string; object: ApiObject }): string[] {
    return event.resource === CRDS ? [event.object.metadata.name] : [];
  }

  async reconcile(key: string): Promise<void> {
    const crd = this.#kinds.find('customresourcedefinitions', '', key);
    if (!crd) return await this.#withdraw(key);
    serve(this.#context, crd);
    const now = rfc3339(this.#context.clock.now());
    const known = digList(crd, 'status', 'conditions').length > 0;
    if (known) return;
    const condition = (type: string, reason: string, message: string): object => ({
      type,
      status: 'True',
      reason,
      message,
      lastTransitionTime: now,
    });
    await this.#kinds.mergeStatus('customresourcedefinitions', crd, {
      conditions: [
        condition('NamesAccepted', 'NoConflicts', 'no conflicts found'),
        condition('Established', 'InitialNamesAccepted', 'the initial names have been accepted'),
      ],
      acceptedNames: digObject(crd, 'spec', 'names'),
      storedVersions: resourcesOf(crd).map((r) => r.version),
    });
  }

  async #withdraw(name: string): Promise<void> {
    const dot = name.indexOf('.');
    const plural = name.slice(0, dot);
    const group = name.slice(dot + 1);
    const resource = this.#context.registry
      .all()
      .find((r) => r.group === group && r.plural === plural);
    if (!resource) return;
    for (const object of this.#context.verbs.store.list(storeName(resource))) {
      const { namespace = '', name: objectName } = object.metadata;
      await ignoreNotFound(this.#context.verbs.delete({ resource, namespace, name: objectName }));
    }
    this.#context.registry.removeGroupPlural(group, plural);
  }
}

/** Puts a definition's kinds into the registry (again, if it changed). */
export function serve(context: Pick<ControllerContext, 'registry'>, crd: ApiObject): void {
  const group = digString(crd, 'spec', 'group') ?? '';
  const plural = digString(crd, 'spec', 'names', 'plural') ?? '';
  const stamp = `${crd.metadata.uid}/${crd.metadata.generation}`;
  if (served.get(context.registry)?.get(`${group}/${plural}`) === stamp) return;
  context.registry.removeGroupPlural(group, plural);
  for (const resource of resourcesOf(crd)) context.registry.add(resource);
  const stamps = served.get(context.registry) ?? new Map<string, string>();
  stamps.set(`${group}/${plural}`, stamp);
  served.set(context.registry, stamps);
}

const served = new WeakMap<object, Map<string, string>>();
