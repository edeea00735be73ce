import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  type BlobChunk,
  BlobChunkSchema,
  type CloudFrame,
  EDGE_LINK_METHODS,
  type EdgeFrame,
  PutBlobResultSchema,
  type PutSamplesRequest,
  PutSamplesResultSchema,
  type RelayFrame,
  type RenewRequest,
  type RenewResult,
  RenewResultSchema,
  type StageAssignment,
  StatBlobResultSchema,
} from '@shoal/api';
import { digestOf, type KeyPair, type Logger, messageOf, ShoalError } from '@shoal/core';
import type { Metrics } from '../operator/metrics.ts';
import type { SampleStore } from '../samples/sample-store.ts';
import type { BlobStore } from './blobs.ts';
import type { Feed } from './feed.ts';
import { toStatus } from './grpc-status.ts';
import type { LinkHub } from './hub.ts';
import type { NodeRegistry } from './node-registry.ts';
import type { RelayHub } from './relay-hub.ts';
import type { Peer } from './session.ts';

export interface EdgeLinkServerOptions {
  readonly address: string;
  readonly tls: KeyPair;
  /** PEM of the authority whose node certificates are accepted. */
  readonly authority: string;
  readonly hub: LinkHub;
  readonly registry: NodeRegistry;
  readonly relay: RelayHub;
  readonly feed: Feed;
  readonly blobs: BlobStore;
  readonly samples: SampleStore;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

const TICK_MS = 1_000;
/** Frames an edge may leave unread before its session ends. */
const MAX_UNREAD_FRAMES = 1_024;
const CHUNK_BYTES = 256 * 1024;
const MAX_MESSAGE_BYTES = 32 * 1024 * 1024;

type AnyCall =
  | grpc.ServerUnaryCall<unknown, unknown>
  | grpc.ServerDuplexStream<unknown, unknown>
  | grpc.ServerWritableStream<unknown, unknown>
  | grpc.ServerReadableStream<unknown, unknown>;

/** Resolves when a stream takes more, or is over. */
function drained(call: grpc.ServerWritableStream<unknown, unknown>): Promise<void> {
  const givenUp = (): ShoalError => new ShoalError('cancelled', 'the edge gave the transfer up');
  if (call.cancelled) return Promise.reject(givenUp());
  return new Promise((resolve, reject) => {
    const onDrain = (): void => {
      call.off('cancelled', onCancel);
      resolve();
    };
    const onCancel = (): void => {
      call.off('drain', onDrain);
      reject(givenUp());
    };
    call.once('drain', onDrain);
    call.once('cancelled', onCancel);
  });
}

/** The cloud end of EdgeLink over gRPC with mutual TLS. */
export class EdgeLinkServer {
  readonly #options: EdgeLinkServerOptions;
  readonly #server: grpc.Server;
  readonly #timer: NodeJS.Timeout;

