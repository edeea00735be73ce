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
/** After there was no room, or a fault, the broker is left alone for a while. */
const PAUSE_MS = 2_000;
const FAREWELL_MS = 1_000;
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
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
  };
}

type Packet = Parameters<MqttClient['handleMessage']>[0];

function deliveryOf({ payload, qos, messageId, dup, retain, topic }: Packet): Delivery {
  const bytes = Buffer.from(payload);
  // What a broker retains comes at every subscription.
  if (retain) return { payload: bytes, id: `retained:${topic}:${digestOf(bytes)}` };
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
  /** Room that is waited for, and when it is looked for. */
  #wantedBytes = 1;
  #resumeAtMs = 0;

  private constructor(context: SourceContext<MqttOptions>, client: MqttClient) {
    this.#context = context;
    this.#client = client;
    const { options } = context;
    const qos = options.qos === 0 ? 0 : 1;
    client.handleMessage = (packet, done) => this.#receive(packet, done);
    client.on('connect', () => {
      client.subscribe([...options.topics], { qos }, (error, granted) => {
        if (this.#isPaused) return;
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

  /** Connects in the background; handlers are there before anything comes. The library is loaded only where a dataset needs it. */
  static async open(context: SourceContext<MqttOptions>): Promise<MqttSource> {
    const { connect } = await import('mqtt');
    const client = connect(context.options.address, connection(context));
    return new MqttSource(context, client);
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
      const { topic, payload } = packet;
      const isOurs = this.#context.options.topics.some((filter) => matches(filter, topic));
      if (isOurs && payload.length > MAX_MESSAGE_BYTES)
        sink.refuse({}, `a message is larger than ${MAX_MESSAGE_BYTES} bytes`);
      else if (isOurs) this.#take(packet);
      done();
    } catch (error) {
      this.#wantedBytes = packet.payload.length;
      this.#pause(error);
    }
  }

  /** A message that can never be taken is counted, and does not hold up the others. */
  #take(packet: Packet): void {
    const { sink } = this.#context;
    try {
      sink.take(deliveryOf(packet));
    } catch (error) {
      if (!isShoalError(error) || error.code !== 'invalid_argument') throw error;
      sink.refuse({}, messageOf(error));
    }
  }

  /** Without an acknowledgement the broker sends the message again, to the next connection. */
  #pause(error: unknown): void {
    const state = isShoalError(error) && error.code === 'resource_exhausted' ? 'Full' : 'Failed';
    this.#isPaused = true;
    this.#health = { state, message: messageOf(error) };
    this.#resumeAtMs = this.#context.clock.monotonic() + PAUSE_MS;
    this.#client.end(true);
  }

  poll(): void {
    const { clock, sink } = this.#context;
    if (!this.#isPaused || clock.monotonic() < this.#resumeAtMs) return;
    if (!sink.hasRoom(this.#wantedBytes)) return;
    this.#isPaused = false;
    this.#health = { state: 'Connecting', message: 'connecting again' };
    this.#client.reconnect();
  }

  async close(isForGood: boolean): Promise<void> {
    this.#isPaused = true;
    // The broker need not keep anything for a dataset that is gone.
    if (isForGood && this.#client.connected)
      await Promise.race([
        this.#client.unsubscribeAsync([...this.#context.options.topics]).catch(() => undefined),
        this.#context.clock.sleep(FAREWELL_MS),
      ]);
    await this.#client.endAsync(true).catch(() => undefined);
  }
}

/** Whether a topic is one of a filter: `+` is one level, `#` all that follow; of a shared one its own part counts. */
export function matches(filter: string, topic: string): boolean {
  const [wanted, levels] = [filter.replace(/^\$share\/[^/]+\//, '').split('/'), topic.split('/')];
  for (const [i, level] of wanted.entries()) {
    if (level === '#') return true;
    if (i >= levels.length || (level !== '+' && level !== levels[i])) return false;
  }
  return wanted.length === levels.length;
}
