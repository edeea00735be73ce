import { randomUUID } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { EdgeFrameSchema } from '@shoal/api';
import { backoffMs, type LoopPorts, messageOf } from '@shoal/core';
import type { EdgeDatabase, ObjectKey } from '../store/database.ts';
import type { LogEntry } from '../store/outbox.ts';
import { type CoreOutput, EdgeLinkCore } from './edge-link-core.ts';
import type { Connection, EdgeTransport } from './transport.ts';

const BACKOFF = { baseMs: 1_000, capMs: 60_000 };
/** The first tries come soon: most interruptions are short. */
const QUICK_TRIES = 3;
const FIRST_RETRY_MS = 200;
const HEALTHY_MS = 60_000;
/** Silence after which the edge asks, unless the cloud has: it does so a little earlier. */
const PING_MS = 22_500;
const PING_AGAIN_MS = 7_000;
/** How long the cloud may take to answer the greeting. */
const WELCOME_MS = 30_000;
/** Silence after which a session is over; three pings were not answered by then. */
const SILENCE_MS = 42_000;
const TICK_MS = 2_500;

export type ObjectListener = (object: ObjectKey) => void;

export interface LinkOptions {
  /** Told to the cloud, for the list of nodes. */
  readonly version?: string;
  /** Called when the cloud wants to reach something here. */
  readonly openRelay?: () => void;
}

/** How a session ended. */
interface Ending {
  readonly reason: string | undefined;
  readonly retryAfterMs: number;
  readonly spreadMs: number;
}

/** Keeps the edge connected: dials, resumes, sends what waits, and goes on without the cloud. */
export class Link {
  readonly #core: EdgeLinkCore;
  readonly #db: EdgeDatabase;
  readonly #transport: EdgeTransport;
  readonly #ports: LoopPorts;
  readonly #options: LinkOptions;
  readonly #listeners: ObjectListener[] = [];
  #connection: Connection | undefined;
  #isWelcome = false;
  #lastError: string | undefined;
  #lastHeardMs = 0;
  #lastPingMs = 0;

  constructor(
    db: EdgeDatabase,
    transport: EdgeTransport,
    ports: LoopPorts,
    options: LinkOptions = {},
  ) {
    this.#db = db;
    this.#transport = transport;
    this.#ports = ports;
    this.#options = options;
    this.#core = new EdgeLinkCore(db, randomUUID(), options.version);
  }

  onChange(listener: ObjectListener): void {
    this.#listeners.push(listener);
  }

  /** True while the cloud has answered the greeting and the session lives. */
  get connected(): boolean {
    return this.#connection !== undefined && this.#isWelcome;
  }

  get lastError(): string | undefined {
    return this.#lastError;
  }

  /** How long the certificate is good, as the cloud said last. */
  get certificateRemainingMs(): number | undefined {
    return this.#core.certificateRemainingMs;
  }

  /** Says how something is: durable here first, sent when there is a connection; the newest counts. */
  report(key: string, body: object): void {
    const changed = this.#db.outbox.putState(key, Buffer.from(JSON.stringify(body)));
    if (changed) this.#flush();
  }

  /**
   * Says that something happened: every entry takes effect once, in order.
   *
   * @throws ShoalError `resource_exhausted` when results that may not be dropped fill the quota.
   */
  append(stream: string, entry: LogEntry): void {
    this.#db.outbox.append(`log/${stream}`, entry);
    this.#flush();
  }

