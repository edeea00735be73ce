import * as grpc from '@grpc/grpc-js';
import { type AggregatorFrame, FEDERATION_METHODS } from '@shoal/api';
import { digester } from '@shoal/core';
import { drained } from '../../transfer/chunks.ts';
import { CLIENT_WINDOW_BYTES } from '../../transfer/listen.ts';
import { nativeCrypto } from '../privacy/secure-aggregation/native-crypto.ts';
import type { FrameTransport, ParticipantPlatform } from './frame-stream.ts';

export interface GrpcTransportOptions {
  /** PEM of the authority of the aggregator's certificate; without it the stream is not encrypted. */
  readonly authority?: string;
  /** What the certificate says, where it is not the host of the address. */
  readonly serverName?: string;
}

const MAX_MESSAGE_BYTES = 8 * 1024 * 1024;

/** gRPC to the `host:port` of an aggregator. */
export function grpcTransport(address: string, options: GrpcTransportOptions = {}): FrameTransport {
  const { authority, serverName } = options;
  return {
    address,
    open: ({ onFrame, onEnd }) => {
      const credentials =
        authority === undefined
          ? grpc.credentials.createInsecure()
          : grpc.credentials.createSsl(Buffer.from(authority));
      const client = new grpc.Client(address, credentials, {
        'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
        'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
        'grpc.keepalive_time_ms': 15_000,
        'grpc-node.flow_control_window': CLIENT_WINDOW_BYTES,
        'grpc.initial_reconnect_backoff_ms': 100,
        ...(serverName ? { 'grpc.ssl_target_name_override': serverName } : {}),
      });
      const { path, requestSerialize, responseDeserialize } = FEDERATION_METHODS.participate;
      const stream = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
      stream.on('data', (frame: AggregatorFrame) => onFrame(frame));
      // A call that has ended may tell neither `drain` nor `close` to who waits for it.
      let isOver = false;
      const ended = new Promise<void>((resolve) => {
        const over = (reason: string): void => {
          isOver = true;
          resolve();
          onEnd(reason);
        };
        stream.on('error', (error) => over(error.message));
        stream.on('end', () => over('closed'));
      });
      return {
        write: (frame) => isOver || stream.write(frame),
        drained: () => (isOver ? Promise.resolve() : Promise.race([drained(stream), ended])),
        close: () => {
          isOver = true;
          stream.cancel();
          client.close();
        },
      };
    },
  };
}

/** A participant in Node. */
export const nodePlatform: ParticipantPlatform = { newHash: digester, crypto: nativeCrypto };
