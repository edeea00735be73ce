import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  type BlobChunk,
  type CloudFrame,
  EDGE_LINK_METHODS,
  type EdgeFrame,
  GetBlobRequestSchema,
  MANAGER_NAME,
  PutSamplesRequestSchema,
  type RelayFrame,
  RenewRequestSchema,
  StatBlobRequestSchema,
} from '@shoal/api';
import { type ErrorCode, type KeyPair, ShoalError } from '@shoal/core';
import type { Connection, EdgeTransport, RelayConnection, SampleUpload } from './transport.ts';

export interface GrpcTransportOptions {
  /** `host:port` of the global manager; several, with commas, of one that has replicas. */
  readonly address: string;
  /** This node's certificate: its identity. */
  readonly tls: KeyPair;
  /** PEM of the authority the manager's certificate must come from. */
  readonly authority: string;
  /** Whether the transport itself looks after the connection: where no session of ours is on it. */
  readonly keepalive?: boolean;
}

const MAX_MESSAGE_BYTES = 32 * 1024 * 1024;

const CODES: Partial<Record<grpc.status, ErrorCode>> = {
  [grpc.status.INVALID_ARGUMENT]: 'invalid_argument',
  [grpc.status.NOT_FOUND]: 'not_found',
  [grpc.status.PERMISSION_DENIED]: 'permission_denied',
  [grpc.status.UNAUTHENTICATED]: 'unauthenticated',
  [grpc.status.OUT_OF_RANGE]: 'out_of_range',
  [grpc.status.DATA_LOSS]: 'data_corrupt',
  [grpc.status.RESOURCE_EXHAUSTED]: 'resource_exhausted',
};

function fromGrpc(error: unknown, what: string): ShoalError {
  const service = error as Partial<grpc.ServiceError>;
  const code = CODES[service.code ?? grpc.status.UNKNOWN] ?? 'unavailable';
  return new ShoalError(code, `${what}: ${service.details ?? String(error)}`, { cause: error });
}

/** Longest time one transfer may take; it resumes where it stopped. */
const BULK_MS = 600_000;
/** Longest time one call with samples may take. */
const SAMPLES_MS = 120_000;
const RENEW_MS = 15_000;
const STAT_MS = 30_000;

function bulkDeadline(): grpc.CallOptions {
  return { deadline: Date.now() + BULK_MS };
}

type Serialized = typeof EDGE_LINK_METHODS;

/** What all calls of a client have in common. */
interface Trackable {
  cancel(): void;
  once(event: 'status', listener: () => void): unknown;
}

/** EdgeLink over gRPC: one outbound HTTP/2 connection with mutual TLS. */
export class GrpcTransport implements EdgeTransport {
  readonly #addresses: readonly string[];
  #at = 0;
  #identity: Pick<GrpcTransportOptions, 'tls' | 'authority'>;
  readonly #keepalive: boolean;
  #client: grpc.Client;
  /** Calls under way. */
  readonly #calls = new Set<Trackable>();

  constructor(options: GrpcTransportOptions) {
    this.#addresses = options.address.split(',').map((address) => address.trim());
    this.#identity = options;
    this.#keepalive = options.keepalive === true;
    this.#client = this.#dial();
  }

  /** Goes on with another certificate: calls from now on use it, those under way end as they will. */
  useIdentity(identity: KeyPair & { readonly authority: string }): void {
    this.#identity = { tls: identity, authority: identity.authority };
    this.#redial();
  }

