import { createServer, type Server, Socket } from 'node:net';

/** What the network does now. */
export interface NetworkFault {
  /** Extra delay in one direction, in milliseconds. */
  delayMs: number;
  /** Nothing passes, and nobody is told. */
  isStalled: boolean;
  /** New connections are refused. */
  isClosed: boolean;
}

/** A TCP proxy between edges and the global manager that can be as bad as networks are. */
export class FaultProxy {
  readonly fault: NetworkFault = { delayMs: 0, isStalled: false, isClosed: false };
  readonly #server: Server;
  readonly #pairs = new Set<{ client: Socket; upstream: Socket; isSwallowed: boolean }>();
  target = { host: '', port: 0 };

  constructor() {
    this.#server = createServer((client) => this.#serve(client));
  }

  listen(): Promise<number> {
    return new Promise((resolve) => {
      this.#server.listen(0, '127.0.0.1', () => {
        const address = this.#server.address();
        resolve(typeof address === 'object' && address ? address.port : 0);
      });
    });
  }

  #serve(client: Socket): void {
    if (this.fault.isClosed) {
      client.destroy();
      return;
    }
    const upstream = new Socket().connect(this.target.port, this.target.host);
    const pair = { client, upstream, isSwallowed: false };
    this.#pairs.add(pair);
    const carry = (from: Socket, to: Socket): void => {
      from.on('data', (chunk: Buffer) => {
        const pass = (): void => {
          if (pair.isSwallowed) return;
          if (this.fault.isStalled) setTimeout(pass, 50);
          else if (to.writable) to.write(chunk);
        };
        // One timer after the other keeps the order, as equal delays do.
        if (this.fault.delayMs > 0 || this.fault.isStalled)
          this.#inOrder(from, pass, this.fault.delayMs);
        else this.#inOrder(from, pass, 0);
      });
      from.on('error', () => undefined);
      from.on('close', () => {
        if (!pair.isSwallowed) to.destroy();
        this.#pairs.delete(pair);
      });
    };
    carry(client, upstream);
    carry(upstream, client);
  }

  readonly #queues = new WeakMap<Socket, Promise<void>>();

  #inOrder(socket: Socket, pass: () => void, delayMs: number): void {
    const before = this.#queues.get(socket) ?? Promise.resolve();
    const due = performance.now() + delayMs;
    const next = before.then(async () => {
      const wait = due - performance.now();
      if (wait > 0.5) await new Promise((resolve) => setTimeout(resolve, wait));
      while (this.fault.isStalled) await new Promise((resolve) => setTimeout(resolve, 50));
      pass();
    });
    this.#queues.set(socket, next);
  }

  /** Ends all connections; both ends notice. */
  cut(): void {
    for (const { client, upstream } of this.#pairs) {
      client.resetAndDestroy();
      upstream.resetAndDestroy();
    }
  }

  /** A box on the way forgets all connections: what is sent goes nowhere. */
  swallow(): void {
    for (const pair of this.#pairs) pair.isSwallowed = true;
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}
