import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  type CommitReply,
  CommitReplySchema,
  type CommitRequest,
  EVERY_JOB,
  type GetModelRequest,
  type JobsReply,
  JobsReplySchema,
  type JobsRequest,
  KNOWLEDGE_BASE_METHODS,
  type ModelChunk,
  ModelChunkSchema,
  type NearestReply,
  NearestReplySchema,
  type NearestRequest,
  type PutModelReply,
  PutModelReplySchema,
  type SampleRecord,
  SampleRecordSchema,
  type SamplesRequest,
  type SnapshotReply,
  SnapshotReplySchema,
  type SnapshotRequest,
  type StatModelReply,
  StatModelReplySchema,
  type StatModelRequest,
} from '@shoal/api';
import {
  digester,
  type KeyPair,
  type Logger,
  messageOf,
  ShoalError,
  silentLogger,
} from '@shoal/core';
import { Assembly, drained, sendChunks, sinkOf } from '../../transfer/chunks.ts';
import { toStatus } from '../../transfer/grpc-errors.ts';
import { listen } from '../../transfer/listen.ts';
import type { KnowledgeStore } from './store.ts';
import { opens } from './tokens.ts';
import { changeFromWire, sampleToWire, snapshotToWire } from './wire.ts';

export interface KnowledgeServerOptions {
  readonly store: KnowledgeStore;
  /** Key of the tokens; see `knowledgeToken`. */
  readonly key: string;
  /** Server certificate; without it calls are not encrypted. */
  readonly tls?: KeyPair;
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** Default 0: any free port. */
  readonly port?: number;
  /** Largest model taken, in bytes. Default 2 GiB − 1. */
  readonly maxModelBytes?: number;
  readonly logger?: Logger;
}

type Named = { readonly job: string };

const MAX_MESSAGE_BYTES = 32 * 1024 * 1024;
const MAX_CHANGES = 10_000;

/** Serves a {@link KnowledgeStore} over gRPC; every call is for one job and needs that job's token. */
export class KnowledgeServer {
  readonly #options: KnowledgeServerOptions;
  readonly #store: KnowledgeStore;
  readonly #logger: Logger;
  readonly #server: grpc.Server;

