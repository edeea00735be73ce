import { rfc3339 } from '@shoal/core';
import { type ApiObject, digString } from '../object.ts';
import {
  type Controller,
  type ControllerContext,
  type Kinds,
  keyOf,
  splitKey,
} from './control-loop.ts';
import { EventWriter } from './events.ts';
import { type Amounts, explain, obstacle, requestsOf } from './placement.ts';

/** Binds pending pods to nodes that fit them; says why when none does. */
export class Scheduler implements Controller {
  readonly name = 'scheduler';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;
  readonly #events: EventWriter;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
    this.#events = new EventWriter(kinds, context, 'default-scheduler');
  }

  keysOf(event: { type: string; resource: string; object: ApiObject }): string[] {
    if (event.resource === '/pods' && event.type !== 'DELETED')
      return this.#isPending(event.object) ? [keyOf(event.object)] : [];
    const roomMayHaveCome =
      event.resource === '/nodes' || (event.resource === '/pods' && event.type === 'DELETED');
    return roomMayHaveCome
      ? this.#kinds
          .list('pods')
          .filter((p) => this.#isPending(p))
          .map(keyOf)
      : [];
  }

  #isPending(pod: ApiObject): boolean {
    return !digString(pod, 'spec', 'nodeName') && !pod.metadata.deletionTimestamp;
  }

  async reconcile(key: string): Promise<void> {
    const [namespace, name] = splitKey(key);
    const pod = this.#kinds.find('pods', namespace, name);
    if (!pod || !this.#isPending(pod)) return;
    const used = this.#usedByNode();
    const verdicts = this.#kinds.list('nodes').map((node) => ({
      node,
      load: used.get(node.metadata.name) ?? {},
      obstacle: obstacle(pod, node, used.get(node.metadata.name) ?? {}),
    }));
    const fitting = verdicts.filter((v) => v.obstacle === undefined);
    const best = fitting.toSorted((a, b) => (a.load['pods'] ?? 0) - (b.load['pods'] ?? 0))[0];
    if (best) return await this.#bind(pod, best.node.metadata.name);
    await this.#explain(pod, explain(verdicts.map((v) => v.obstacle ?? '')));
  }

  #usedByNode(): Map<string, Amounts> {
    const used = new Map<string, Record<string, number>>();
    for (const pod of this.#kinds.list('pods')) {
      const node = digString(pod, 'spec', 'nodeName');
      const phase = digString(pod, 'status', 'phase');
      if (!node || phase === 'Succeeded' || phase === 'Failed') continue;
      const sum = used.get(node) ?? {};
      for (const [name, amount] of Object.entries(requestsOf(pod)))
        sum[name] = (sum[name] ?? 0) + amount;
      used.set(node, sum);
    }
    return used;
  }

  async #bind(pod: ApiObject, nodeName: string): Promise<void> {
    const { namespace = '', name } = pod.metadata;
    const target = this.#kinds.target('pods', namespace, name);
    await this.#context.verbs.modify(target, (o) => ({ ...o, spec: { ...o.spec, nodeName } }));
    const message = `Successfully assigned ${namespace}/${name} to ${nodeName}`;
    await this.#events.record(pod, { type: 'Normal', reason: 'Scheduled', message });
  }

  async #explain(pod: ApiObject, message: string): Promise<void> {
    const now = rfc3339(this.#context.clock.now());
    const previous = digString(pod, 'status', 'conditions', 0, 'message');
    if (previous === message) return;
    const condition = {
      type: 'PodScheduled',
      status: 'False',
      reason: 'Unschedulable',
      message,
      lastTransitionTime: now,
    };
    await this.#kinds.mergeStatus('pods', pod, { phase: 'Pending', conditions: [condition] });
    await this.#events.record(pod, { type: 'Warning', reason: 'FailedScheduling', message });
  }
}
