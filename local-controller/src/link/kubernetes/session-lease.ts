import { SESSION_LEASE } from '@shoal/api';
import { type Clock, isJsonObject, isShoalError, ShoalError } from '@shoal/core';
import type { KubeObject, NodeKubeApi } from './kube-client.ts';

/** A device that has said nothing for so long has let go of the name. */
const LIFE_MS = 45_000;

/** Kubernetes writes and wants microseconds. */
function microTime(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000Z');
}

/** What was seen of another device’s hold, by this device’s own clock. */
export interface SeenHold {
  readonly version: string;
  readonly atMs: number;
}

/**
 * The session of a node whose link is an API server: a Lease in the node’s namespace. Its transitions
 * are the epoch, raised by compare-and-set; another device that renews it keeps the name. Whether it
 * does is seen by whether the Lease changes: clocks of devices are not compared.
 */
export class SessionLease {
  readonly #api: NodeKubeApi;
  readonly #folder: string;
  readonly #namespace: string;
  readonly #clock: Clock;
  #held: KubeObject | undefined;
  #renewing: Promise<void> | undefined;

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
   * @param seenEpoch The highest epoch the device has seen.
   * @param hold What was seen of another device’s hold the last time.
   * @returns The epoch, or what is seen of another device’s hold: that keeps the name for now.
   * @throws ShoalError `conflict` when one has just taken it.
   */
  async take(
    device: string,
    seenEpoch: number,
    hold: SeenHold | undefined,
  ): Promise<{ readonly epoch: number } | { readonly hold: SeenHold }> {
    const path = `${this.#folder}/${SESSION_LEASE}`;
    const current = await this.#api.get(path);
    const spec = isJsonObject(current?.['spec']) ? current['spec'] : {};
    const { holderIdentity, leaseTransitions } = spec;
    if (current && holderIdentity !== device) {
      const version = current.metadata.resourceVersion ?? '';
      const now = this.#clock.monotonic();
      const seen = hold?.version === version ? hold : { version, atMs: now };
      if (now - seen.atMs < LIFE_MS) return { hold: seen };
    }
    const epoch = Math.max(Number(leaseTransitions ?? 0), seenEpoch) + 1;
    this.#held = current
      ? await this.#api.send('PUT', path, { ...current, spec: this.#spec(device, epoch) })
      : await this.#api.send('POST', this.#folder, {
          apiVersion: 'coordination.k8s.io/v1',
          kind: 'Lease',
          metadata: { name: SESSION_LEASE },
          spec: this.#spec(device, epoch),
        });
    return { epoch };
  }

  /** Goes on holding it; two askers share one renewal. @throws ShoalError `conflict` once somebody else has taken it. */
  async renew(device: string, epoch: number): Promise<void> {
    this.#renewing ??= this.#renew(device, epoch).finally(() => {
      this.#renewing = undefined;
    });
    await this.#renewing;
  }

  async #renew(device: string, epoch: number): Promise<void> {
    const held = this.#held;
    if (!held) return;
    try {
      const path = `${this.#folder}/${SESSION_LEASE}`;
      const spec = this.#spec(device, epoch);
      this.#held = await this.#api.send('PUT', path, { ...held, spec });
    } catch (error) {
      if (isShoalError(error) && error.code === 'conflict')
        throw new ShoalError(
          'conflict',
          `a newer session of this node has begun (Lease ${this.#namespace}/${SESSION_LEASE})`,
          { cause: error },
        );
      throw error;
    }
  }
}
