import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { createWebSocketStream, type WebSocket, WebSocketServer } from 'ws';
import { refuseUpgrade } from '../../server/refuse-upgrade.ts';
import { StatusError } from '../../server/status-error.ts';

/** A request to leave HTTP behind, with the bytes that came after it. */
export interface Upgrade {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  readonly head: Buffer;
}

const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;
const SPDY_TUNNEL = 'SPDY/3.1+portforward.k8s.io';

export function isWebSocket({ request }: Upgrade): boolean {
  return request.headers.upgrade?.toLowerCase() === 'websocket';
}

/** What the client can speak, first what it likes best. */
function offered(request: IncomingMessage, header: string): string[] {
  const value = request.headers[header] ?? '';
  return [value]
    .flat()
    .join(',')
    .split(',')
    .map((v) => v.trim());
}

function accept(upgrade: Upgrade, server: WebSocketServer): Promise<WebSocket> {
  const { request, socket, head } = upgrade;
  return new Promise((resolve, reject) => {
    socket.once('close', () => reject(new Error('the client went away')));
    server.handleUpgrade(request, socket, head, resolve);
  });
}

/**
 * Accepts a WebSocket that speaks one of the protocols.
 *
 * @returns The socket and the protocol; undefined when it offers none of them (and was told so).
 */
export async function acceptWebSocket(
  upgrade: Upgrade,
  protocols: readonly string[],
): Promise<{ socket: WebSocket; protocol: string } | undefined> {
  const wanted = offered(upgrade.request, 'sec-websocket-protocol');
  const protocol = protocols.find((p) => wanted.includes(p));
  if (protocol === undefined) {
    refuseUpgrade(
      upgrade.socket,
      new StatusError('BadRequest', `none of these protocols is spoken here: ${wanted.join()}`),
    );
    return undefined;
  }
  const server = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE_BYTES,
    handleProtocols: () => protocol,
  });
  return { socket: await accept(upgrade, server), protocol };
}

/** The byte stream of a SPDY connection that comes inside a WebSocket; undefined when none does. */
export async function acceptTunnel(upgrade: Upgrade): Promise<Duplex | undefined> {
  const { request } = upgrade;
  if (!offered(request, 'sec-websocket-protocol').includes(SPDY_TUNNEL)) return undefined;
  // The name holds a slash, which no token may: the library must not see it.
  delete request.headers['sec-websocket-protocol'];
  const server = new WebSocketServer({ noServer: true, maxPayload: MAX_MESSAGE_BYTES });
  server.on('headers', (headers) => headers.push(`Sec-WebSocket-Protocol: ${SPDY_TUNNEL}`));
  return createWebSocketStream(await accept(upgrade, server));
}

/**
 * Accepts SPDY/3.1.
 *
 * @param protocols What the streams may mean, best first.
 * @returns The byte stream after the upgrade; undefined when it was refused.
 */
export function acceptSpdy(upgrade: Upgrade, protocols: readonly string[]): Duplex | undefined {
  const { request, socket, head } = upgrade;
  const wanted = offered(request, 'x-stream-protocol-version');
  const protocol = protocols.find((p) => wanted.includes(p));
  if (protocol === undefined) {
    refuseUpgrade(
      socket,
      new StatusError('BadRequest', `none of these protocols is spoken here: ${wanted.join()}`),
    );
    return undefined;
  }
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: ${protocol}\r\n\r\n`,
  );
  if (head.length > 0) socket.unshift(head);
  return socket;
}
