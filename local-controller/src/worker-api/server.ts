import { createReadStream } from 'node:fs';
import { request as httpRequest } from 'node:http';
import type { Socket } from 'node:net';
import type { StageModel } from '@shoal/api';
import { recordKey } from '@shoal/api';
import {
  type ByteStream,
  duplexOf,
  type ErrorCode,
  fromNode,
  isJsonObject,
  isShoalError,
  type JsonObject,
  type Logger,
  messageOf,
} from '@shoal/core';
import fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import type { StageJobs } from '../jobs/stage-jobs.ts';
import type { Link } from '../link/link.ts';
import { serviceTarget } from '../link/relay.ts';
import type { ModelStore } from '../model/model-store.ts';
import type { NodeMetrics } from '../operator/node-metrics.ts';
import type { HardExamples } from '../samples/hard-examples.ts';
import type { DatasetSources } from '../sources/sources.ts';

export interface WorkerApiOptions {
  readonly host: string;
  readonly port: number;
  readonly link: Link;
  /** Jobs with stages, by the lowercase kind workers send. */
  readonly stageJobs: Readonly<Record<string, StageJobs>>;
  readonly hardExamples: HardExamples;
  readonly sources: Pick<DatasetSources, 'requests'>;
  readonly models: Pick<ModelStore, 'fetch'>;
  readonly metrics: Pick<NodeMetrics, 'text'>;
  /** A stream to a service of the cloud. */
  readonly openRelay: (target: string) => ByteStream;
  readonly logger: Logger;
}

const MAX_BODY_BYTES = 1024 * 1024;
const MAX_SAMPLES_BYTES = 16 * 1024 * 1024;
const HTTP_STATUS: Partial<Record<ErrorCode, number>> = {
  invalid_argument: 400,
  not_found: 404,
  unauthenticated: 401,
  permission_denied: 403,
  failed_precondition: 409,
  resource_exhausted: 507,
};

interface Info {
  readonly name: string;
  readonly namespace: string;
  readonly ownerName: string;
  readonly ownerKind: string;
  readonly kind: string;
  readonly status: string | undefined;
  readonly results: readonly StageModel[];
  readonly ownerInfo: JsonObject;
}

function text(body: JsonObject, field: string): string {
  const value = body[field];
  return typeof value === 'string' ? value : '';
}

type Figure = number | readonly number[];

function isFigure(value: unknown): value is Figure {
  const finite = (v: unknown): boolean => typeof v === 'number' && Number.isFinite(v);
  return Array.isArray(value) ? value.every(finite) : finite(value);
}

/** Only finite numbers and lists of them are figures; NaN arrives from JSON as null and is dropped. */
function figuresOf(value: unknown): Record<string, Figure> {
  const entries = Object.entries(isJsonObject(value) ? value : {});
  return Object.fromEntries(entries.filter((e): e is [string, Figure] => isFigure(e[1])));
}

function toModel(value: JsonObject): StageModel {
  return {
    format: text(value, 'format'),
    url: text(value, 'url'),
    metrics: figuresOf(value['metrics']),
  };
}

function parseInfo(body: JsonObject): Info {
  const results: unknown[] = Array.isArray(body['results']) ? body['results'] : [];
  return {
    name: text(body, 'name'),
    namespace: text(body, 'namespace') || 'default',
    ownerName: text(body, 'ownerName'),
    ownerKind: text(body, 'ownerKind').toLowerCase(),
    kind: text(body, 'kind').toLowerCase(),
    status: typeof body['status'] === 'string' ? body['status'].toLowerCase() : undefined,
    results: results.filter(isJsonObject).map(toModel),
    ownerInfo: isJsonObject(body['ownerInfo']) ? body['ownerInfo'] : {},
  };
}

/** Owners whose reports go up as they are, by the lowercase kind workers send. */
const SERVICES: Readonly<Record<string, string>> = {
  jointinferenceservice: 'JointInferenceService',
  federatedlearningjob: 'FederatedLearningJob',
};

