import { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';

/** The channel by which the client of `v5.channel.k8s.io` says that another one has ended. */
const CLOSE = 255;
const HIGH_WATER = 1024 * 1024;
const PING_MS = 10_000;

/** One channel of a socket. */
class Channel extends Duplex {
  readonly #socket: WebSocket;
  readonly #id: number;

  constructor(socket: WebSocket, id: number) {
    super();
    this.#socket = socket;
    this.#id = id;
    this.on('error', () => undefined);
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return done();
    const message = Buffer.concat([Buffer.from([this.#id]), chunk]);
    // Waits for the socket only when much is under way: a callback for each write is slow.
    if (this.#socket.bufferedAmount < HIGH_WATER) {
      this.#socket.send(message);
      done();
    } else this.#socket.send(message, () => done());
  }

  receive(data: Buffer): void {
    if (!this.destroyed && !this.readableEnded && data.length > 0 && !this.push(data))
      this.#socket.pause();
  }

  finish(): void {
    if (!this.destroyed && !this.readableEnded) this.push(null);
  }
}

/**
 * Byte streams over one WebSocket, as `v4.channel.k8s.io` and `v5.channel.k8s.io` have them: the
 * first byte of a message is its channel.
 * Source: Kubernetes, package k8s.io/apimachinery/pkg/util/remotecommand.
 */
export class ChannelSocket {
  readonly #socket: WebSocket;
  readonly #channels = new Map<number, Channel>();
  readonly #onClose: () => void;

  /** @param onClose Called when the client has gone, or was let go. */
  constructor(socket: WebSocket, onClose: () => void = () => undefined) {
    this.#socket = socket;
    this.#onClose = onClose;
    socket.on('message', (message: Buffer, isBinary: boolean) => {
      if (isBinary && message.length > 0) this.#take(message);
    });
    const end = (): void => {
      for (const channel of this.#channels.values()) channel.finish();
    };
    // A client that is gone is noticed by writing to it, also while nothing is read from it.
    const ping = setInterval(() => socket.ping(), PING_MS).unref();
    socket.on('close', () => {
      clearInterval(ping);
      end();
      this.#onClose();
    });
    socket.on('error', end);
  }

  #take(message: Buffer): void {
    const id = message[0] ?? 0;
    if (id === CLOSE) this.#channels.get(message[1] ?? 0)?.finish();
    else this.#channels.get(id)?.receive(message.subarray(1));
  }

  /** The stream of a channel; what comes for channels nobody asked for is dropped. */
  open(id: number): Duplex {
    const channel = new Channel(this.#socket, id);
    this.#channels.set(id, channel);
    return channel;
  }

  /** An empty message: tells a waiting client that the connection stands. */
  greet(id: number): void {
    this.#socket.send(Buffer.from([id]));
  }

  end(): void {
    this.#socket.close(1000);
  }
}
