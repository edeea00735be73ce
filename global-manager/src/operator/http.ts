import { fromNode } from '@shoal/core';
import fastify, { type FastifyInstance } from 'fastify';
import type { Metrics } from './metrics.ts';

/** `/healthz`, `/readyz` and `/metrics`. */
export async function serveHttp(options: {
  host: string;
  port: number;
  metrics: Metrics;
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
  try {
    await server.listen({ host: options.host, port: options.port });
  } catch (error) {
    throw fromNode(error, `the global manager cannot listen on ${options.host}:${options.port}`);
  }
  return server;
}