  #flush(): void {
    const connection = this.#connection;
    if (connection) for (const frame of this.#core.pending()) connection.send(frame);
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, logger } = this.#ports;
    let attempt = 0;
    while (!signal.aborted) {
      const startedAt = clock.monotonic();
      const { reason, retryAfterMs, spreadMs } = await this.#session(signal).catch(
        (error: unknown): Ending => ({ reason: messageOf(error), retryAfterMs: 0, spreadMs: 0 }),
      );
      if (signal.aborted) return;
      const healthy = clock.monotonic() - startedAt > HEALTHY_MS;
      attempt = healthy ? 0 : attempt + 1;
      this.#lastError = reason;
      const backoff = attempt < QUICK_TRIES ? 0 : backoffMs(attempt - QUICK_TRIES, BACKOFF, random);
      const asked = retryAfterMs + random.next() * spreadMs;
      if (attempt <= 1 || attempt % 10 === 0)
        logger.info('not connected to the cloud, will retry', { reason, attempt });
      const wait = Math.max(asked, FIRST_RETRY_MS * (0.5 + random.next()) + backoff);
      await clock.sleep(wait, signal).catch(() => undefined);
    }
  }

  /** Ends the session that is, for the next one to begin with what has changed (a new certificate). */
  reconnect(): void {
    this.#connection?.close();
  }

  async #session(signal: AbortSignal): Promise<Ending> {
    const ending = { reason: undefined as string | undefined, retryAfterMs: 0, spreadMs: 0 };
    this.#isWelcome = false;
    this.#lastHeardMs = this.#ports.clock.monotonic();
    const ended = new AbortController();
    const connection = this.#transport.connect((frame) => {
      if (ended.signal.aborted) return;
      this.#lastHeardMs = this.#ports.clock.monotonic();
      let output: CoreOutput;
      try {
        output = this.#core.receive(frame);
      } catch (error) {
        // The disk may be full: nothing was acknowledged, the next session delivers it again.
        output = { send: [], changed: [], close: messageOf(error) };
      }
      if (frame.frame.case === 'welcome' && output.close === undefined) {
        this.#isWelcome = true;
        const { epoch, mode } = frame.frame.value;
        this.#ports.logger.info('connected to the cloud', { epoch: Number(epoch), mode });
      }
      this.#carryOut(connection, output);
      if (output.close === undefined) return;
      ending.reason = output.close;
      ending.retryAfterMs = output.retryAfterMs ?? 0;
      ending.spreadMs = output.spreadMs ?? 0;
      connection.close();
    });
    this.#connection = connection;
    const stop = AbortSignal.any([signal, ended.signal]);
    const abort = (): void => connection.close();
    signal.addEventListener('abort', abort, { once: true });
    const pings = this.#pingWhile(connection, stop);
    try {
      connection.send(this.#core.hello());
    } catch (error) {
      // A disk that cannot be written: the edge lives on with what it has, and tries again.
      ending.reason = messageOf(error);
      connection.close();
    }
    const reason = await connection.closed;
    ended.abort();
    signal.removeEventListener('abort', abort);
    this.#connection = undefined;
    await pings;
    return { ...ending, reason: ending.reason ?? reason };
  }

  #carryOut(connection: Connection, output: CoreOutput): void {
    if (output.openRelay) this.#options.openRelay?.();
    for (const reply of output.send) connection.send(reply);
    for (const changed of output.changed)
      for (const listener of this.#listeners) {
        try {
          listener(changed);
        } catch (error) {
          this.#ports.logger.error('a listener failed', { reason: messageOf(error) });
        }
      }
  }

  /** Pings when nothing was heard, and ends a session that is silent. */
  async #pingWhile(connection: Connection, signal: AbortSignal): Promise<void> {
    const { clock } = this.#ports;
    let nonce = 0n;
    let waitedMs = 0;
    while (!signal.aborted) {
      await clock.sleep(TICK_MS, signal).catch(() => undefined);
      if (signal.aborted) return;
      waitedMs += TICK_MS;
      if (!this.#isWelcome && waitedMs >= WELCOME_MS) {
        this.#lastError = 'the cloud did not answer the greeting';
        connection.abandon();
        return;
      }
      const now = clock.monotonic();
      const silentMs = now - this.#lastHeardMs;
      if (silentMs >= SILENCE_MS) {
        this.#lastError = 'the cloud did not answer for 42 s';
        connection.abandon();
        return;
      }
      if (silentMs < PING_MS || now - this.#lastPingMs < PING_AGAIN_MS) continue;
      this.#lastPingMs = now;
      connection.send(
        create(EdgeFrameSchema, { frame: { case: 'ping', value: { nonce: ++nonce } } }),
      );
    }
  }
}
