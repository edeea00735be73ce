import type { Duplex } from 'node:stream';
import { RelayMux, type RelayStream } from '@shoal/api';
import { type ByteStream, duplexOf, type Logger, ShoalError } from '@shoal/core';
import type { GrpcTransport } from './grpc.ts';

export interface RelayOptions {
  readonly transport: Pick<GrpcTransport, 'relay'>;
  /** Answers a connection of the cloud’s operators. */
  readonly operatorApi: (connection: Duplex) => void;
  readonly logger: Logger;
}

/** Connections without a stream are ended after this time. */
const IDLE_MS = 60_000;

/** This node’s end of relay streams: connected when either side wants one. */
export class Relay {
  readonly #options: RelayOptions;
  #mux: RelayMux | undefined;
  #close: () => void = () => undefined;
  #idle: NodeJS.Timeout | undefined;

  constructor(options: RelayOptions) {
    this.#options = options;
  }

  /** Connects, if that was not done yet. */
  connect(): RelayMux {
    if (this.#mux) return this.#mux;
    const { transport, logger } = this.#options;
    const connection = transport.relay((frame) => mux.receive(frame));
    const mux = new RelayMux(
      'edge',
      (frame) => connection.send(frame),
      (stream) => this.#serve(stream),
    );
    this.#mux = mux;
    this.#close = () => connection.close();
    this.#idle = setInterval(() => {
      if (mux.size === 0) connection.close();
    }, IDLE_MS);
    // So that the cloud knows of it before the first stream.
    connection.send({
      $typeName: 'shoal.edgelink.v1.RelayFrame',
      stream: 0,
      frame: { case: undefined },
    });
    void connection.closed.then((reason) => {
      clearInterval(this.#idle);
      if (this.#mux === mux) this.#mux = undefined;
      mux.close();
      logger.debug('relay closed', { reason });
    });
    return mux;
  }

  /** A stream to a service of the cloud. @throws ShoalError `resource_exhausted`. */
  open(target: string): ByteStream {
    return this.connect().open(target);
  }

  #serve(stream: RelayStream): void {
    if (stream.target !== 'operator-api') {
      stream.end(`this node has no "${stream.target}"`);
      return;
    }
    this.#options.operatorApi(duplexOf(stream));
  }

  close(): void {
    this.#close();
  }
}

/** `svc://…` of a service path in the worker API. @throws ShoalError `invalid_argument`. */
export function serviceTarget(namespace: string, service: string, port: string): string {
  const name = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
  if (!name.test(namespace) || !name.test(service) || !/^\d{1,5}$/.test(port))
    throw new ShoalError('invalid_argument', `not a service: ${namespace}/${service}:${port}`);
  return `svc://${namespace}/${service}:${port}`;
}
