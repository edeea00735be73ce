import {
  type ErrorCode,
  fromNode,
  integer,
  isJsonObject,
  isShoalError,
  readConfig,
  type SettingTable,
  ShoalError,
  text,
} from '@shoal/core';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { type Detector, isDetector } from '../estimator/detection.ts';
import type { Estimator } from '../estimator/estimator.ts';
import { Batcher, type BatcherFigures, type BatcherOptions } from './batcher.ts';
import { DEADLINE_HEADER, TENSOR_TYPE, tensorBody, tensorRows } from './tensor-body.ts';

export interface BigModelServiceOptions {
  readonly estimator: Estimator;
  /** Path prefix: the job's name. */
  readonly serviceName: string;
  readonly host: string;
  readonly port: number;
  /** Largest request body. Default 16 MiB. */
  readonly maxBodyBytes?: number;
  /** How samples of many requests become one run of the model. */
  readonly batching?: Omit<BatcherOptions, 'run'>;
}

interface BigModelEnvironment {
  readonly JOB_NAME: string;
  readonly BIG_MODEL_BIND_IP: string;
  readonly BIG_MODEL_BIND_PORT: number;
  readonly POD_IP: string;
  readonly MAX_BATCH: number;
  readonly MAX_BATCH_DELAY_MS: number;
  readonly MAX_QUEUE: number;
}

const SETTINGS: SettingTable<BigModelEnvironment> = {
  JOB_NAME: text('name of the service', 'sedna'),
  BIG_MODEL_BIND_IP: text('address to listen on; default POD_IP', ''),
  BIG_MODEL_BIND_PORT: integer('port to listen on', { min: 0, max: 65_535 }, 5000),
  POD_IP: text('address of this pod', '127.0.0.1'),
  MAX_BATCH: integer('most samples in one run of the model', { min: 1, max: 4096 }, 32),
  MAX_BATCH_DELAY_MS: integer('how long an idle model waits for more', { min: 0, max: 1000 }, 0),
  MAX_QUEUE: integer('samples that may wait; more are refused', { min: 1, max: 1e6 }, 1024),
};

/** HTTP status of an error of ours. */
const STATUS: Readonly<Partial<Record<ErrorCode, number>>> = {
  invalid_argument: 400,
  resource_exhausted: 503,
  deadline_exceeded: 504,
};

function exposition(figures: BatcherFigures): string {
  return Object.entries(figures)
    .map(([name, value]) => `shoal_big_model_${name} ${value}\n`)
    .join('');
}

function readSamples(body: unknown): Float32Array[] {
  const data = isJsonObject(body) ? body['data'] : undefined;
  if (!Array.isArray(data) || data.length === 0) {
    throw new ShoalError('invalid_argument', 'the body must be {"data": [sample, …]}');
  }
  return data.map((sample: unknown, i) => {
    const values: unknown[] = Array.isArray(sample) ? sample.flat(Number.POSITIVE_INFINITY) : [];
    if (values.length === 0 || !values.every((v) => typeof v === 'number')) {
      throw new ShoalError('invalid_argument', `data[${i}] must be an array of numbers`);
    }
    return Float32Array.from(values as number[]);
  });
}

/** The big model in the cloud behind `POST /<name>/predict`. */
export class BigModelService {
  readonly #options: BigModelServiceOptions;
  #server: FastifyInstance | undefined;
  readonly #batcher: Batcher;

  constructor(options: BigModelServiceOptions) {
    this.#options = options;
    const run: BatcherOptions['run'] = async (inputs, size) =>
      await options.estimator.predict(inputs, size);
    this.#batcher = new Batcher({ ...options.batching, run });
  }

