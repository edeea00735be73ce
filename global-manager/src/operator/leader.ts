import { type Clock, isShoalError, type Logger, messageOf } from '@shoal/core';
import { type KubeApi, type KubeObject, LEASE } from '../kube/kube-api.ts';

export interface LeaderElectionOptions {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly logger: Logger;
  /** `namespace/name` of the Lease. */
  readonly lease: string;
  /** Who this replica is; one that comes back under its name has the lease at once. */
  readonly identity: string;
}

export const LEASE_MS = 15_000;
const RENEW_MS = 4_000;
const RETRY_MS = 1_000;

interface LeaseSpec {
  readonly holderIdentity?: string;
  readonly leaseDurationSeconds?: number;
  readonly acquireTime?: string;
  readonly renewTime?: string;
  readonly leaseTransitions?: number;
}

/** Lease times have microseconds in Kubernetes. */
function micro(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000Z');
}

/**
 * One of several managers leads: the holder of a Lease, as Kubernetes’s own controllers do it. What
 * a replica knows of another’s time is when it saw the Lease change, so that clocks need not agree.
 */
export class LeaderElection {
  readonly #options: LeaderElectionOptions;
  #seen = '';
  #seenAt = 0;

  constructor(options: LeaderElectionOptions) {
    this.#options = options;
  }

  /** Resolves once this replica leads. */
  async acquire(signal: AbortSignal): Promise<void> {
    const { clock, logger, identity } = this.#options;
    let isTold = false;
    while (!signal.aborted) {
      const holder = await this.#try().catch((error: unknown) => {
        logger.warn('the lease cannot be read, will retry', { reason: messageOf(error) });
        return undefined;
      });
      if (holder === identity) return logger.info('this manager leads', { identity });
      if (!isTold && holder !== undefined) {
        logger.info('another manager leads, standing by', { holder });
        isTold = true;
      }
      await clock.sleep(RETRY_MS, signal).catch(() => undefined);
    }
  }

  /** Keeps the lease; resolves when it is lost, or the signal aborts. */
  async hold(signal: AbortSignal): Promise<'lost' | 'stopped'> {
    const { clock, identity, logger } = this.#options;
    let renewedAt = clock.monotonic();
    while (!signal.aborted) {
      await clock.sleep(RENEW_MS, signal).catch(() => undefined);
      if (signal.aborted) break;
      try {
        const left = LEASE_MS - RENEW_MS - (clock.monotonic() - renewedAt);
        const late = clock.sleep(Math.max(0, left), signal).then(() => 'late');
        late.catch(() => undefined);
        const holder = await Promise.race([this.#try(), late]);
        if (holder !== identity) return 'lost';
        renewedAt = clock.monotonic();
      } catch (error) {
        logger.warn('the lease cannot be renewed', { reason: messageOf(error) });
      }
      // Others may take it from now on: this one must have stopped before.
      if (clock.monotonic() - renewedAt > LEASE_MS - RENEW_MS) return 'lost';
    }
    return 'stopped';
  }

  /** Gives the lease back, so that another need not wait for its end. */
  async release(): Promise<void> {
    const { api, identity } = this.#options;
    const lease = await this.#get();
    const spec = (lease?.['spec'] ?? {}) as LeaseSpec;
    if (!lease || spec.holderIdentity !== identity) return;
    await api.update(LEASE, { ...lease, spec: { ...spec, holderIdentity: '' } });
  }

  async #get(): Promise<KubeObject | undefined> {
    const [namespace = '', name = ''] = this.#options.lease.split('/');
    return await this.#options.api.get(LEASE, namespace, name);
  }

  /** Takes or renews the lease if it may. @returns Who holds it. */
  async #try(): Promise<string | undefined> {
    const { api, clock, identity, lease: path } = this.#options;
    const [namespace = '', name = ''] = path.split('/');
    const now = micro(clock.now());
    const fresh = {
      holderIdentity: identity,
      leaseDurationSeconds: LEASE_MS / 1_000,
      acquireTime: now,
      renewTime: now,
    };
    const current = await this.#get();
    try {
      if (!current) {
        await api.create(LEASE, {
          metadata: { namespace, name },
          spec: { ...fresh, leaseTransitions: 0 },
        });
        return identity;
      }
      const spec = (current['spec'] ?? {}) as LeaseSpec;
      if (spec.holderIdentity === identity) {
        await api.update(LEASE, { ...current, spec: { ...spec, renewTime: now } });
        return identity;
      }
      if (spec.holderIdentity && !this.#isOver(spec)) return spec.holderIdentity;
      const leaseTransitions = (spec.leaseTransitions ?? 0) + 1;
      await api.update(LEASE, { ...current, spec: { ...fresh, leaseTransitions } });
      return identity;
    } catch (error) {
      // Another was faster.
      if (isShoalError(error) && ['conflict', 'already_exists'].includes(error.code))
        return undefined;
      throw error;
    }
  }

  /** Whether a lease has not changed for as long as it lasts. */
  #isOver(spec: LeaseSpec): boolean {
    const seen = `${spec.holderIdentity} ${spec.renewTime}`;
    const now = this.#options.clock.monotonic();
    if (seen !== this.#seen) {
      this.#seen = seen;
      this.#seenAt = now;
    }
    return now - this.#seenAt > (spec.leaseDurationSeconds ?? LEASE_MS / 1_000) * 1_000;
  }
}
