import type { Http2Server, Settings } from 'node:http2';
import * as grpc from '@grpc/grpc-js';
import { type KeyPair, ShoalError } from '@shoal/core';

/** Bytes that may be on their way to a client, or to a server, before it says it has read some. */
export const CLIENT_WINDOW_BYTES: number = 4 * 1024 * 1024;
const SERVER_WINDOW_BYTES = 1024 * 1024;

/**
 * Lets clients send more than 64 KiB ahead. Channels have an option for it, grpc-js servers (1.14) have none:
 * where their inside is other than this expects, uploads are slower, and that is all.
 */
export function widenWindow(server: grpc.Server): void {
  const inside = server as unknown as {
    commonServerOptions?: { settings?: Settings };
    createHttp2Server?: (credentials: unknown) => Http2Server;
  };
  const { commonServerOptions, createHttp2Server } = inside;
  if (!commonServerOptions || !createHttp2Server) return;
  commonServerOptions.settings = {
    ...commonServerOptions.settings,
    initialWindowSize: SERVER_WINDOW_BYTES,
  };
  inside.createHttp2Server = (credentials) => {
    const made = createHttp2Server.call(server, credentials);
    made.on('session', (session) => session.setLocalWindowSize(SERVER_WINDOW_BYTES));
    return made;
  };
}

/**
 * Lets a gRPC server listen; without a key pair what it says is not encrypted.
 *
 * @param at.what Who listens, for the message when it cannot.
 * @returns The port.
 * @throws ShoalError `failed_precondition` when the address is taken.
 */
export function listen(
  server: grpc.Server,
  at: { readonly address: string; readonly tls: KeyPair | undefined; readonly what: string },
): Promise<number> {
  const { address, tls, what } = at;
  widenWindow(server);
  const credentials = tls
    ? grpc.ServerCredentials.createSsl(null, [
        { private_key: Buffer.from(tls.privateKey), cert_chain: Buffer.from(tls.certificate) },
      ])
    : grpc.ServerCredentials.createInsecure();
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (error, port) => {
      if (!error) return resolve(port);
      const why = `${what} cannot listen on ${address}: ${error.message}`;
      reject(new ShoalError('failed_precondition', why, { cause: error }));
    });
  });
}
