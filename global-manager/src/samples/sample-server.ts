import { timingSafeEqual } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  EVERY_JOB,
  type HardSample,
  HardSampleSchema,
  knowledgeJob,
  type LabelReply,
  LabelReplySchema,
  type LabelRequest,
  type ListSamplesRequest,
  SAMPLE_METHODS,
  type SampleJobsReply,
  SampleJobsReplySchema,
  type SampleJobsRequest,
  type SampleLabel,
  sampleToken,
  type UploadChunk,
  type UploadReply,
  UploadReplySchema,
} from '@shoal/api';
import { type KeyPair, type Logger, ShoalError } from '@shoal/core';
import type { BlobStore } from '../edge-link/blobs.ts';
import { toStatus } from '../edge-link/grpc-status.ts';
import type { SampleJob, SampleStore, StoredSample, Verdict } from './sample-store.ts';

export interface SampleServerOptions {
  readonly address: string;
  readonly tls: KeyPair;
  /** Key of the tokens; see `sampleToken`. */
  readonly key: string;
  readonly samples: SampleStore;
  readonly blobs: BlobStore;
  readonly logger: Logger;
}

const MAX_MESSAGE_BYTES = 32 * 1024 * 1024;
const MAX_VERDICTS = 100_000;
const MAX_LABEL = 256;
/** Model files that are stored by hand; larger ones belong into object storage. */
const MAX_UPLOAD_BYTES = 2 * 1024 ** 3;

function same(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(a), Buffer.from(b)];
  return x.length === y.length && timingSafeEqual(x, y);
}

/** A label from the wire: a whole number ≥ 0 or a short string. */
function parseLabel(json: string, what: string): SampleLabel {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    // told below
  }
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0) return value;
  if (typeof value === 'string' && value !== '' && value.length <= MAX_LABEL) return value;
  throw new ShoalError(
    'invalid_argument',
    `${what}: ${json.slice(0, 80)} is no label; labels are whole numbers from 0 on, or names of at most ${MAX_LABEL} characters`,
  );
}

function verdictOf(v: LabelRequest['verdicts'][number]): Verdict {
  const { id, confidence } = v;
  switch (v.verdict.case) {
    case 'label':
      return { id, confidence, label: parseLabel(v.verdict.value, id) };
    case 'suggestion':
      return { id, confidence, suggestion: parseLabel(v.verdict.value, id) };
    case 'reject':
      return { id, confidence, reject: v.verdict.value.slice(0, 1_000) };
    case undefined:
      throw new ShoalError(
        'invalid_argument',
        `${id}: a label, a suggestion or a rejection is needed`,
      );
  }
}

function toWire(sample: StoredSample): HardSample {
  const { label, suggestion, ...rest } = sample;
  return create(HardSampleSchema, {
    ...rest,
    body: new Uint8Array(sample.body),
    label: label === undefined ? '' : JSON.stringify(label),
    suggestion: suggestion === undefined ? '' : JSON.stringify(suggestion),
  });
}

/** Serves the {@link SampleStore} to those who label, and takes files for `blob:` URLs. */
export class SampleServer {
  readonly #options: SampleServerOptions;
  readonly #server: grpc.Server;

