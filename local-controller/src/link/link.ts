import { randomUUID } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { EdgeFrameSchema } from '@shoal/api';
import { backoffMs, type LoopPorts, messageOf } from '@shoal/core';
import type { EdgeDatabase } from '../store/database.ts';
import { type CoreOutput, EdgeLinkCore } from './edge-link-core.ts';
import type { Connection, EdgeTransport } from './transport.ts';

const BACKOFF = { baseMs: 1_000, capMs: 60_000 };
const FIRST_RETRY_MS = 200;
const HEALTHY_MS = 60_000;
const PING_MS = 15_000;
const MISSED_PINGS = 3;

export type ObjectListener = (object: { kind: string; namespace: string; name: string }) => void;

/** Keeps the edge connected: dials, resumes, sends what waits, and goes on without the cloud. */
export class Link {
  readonly #core: EdgeLinkCore;
  readonly #db: EdgeDatabase;
  readonly #transport: EdgeTransport;
  readonly #ports: LoopPorts;
  readonly #listeners: ObjectListener[] = [];
  #connection: Connection | undefined;
  #lastError: string | undefined;
  #silentTicks = 0;

  constructor(db: EdgeDatabase, transport: EdgeTransport, ports: LoopPorts) {
    this.#db = db;
    this.#transport = transport;
    this.#ports = ports;
    this.#core = new EdgeLinkCore(db, randomUUID());
  }

  onChange(listener: ObjectListener): void {
    this.#listeners.push(listener);
  }

  get connected(): boolean {
    return this.#connection !== undefined;
  }

  get lastError(): string | undefined {
    return this.#lastError;
  }

  /** Says something to the cloud: durable here first, sent when there is a connection. */
  report(key: string, body: object): void {
    const changed = this.#db.putOutbox(key, Buffer.from(JSON.stringify(body)));
    if (changed) this.#flush();
  }

  #flush(): void {
    const connection = this.#connection;
    if (connection) for (const frame of this.#core.pending()) connection.send(frame);
  }

  async run(signal: AbortSignal): Promise<void> {
    let attempt = 0;
    while (!signal.aborted) {
      const startedAt = this.#ports.clock.now();
      const reason = await this.#session(signal);
      if (signal.aborted) return;
      const healthy = this.#ports.clock.now() - startedAt > HEALTHY_MS;
      attempt = healthy ? 0 : attempt + 1;
      this.#lastError = reason;
      const wait =
        FIRST_RETRY_MS +
        backoffMs(Math.max(0, attempt - 3), BACKOFF, this.#ports.random) * (attempt > 2 ? 1 : 0);
      if (attempt <= 1 || attempt % 10 === 0)
        this.#ports.logger.info('not connected to the cloud, will retry', { reason, attempt });
      await this.#ports.clock.sleep(wait, signal).catch(() => undefined);
    }
  }

  async #session(signal: AbortSignal): Promise<string | undefined> {
    let why: string | undefined;
    const connection = this.#transport.connect((frame) => {
      this.#silentTicks = 0;
      let output: CoreOutput;
      try {
        output = this.#core.receive(frame);
      } catch (error) {
        // The disk may be full: nothing was acknowledged, the next session delivers it again.
        why = messageOf(error);
        connection.close();
        return;
      }
      if (frame.frame.case === 'welcome')
        this.#ports.logger.info('connected to the cloud', {
          epoch: Number(frame.frame.value.epoch),
          mode: frame.frame.value.mode,
        });
      for (const reply of output.send) connection.send(reply);
      for (const changed of output.changed)
        for (const listener of this.#listeners) listener(changed);
      if (output.close !== undefined) {
        why = output.close;
        connection.close();
      }
    });
    this.#connection = connection;
    const abort = (): void => connection.close();
    signal.addEventListener('abort', abort, { once: true });
    const pings = setInterval(() => this.#tick(connection), PING_MS);
    connection.send(this.#core.hello());
    const reason = await connection.closed;
    clearInterval(pings);
    signal.removeEventListener('abort', abort);
    this.#connection = undefined;
    return why ?? reason;
  }

  #tick(connection: Connection): void {
    if (++this.#silentTicks > MISSED_PINGS) connection.close();
    else
      connection.send(
        create(EdgeFrameSchema, {
          frame: { case: 'ping', value: { nonce: BigInt(this.#silentTicks) } },
        }),
      );
  }
}
