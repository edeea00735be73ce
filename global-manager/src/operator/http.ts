import { fromNode } from '@shoal/core';
import fastify, { type FastifyInstance } from 'fastify';
import type { FigureHistory } from '../edge-link/figure-history.ts';
import type { Metrics } from './metrics.ts';

/** `/healthz`, `/readyz`, `/metrics`, and the history of a node’s figures under `/figures/<node>`. */
export async function serveHttp(options: {
  host: string;
  port: number;
  metrics: Metrics;
  figures: Pick<FigureHistory, 'of'>;
  isReady: () => boolean;
}): Promise<FastifyInstance> {
  const server = fastify();
  server.get('/healthz', () => 'ok');
  server.get('/readyz', (_request, reply) =>
    options.isReady() ? 'ok' : reply.code(503).send('not ready: the first lists are not complete'),
  );
  server.get('/metrics', async (_request, reply) => {
    void reply.type(options.metrics.registry.contentType);
    return await options.metrics.registry.metrics();
  });
  server.get<{ Params: { node: string } }>('/figures/:node', (request) =>
    options.figures.of(request.params.node),
  );
  try {
    await server.listen({ host: options.host, port: options.port });
  } catch (error) {
    throw fromNode(error, `the global manager cannot listen on ${options.host}:${options.port}`);
  }
  return server;
}
