import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  CommitRequestSchema,
  GetModelRequestSchema,
  JobsRequestSchema,
  KNOWLEDGE_BASE_METHODS,
  KNOWLEDGE_BASE_NAME,
  type ModelChunk,
  ModelChunkSchema,
  NearestRequestSchema,
  type PutModelReply,
  type SampleRecord,
  SamplesRequestSchema,
  SnapshotRequestSchema,
  StatModelRequestSchema,
} from '@shoal/api';
import { digester, digestOf } from '@shoal/core';
import { Assembly, sendChunks, sinkOf } from '../../transfer/chunks.ts';
import { type ClientMethod, TokenClient, type TokenService } from '../../transfer/grpc-client.ts';
import { fromStatus } from '../../transfer/grpc-errors.ts';
import type {
  Change,
  KnowledgeBase,
  KnowledgeSample,
  KnowledgeSnapshot,
  Neighbour,
  SampleQuery,
} from './knowledge-base.ts';
import type { JobSummary } from './store.ts';
import { changeToWire, sampleFromWire, snapshotFromWire } from './wire.ts';

export interface KnowledgeClientOptions extends TokenService {
  readonly job: string;
  /** Deadline of a call that moves no model, in milliseconds. Default 10,000. */
  readonly timeoutMs?: number;
}

/** Changes in one call: well below what the server takes, whatever the samples weigh. */
const CHANGES_PER_CALL = 256;
const BYTES_PER_CALL = 8 * 1024 * 1024;

function bytesOf(change: Change): number {
  return change.kind === 'sample' ? change.sample.inputs.byteLength : 1024;
}

/** Cuts changes into calls; every change stands by itself, so parts may arrive alone. */
function calls(changes: readonly Change[]): Change[][] {
  const parts: Change[][] = [[]];
  let bytes = 0;
  for (const change of changes) {
    const last = parts.at(-1) as Change[];
    const full = last.length >= CHANGES_PER_CALL || bytes + bytesOf(change) > BYTES_PER_CALL;
    if (full && last.length > 0) {
      parts.push([change]);
      bytes = bytesOf(change);
    } else {
      last.push(change);
      bytes += bytesOf(change);
    }
  }
  return parts;
}

/** A knowledge base behind gRPC. Close it when done. */
export class KnowledgeClient implements KnowledgeBase {
  readonly #options: KnowledgeClientOptions;
  readonly #service: TokenClient;

  constructor(options: KnowledgeClientOptions) {
    this.#options = options;
    this.#service = new TokenClient(options, KNOWLEDGE_BASE_NAME);
  }

  async #unary<Q, S>(method: ClientMethod<Q, S>, request: Q, doing: string): Promise<S> {
    const { timeoutMs = 10_000 } = this.#options;
    const call = { doing: `knowledge base, ${doing}`, timeoutMs };
    return await this.#service.unary(method, request, call);
  }

  async snapshot(version?: number): Promise<KnowledgeSnapshot> {
    const { job } = this.#options;
    const request = create(SnapshotRequestSchema, { job, version: BigInt(version ?? 0) });
    const what = `reading ${job}`;
    return snapshotFromWire(await this.#unary(KNOWLEDGE_BASE_METHODS.snapshot, request, what));
  }

  async commit(changes: readonly Change[]): Promise<number> {
    const { job } = this.#options;
    let version = 0n;
    for (const part of calls(changes)) {
      const init: MessageInitShape<typeof CommitRequestSchema> = {
        job,
        changes: part.map(changeToWire),
      };
      const request = create(CommitRequestSchema, init);
      const what = `writing to ${job}`;
      ({ version } = await this.#unary(KNOWLEDGE_BASE_METHODS.commit, request, what));
    }
    return Number(version);
  }

  async putModel(bytes: Uint8Array): Promise<string> {
    const { job } = this.#options;
    const digest = digestOf(bytes);
    const known = await this.#unary(
      KNOWLEDGE_BASE_METHODS.statModel,
      create(StatModelRequestSchema, { job, digest }),
      `asking for model ${digest}`,
    );
    if (known.complete) return digest;
    const { path, requestSerialize, responseDeserialize } = KNOWLEDGE_BASE_METHODS.putModel;
    return await new Promise((resolve, reject) => {
      const call = this.#service.client.makeClientStreamRequest<ModelChunk, PutModelReply>(
        path,
        requestSerialize,
        responseDeserialize,
        this.#service.metadata,
        (error, reply) => {
          if (error || !reply) reject(fromStatus(error, `knowledge base, sending model ${digest}`));
          else resolve(reply.digest);
        },
      );
      call.on('error', () => undefined); // told by the callback
      const size = BigInt(bytes.length);
      void sendChunks(sinkOf(call), { digest, bytes }, (chunk) =>
        create(ModelChunkSchema, { ...chunk, job, size }),
      ).then(() => call.end());
    });
  }

  async getModel(digest: string): Promise<Uint8Array> {
    const { job } = this.#options;
    const { path, requestSerialize, responseDeserialize } = KNOWLEDGE_BASE_METHODS.getModel;
    const call = this.#service.client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      create(GetModelRequestSchema, { job, digest }),
      this.#service.metadata,
    );
    let assembly: Assembly | undefined;
    let complete: Uint8Array | undefined;
    try {
      for await (const chunk of call as AsyncIterable<ModelChunk>) {
        assembly ??= new Assembly(digest, Number(chunk.size), { hash: digester() });
        complete = assembly.add(chunk);
      }
    } catch (error) {
      throw fromStatus(error, `knowledge base, fetching model ${digest}`);
    }
    return complete ?? new Uint8Array();
  }

  async samples(query: SampleQuery = {}): Promise<KnowledgeSample[]> {
    const { job } = this.#options;
    const { path, requestSerialize, responseDeserialize } = KNOWLEDGE_BASE_METHODS.samples;
    const labelled = query.labelled === undefined ? '' : String(query.labelled);
    const call = this.#service.client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      create(SamplesRequestSchema, { job, labelled, limit: query.limit ?? 0 }),
      this.#service.metadata,
    );
    const found: KnowledgeSample[] = [];
    try {
      for await (const record of call as AsyncIterable<SampleRecord>)
        found.push(sampleFromWire(record));
    } catch (error) {
      throw fromStatus(error, `knowledge base, reading samples of ${job}`);
    }
    return found;
  }

  async nearest(features: Float32Array, count: number): Promise<Neighbour[]> {
    const { job } = this.#options;
    const request = create(NearestRequestSchema, { job, features: [...features], count });
    const reply = await this.#unary(
      KNOWLEDGE_BASE_METHODS.nearest,
      request,
      `asking ${job} for neighbours`,
    );
    return reply.neighbours.map(({ task, distance }) => ({ task, distance }));
  }

  /** Every job; needs the operator's token. */
  async jobs(): Promise<JobSummary[]> {
    const request = create(JobsRequestSchema);
    const reply = await this.#unary(KNOWLEDGE_BASE_METHODS.jobs, request, 'listing jobs');
    return reply.jobs.map(({ job, version, tasks, samples, storedBytes }) => ({
      job,
      version: Number(version),
      tasks,
      samples: Number(samples),
      storedBytes: Number(storedBytes),
    }));
  }

  close(): void {
    this.#service.close();
  }
}