  constructor(options: EdgeLinkServerOptions) {
    this.#options = options;
    this.#server = new grpc.Server({
      'grpc.enable_channelz': 0,
      // Sessions have pings of their own; this clears away connections that no session is on.
      'grpc.keepalive_time_ms': 1_200_000,
      'grpc.keepalive_timeout_ms': 20_000,
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
    });
    this.#server.addService(EDGE_LINK_METHODS as unknown as grpc.ServiceDefinition, {
      connect: (call: grpc.ServerDuplexStream<EdgeFrame, CloudFrame>) => this.#connect(call),
      getBlob: (call: grpc.ServerWritableStream<{ digest: string; offset: bigint }, BlobChunk>) =>
        void this.#getBlob(call),
      putBlob: (
        call: grpc.ServerReadableStream<BlobChunk, unknown>,
        callback: grpc.sendUnaryData<unknown>,
      ) => void this.#putBlob(call, callback),
      statBlob: (
        call: grpc.ServerUnaryCall<{ digest: string }, unknown>,
        callback: grpc.sendUnaryData<unknown>,
      ) => this.#statBlob(call, callback),
      putSamples: (
        call: grpc.ServerUnaryCall<PutSamplesRequest, unknown>,
        callback: grpc.sendUnaryData<unknown>,
      ) => this.#putSamples(call, callback),
      renew: (
        call: grpc.ServerUnaryCall<RenewRequest, RenewResult>,
        callback: grpc.sendUnaryData<RenewResult>,
      ) => void this.#renew(call, callback),
      relay: (call: grpc.ServerDuplexStream<RelayFrame, RelayFrame>) => this.#relay(call),
    });
    this.#timer = setInterval(() => options.hub.tick(), TICK_MS);
  }

  /**
   * Who calls: the common name of the client certificate, if that may act for its node.
   *
   * @throws ShoalError `unauthenticated`, or `permission_denied` for a node that was revoked.
   */
  #nodeOf(call: AnyCall): string {
    const certificate = call.getAuthContext().sslPeerCertificate;
    const name: unknown = certificate?.subject.CN;
    const node = /^system:node:(.+)$/.exec(typeof name === 'string' ? name : '')?.[1];
    if (node === undefined || certificate === undefined)
      throw new ShoalError('unauthenticated', 'a node certificate is required');
    this.#options.registry.expectActive(node, digestOf(certificate.raw));
    return node;
  }

  /** Who calls, and how long the certificate is still good. */
  #peerOf(call: AnyCall): Peer {
    const node = this.#nodeOf(call);
    const certificate = call.getAuthContext().sslPeerCertificate;
    if (certificate) this.#options.registry.confirm(node, digestOf(certificate.raw));
    const remaining =
      certificate === undefined ? Number.NaN : Date.parse(certificate.valid_to) - Date.now();
    return { node, ...(Number.isFinite(remaining) && { certificateRemainingMs: remaining }) };
  }

  /** Starts listening; resolves with the port. @throws ShoalError when the address is taken. */
  listen(): Promise<number> {
    const { address, tls, authority } = this.#options;
    const pair = {
      private_key: Buffer.from(tls.privateKey),
      cert_chain: Buffer.from(tls.certificate),
    };
    const credentials = grpc.ServerCredentials.createSsl(Buffer.from(authority), [pair], true);
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(address, credentials, (error, port) => {
        if (error)
          reject(
            new ShoalError(
              'failed_precondition',
              `EdgeLink cannot listen on ${address}: ${error.message}`,
              { cause: error },
            ),
          );
        else resolve(port);
      });
    });
  }

  #connect(call: grpc.ServerDuplexStream<EdgeFrame, CloudFrame>): void {
    const { hub, metrics } = this.#options;
    let peer: Peer;
    try {
      peer = this.#peerOf(call);
    } catch (error) {
      call.emit('error', toStatus(error));
      return;
    }
    const session = hub.open(peer, {
      send: (frame) => {
        if (!call.writable) return;
        call.write(frame);
        if (call.writableLength > MAX_UNREAD_FRAMES) call.destroy();
      },
      close: () => call.end(),
    });
    const ended = (): void => hub.closed(session);
    call.on('data', (frame: EdgeFrame) => {
      if (frame.frame.case === 'record') metrics.record();
      this.#guarded(call, () => hub.receive(session, frame));
    });
    call.on('end', () => call.end());
    call.on('error', ended);
    call.on('close', ended);
    call.on('cancelled', ended);
  }

  async #renew(
    call: grpc.ServerUnaryCall<RenewRequest, RenewResult>,
    callback: grpc.sendUnaryData<RenewResult>,
  ): Promise<void> {
    try {
      const node = this.#nodeOf(call);
      const certificate = call.getAuthContext().sslPeerCertificate;
      const { validForMs, ...identity } = await this.#options.registry.renew(
        node,
        digestOf(certificate?.raw ?? ''),
        call.request.certificateRequest,
      );
      callback(null, create(RenewResultSchema, { ...identity, validForMs: BigInt(validForMs) }));
    } catch (error) {
      callback(toStatus(error));
    }
  }

  #relay(call: grpc.ServerDuplexStream<RelayFrame, RelayFrame>): void {
    const { relay } = this.#options;
    let node: string;
    try {
      node = this.#nodeOf(call);
    } catch (error) {
      call.emit('error', toStatus(error));
      return;
    }
    const mux = relay.attach(node, {
      send: (frame) => void (call.writable && call.write(frame)),
      end: () => call.end(),
    });
    const ended = (): void => relay.detach(node, mux);
    call.on('data', (frame: RelayFrame) => mux.receive(frame));
    call.on('end', () => call.end());
    for (const event of ['error', 'close', 'cancelled']) call.on(event, ended);
  }

  /** A fault while handling a frame ends the session; the edge comes back and resumes. */
  #guarded(call: grpc.ServerDuplexStream<EdgeFrame, CloudFrame>, body: () => void): void {
    try {
      body();
    } catch (error) {
      this.#options.logger.error('session failed', { reason: messageOf(error) });
      call.emit('error', toStatus(error));
    }
  }

  /** Blobs may be read by nodes to which something that names them is addressed. */
  #authorize(node: string, digest: string): void {
    if (!this.#options.feed.mentions(node, digest)) {
      throw new ShoalError(
        'permission_denied',
        `node ${node} may not read ${digest}: nothing addressed to it names this blob`,
      );
    }
  }

  async #getBlob(
    call: grpc.ServerWritableStream<{ digest: string; offset: bigint }, BlobChunk>,
  ): Promise<void> {
    const { blobs } = this.#options;
    const { digest } = call.request;
    try {
      this.#authorize(this.#nodeOf(call), digest);
      let offset = Number(call.request.offset);
      const { receivedBytes } = blobs.stat(digest);
      for await (const data of blobs.read(digest, offset, CHUNK_BYTES)) {
        const chunk = create(BlobChunkSchema, {
          digest,
          offset: BigInt(offset),
          sizeBytes: BigInt(receivedBytes),
          data,
        });
        offset += data.length;
        if (!call.write(chunk)) await drained(call);
      }
      call.end();
    } catch (error) {
      call.emit('error', toStatus(error));
    }
  }

  async #putBlob(
    call: grpc.ServerReadableStream<BlobChunk, unknown>,
    callback: grpc.sendUnaryData<unknown>,
  ): Promise<void> {
    const { blobs } = this.#options;
    try {
      const node = this.#nodeOf(call);
      let digest = '';
      let received = 0;
      let size = 0;
      for await (const chunk of call as AsyncIterable<BlobChunk>) {
        digest = chunk.digest;
        size = Number(chunk.sizeBytes);
        const content = { offset: Number(chunk.offset), sizeBytes: size, data: chunk.data };
        received = blobs.append(digest, content, node);
      }
      if (digest === '')
        throw new ShoalError('invalid_argument', 'a transfer needs a chunk, also of nothing');
      if (received === size) await blobs.finish(digest, node);
      callback(
        null,
        create(PutBlobResultSchema, {
          receivedBytes: BigInt(received),
          complete: received === size,
        }),
      );
    } catch (error) {
      callback(toStatus(error));
    }
  }

  #statBlob(
    call: grpc.ServerUnaryCall<{ digest: string }, unknown>,
    callback: grpc.sendUnaryData<unknown>,
  ): void {
    try {
      const node = this.#nodeOf(call);
      const { receivedBytes, complete } = this.#options.blobs.stat(call.request.digest, node);
      callback(
        null,
        create(StatBlobResultSchema, { receivedBytes: BigInt(receivedBytes), complete }),
      );
    } catch (error) {
      callback(toStatus(error));
    }
  }

  /** Hard examples of nodes that work for the job. */
  #putSamples(
    call: grpc.ServerUnaryCall<PutSamplesRequest, unknown>,
    callback: grpc.sendUnaryData<unknown>,
  ): void {
    const { feed, samples } = this.#options;
    try {
      const node = this.#nodeOf(call);
      const { kind, namespace, name, uid, samples: sent } = call.request;
      const assignment = feed.assigned<Pick<StageAssignment, 'spool'>>(node, {
        kind,
        namespace,
        name,
        uid,
      });
      const maxSamples = assignment?.spool?.inCloud;
      if (maxSamples === undefined)
        throw new ShoalError(
          'permission_denied',
          `node ${node} does not collect hard examples for ${kind} ${namespace}/${name}`,
        );
      const result = samples.take({ uid, namespace, name }, { node, maxSamples }, sent);
      callback(null, create(PutSamplesResultSchema, result));
    } catch (error) {
      callback(toStatus(error));
    }
  }

  close(): void {
    clearInterval(this.#timer);
    this.#options.hub.drain('the global manager is stopping');
    this.#server.forceShutdown();
  }
}
