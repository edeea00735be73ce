import { digestOf, isShoalError, messageOf } from '@shoal/core';
import type { IClientOptions, MqttClient } from 'mqtt';
import type { Delivery, SampleSource, SourceContext, SourceHealth } from './source.ts';

export interface MqttOptions {
  readonly address: string;
  readonly topics: readonly string[];
  readonly qos?: number;
}

const RECONNECT_MS = 2_000;
const CONNECT_MS = 15_000;
const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;

function connection({ credentials, dataset }: SourceContext<MqttOptions>): IClientOptions {
  const { username, password } = credentials;
  const ca = credentials['ca.crt'];
  const cert = credentials['tls.crt'];
  const key = credentials['tls.key'];
  return {
    // The broker keeps what comes while this node is away, under this name.
    clientId: `shoal-${dataset.uid}`,
    clean: false,
    reconnectPeriod: RECONNECT_MS,
    connectTimeout: CONNECT_MS,
    resubscribe: true,
    manualConnect: true,
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
  };
}

type Packet = Parameters<MqttClient['handleMessage']>[0];

function deliveryOf({ payload, qos, messageId, dup }: Packet): Delivery {
  const bytes = Buffer.from(payload);
  if (qos === 0 || messageId === undefined) return { payload: bytes };
  // Numbers of messages are used again; a broker that repeats itself says so.
  return { payload: bytes, id: `${messageId}:${digestOf(bytes)}`, mayRepeat: dup };
}

/**
 * Messages of an MQTT broker. One is acknowledged once it is on the disk; while there is no room the
 * connection is let go, and the broker keeps what comes.
 */
export class MqttSource implements SampleSource {
  readonly #context: SourceContext<MqttOptions>;
  readonly #client: MqttClient;
  #health: SourceHealth = { state: 'Connecting', message: 'not connected yet' };
  #isPaused = false;

  private constructor(context: SourceContext<MqttOptions>, client: MqttClient) {
    this.#context = context;
    this.#client = client;
    const { options } = context;
    const qos = options.qos === 0 ? 0 : 1;
    client.handleMessage = (packet, done) => this.#receive(packet, done);
    client.on('connect', () => {
      client.subscribe([...options.topics], { qos }, (error, granted) => {
        const refused = (granted ?? []).filter((g) => g.qos > 2).map((g) => g.topic);
        if (error || refused.length > 0)
          this.#health = {
            state: 'Failed',
            message: `the broker refused ${refused.join(', ') || 'to subscribe'}${error ? `: ${error.message}` : ''}`,
          };
        else this.#health = { state: 'Running' };
      });
    });
    client.on('error', (error) => this.#lost(messageOf(error)));
    client.on('close', () => {
      if (this.#health.state === 'Running') this.#lost('the connection to the broker was closed');
    });
  }

  /** Connects in the background; the library is loaded only where a dataset needs it. */
  static async open(context: SourceContext<MqttOptions>): Promise<MqttSource> {
    const { connect } = await import('mqtt');
    const client = connect(context.options.address, connection(context));
    const source = new MqttSource(context, client);
    client.connect();
    return source;
  }

  health(): SourceHealth {
    return this.#health;
  }

  #lost(message: string): void {
    if (!this.#isPaused) this.#health = { state: 'Connecting', message };
  }

  #receive(packet: Packet, done: (error?: Error) => void): void {
    const { sink } = this.#context;
    if (this.#isPaused) return;
    try {
      const delivery = deliveryOf(packet);
      if (delivery.payload.length > MAX_MESSAGE_BYTES)
        sink.refuse(delivery, `a message is larger than ${MAX_MESSAGE_BYTES} bytes`);
      else sink.take(delivery);
      done();
    } catch (error) {
      this.#pause(error);
    }
  }

  /** Without an acknowledgement the broker sends the message again, to the next connection. */
  #pause(error: unknown): void {
    const state = isShoalError(error) && error.code === 'resource_exhausted' ? 'Full' : 'Failed';
    this.#isPaused = true;
    this.#health = { state, message: messageOf(error) };
    this.#client.end(true);
  }

  poll(): void {
    if (!this.#isPaused || !this.#context.sink.hasRoom()) return;
    this.#isPaused = false;
    this.#health = { state: 'Connecting', message: 'connecting again' };
    this.#client.reconnect();
  }

  async close(): Promise<void> {
    this.#isPaused = true;
    await this.#client.endAsync(true).catch(() => undefined);
  }
}
