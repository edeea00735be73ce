import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  type HardExample,
  type HardSample,
  LabelRequestSchema,
  type LabelRequestSchema as LabelRequestType,
  ListSamplesRequestSchema,
  MANAGER_NAME,
  SAMPLE_METHODS,
  SampleJobsRequestSchema,
  type SampleLabel,
  UploadChunkSchema,
  type UploadReply,
} from '@shoal/api';
import { digestOf, ShoalError } from '@shoal/core';
import { sendChunks, sinkOf } from '../transfer/chunks.ts';
import { type ClientMethod, TokenClient, type TokenService } from '../transfer/grpc-client.ts';
import { fromStatus } from '../transfer/grpc-errors.ts';

export interface SampleClientOptions extends TokenService {
  /** Deadline of a call, in milliseconds. Default 20,000. */
  readonly timeoutMs?: number;
}

export type SampleState = 'new' | 'suggested' | 'labelled' | 'delivered' | 'rejected';

/** A hard example in the cloud. */
export interface CloudSample {
  readonly id: string;
  readonly node: string;
  readonly state: SampleState;
  /** Undefined once it was delivered. */
  readonly example: HardExample | undefined;
  readonly label: SampleLabel | undefined;
  /** What a model took it for without being sure. */
  readonly suggestion: SampleLabel | undefined;
  readonly confidence: number;
  readonly labelledBy: string;
  /** Why it was rejected. */
  readonly reason: string;
}

/** What is said of one sample. */
export type SampleVerdict = { readonly id: string; readonly confidence?: number } & (
  | { readonly label: SampleLabel }
  | { readonly suggestion: SampleLabel }
  | { readonly reject: string }
);

export interface SampleJobCounts {
  /** namespace/name/uid, the uid cut to eight characters. */
  readonly job: string;
  readonly waiting: number;
  readonly labelled: number;
  readonly delivered: number;
  readonly rejected: number;
}

export interface SampleQuery {
  /** Default: all that wait for a label. */
  readonly state?: SampleState | 'any';
  readonly limit?: number;
  readonly ids?: readonly string[];
  /** Only ids that begin so; the samples come without their data. */
  readonly prefix?: string;
}

/** More would not be one transaction. */
const MAX_VERDICTS = 100_000;
const LIST_MS = 300_000;

/** Hard examples of the jobs in the cloud, for those who label them. Close it when done. */
export class SampleClient {
  readonly #options: SampleClientOptions;
  readonly #service: TokenClient;

  constructor(options: SampleClientOptions) {
    this.#options = options;
    this.#service = new TokenClient(options, MANAGER_NAME);
  }

  async #unary<Q, S>(method: ClientMethod<Q, S>, request: Q, doing: string): Promise<S> {
    const { timeoutMs = 20_000 } = this.#options;
    return await this.#service.unary(method, request, { doing, timeoutMs });
  }

  /** Every job that has hard examples; needs the operator's token. */
  async jobs(): Promise<SampleJobCounts[]> {
    const request = create(SampleJobsRequestSchema);
    const { jobs } = await this.#unary(SAMPLE_METHODS.jobs, request, 'listing jobs');
    return jobs.map(({ job, ...counts }) => ({
      job,
      waiting: Number(counts.waiting),
      labelled: Number(counts.labelled),
      delivered: Number(counts.delivered),
      rejected: Number(counts.rejected),
    }));
  }

  /** Samples of a job, oldest first. @throws ShoalError `not_found` for ids it does not have. */
  async list(job: string, query: SampleQuery = {}): Promise<CloudSample[]> {
    const { path, requestSerialize, responseDeserialize } = SAMPLE_METHODS.list;
    const request = create(ListSamplesRequestSchema, {
      job,
      state: query.state ?? '',
      limit: query.limit ?? 0,
      ids: [...(query.ids ?? [])],
      prefix: query.prefix ?? '',
    });
    const call = this.#service.client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
      this.#service.metadata,
      // As many and as large as they may be.
      { deadline: Date.now() + LIST_MS },
    );
    const found: CloudSample[] = [];
    try {
      for await (const sample of call as AsyncIterable<HardSample>) found.push(fromWire(sample));
    } catch (error) {
      throw fromStatus(error, `reading hard examples of ${job}`);
    }
    return found;
  }

  /**
   * Says what samples are. All verdicts of a call count, or none.
   *
   * @param by Who says so: a person, or the name of a model with `automatic`.
   * @returns Samples of which something changed.
   * @throws ShoalError `not_found` naming ids the job does not have; `failed_precondition` naming
   *   samples that are in the dataset already.
   */
  async label(
    job: string,
    verdicts: readonly SampleVerdict[],
    by: { readonly name: string; readonly automatic?: boolean },
  ): Promise<number> {
    if (verdicts.length > MAX_VERDICTS)
      throw new ShoalError(
        'invalid_argument',
        `${verdicts.length} verdicts at once, at most ${MAX_VERDICTS} can count together; give them in parts`,
      );
    const init: MessageInitShape<typeof LabelRequestType> = {
      job,
      by: by.name,
      automatic: by.automatic === true,
      verdicts: verdicts.map((v) => ({
        ...verdictToWire(v),
        id: v.id,
        confidence: v.confidence ?? 0,
      })),
    };
    const request = create(LabelRequestSchema, init);
    const { changed } = await this.#unary(SAMPLE_METHODS.label, request, `labelling for ${job}`);
    return Number(changed);
  }

  /** Stores a file for Models with a `blob:` URL; needs the operator's token. @returns Its digest. */
  async upload(bytes: Uint8Array): Promise<string> {
    const digest = digestOf(bytes);
    const { path, requestSerialize, responseDeserialize } = SAMPLE_METHODS.upload;
    return await new Promise((resolve, reject) => {
      const call = this.#service.client.makeClientStreamRequest(
        path,
        requestSerialize,
        responseDeserialize,
        this.#service.metadata,
        (error: unknown, reply?: UploadReply) => {
          if (error || !reply) reject(fromStatus(error, `storing ${digest}`));
          else resolve(reply.digest);
        },
      );
      call.on('error', () => undefined); // told by the callback
      const size = BigInt(bytes.length);
      void sendChunks(sinkOf(call), { digest, bytes }, (chunk) =>
        create(UploadChunkSchema, { ...chunk, size }),
      ).then(() => call.end());
    });
  }

  close(): void {
    this.#service.close();
  }
}

function verdictToWire(
  verdict: SampleVerdict,
): Pick<NonNullable<MessageInitShape<typeof LabelRequestType>['verdicts']>[number], 'verdict'> {
  if ('label' in verdict)
    return { verdict: { case: 'label', value: JSON.stringify(verdict.label) } };
  if ('suggestion' in verdict)
    return { verdict: { case: 'suggestion', value: JSON.stringify(verdict.suggestion) } };
  return { verdict: { case: 'reject', value: verdict.reject } };
}

function labelOf(json: string): SampleLabel | undefined {
  return json === '' ? undefined : (JSON.parse(json) as SampleLabel);
}

function fromWire(sample: HardSample): CloudSample {
  const { id, node, state, body, confidence, labelledBy, reason } = sample;
  return {
    id,
    node,
    state: state as SampleState,
    example:
      body.length === 0
        ? undefined
        : (JSON.parse(Buffer.from(body).toString('utf8')) as HardExample),
    label: labelOf(sample.label),
    suggestion: labelOf(sample.suggestion),
    confidence,
    labelledBy,
    reason,
  };
}
