import { connect, createServer, type Server, type Socket } from 'node:net';
import { messageOf } from '@shoal/core';
import { type ApiObject, digList, digNumber, digString } from '../object.ts';
import {
  type Controller,
  type ControllerContext,
  type Kinds,
  keyOf,
  splitKey,
} from './control-loop.ts';

interface Forward {
  readonly server: Server;
  readonly sockets: Set<Socket>;
}

/** Forwards ClusterIP:port to the ready pods behind a Service, one after another. */
export class ServiceProxy implements Controller {
  readonly name = 'service-proxy';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;
  readonly #forwards = new Map<string, Map<string, Forward>>();
  #turn = 0;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
  }

  keysOf(event: { resource: string; object: ApiObject }): string[] {
    return event.resource === '/services' ? [keyOf(event.object)] : [];
  }

  async reconcile(key: string): Promise<void> {
    const [namespace, name] = splitKey(key);
    const service = this.#kinds.find('services', namespace, name);
    const address = digString(service, 'spec', 'clusterIP');
    const wanted = new Map<string, unknown>();
    if (service && address && address !== 'None') {
      for (const port of digList(service, 'spec', 'ports'))
        wanted.set(`${address}:${digNumber(port, 'port')}`, port);
    }
    const current = this.#forwards.get(key) ?? new Map<string, Forward>();
    for (const [id, forward] of current) {
      if (!wanted.has(id)) {
        close(forward);
        current.delete(id);
      }
    }
    for (const [id, port] of wanted) {
      if (!current.has(id)) current.set(id, await this.#listen(key, id, port));
    }
    if (current.size > 0) this.#forwards.set(key, current);
    else this.#forwards.delete(key);
  }

  #listen(key: string, id: string, port: unknown): Promise<Forward> {
    const [host = '', portNumber = ''] = id.split(':');
    const sockets = new Set<Socket>();
    const server = createServer({ noDelay: true }, (socket) =>
      this.#forward(key, digString(port, 'name'), { socket, sockets }),
    );
    return new Promise((resolve, reject) => {
      server.once('error', (error) =>
        reject(new Error(`cannot listen on service address ${id}: ${messageOf(error)}`)),
      );
      server.listen(Number(portNumber), host, () => resolve({ server, sockets }));
    });
  }

  /** A ready endpoint for the named port. */
  #pick(key: string, portName: string | undefined): { host: string; port: number } | undefined {
    const [namespace, name] = splitKey(key);
    const endpoints = this.#kinds.find('endpoints', namespace, name);
    const all = digList(endpoints, 'subsets').flatMap((subset) => {
      const ports = digList(subset, 'ports');
      const port = digNumber(
        ports.find((p) => digString(p, 'name') === portName) ?? ports[0],
        'port',
      );
      return digList(subset, 'addresses').map((a) => ({
        host: digString(a, 'ip') ?? '',
        port: port ?? 0,
      }));
    });
    return all[this.#turn++ % Math.max(1, all.length)];
  }

  #forward(
    key: string,
    portName: string | undefined,
    from: { socket: Socket; sockets: Set<Socket> },
  ): void {
    const { socket, sockets } = from;
    const endpoint = this.#pick(key, portName);
    if (!endpoint) {
      socket.resetAndDestroy();
      return;
    }
    const upstream = connect({ ...endpoint, noDelay: true });
    sockets.add(socket);
    const end = (): void => {
      sockets.delete(socket);
      socket.destroy();
      upstream.destroy();
    };
    socket.on('error', end).on('close', end);
    upstream.on('error', end).on('close', end);
    socket.pipe(upstream).pipe(socket);
  }

  /** Ends every listener and connection. */
  close(): void {
    for (const forwards of this.#forwards.values())
      for (const forward of forwards.values()) close(forward);
    this.#forwards.clear();
    this.#context.logger.debug('service proxy closed');
  }
}

function close(forward: Forward): void {
  forward.server.close();
  for (const socket of forward.sockets) socket.destroy();
}
