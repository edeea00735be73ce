import { closeSync, createReadStream, fstatSync, openSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { type Clock, ShoalError } from '@shoal/core';
import fastify, { type FastifyInstance } from 'fastify';
import type { Link } from '../link/link.ts';
import type { NodeMetrics } from '../operator/node-metrics.ts';

export interface OperatorApiOptions {
  readonly link: Link;
  readonly metrics: Pick<NodeMetrics, 'text'>;
  /** Folder of the logs of this node’s pods. */
  readonly podLogDir: string;
  readonly clock: Clock;
}

interface LogPath {
  readonly namespace: string;
  readonly pod: string;
  readonly uid: string;
  readonly container: string;
}

const NAME = /^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/;
const FOLLOW_MS = 300;
const MAX_TAIL_BYTES = 1024 ** 2;

function filesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}

/** The newest log of a container: as kubelets keep them, or as the embedded cluster does. */
function logFile(root: string, { namespace, pod, uid, container }: LogPath): string {
  const newest = (dir: string, pattern: RegExp): string | undefined => {
    const numbered = filesIn(dir)
      .map((file) => ({ file, n: Number(pattern.exec(file)?.[1] ?? Number.NaN) }))
      .filter(({ n }) => Number.isFinite(n))
      .toSorted((a, b) => b.n - a.n);
    return numbered[0] && join(dir, numbered[0].file);
  };
  const escaped = container.replaceAll('.', '\\.');
  const found =
    newest(join(root, `${namespace}_${pod}_${uid}`, container), /^(\d+)\.log$/) ??
    newest(join(root, uid), new RegExp(`^${escaped}\\.(\\d+)\\.log$`));
  if (found === undefined)
    throw new ShoalError('not_found', `no log of ${namespace}/${pod} container ${container} here`);
  return found;
}

/** What a file holds from a position, and then what is added to it. */
async function* follow(path: string, from: number, clock: Clock): AsyncGenerator<Buffer> {
  let position = from;
  for (;;) {
    for await (const chunk of createReadStream(path, {
      start: position,
    }) as AsyncIterable<Buffer>) {
      position += chunk.length;
      yield chunk;
    }
    await clock.sleep(FOLLOW_MS);
  }
}

/** Where the last lines of a file begin, looking at its last MiB only. */
async function tailStart(path: string, lines: number): Promise<number> {
  const file = openSync(path, 'r');
  const { size } = fstatSync(file);
  closeSync(file);
  const start = Math.max(0, size - MAX_TAIL_BYTES);
  const parts: Buffer[] = [];
  for await (const chunk of createReadStream(path, { start }) as AsyncIterable<Buffer>)
    parts.push(chunk);
  const text = Buffer.concat(parts);
  let at = text.length - 1;
  for (let left = lines; left > 0 && at >= 0; left--) at = text.lastIndexOf(0x0a, at - 1);
  return start + at + 1;
}

/**
 * What operators ask a node over its own connection to the cloud: metrics and logs of its workers.
 * It listens nowhere: connections come out of the link.
 */
export function operatorApi(options: OperatorApiOptions): FastifyInstance {
  const { link, metrics, clock, podLogDir } = options;
  const server = fastify();
  server.get('/healthz', () => ({ status: 'ok', connected: link.connected }));
  server.get('/metrics', async (_request, reply) => {
    const { type, body } = await metrics.text();
    return await reply.type(type).send(body);
  });
  server.get<{ Params: LogPath; Querystring: { tail?: string; follow?: string } }>(
    '/shoal/logs/:namespace/:pod/:uid/:container',
    async (request, reply) => {
      const { params, query } = request;
      if (!Object.values(params).every((part) => NAME.test(part)))
        return await reply.code(400).send('not a pod');
      try {
        const path = logFile(podLogDir, params);
        const tail = Number(query.tail ?? Number.NaN);
        const from = Number.isInteger(tail) && tail >= 0 ? await tailStart(path, tail) : 0;
        void reply.type('text/plain');
        return await reply.send(
          query.follow === 'true'
            ? Readable.from(follow(path, from, clock))
            : createReadStream(path, { start: from }),
        );
      } catch (error) {
        return await reply.code(404).send(String(error instanceof Error ? error.message : error));
      }
    },
  );
  return server;
}
