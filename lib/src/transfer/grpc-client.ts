import * as grpc from '@grpc/grpc-js';
import { fromStatus } from './grpc-errors.ts';

/** A service in the cloud that knows its callers by a token. */
export interface TokenService {
  /** `host:port`; `https://` and `http://` before it are allowed. Of a service with replicas, several IPv4 ones with commas. */
  readonly address: string;
  readonly token: string;
  /** PEM of the authority of the server's certificate; without it calls are not encrypted. */
  readonly authority?: string;
}

/** A method as a client calls it. */
export interface ClientMethod<Q, S> {
  readonly path: string;
  readonly requestSerialize: (value: Q) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => S;
}

const MAX_MESSAGE_BYTES = 32 * 1024 * 1024;

/** One address as gRPC knows it; several, with commas, are tried one after the other. */
function targetOf(address: string): string {
  const bare = address.replace(/^https?:\/\//, '');
  return bare.includes(',') ? `ipv4:${bare}` : bare;
}

/** Calls of one service, each with the token. Close it when done. */
export class TokenClient {
  readonly client: grpc.Client;
  readonly metadata: grpc.Metadata = new grpc.Metadata();

  /** @param serverName What the server's certificate says, wherever the server runs. */
  constructor(service: TokenService, serverName: string) {
    const { address, token, authority } = service;
    const credentials = authority
      ? grpc.credentials.createSsl(Buffer.from(authority))
      : grpc.credentials.createInsecure();
    this.client = new grpc.Client(targetOf(address), credentials, {
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
      'grpc.keepalive_time_ms': 15_000,
      'grpc.keepalive_timeout_ms': 10_000,
      'grpc.max_reconnect_backoff_ms': 2_000,
      'grpc.initial_reconnect_backoff_ms': 100,
      ...(authority ? { 'grpc.ssl_target_name_override': serverName } : {}),
    });
    this.metadata.set('authorization', `Bearer ${token}`);
  }

  /**
   * One question, one answer.
   *
   * @param call.doing What is being done, for messages.
   * @throws ShoalError of the code the server gave; `unavailable` when it gave none.
   */
  unary<Q, S>(
    method: ClientMethod<Q, S>,
    request: Q,
    call: { readonly doing: string; readonly timeoutMs: number },
  ): Promise<S> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        this.metadata,
        { deadline: Date.now() + call.timeoutMs },
        (error, reply) => {
          if (error || !reply) reject(fromStatus(error, call.doing));
          else resolve(reply);
        },
      );
    });
  }

  close(): void {
    this.client.close();
  }
}
