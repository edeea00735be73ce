import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { refuseUpgrade } from '../../server/refuse-upgrade.ts';
import { StatusError } from '../../server/status-error.ts';
import { ChannelSocket } from './channels.ts';
import { SpdyConnection, type SpdyStream } from './spdy.ts';
import { acceptSpdy, acceptTunnel, acceptWebSocket, isWebSocket, type Upgrade } from './upgrade.ts';

const CONNECT_TIMEOUT_MS = 10_000;
const PROTOCOL = 'portforward.k8s.io';

/** Connects both ends; what keeps it from doing so goes to the error stream. */
function forward(
  data: Duplex,
  error: Duplex,
  to: { host: string; port: number },
  onClose: () => void = () => undefined,
): void {
  const socket: Socket = connect({ ...to, timeout: CONNECT_TIMEOUT_MS });
  const fail = (why: string): void => {
    if (!error.writableEnded)
      error.end(`error forwarding port ${to.port} to the pod at ${to.host}: ${why}`);
    // The client looks at the errors once the data has ended.
    data.end();
    data.resume();
    socket.destroy();
  };
  socket.on('timeout', () => fail('timeout'));
  socket.on('error', (cause) => fail(cause.message));
  socket.on('connect', () => {
    socket.setTimeout(0);
    data.pipe(socket);
    socket.pipe(data);
  });
  data.on('close', () => socket.destroy());
  socket.on('close', () => {
    if (!error.writableEnded) error.end();
    // What the client still sends must not hold up its other connections.
    data.end();
    data.resume();
    onClose();
  });
}

/** kubectl: a pair of streams, `error` and `data`, for each connection. */
function serveSpdy(transport: Duplex, host: string): void {
  const waiting = new Map<string, SpdyStream>();
  new SpdyConnection(transport, (stream) => {
    const id = stream.headers.get('requestid') ?? '';
    const other = waiting.get(id);
    if (!other) {
      waiting.set(id, stream);
      return;
    }
    waiting.delete(id);
    const [data, error] =
      stream.headers.get('streamtype') === 'data' ? [stream, other] : [other, stream];
    // Nobody writes to it from there; it must be read to see its end.
    error.resume();
    forward(data, error, { host, port: Number(data.headers.get('port')) });
  });
}

/** Clients without SPDY: channel 2n is the data of the n-th port, 2n + 1 its errors. */
function serveChannels(socket: WebSocket, ports: readonly number[], host: string): void {
  const opened: Duplex[] = [];
  const channels = new ChannelSocket(socket, () => {
    for (const channel of opened) channel.destroy();
  });
  let running = ports.length;
  for (const [n, port] of ports.entries()) {
    const data = channels.open(2 * n);
    const error = channels.open(2 * n + 1);
    const head = Buffer.alloc(2);
    head.writeUInt16LE(port);
    data.write(head);
    error.write(head);
    opened.push(data, error);
    forward(data, error, { host, port }, () => {
      if (--running === 0) channels.end();
    });
  }
}

/** Serves `pods/portforward` for a pod that listens at `host`. */
export async function servePortForward(
  upgrade: Upgrade,
  host: string,
  query: URLSearchParams,
): Promise<void> {
  if (!isWebSocket(upgrade)) {
    const transport = acceptSpdy(upgrade, [PROTOCOL]);
    if (transport) serveSpdy(transport, host);
    return;
  }
  const tunnel = await acceptTunnel(upgrade);
  if (tunnel) return serveSpdy(tunnel, host);
  const ports = query.getAll('ports').flatMap((p) => p.split(',').map(Number));
  const fits = ports.length > 0 && ports.every((p) => Number.isInteger(p) && p > 0 && p < 65_536);
  if (!fits) {
    const error = new StatusError('BadRequest', 'query parameter "ports" must name ports');
    return refuseUpgrade(upgrade.socket, error);
  }
  const accepted = await acceptWebSocket(upgrade, ['v4.channel.k8s.io']);
  if (accepted) serveChannels(accepted.socket, ports, host);
}
