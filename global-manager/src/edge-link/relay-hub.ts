import { connect } from 'node:net';
import { pipeSocket, type RelayFrame, RelayMux, type RelayStream } from '@shoal/api';
import { type Logger, messageOf, ShoalError } from '@shoal/core';

/** Says where a service is, to a node that may use it. */
export interface ServiceDirectory {
  /** @throws ShoalError `permission_denied` or `not_found`. */
  resolve(node: string, target: string): Promise<{ host: string; port: number }>;
}

/** The call that frames of a node go over. */
export interface RelayCall {
  send(frame: RelayFrame): void;
  end(): void;
}

export interface RelayHubPorts {
  readonly services: ServiceDirectory;
  /** Asks a node to connect its relay. False when the node is not connected. */
  readonly invite: (node: string) => boolean;
  readonly logger: Logger;
}

const CONNECT_MS = 5_000;
/** How long a node may take to connect its relay. */
const INVITE_MS = 10_000;

/** The cloud’s ends of relay streams, by node. */
export class RelayHub {
  readonly #nodes = new Map<string, { mux: RelayMux; call: RelayCall }>();
  readonly #waiting = new Map<string, (() => void)[]>();
  readonly #ports: RelayHubPorts;

  constructor(ports: RelayHubPorts) {
    this.#ports = ports;
  }

  /** A node’s relay connection is up. @returns Its mux, which frames of the node go into. */
  attach(node: string, call: RelayCall): RelayMux {
    this.drop(node);
    const mux = new RelayMux(
      'cloud',
      (frame) => call.send(frame),
      (stream) => void this.#serve(node, stream),
    );
    this.#nodes.set(node, { mux, call });
    for (const wake of this.#waiting.get(node) ?? []) wake();
    this.#waiting.delete(node);
    return mux;
  }

  detach(node: string, mux: RelayMux): void {
    mux.close();
    if (this.#nodes.get(node)?.mux === mux) this.#nodes.delete(node);
  }

  /**
   * A stream to something at a node.
   *
   * @throws ShoalError `unavailable` when the node is not connected, or does not connect its relay.
   */
  async open(node: string, target: string): Promise<RelayStream> {
    let mux = this.#nodes.get(node)?.mux;
    if (!mux && this.#ports.invite(node)) {
      await this.#attached(node);
      mux = this.#nodes.get(node)?.mux;
    }
    if (!mux)
      throw new ShoalError(
        'unavailable',
        `node ${node} has no connection to this cloud now; "shoal link status" shows the fleet`,
      );
    return mux.open(target);
  }

  async #attached(node: string): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      timer = setTimeout(resolve, INVITE_MS);
      const waiting = this.#waiting.get(node) ?? [];
      waiting.push(resolve);
      this.#waiting.set(node, waiting);
    });
    clearTimeout(timer);
  }

  /** The node may not talk to us any more. */
  drop(node: string): void {
    const known = this.#nodes.get(node);
    this.#nodes.delete(node);
    known?.mux.close();
    known?.call.end();
  }

  async #serve(node: string, stream: RelayStream): Promise<void> {
    const early: { bytes: Uint8Array; pass: () => void }[] = [];
    let isOver = false;
    stream.onData((bytes, pass) => void early.push({ bytes, pass }));
    stream.onEnd(() => {
      isOver = true;
    });
    try {
      const { host, port } = await this.#ports.services.resolve(node, stream.target);
      if (isOver) return;
      const socket = connect({ host, port, timeout: CONNECT_MS });
      socket.once('timeout', () => socket.destroy(new Error(`no answer from ${host}:${port}`)));
      socket.once('connect', () => socket.setTimeout(0));
      // Written before it is connected, so that what comes next comes after it.
      for (const { bytes, pass } of early) socket.write(bytes, pass);
      pipeSocket(stream, socket);
    } catch (error) {
      this.#ports.logger.warn('relay refused', {
        node,
        target: stream.target,
        reason: messageOf(error),
      });
      stream.end(messageOf(error));
    }
  }
}