/** Hands a report on to what it is about; reports about jobs that are not here are logged. */
function dispatch(info: Info, options: WorkerApiOptions): void {
  const owner = { namespace: info.namespace, name: info.ownerName };
  const service = SERVICES[info.ownerKind];
  if (service !== undefined) {
    options.link.report(recordKey(service, owner, info.name), {
      worker: info.name,
      ownerInfo: info.ownerInfo,
    });
    return;
  }
  const jobs = Object.hasOwn(options.stageJobs, info.ownerKind)
    ? options.stageJobs[info.ownerKind]
    : undefined;
  const job = jobs?.find(info.namespace, info.ownerName);
  if (jobs && job) jobs.take(job, info);
  else
    options.logger.warn('report about a job that is not on this node', {
      worker: info.name,
      kind: info.ownerKind,
      job: info.ownerName,
    });
}

/** Hard examples up, content-addressed files down. */
function serveSamplesAndBlobs(server: FastifyInstance, options: WorkerApiOptions): void {
  type Job = { kind: string; namespace: string; name: string };
  server.post<{ Params: Job }>(
    '/shoal/jobs/:kind/:namespace/:name/hard-examples',
    { bodyLimit: MAX_SAMPLES_BYTES },
    (request, reply) => {
      if (request.params.kind.toLowerCase() !== 'incrementallearningjob')
        return reply
          .code(404)
          .send({ message: `${request.params.kind} collects no hard examples` });
      return { taken: options.hardExamples.take(request.params, request.body) };
    },
  );
  server.get<{ Params: { digest: string } }>('/shoal/blobs/:digest', async (request, reply) => {
    const path = await options.models.fetch(request.params.digest);
    return reply.type('application/octet-stream').send(createReadStream(path));
  });
  server.setErrorHandler((error, _request, reply) => {
    const known = isShoalError(error) ? (HTTP_STATUS[error.code] ?? 503) : undefined;
    const own = error instanceof Error && 'statusCode' in error ? Number(error.statusCode) : 500;
    if (known === 507) void reply.header('retry-after', '10');
    return reply.code(known ?? own).send({ message: messageOf(error) });
  });
}

/**
 * What the people at this node do: see which models wait, let them go on, hold all new ones. Answers the
 * node itself only.
 */
function serveEdge(server: FastifyInstance, { stageJobs }: WorkerApiOptions): void {
  const all = Object.values(stageJobs);
  const state = (): JsonObject => ({
    holding: all.some((jobs) => jobs.isHolding),
    held: all.flatMap((jobs) => jobs.held()).map((held) => ({ ...held })),
  });
  void server.register((scope, _options, done) => {
    scope.addHook('onRequest', async (request, reply) => {
      // A page in a browser of this machine is not somebody beside it.
      const { origin, 'content-type': type = '' } = request.headers;
      const isForm = request.method === 'POST' && !type.startsWith('application/json');
      if (isLocal(request.socket) && origin === undefined && !isForm) return;
      await reply.code(403).send({ message: 'only the node itself may ask this, in JSON' });
    });
    scope.get('/shoal/edge/rollouts', () => state());
    scope.post('/shoal/edge/release', (request) => {
      const { namespace = 'default', name } = (request.body ?? {}) as Record<string, string>;
      const of = name === undefined ? undefined : { namespace, name };
      return { released: all.flatMap((jobs) => jobs.release(of)) };
    });
    scope.post('/shoal/edge/hold', (request) => {
      const { on } = (request.body ?? {}) as { on?: unknown };
      for (const jobs of all) jobs.isHolding = on !== false;
      return state();
    });
    done();
  });
}

/** Over the loopback device: what comes from the node’s own address may have been sent on from elsewhere. */
function isLocal({ remoteAddress = '' }: Socket): boolean {
  return /^(::ffff:)?127\.|^::1$/.test(remoteAddress);
}