  constructor(options: KnowledgeServerOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#logger = options.logger ?? silentLogger;
    this.#server = new grpc.Server({
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
      'grpc.keepalive_time_ms': 15_000,
      'grpc.keepalive_timeout_ms': 10_000,
    });
    this.#server.addService(KNOWLEDGE_BASE_METHODS as unknown as grpc.ServiceDefinition, {
      snapshot: this.#unary((q: SnapshotRequest) => this.#snapshot(q)),
      commit: this.#unary((q: CommitRequest) => this.#commit(q)),
      statModel: this.#unary((q: StatModelRequest) => this.#statModel(q)),
      nearest: this.#unary((q: NearestRequest) => this.#nearest(q)),
      jobs: this.#unary((_q: JobsRequest & Named) => this.#jobs(), EVERY_JOB),
      getModel: (call: grpc.ServerWritableStream<GetModelRequest, ModelChunk>) =>
        void this.#streamed(call, async () => await this.#getModel(call)),
      samples: (call: grpc.ServerWritableStream<SamplesRequest, SampleRecord>) =>
        void this.#streamed(call, async () => await this.#samples(call)),
      putModel: (
        call: grpc.ServerReadableStream<ModelChunk, PutModelReply>,
        done: grpc.sendUnaryData<PutModelReply>,
      ) => void this.#putModel(call, done),
    });
  }

  /** Starts listening; resolves with `host:port`. @throws ShoalError when the address is taken. */
  async start(): Promise<string> {
    const { host = '127.0.0.1', port = 0, tls } = this.#options;
    const at = { address: `${host}:${port}`, tls, what: 'the knowledge base' };
    return `${host}:${await listen(this.#server, at)}`;
  }

  /** @throws ShoalError `unauthenticated` without a token, `permission_denied` with another job's. */
  #expectToken(metadata: grpc.Metadata, job: string): void {
    const [header] = metadata.get('authorization');
    const token = typeof header === 'string' ? /^Bearer (.+)$/.exec(header)?.[1] : undefined;
    if (token === undefined)
      throw new ShoalError('unauthenticated', 'the call carries no token of a job');
    if (!opens(this.#options.key, token, job))
      throw new ShoalError('permission_denied', `the token does not open the knowledge of ${job}`);
  }

  #unary<Q extends object, S>(
    answer: (request: Q) => S,
    job?: string,
  ): (call: grpc.ServerUnaryCall<Q, S>, done: grpc.sendUnaryData<S>) => void {
    return (call, done) => {
      try {
        const named = (call.request as unknown as Partial<Named>).job;
        this.#expectToken(call.metadata, job ?? named ?? '');
        done(null, answer(call.request));
      } catch (error) {
        done(this.#status(error));
      }
    };
  }

  #status(error: unknown): grpc.ServiceError {
    this.#logger.warn('knowledge base refused a call', { reason: messageOf(error) });
    return toStatus(error) as grpc.ServiceError;
  }

  #snapshot({ job, version }: SnapshotRequest): SnapshotReply {
    const at = version === 0n ? undefined : Number(version);
    return create(SnapshotReplySchema, snapshotToWire(this.#store.snapshot(job, at)));
  }

  #commit({ job, changes }: CommitRequest): CommitReply {
    if (changes.length > MAX_CHANGES)
      throw new ShoalError(
        'invalid_argument',
        `a commit takes at most ${MAX_CHANGES} changes, got ${changes.length}`,
      );
    const version = this.#store.commit(job, changes.map(changeFromWire));
    return create(CommitReplySchema, { version: BigInt(version) });
  }

  #statModel({ job, digest }: StatModelRequest): StatModelReply {
    const bytes = this.#store.statModel(job, digest);
    return create(StatModelReplySchema, {
      bytes: BigInt(bytes ?? 0),
      complete: bytes !== undefined,
    });
  }

  #nearest({ job, features, count }: NearestRequest): NearestReply {
    const neighbours = this.#store.nearest(job, Float32Array.from(features), Math.min(count, 1000));
    return create(NearestReplySchema, { neighbours });
  }

  #jobs(): JobsReply {
    const jobs = this.#store.jobs().map((j) => ({
      ...j,
      version: BigInt(j.version),
      samples: BigInt(j.samples),
      storedBytes: BigInt(j.storedBytes),
    }));
    return create(JobsReplySchema, { jobs });
  }

  async #streamed<Q extends Named, S>(
    call: grpc.ServerWritableStream<Q, S>,
    body: () => Promise<void>,
  ): Promise<void> {
    try {
      this.#expectToken(call.metadata, call.request.job);
      await body();
      call.end();
    } catch (error) {
      call.emit('error', this.#status(error));
    }
  }

  async #getModel(call: grpc.ServerWritableStream<GetModelRequest, ModelChunk>): Promise<void> {
    const { job, digest } = call.request;
    const bytes = this.#store.getModel(job, digest);
    const offset = Math.min(Number(call.request.offset), bytes.length);
    const size = BigInt(bytes.length);
    await sendChunks(sinkOf(call), { digest, bytes, offset }, (chunk) =>
      create(ModelChunkSchema, { ...chunk, job, size }),
    );
  }

  async #samples(call: grpc.ServerWritableStream<SamplesRequest, SampleRecord>): Promise<void> {
    const { job, labelled, limit } = call.request;
    const query = {
      ...(labelled === '' ? {} : { labelled: labelled === 'true' }),
      ...(limit === 0 ? {} : { limit }),
    };
    for (const sample of this.#store.samples(job, query)) {
      const more = call.write(create(SampleRecordSchema, sampleToWire(sample)));
      if (!more) await drained(call);
    }
  }

  async #putModel(
    call: grpc.ServerReadableStream<ModelChunk, PutModelReply>,
    done: grpc.sendUnaryData<PutModelReply>,
  ): Promise<void> {
    const { maxModelBytes } = this.#options;
    try {
      let assembly: Assembly | undefined;
      let job = '';
      let complete: Uint8Array | undefined;
      for await (const chunk of call as AsyncIterable<ModelChunk>) {
        if (!assembly) {
          job = chunk.job;
          this.#expectToken(call.metadata, job);
          assembly = new Assembly(chunk.digest, Number(chunk.size), {
            hash: digester(),
            ...(maxModelBytes === undefined ? {} : { limit: maxModelBytes }),
          });
        }
        complete = assembly.add(chunk);
      }
      if (!complete) throw new ShoalError('data_corrupt', 'the model ended before it was complete');
      done(null, create(PutModelReplySchema, { digest: this.#store.putModel(job, complete) }));
    } catch (error) {
      done(this.#status(error));
    }
  }

  /** Ends all calls; the store stays open. */
  close(): void {
    this.#server.forceShutdown();
  }
}
