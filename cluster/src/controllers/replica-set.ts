import { type ApiObject, digNumber, digObject, digString } from '../object.ts';
import { controllerOf } from '../server/verbs.ts';
import { claim, controllerReference, selects } from './adoption.ts';
import {
  type Controller,
  type ControllerContext,
  type Kinds,
  keyOf,
  splitKey,
} from './control-loop.ts';
import { EventWriter } from './events.ts';
import { isActive, isReady } from './pod-state.ts';

/** Keeps the number of pods a ReplicaSet asks for. */
export class ReplicaSetController implements Controller {
  readonly name = 'replicaset';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;
  readonly #events: EventWriter;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
    this.#events = new EventWriter(kinds, context, 'replicaset-controller');
  }

  keysOf(event: { resource: string; object: ApiObject }): string[] {
    if (event.resource === 'apps/replicasets') return [keyOf(event.object)];
    if (event.resource !== '/pods') return [];
    const { object } = event;
    const owner = controllerOf(object);
    if (owner)
      return owner.kind === 'ReplicaSet' ? [`${object.metadata.namespace}/${owner.name}`] : [];
    // Nobody's: one of these may want it.
    const sets = this.#kinds.list('replicasets', object.metadata.namespace);
    return sets.filter((set) => selects(set, object)).map(keyOf);
  }

  async reconcile(key: string): Promise<void> {
    const [namespace, name] = splitKey(key);
    const set = this.#kinds.find('replicasets', namespace, name);
    if (!set || set.metadata.deletionTimestamp) return;
    const claimed = await claim('pods', set, { context: this.#context, kinds: this.#kinds });
    const pods = claimed.filter(isActive);
    const wanted = digNumber(set, 'spec', 'replicas') ?? 1;
    for (let i = pods.length; i < wanted; i++) await this.#createPod(set);
    const surplus = pods
      .toSorted((a, b) => rank(a) - rank(b))
      .slice(0, Math.max(0, pods.length - wanted));
    for (const pod of surplus) await this.#deletePod(set, pod);
    const ready = pods.filter(isReady).length;
    await this.#kinds.mergeStatus('replicasets', set, {
      replicas: Math.max(pods.length, Math.min(pods.length, wanted)),
      fullyLabeledReplicas: pods.length,
      readyReplicas: ready,
      availableReplicas: ready,
      observedGeneration: set.metadata.generation,
    });
  }

  async #createPod(set: ApiObject): Promise<void> {
    const { namespace = '', name } = set.metadata;
    const template = digObject(set, 'spec', 'template');
    const pod = await this.#kinds.create('pods', namespace, {
      metadata: {
        ...digObject(template, 'metadata'),
        generateName: `${name}-`,
        ownerReferences: [controllerReference(set)],
      },
      spec: structuredClone(digObject(template, 'spec')),
    });
    await this.#events.record(set, {
      type: 'Normal',
      reason: 'SuccessfulCreate',
      message: `Created pod: ${pod.metadata.name}`,
    });
  }

  async #deletePod(set: ApiObject, pod: ApiObject): Promise<void> {
    await this.#kinds.remove('pods', pod);
    await this.#events.record(set, {
      type: 'Normal',
      reason: 'SuccessfulDelete',
      message: `Deleted pod: ${pod.metadata.name}`,
    });
  }
}

/** Pods to give up first: unscheduled, then not ready, then the rest. */
function rank(pod: ApiObject): number {
  if (!digString(pod, 'spec', 'nodeName')) return 0;
  return isReady(pod) ? 2 : 1;
}