/** Samples that devices push: `POST /shoal/datasets/<namespace>/<name>/samples`. */
function serveDatasetSamples(server: FastifyInstance, options: WorkerApiOptions): void {
  void server.register((scope, _options, done) => {
    scope.removeAllContentTypeParsers();
    const limits = { parseAs: 'buffer', bodyLimit: MAX_SAMPLES_BYTES } as const;
    scope.addContentTypeParser('*', limits, (_request, body, parsed) => parsed(null, body));
    type Sender = { Params: { namespace: string; name: string } };
    const sender = ({ headers, socket }: FastifyRequest<Sender>) => ({
      token: /^Bearer (.+)$/i.exec(headers.authorization ?? '')?.[1],
      isLocal: isLocal(socket),
    });
    scope.post<Sender>(
      '/shoal/datasets/:namespace/:name/samples',
      {
        bodyLimit: MAX_SAMPLES_BYTES,
        onRequest: (request, _reply, next) => {
          const { namespace, name } = request.params;
          options.sources.requests(namespace, name).admit(sender(request));
          next();
        },
      },
      (request, reply) => {
        const { namespace, name } = request.params;
        const key = request.headers['idempotency-key'];
        const { samples, refused } = options.sources.requests(namespace, name).accept({
          ...sender(request),
          id: typeof key === 'string' ? key : undefined,
          payload: Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0),
        });
        // All of it fits no line of the dataset: nobody should believe that it was taken.
        const isRefused = samples === 0 && refused.length > 0;
        return reply.code(isRefused ? 422 : 200).send({ taken: samples, refused });
      },
    );
    done();
  });
}

/**
 * Services of the cloud over the node’s one connection:
 * `/shoal/services/<namespace>/<service>/<port>/…`. HTTP in, HTTP out, nothing kept.
 */
function serveCloudServices(server: FastifyInstance, options: WorkerApiOptions): void {
  void server.register((scope, _options, done) => {
    // Bodies go through as they are.
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (_request, payload, parsed) => parsed(null, payload));
    scope.all<{ Params: { namespace: string; service: string; port: string; '*': string } }>(
      '/shoal/services/:namespace/:service/:port/*',
      (request, reply) => {
        const { namespace, service, port } = request.params;
        const target = serviceTarget(namespace, service, port);
        const prefix = `/shoal/services/${namespace}/${service}/${port}`;
        reply.hijack();
        const up = httpRequest({
          method: request.method,
          path: request.raw.url?.slice(prefix.length) ?? '/',
          headers: { ...request.headers, host: `${service}.${namespace}`, connection: 'close' },
          createConnection: () => duplexOf(options.openRelay(target)),
        });
        const fail = (error: Error): void => {
          if (reply.raw.headersSent) reply.raw.destroy(error);
          else
            reply.raw
              .writeHead(503, { 'content-type': 'application/json' })
              .end(JSON.stringify({ message: `${target}: ${error.message}` }));
        };
        up.on('error', fail);
        up.on('response', (response) => {
          reply.raw.writeHead(response.statusCode ?? 502, response.headers);
          response.on('error', fail);
          response.pipe(reply.raw);
        });
        reply.raw.on('close', () => up.destroy());
        request.raw.pipe(up);
      },
    );
    done();
  });
}

/** The endpoint workers talk to: `POST /sedna/workers/{name}/info` (contract §3.2). */
export async function serveWorkerApi(options: WorkerApiOptions): Promise<FastifyInstance> {
  const server = fastify({ bodyLimit: MAX_BODY_BYTES });
  server.get('/healthz', () => ({ status: 'ok', connected: options.link.connected }));
  server.get('/metrics', async (_request, reply) => {
    const { type, body } = await options.metrics.text();
    return await reply.type(type).send(body);
  });
  server.post<{ Params: { name: string } }>('/sedna/workers/:name/info', (request, reply) => {
    const { body } = request;
    if (!isJsonObject(body))
      return reply.code(400).send({ Status: 400, Message: 'the body must be a JSON object' });
    if (body['name'] !== request.params.name) {
      return reply.code(400).send({
        Status: 400,
        Message: `name in the body (${JSON.stringify(body['name'])}) is not the one in the path (${request.params.name})`,
      });
    }
    dispatch(parseInfo(body), options);
    return { Status: 200, Message: 'OK' };
  });
  serveSamplesAndBlobs(server, options);
  serveDatasetSamples(server, options);
  serveEdge(server, options);
  serveCloudServices(server, options);
  try {
    await server.listen({ host: options.host, port: options.port });
  } catch (error) {
    throw fromNode(error, `the local controller cannot listen on ${options.host}:${options.port}`);
  }
  return server;
}
