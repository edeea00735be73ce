import {
  fromNode,
  integer,
  isJsonObject,
  readConfig,
  type SettingTable,
  ShoalError,
  text,
} from '@shoal/core';
import fastify from 'fastify';

interface ServerEnvironment {
  readonly POD_IP: string;
  readonly INFERENCE_PORT: number;
}

const SETTINGS: SettingTable<ServerEnvironment> = {
  POD_IP: text('address of this pod', '127.0.0.1'),
  INFERENCE_PORT: integer('port of the inference service', { min: 0, max: 65_535 }, 8080),
};

export interface InferenceServerOptions {
  /** Answers one sample; what it returns is sent as JSON. */
  readonly infer: (
    sample: Float32Array,
    attributes: Readonly<Record<string, string>>,
  ) => Promise<unknown>;
  /** Whether `null` may stand for a missing value, which becomes NaN. Default false. */
  readonly allowMissing?: boolean;
  /** Figures for `GET /metrics`, by name. */
  readonly metrics?: () => Readonly<Record<string, number>>;
  readonly source?: Readonly<Record<string, string | undefined>>;
}

export interface InferenceServer {
  readonly url: string;
  close(): Promise<void>;
}

const MAX_BODY_BYTES = 16 * 1024 * 1024;

function readSamples(body: unknown, allowMissing: boolean): Float32Array[] {
  const data = isJsonObject(body) ? body['data'] : undefined;
  if (!Array.isArray(data))
    throw new ShoalError('invalid_argument', 'the body must be {"data": [sample, …]}');
  return data.map((sample: unknown, i) => {
    const values: unknown[] = Array.isArray(sample) ? sample.flat(Number.POSITIVE_INFINITY) : [];
    if (!values.every((v) => typeof v === 'number' || (allowMissing && v === null)))
      throw new ShoalError('invalid_argument', `data[${i}] must be an array of numbers`);
    return Float32Array.from(values, (v) => (typeof v === 'number' ? v : Number.NaN));
  });
}

/** What is known of each sample beside its values: `{"attributes": [{"city": "athens"}, …]}`. */
function readAttributes(body: unknown, size: number): Record<string, string>[] {
  const list = isJsonObject(body) ? body['attributes'] : undefined;
  if (list === undefined) return Array.from({ length: size }, () => ({}));
  if (!Array.isArray(list) || list.length !== size || !list.every(isJsonObject))
    throw new ShoalError('invalid_argument', `attributes must be a list of ${size} objects`);
  return list.map((attributes) =>
    Object.fromEntries(
      Object.entries(attributes).map(([k, v]) => [
        k,
        typeof v === 'string' ? v : JSON.stringify(v),
      ]),
    ),
  );
}

function exposition(figures: Readonly<Record<string, number>>): string {
  return Object.entries(figures)
    .map(([k, v]) => `shoal_${k.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)} ${v}\n`)
    .join('');
}

/** `POST /predict {"data": [sample, …]}` → `{"result": […]}` over any inference function. */
export async function serveInference(options: InferenceServerOptions): Promise<InferenceServer> {
  const { POD_IP: host, INFERENCE_PORT: port } = readConfig(
    SETTINGS,
    options.source ?? process.env,
  );
  const server = fastify({ bodyLimit: MAX_BODY_BYTES });
  server.get('/healthz', () => ({ status: 'ok' }));
  server.get('/metrics', (_request, reply) =>
    reply.type('text/plain').send(exposition(options.metrics?.() ?? {})),
  );
  server.post('/predict', async (request) => {
    const samples = readSamples(request.body, options.allowMissing === true);
    const attributes = readAttributes(request.body, samples.length);
    const result: unknown[] = [];
    for (const [i, sample] of samples.entries())
      result.push(await options.infer(sample, attributes[i] ?? {}));
    return { result };
  });
  server.setErrorHandler((error, _request, reply) => {
    const bad = error instanceof ShoalError && error.code === 'invalid_argument';
    const code = error instanceof Error && 'statusCode' in error ? Number(error.statusCode) : 500;
    return reply
      .code(bad ? 400 : code)
      .send({ error: error instanceof Error ? error.message : String(error) });
  });
  try {
    return { url: await server.listen({ host, port }), close: async () => await server.close() };
  } catch (error) {
    throw fromNode(error, `the inference service cannot listen on ${host}:${port}`);
  }
}