  constructor(options: SampleServerOptions) {
    this.#options = options;
    this.#server = new grpc.Server({
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
    });
    this.#server.addService(SAMPLE_METHODS as unknown as grpc.ServiceDefinition, {
      jobs: (
        call: grpc.ServerUnaryCall<SampleJobsRequest, SampleJobsReply>,
        done: grpc.sendUnaryData<SampleJobsReply>,
      ) => answer(done, () => this.#jobs(call.metadata)),
      list: (call: grpc.ServerWritableStream<ListSamplesRequest, HardSample>) =>
        void this.#list(call),
      label: (
        call: grpc.ServerUnaryCall<LabelRequest, LabelReply>,
        done: grpc.sendUnaryData<LabelReply>,
      ) => answer(done, () => this.#label(call.metadata, call.request)),
      upload: (
        call: grpc.ServerReadableStream<UploadChunk, UploadReply>,
        done: grpc.sendUnaryData<UploadReply>,
      ) => void this.#upload(call, done),
    });
  }

  /** Starts listening; resolves with the port. @throws ShoalError when the address is taken. */
  listen(): Promise<number> {
    const { address, tls } = this.#options;
    const pair = {
      private_key: Buffer.from(tls.privateKey),
      cert_chain: Buffer.from(tls.certificate),
    };
    const credentials = grpc.ServerCredentials.createSsl(null, [pair]);
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(address, credentials, (error, port) => {
        if (!error) return resolve(port);
        const why = `the sample service cannot listen on ${address}: ${error.message}`;
        reject(new ShoalError('failed_precondition', why, { cause: error }));
      });
    });
  }

  #expectToken(metadata: grpc.Metadata, job: string): void {
    const [header] = metadata.get('authorization');
    const token = typeof header === 'string' ? /^Bearer (.+)$/.exec(header)?.[1] : undefined;
    if (token === undefined)
      throw new ShoalError('unauthenticated', 'the call carries no token of a job');
    const { key } = this.#options;
    const opens =
      same(token, sampleToken(key, EVERY_JOB)) ||
      (job !== EVERY_JOB && same(token, sampleToken(key, job)));
    if (!opens)
      throw new ShoalError(
        'permission_denied',
        `the token does not open the hard examples of ${job}`,
      );
  }

  /** @throws ShoalError `not_found` when the job has no samples. */
  #job(metadata: grpc.Metadata, name: string): SampleJob {
    this.#expectToken(metadata, name);
    const found = this.#options.samples.jobs().find((j) => knowledgeJob(j) === name);
    if (!found) throw new ShoalError('not_found', `job ${name} has no hard examples yet`);
    return found;
  }

  #jobs(metadata: grpc.Metadata): SampleJobsReply {
    this.#expectToken(metadata, EVERY_JOB);
    const { samples } = this.#options;
    const jobs = samples.jobs().map((j) => {
      const { waiting, labelled, delivered, rejected } = samples.counts(j.uid);
      return {
        job: knowledgeJob(j),
        waiting: BigInt(waiting),
        labelled: BigInt(labelled),
        delivered: BigInt(delivered),
        rejected: BigInt(rejected),
      };
    });
    return create(SampleJobsReplySchema, { jobs });
  }

  async #list(call: grpc.ServerWritableStream<ListSamplesRequest, HardSample>): Promise<void> {
    try {
      const { job, ...query } = call.request;
      this.#expectToken(call.metadata, job);
      const { samples } = this.#options;
      const known = samples.jobs().find((j) => knowledgeJob(j) === job);
      // A labeller that starts before the first sample waits for it.
      for (const sample of known ? samples.list(known.uid, query) : []) {
        if (call.cancelled) return;
        if (!call.write(toWire(sample)))
          await new Promise<void>((resolve) => {
            call.once('drain', resolve);
            call.once('cancelled', resolve);
          });
      }
      call.end();
    } catch (error) {
      call.emit('error', toStatus(error));
    }
  }

  #label(metadata: grpc.Metadata, request: LabelRequest): LabelReply {
    const job = this.#job(metadata, request.job);
    const { verdicts, by, automatic } = request;
    if (verdicts.length > MAX_VERDICTS)
      throw new ShoalError(
        'resource_exhausted',
        `${verdicts.length} verdicts in one call, at most ${MAX_VERDICTS}`,
      );
    const changed = this.#options.samples.label(job, verdicts.map(verdictOf), {
      name: by.slice(0, MAX_LABEL) || 'somebody',
      automatic,
    });
    return create(LabelReplySchema, { changed: BigInt(changed) });
  }

  async #upload(
    call: grpc.ServerReadableStream<UploadChunk, UploadReply>,
    done: grpc.sendUnaryData<UploadReply>,
  ): Promise<void> {
    const { blobs } = this.#options;
    try {
      this.#expectToken(call.metadata, EVERY_JOB);
      let digest = '';
      let size = 0;
      for await (const chunk of call as AsyncIterable<UploadChunk>) {
        digest = chunk.digest;
        size = Number(chunk.size);
        if (size > MAX_UPLOAD_BYTES)
          throw new ShoalError(
            'resource_exhausted',
            `${size} bytes were announced, at most ${MAX_UPLOAD_BYTES} are taken`,
          );
        blobs.append(digest, { offset: Number(chunk.offset), sizeBytes: size, data: chunk.data });
      }
      const { receivedBytes } = blobs.stat(digest);
      if (receivedBytes !== size)
        throw new ShoalError(
          'data_corrupt',
          `${receivedBytes} of ${size} bytes of ${digest} arrived`,
        );
      await blobs.finish(digest);
      done(null, create(UploadReplySchema, { digest, size: BigInt(size) }));
    } catch (error) {
      done(toStatus(error));
    }
  }

  close(): void {
    this.#server.forceShutdown();
  }
}

function answer<T>(done: grpc.sendUnaryData<T>, body: () => T): void {
  try {
    done(null, body());
  } catch (error) {
    done(toStatus(error));
  }
}
