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

/** Whether a socket ended because the other side speaks gRPC only. */
function isOtherProtocol({ hasBegun, reason }: FrameSocket): boolean {
  return !hasBegun && /no application protocol|does not speak frames/i.test(reason);
}

/**
 * Frames to the `host:port` of an aggregator, over a socket of their own; over gRPC once something on the
 * way turned out to speak that only.
 */
export function socketTransport(
  address: string,
  options: GrpcTransportOptions = {},
): FrameTransport {
  const fallback = grpcTransport(address, options);
  let speaksFrames = true;
  const open = ({ onFrame, onEnd }: FrameHandlers): FrameStream => {
    const callback = (bytes: number, buffer: Uint8Array): boolean => {
      if (socket.timeout) socket.setTimeout(0);
      frames.take(Buffer.from(buffer.buffer, buffer.byteOffset, bytes));
      return true;
    };
    const socket = dial(address, options, { buffer: new Uint8Array(READ_BYTES), callback });
    socket.setTimeout(CONNECT_MS, () => socket.destroy(new Error('no answer')));
    const schemas = { write: ParticipantFrameSchema, read: AggregatorFrameSchema };
    const frames = new FrameSocket(socket, schemas);
    let isOver = false;
    frames.on('data', (frame) => {
      if (!isOver) onFrame(frame);
    });
    frames.on('close', () => {
      if (isOtherProtocol(frames)) speaksFrames = false;
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
    open: (handlers) => (speaksFrames ? open(handlers) : fallback.open(handlers)),
  };
}