  /** The routes; the HTTP library is loaded here, as most users of this package serve no model. */
  async #routes(): Promise<FastifyInstance> {
    const { maxBodyBytes: bodyLimit = 16 * 1024 * 1024, serviceName } = this.#options;
    const { default: fastify } = await import('fastify');
    const server = fastify({ bodyLimit });
    const base = `/${serviceName}`;
    server.get('/healthz', () => ({ status: 'ok' }));
    server.get(base, () => ({ infos: [{ path: `${base}/predict`, name: 'predict' }] }));
    server.addContentTypeParser(TENSOR_TYPE, { parseAs: 'buffer' }, (_request, body, done) =>
      done(null, body),
    );
    server.post(`${base}/predict`, async (request, reply) => await this.#answer(request, reply));
    server.get('/metrics', (_request, reply) =>
      reply.type('text/plain').send(exposition(this.#batcher.figures)),
    );
    server.setErrorHandler((error, _request, reply) => {
      const code = isShoalError(error)
        ? (STATUS[error.code] ?? 500)
        : error instanceof Error && 'statusCode' in error
          ? Number(error.statusCode)
          : 500;
      if (code === 503) void reply.header('Retry-After', '1');
      return reply
        .code(code)
        .send({ error: error instanceof Error ? error.message : String(error) });
    });
    return server;
  }

  /** Batches that were run and requests that were refused. */
  get figures(): BatcherFigures {
    return this.#batcher.figures;
  }

  /** Reads name, address and port from the worker's environment. */
  static fromEnvironment(
    estimator: Estimator,
    source: Readonly<Record<string, string | undefined>> = process.env,
  ): BigModelService {
    const env = readConfig(SETTINGS, source);
    return new BigModelService({
      estimator,
      serviceName: env.JOB_NAME,
      host: env.BIG_MODEL_BIND_IP || env.POD_IP,
      port: env.BIG_MODEL_BIND_PORT,
      batching: {
        maxBatch: env.MAX_BATCH,
        maxDelayMs: env.MAX_BATCH_DELAY_MS,
        maxQueue: env.MAX_QUEUE,
      },
    });
  }

  /** Answers in the form it was asked: tensors for tensors, JSON for JSON. */
  async #answer(request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    const header = (name: string): string | undefined => {
      const value = request.headers[name];
      return typeof value === 'string' ? value : undefined;
    };
    const deadline = Number(header(DEADLINE_HEADER) ?? Number.NaN);
    const deadlineMs = Number.isFinite(deadline) && deadline > 0 ? deadline : undefined;
    if (isDetector(this.#options.estimator))
      return { result: await this.#detect(this.#options.estimator, request.body, header) };
    if (!Buffer.isBuffer(request.body)) {
      const rows = await this.#batcher.predict(readSamples(request.body), deadlineMs);
      return { result: rows.map((row) => Array.from(row)) };
    }
    const rows = await this.#batcher.predict(tensorRows(request.body, header), deadlineMs);
    const { body, headers } = tensorBody(rows);
    return reply.headers(headers).send(Buffer.from(body.buffer));
  }

  /** Boxes go as JSON whatever the sample came as: they are few. */
  async #detect(
    detector: Detector,
    body: unknown,
    header: (name: string) => string | undefined,
  ): Promise<unknown> {
    const rows = Buffer.isBuffer(body) ? tensorRows(body, header) : readSamples(body);
    const width = rows[0]?.length ?? 0;
    if (rows.some((r) => r.length !== width))
      throw new ShoalError('invalid_argument', 'samples of one request have one size');
    const inputs = new Float32Array(rows.length * width);
    for (const [i, row] of rows.entries()) inputs.set(row, i * width);
    return await detector.detect(inputs, rows.length);
  }

  /** Starts listening; resolves with the base URL. @throws ShoalError when the port is taken. */
  async start(): Promise<string> {
    const { host, port } = this.#options;
    this.#server ??= await this.#routes();
    try {
      return await this.#server.listen({ host, port });
    } catch (error) {
      throw fromNode(error, `the big model service cannot listen on ${host}:${port}`);
    }
  }

  /** Stops listening; the model stays open. */
  async closeServer(): Promise<void> {
    await this.#server?.close();
  }

  async close(): Promise<void> {
    await this.#server?.close();
    await this.#options.estimator.close();
  }
}
