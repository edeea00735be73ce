import { rfc3339 } from '@shoal/core';
import { type ApiObject, digList, digString } from '../object.ts';
import type { Controller, ControllerContext, Kinds } from './control-loop.ts';

const GRACE_MS = 40_000;

/**
 * Marks a node whose lease has run out as not ready. Its pods are left alone: an edge without
 * network goes on working, and its pods must not be started anywhere else.
 */
export class NodeLifecycleController implements Controller {
  readonly name = 'node-lifecycle';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;
  readonly #startedAt: number;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
    this.#startedAt = context.clock.now();
  }

  keysOf(event: { resource: string; object: ApiObject }): string[] {
    return event.resource === '/nodes' ? [event.object.metadata.name] : [];
  }

  async reconcile(key: string): Promise<number | void> {
    const node = this.#kinds.find('nodes', '', key);
    if (!node) return;
    const lease = this.#kinds.find('leases', 'kube-node-lease', key);
    const renewed = Date.parse(
      digString(lease, 'spec', 'renewTime') ?? node.metadata.creationTimestamp ?? '',
    );
    // After a restart of the server every node gets its grace period anew.
    const silentMs = this.#context.clock.now() - Math.max(renewed, this.#startedAt);
    const conditions = digList(node, 'status', 'conditions');
    const ready = conditions.find((c) => digString(c, 'type') === 'Ready');
    if (silentMs > GRACE_MS && digString(ready, 'status') === 'True') {
      const now = rfc3339(this.#context.clock.now());
      const unknown = {
        type: 'Ready',
        status: 'Unknown',
        reason: 'NodeStatusUnknown',
        message: 'The node agent stopped posting node status.',
        lastTransitionTime: now,
        lastHeartbeatTime: digString(lease, 'spec', 'renewTime') ?? now,
      };
      await this.#kinds.mergeStatus('nodes', node, {
        conditions: [...conditions.filter((c) => c !== ready), unknown],
      });
    }
    return 5_000;
  }
}
