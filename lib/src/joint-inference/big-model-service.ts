import {
  fromNode,
  integer,
  isJsonObject,
  readConfig,
  type SettingTable,
  ShoalError,
  text,
} from '@shoal/core';
import fastify, { type FastifyInstance } from 'fastify';
import type { Estimator } from '../estimator/estimator.ts';

export interface BigModelServiceOptions {
  readonly estimator: Estimator;
  /** Path prefix: the job's name. */
  readonly serviceName: string;
  readonly host: string;
  readonly port: number;
  /** Largest request body. Default 16 MiB. */
  readonly maxBodyBytes?: number;
}

interface BigModelEnvironment {
  readonly JOB_NAME: string;
  readonly BIG_MODEL_BIND_IP: string;
  readonly BIG_MODEL_BIND_PORT: number;
  readonly POD_IP: string;
}

const SETTINGS: SettingTable<BigModelEnvironment> = {
  JOB_NAME: text('name of the service', 'sedna'),
  BIG_MODEL_BIND_IP: text('address to listen on; default POD_IP', ''),
  BIG_MODEL_BIND_PORT: integer('port to listen on', { min: 0, max: 65_535 }, 5000),
  POD_IP: text('address of this pod', '127.0.0.1'),
};

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

function join(samples: readonly Float32Array[]): Float32Array {
  const size = samples.reduce((n, s) => n + s.length, 0);
  const all = new Float32Array(size);
  let at = 0;
  for (const sample of samples) {
    all.set(sample, at);
    at += sample.length;
  }
  return all;
}

/** The big model in the cloud behind `POST /<name>/predict`. */
export class BigModelService {
  readonly #options: BigModelServiceOptions;
  readonly #server: FastifyInstance;

  constructor(options: BigModelServiceOptions) {
    this.#options = options;
    this.#server = fastify({ bodyLimit: options.maxBodyBytes ?? 16 * 1024 * 1024 });
    const base = `/${options.serviceName}`;
    this.#server.get('/healthz', () => ({ status: 'ok' }));
    this.#server.get(base, () => ({ infos: [{ path: `${base}/predict`, name: 'predict' }] }));
    this.#server.post(`${base}/predict`, async (request) => ({
      result: await this.#predict(request.body),
    }));
    this.#server.setErrorHandler((error, _request, reply) => {
      const bad = error instanceof ShoalError && error.code === 'invalid_argument';
      const code = error instanceof Error && 'statusCode' in error ? Number(error.statusCode) : 500;
      return reply
        .code(bad ? 400 : code)
        .send({ error: error instanceof Error ? error.message : String(error) });
    });
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
    });
  }

  async #predict(body: unknown): Promise<number[][]> {
    const samples = readSamples(body);
    const { probabilities, classes, size } = await this.#options.estimator.predict(
      join(samples),
      samples.length,
    );
    return Array.from({ length: size }, (_, i) =>
      Array.from(probabilities.subarray(i * classes, (i + 1) * classes)),
    );
  }

  /** Starts listening; resolves with the base URL. @throws ShoalError when the port is taken. */
  async start(): Promise<string> {
    const { host, port } = this.#options;
    try {
      return await this.#server.listen({ host, port });
    } catch (error) {
      throw fromNode(error, `the big model service cannot listen on ${host}:${port}`);
    }
  }

  async close(): Promise<void> {
    await this.#server.close();
    await this.#options.estimator.close();
  }
}
