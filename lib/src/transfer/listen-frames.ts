import { createServer, type Server, type Socket } from 'node:net';
import { createServer as createSecureServer, type TlsOptions } from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import { type KeyPair, ShoalError } from '@shoal/core';
import { FIRST_BYTE, FRAME_PROTOCOL } from './frame-socket.ts';
import { widenWindow } from './listen.ts';

/** How long a socket may say nothing before it is closed. */
const FIRST_BYTE_MS = 10_000;

/** A port that takes gRPC and frames. */
export interface FrameListener {
  readonly port: number;
  /** Ends everything that is open. */
  close(): void;
}

/**
 * Lets one port take gRPC and frames (see `FrameSocket`): what a socket speaks, TLS says by its
 * protocol, without TLS the first byte does.
 *
 * @param at.onFrames Gets every socket that speaks frames.
 * @throws ShoalError `failed_precondition` when the address is taken.
 */
export function listenForFrames(
  server: grpc.Server,
  at: {
    readonly host: string;
    readonly port: number;
    readonly tls: KeyPair | undefined;
    readonly what: string;
    readonly onFrames: (socket: Socket) => void;
  },
): Promise<FrameListener> {
  const { host, port, tls, what } = at;
  widenWindow(server);
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
  const open = new Set<Socket>();
  const takers: Takers = {
    onFrames: at.onFrames,
    onGrpc: (socket) => injector.injectConnection(socket),
    onOpen: (socket) => {
      open.add(socket);
      socket.on('close', () => open.delete(socket));
      socket.on('error', () => undefined); // its end is told by what reads it
    },
  };
  const listener = tls ? secureListener(tls, takers) : plainListener(takers);
  listener.on('connection', takers.onOpen);
  return new Promise((resolve, reject) => {
    // Later ones are of connections that could not be taken: there may be others.
    listener.on('error', (error) => {
      const why = `${what} cannot listen on ${host}:${port}: ${error.message}`;
      reject(new ShoalError('failed_precondition', why, { cause: error }));
    });
    listener.listen(port, host, () => {
      const bound = listener.address();
      resolve({
        port: typeof bound === 'object' && bound ? bound.port : port,
        close: () => {
          listener.close();
          for (const socket of open) socket.destroy();
        },
      });
    });
  });
}

interface Takers {
  readonly onOpen: (socket: Socket) => void;
  readonly onFrames: (socket: Socket) => void;
  readonly onGrpc: (socket: Socket) => void;
}

function plainListener({ onFrames, onGrpc }: Omit<Takers, 'onOpen'>): Server {
  return createServer((socket) => {
    socket.setTimeout(FIRST_BYTE_MS, () => socket.destroy());
    socket.once('readable', () => {
      socket.setTimeout(0);
      const first = socket.read() as Buffer | null;
      if (!first) return;
      socket.unshift(first);
      if (first[0] === FIRST_BYTE) onFrames(socket);
      else onGrpc(socket);
    });
  });
}

function secureListener(tls: KeyPair, { onFrames, onGrpc }: Omit<Takers, 'onOpen'>): Server {
  const options: TlsOptions = {
    key: tls.privateKey,
    cert: tls.certificate,
    minVersion: 'TLSv1.2',
    ALPNProtocols: [FRAME_PROTOCOL, 'h2'],
    handshakeTimeout: FIRST_BYTE_MS,
  };
  return createSecureServer(options, (socket) => {
    socket.on('error', () => undefined); // its end is told by what reads it
    if (socket.alpnProtocol === FRAME_PROTOCOL) onFrames(socket);
    else onGrpc(socket);
  });
}
