import * as grpc from '@grpc/grpc-js';
import { type KeyPair, ShoalError } from '@shoal/core';

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