  #redial(): void {
    const before = this.#client;
    this.#client = this.#dial();
    before.close();
  }

  #track<Call extends Trackable>(call: Call): Call {
    this.#calls.add(call);
    call.once('status', () => void this.#calls.delete(call));
    return call;
  }

  /** Nothing is heard through the connection any more: what is under way ends, the next call dials anew. */
  #abandon(): void {
    for (const call of this.#calls) call.cancel();
    this.#redial();
  }

  /** A session has ended: perhaps another replica leads now. */
  #turn(): void {
    if (this.#addresses.length < 2) return;
    this.#at = (this.#at + 1) % this.#addresses.length;
    this.#redial();
  }

  #dial(): grpc.Client {
    const options = this.#identity;
    const credentials = grpc.credentials.createSsl(
      Buffer.from(options.authority),
      Buffer.from(options.tls.privateKey),
      Buffer.from(options.tls.certificate),
    );
    return new grpc.Client(this.#addresses[this.#at] ?? '', credentials, {
      'grpc.ssl_target_name_override': MANAGER_NAME,
      // Nobody asks for its figures, and it keeps an entry for everything.
      'grpc.enable_channelz': 0,
      // A new identity is a new connection, whatever others of this process have.
      'grpc.use_local_subchannel_pool': 1,
      ...(this.#keepalive
        ? { 'grpc.keepalive_time_ms': 30_000, 'grpc.keepalive_timeout_ms': 15_000 }
        : {}),
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
      'grpc.initial_reconnect_backoff_ms': 200,
      'grpc.max_reconnect_backoff_ms': 5_000,
      'grpc.min_reconnect_backoff_ms': 200,
    });
  }

  /** A new certificate for this node. */
  renew(
    certificateRequest: Uint8Array,
  ): Promise<{ certificate: string; authority: string; validForMs: bigint }> {
    const { path, requestSerialize, responseDeserialize } = EDGE_LINK_METHODS.renew;
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        create(RenewRequestSchema, { certificateRequest }),
        { deadline: Date.now() + RENEW_MS },
        (error, value) => {
          if (value) resolve(value);
          else reject(fromGrpc(error, 'renewing the certificate'));
        },
      );
    });
  }

  /** The connection that relay streams go over. */
  relay(onFrame: (frame: RelayFrame) => void): RelayConnection {
    const { path, requestSerialize, responseDeserialize } = EDGE_LINK_METHODS.relay;
    const call = this.#track(
      this.#client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize),
    );
    call.on('data', onFrame);
    const closed = new Promise<string | undefined>((resolve) => {
      call.on('error', (error: grpc.ServiceError) => resolve(error.details || error.message));
      call.on('end', () => resolve(undefined));
    });
    return {
      send: (frame) => void (call.writable && call.write(frame)),
      closed,
      close: () => call.cancel(),
    };
  }

  connect(onFrame: (frame: CloudFrame) => void): Connection {
    const { path, requestSerialize, responseDeserialize } = EDGE_LINK_METHODS.connect;
    const call = this.#track(
      this.#client.makeBidiStreamRequest<EdgeFrame, CloudFrame>(
        path,
        requestSerialize,
        responseDeserialize,
      ),
    );
    call.on('data', onFrame);
    const closed = new Promise<string | undefined>((resolve) => {
      let isOver = false;
      const over = (reason: string | undefined): void => {
        if (isOver) return;
        isOver = true;
        this.#turn();
        resolve(reason);
      };
      call.on('error', (error: grpc.ServiceError) => over(error.details || error.message));
      // An error, if there is one, is told after the end.
      call.on('end', () => setImmediate(over, undefined));
    });
    return {
      send: (frame) => void call.write(frame),
      closed,
      close: () => call.cancel(),
      abandon: () => this.#abandon(),
    };
  }

  async *getBlob(digest: string, offset: number): AsyncIterable<BlobChunk> {
    const { path, requestSerialize, responseDeserialize } = EDGE_LINK_METHODS.getBlob;
    const request = create(GetBlobRequestSchema, { digest, offset: BigInt(offset) });
    const call = this.#track(
      this.#client.makeServerStreamRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        bulkDeadline(),
      ),
    );
    try {
      for await (const chunk of call as AsyncIterable<BlobChunk>) yield chunk;
    } catch (error) {
      throw fromGrpc(error, `fetching blob ${digest}`);
    }
  }

  async putBlob(
    chunks: AsyncIterable<BlobChunk>,
  ): Promise<{ receivedBytes: number; complete: boolean }> {
    const { path, requestSerialize, responseDeserialize } = EDGE_LINK_METHODS.putBlob;
    type Result = ReturnType<Serialized['putBlob']['responseDeserialize']>;
    let call: grpc.ClientWritableStream<BlobChunk> | undefined;
    const answer = new Promise<Result>((resolve, reject) => {
      call = this.#track(
        this.#client.makeClientStreamRequest(
          path,
          requestSerialize,
          responseDeserialize,
          bulkDeadline(),
          (error, value) => {
            if (error) reject(fromGrpc(error, 'sending blob'));
            else if (value) resolve(value);
          },
        ),
      );
    });
    answer.catch(() => undefined); // awaited below; a failure meanwhile must not count as unhandled
    for await (const chunk of chunks) {
      if (call && !call.write(chunk))
        await Promise.race([new Promise((resolve) => call?.once('drain', resolve)), answer]);
    }
    call?.end();
    const result = await answer;
    return { receivedBytes: Number(result.receivedBytes), complete: result.complete };
  }

  statBlob(digest: string): Promise<{ receivedBytes: number; complete: boolean }> {
    const { path, requestSerialize, responseDeserialize } = EDGE_LINK_METHODS.statBlob;
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        create(StatBlobRequestSchema, { digest }),
        { deadline: Date.now() + STAT_MS },
        (error, value) => {
          if (error) reject(fromGrpc(error, `asking for blob ${digest}`));
          else
            resolve({
              receivedBytes: Number(value?.receivedBytes ?? 0n),
              complete: value?.complete ?? false,
            });
        },
      );
    });
  }

  putSamples(upload: SampleUpload): Promise<{ taken: readonly string[]; reason: string }> {
    const { path, requestSerialize, responseDeserialize } = EDGE_LINK_METHODS.putSamples;
    const request = create(PutSamplesRequestSchema, { ...upload, samples: [...upload.samples] });
    return new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        { deadline: Date.now() + SAMPLES_MS },
        (error, value) => {
          if (error) reject(fromGrpc(error, 'sending hard examples'));
          else resolve({ taken: value?.taken ?? [], reason: value?.reason ?? '' });
        },
      );
    });
  }

  close(): void {
    this.#client.close();
  }
}
