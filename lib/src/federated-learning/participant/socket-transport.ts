import { connect, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectSecurely } from 'node:tls';
import { AggregatorFrameSchema, ParticipantFrameSchema } from '@shoal/api';
import { drained } from '../../transfer/chunks.ts';
import { FRAME_PROTOCOL, FrameSocket } from '../../transfer/frame-socket.ts';
import type { FrameHandlers, FrameStream, FrameTransport } from './frame-stream.ts';
import { type GrpcTransportOptions, grpcTransport } from './grpc-transport.ts';

const CONNECT_MS = 20_000;
/** Read at once, into memory that is used again: that of every piece would have to be collected. */
const READ_BYTES = 256 * 1024;

/** Where a socket puts what it has read, piece after piece. */
interface ReadInto {
  readonly buffer: Uint8Array;
  readonly callback: (bytes: number, buffer: Uint8Array) => boolean;
}

function dial(
  address: string,
  { authority, serverName }: GrpcTransportOptions,
  onread: ReadInto,
): Socket {
  const { hostname, port: digits } = new URL(`tcp://${address}`);
  const host = hostname.replace(/^\[|\]$/g, '');
  const port = Number(digits);
  if (authority === undefined) return connect({ host, port, onread });
  const secure: ConnectionOptions & { readonly onread: ReadInto } = {
    host,
    port,
    onread,
    ca: authority,
    minVersion: 'TLSv1.2',
    ALPNProtocols: [FRAME_PROTOCOL],
    ...(serverName ? { servername: serverName } : {}),
  };
  return connectSecurely(secure);
}

/** Whether gRPC would go through a proxy to a host; our sockets do not. */
function isProxied(address: string): boolean {
  const variable = (name: string): string => process.env[name] ?? '';
  if (!variable('grpc_proxy') && !variable('https_proxy') && !variable('http_proxy')) return false;
  const { hostname } = new URL(`tcp://${address}`);
  const direct = (variable('no_grpc_proxy') || variable('no_proxy')).split(',');
  return !direct.some((d) => d !== '' && (hostname === d || hostname.endsWith(`.${d}`)));
}

/**
 * Frames to the `host:port` of an aggregator, over a socket of their own. Over gRPC where a proxy is set, and
 * for one attempt whenever something took the connection and did not speak frames.
 */
export function socketTransport(
  address: string,
  options: GrpcTransportOptions = {},
): FrameTransport {
  const fallback = grpcTransport(address, options);
  if (isProxied(address)) return fallback;
  let isUnderstood = true;
  const open = ({ onFrame, onEnd }: FrameHandlers): FrameStream => {
    const callback = (bytes: number, buffer: Uint8Array): boolean => {
      if (socket.timeout) socket.setTimeout(0);
      frames.take(Buffer.from(buffer.buffer, buffer.byteOffset, bytes));
      return true;
    };
    const socket = dial(address, options, { buffer: new Uint8Array(READ_BYTES), callback });
    socket.setTimeout(CONNECT_MS, () => socket.destroy(new Error('no answer')));
    const schemas = { write: ParticipantFrameSchema, read: AggregatorFrameSchema };
    const frames = new FrameSocket(socket, { ...schemas, isTrusted: true });
    let [isOver, isConnected] = [false, false];
    socket.on('connect', () => {
      isConnected = true;
    });
    frames.on('data', (frame) => {
      if (!isOver) onFrame(frame);
    });
    frames.on('close', () => {
      const isStranger = isConnected && !frames.hasBegun;
      if (isStranger && !/certificate|signature/i.test(frames.reason)) isUnderstood = false;
      if (!isOver) onEnd(frames.reason);
      isOver = true;
    });
    return {
      write: (frame) => isOver || frames.write(frame),
      drained: () => (isOver ? Promise.resolve() : drained(frames)),
      close: () => {
        isOver = true;
        frames.destroy();
      },
    };
  };
  return {
    address,
    open: (handlers) => {
      if (isUnderstood) return open(handlers);
      isUnderstood = true;
      return fallback.open(handlers);
    },
  };
}
