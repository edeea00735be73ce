import { SESSION_LEASE } from '@shoal/api';
import { type Clock, isJsonObject, isShoalError, ShoalError } from '@shoal/core';
import type { KubeObject, NodeKubeApi } from './kube-client.ts';

/** A device that has said nothing for so long has let go of the name. */
const LIFE_MS = 45_000;

/** Kubernetes writes and wants microseconds. */
function microTime(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000Z');
}

/**
 * The session of a node whose link is an API server: a Lease in the node’s namespace. Its transitions
 * are the epoch, raised by compare-and-set; another device that renews it keeps the name.
 */
export class SessionLease {
  readonly #api: NodeKubeApi;
  readonly #folder: string;
  readonly #namespace: string;
  readonly #clock: Clock;
  #held: KubeObject | undefined;

  constructor(api: NodeKubeApi, namespace: string, clock: Clock) {
    this.#api = api;
    this.#namespace = namespace;
    this.#folder = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
    this.#clock = clock;
  }

  #spec(device: string, epoch: number): object {
    return {
      holderIdentity: device,
      leaseDurationSeconds: LIFE_MS / 1_000,
      leaseTransitions: epoch,
      renewTime: microTime(this.#clock.now()),
    };
  }

  /**
   * Begins a session.
   *
   * @param device Identity of the device: its own database.
   * @param seen The highest epoch the device has seen.
   * @returns The epoch.
   * @throws ShoalError `failed_precondition` while another device holds the name; `conflict` when one
   *   has just taken it.
   */
  async take(device: string, seen: number): Promise<number> {
    const path = `${this.#folder}/${SESSION_LEASE}`;
    const current = await this.#api.get(path);
    const spec = isJsonObject(current?.['spec']) ? current['spec'] : {};
    const { holderIdentity, renewTime, leaseTransitions } = spec;
    const age = this.#clock.now() - Date.parse(typeof renewTime === 'string' ? renewTime : '');
    // A clock that is behind makes the renewal one of the future: it is as fresh as can be.
    const isFresh = Number.isFinite(age) && age < LIFE_MS;
    if (current && holderIdentity !== device && isFresh)
      throw new ShoalError(
        'failed_precondition',
        `the node is connected from another device; a second one is refused (Lease ${this.#namespace}/${SESSION_LEASE})`,
      );
    const epoch = Math.max(Number(leaseTransitions ?? 0), seen) + 1;
    this.#held = current
      ? await this.#api.send('PUT', path, { ...current, spec: this.#spec(device, epoch) })
      : await this.#api.send('POST', this.#folder, {
          apiVersion: 'coordination.k8s.io/v1',
          kind: 'Lease',
          metadata: { name: SESSION_LEASE },
          spec: this.#spec(device, epoch),
        });
    return epoch;
  }

  /** Goes on holding it. @throws ShoalError `conflict` once somebody else has taken it. */
  async renew(device: string, epoch: number): Promise<void> {
    const held = this.#held;
    if (!held) return;
    try {
      const spec = this.#spec(device, epoch);
      this.#held = await this.#api.send('PUT', `${this.#folder}/${SESSION_LEASE}`, {
        ...held,
        spec,
      });
    } catch (error) {
      if (isShoalError(error) && error.code === 'conflict')
        throw new ShoalError('conflict', 'a newer session of this node has begun', {
          cause: error,
        });
      throw error;
    }
  }
}
