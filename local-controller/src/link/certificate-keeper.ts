import { X509Certificate } from 'node:crypto';
import { createCertificateRequest, type LoopPorts, messageOf } from '@shoal/core';
import type { GrpcTransport } from './grpc.ts';
import { readIdentity, recover, type StoredIdentity, toStored, writeIdentity } from './identity.ts';
import type { Link } from './link.ts';

export interface CertificateKeeperOptions extends LoopPorts {
  readonly file: string;
  readonly transport: Pick<GrpcTransport, 'renew' | 'useIdentity'>;
  readonly link: Pick<Link, 'connected' | 'certificateRemainingMs' | 'reconnect'>;
}

const LOOK_MS = 30_000;
/** Renewed when this part of its life is left, give or take a tenth of its life. */
const RENEW_AT = 1 / 3;
const JITTER = 0.1;
/** Without a session for this long, the certificate may be why; then twice as long, up to the cap. */
const RECOVER_AFTER_MS = 120_000;
const RECOVER_CAP_MS = 3_600_000;

/**
 * Keeps this node’s certificate good: renewed at two thirds of its life, with a new key each time.
 * How much of it is left the cloud says, so that a clock that is days off does not matter. A
 * certificate that ran out offline is recovered.
 */
export class CertificateKeeper {
  readonly #options: CertificateKeeperOptions;
  readonly #share: number;
  #toldMs: number | undefined;
  #toldAt = 0;
  #lostAt: number | undefined;
  #recoverAfterMs = RECOVER_AFTER_MS;

  constructor(options: CertificateKeeperOptions) {
    this.#options = options;
    this.#share = RENEW_AT + (options.random.next() - 0.5) * 2 * JITTER;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, logger } = this.#options;
    while (!signal.aborted) {
      await this.look().catch((error: unknown) =>
        logger.warn('the certificate could not be renewed, will retry', {
          reason: messageOf(error),
        }),
      );
      await clock.sleep(LOOK_MS, signal).catch(() => undefined);
    }
  }

  /** Renews or recovers if it is time. True when it did. */
  async look(): Promise<boolean> {
    const { link, clock, file } = this.#options;
    const identity = readIdentity(file);
    const { validForMs } = identity;
    if (validForMs === undefined) return false;
    const now = clock.monotonic();
    if (link.connected) {
      this.#lostAt = undefined;
      this.#recoverAfterMs = RECOVER_AFTER_MS;
      if (link.certificateRemainingMs !== this.#toldMs) {
        this.#toldMs = link.certificateRemainingMs;
        this.#toldAt = now;
      }
      const left =
        this.#toldMs === undefined
          ? remainingMs(identity, clock.now())
          : this.#toldMs - (now - this.#toldAt);
      if (left > validForMs * this.#share) return false;
      await this.#renew(identity);
      return true;
    }
    this.#lostAt ??= now;
    // A certificate that has ended looks like any other failure from here, and this clock may be
    // wrong: whatever the reason, it is tried now and then.
    if (now - this.#lostAt < this.#recoverAfterMs) return false;
    this.#lostAt = now;
    this.#recoverAfterMs = Math.min(2 * this.#recoverAfterMs, RECOVER_CAP_MS);
    this.#use(await recover(identity), 'certificate recovered');
    return true;
  }

  async #renew(identity: StoredIdentity): Promise<void> {
    const { request, privateKey } = await createCertificateRequest('renew');
    const issued = await this.#options.transport.renew(request);
    const { fleetServer } = identity;
    this.#use(toStored(issued, { privateKey, fleetServer }), 'certificate renewed');
  }

  #use(identity: StoredIdentity, what: string): void {
    const { file, transport, link, logger } = this.#options;
    writeIdentity(file, identity);
    transport.useIdentity(identity);
    this.#toldMs = undefined;
    link.reconnect();
    logger.info(what, { validForHours: (identity.validForMs ?? 0) / 3_600_000 });
  }
}

/** What is left of a certificate by this machine’s clock, for links that do not tell. */
function remainingMs({ certificate }: StoredIdentity, nowMs: number): number {
  return Date.parse(new X509Certificate(certificate).validTo) - nowMs;
}
