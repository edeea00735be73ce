import { existsSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import type { KeyPair } from '@shoal/core';
import { refuseUpgrade } from '../server/refuse-upgrade.ts';
import { StatusError } from '../server/status-error.ts';
import { followLog, type LogQuery, readLog } from './container-log.ts';
import type { PodRunner } from './pod-runner.ts';
import type { Upgrade } from './streams/upgrade.ts';
import { proportionalBytes, type UsageMeter } from './usage.ts';

export interface AgentServerOptions {
  readonly tls: KeyPair;
  readonly authority: string;
  readonly find: (uid: string) => PodRunner | undefined;
  readonly pods: () => Iterable<PodRunner>;
  readonly meter: UsageMeter;
}

/** A reader further behind than this is let go. */
const MAX_BEHIND_BYTES = 16 * 1024 * 1024;

function readQuery(query: URLSearchParams): LogQuery {
  const number = (name: string): number | undefined => {
    const value = query.get(name);
    return value === null ? undefined : Number(value);
  };
  const tail = number('tailLines');
  const since = number('sinceSeconds');
  const limit = number('limitBytes');
  return {
    timestamps: query.get('timestamps') === 'true',
    ...(tail === undefined ? {} : { tailLines: tail }),
    ...(since === undefined ? {} : { sinceMs: Date.now() - since * 1000 }),
    ...(limit === undefined ? {} : { limitBytes: limit }),
  };
}

function fail(response: ServerResponse, code: number, message: string): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const reason = code === 404 ? 'NotFound' : 'BadRequest';
  response.writeHead(code, { 'Content-Type': 'application/json' });
  response.end(
    JSON.stringify({
      kind: 'Status',
      apiVersion: 'v1',
      metadata: {},
      status: 'Failure',
      message,
      reason,
      code,
    }),
  );
}

/** Only the API server may ask: its certificate says who it is. */
function isApiServer(request: IncomingMessage): boolean {
  const { socket } = request;
  return (
    socket instanceof TLSSocket && socket.getPeerCertificate().subject?.CN === 'kube-apiserver'
  );
}

async function serve(
  request: IncomingMessage,
  response: ServerResponse,
  options: AgentServerOptions,
): Promise<void> {
  if (!isApiServer(request)) return fail(response, 403, 'only the API server may read logs here');
  const url = new URL(request.url ?? '/', 'https://agent');
  if (url.pathname === '/stats') return await serveStats(response, options);
  const uid = /^\/logs\/([\w-]+)$/.exec(url.pathname)?.[1] ?? '';
  const runner = options.find(uid);
  const container = url.searchParams.get('container') ?? '';
  const previous = url.searchParams.get('previous') === 'true';
  const log = runner?.logOf(container, previous);
  if (!runner) return fail(response, 404, `pod ${uid} is not on this node`);
  if (!log && previous)
    return fail(
      response,
      400,
      `previous terminated container "${container}" in pod "${runner.pod.metadata.name}" not found`,
    );
  if (!log)
    return fail(
      response,
      400,
      `container ${container} is not valid for pod ${runner.pod.metadata.name}`,
    );
  if (!existsSync(log.path))
    return fail(
      response,
      400,
      `container "${container}" in pod "${runner.pod.metadata.name}" is waiting to start: ContainerCreating`,
    );
  const query = readQuery(url.searchParams);
  response.writeHead(200, { 'Content-Type': 'text/plain' });
  response.write(readLog(log.path, query));
  if (url.searchParams.get('follow') === 'true') {
    const closed = new AbortController();
    response.on('close', () => closed.abort());
    await followLog(log.path, {
      query,
      isRunning: log.running,
      signal: closed.signal,
      onText: (text) => {
        response.write(text);
        if (response.writableLength > MAX_BEHIND_BYTES) closed.abort();
      },
    });
  }
  response.end();
}

/** What the containers of this node use. */
async function serveStats(response: ServerResponse, options: AgentServerOptions): Promise<void> {
  const { windowMs, bySession } = await options.meter.measure();
  const containers = [...options.pods()].flatMap((pod) =>
    pod.running().flatMap(({ name, pid }) => {
      const rate = bySession.get(pid);
      if (!rate) return [];
      const memoryBytes = proportionalBytes(rate.usage);
      return [{ uid: pod.pod.metadata.uid, container: name, cores: rate.cores, memoryBytes }];
    }),
  );
  response.writeHead(200, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify({ windowMs, containers }));
}

/** Serves exec, attach and port-forward. */
async function serveUpgrade(upgrade: Upgrade, options: AgentServerOptions): Promise<void> {
  const { request } = upgrade;
  if (!isApiServer(request)) throw new StatusError('Forbidden', 'only the API server may ask here');
  const url = new URL(request.url ?? '/', 'https://agent');
  const path = /^\/(exec|attach|portForward)\/([\w-]+)$/.exec(url.pathname);
  const [, verb = '', uid = ''] = path ?? [];
  const pod = options.find(uid);
  if (!pod) throw new StatusError('NotFound', `pod ${uid} is not on this node`);
  if (pod.ended) {
    const message = `cannot ${verb} into a container in a completed pod; current phase is ${pod.phase}`;
    throw new StatusError('BadRequest', message);
  }
  const query = url.searchParams;
  // Loaded on first use: most agents are never asked for streams.
  const { servePortForward } = await import('./streams/port-forward.ts');
  const { serveAttach, serveExec } = await import('./streams/exec.ts');
  if (verb === 'portForward') return await servePortForward(upgrade, pod.address, query);
  const name = query.get('container') ?? '';
  const runner = pod.container(name);
  if (!runner?.running) {
    const message = `unable to upgrade connection: container not found ("${name}"): it is not running in pod "${pod.pod.metadata.name}"`;
    throw new StatusError('BadRequest', message);
  }
  await (verb === 'exec' ? serveExec : serveAttach)(upgrade, runner, query);
}

/**
 * Serves container logs, exec, attach and port-forward to the API server, which must show the
 * cluster's own certificate.
 */
export function createAgentServer(options: AgentServerOptions): {
  readonly server: Server;
  readonly close: () => void;
} {
  const server = createServer(
    {
      key: options.tls.privateKey,
      cert: options.tls.certificate,
      ca: options.authority,
      requestCert: true,
      rejectUnauthorized: true,
    },
    (request, response) => {
      serve(request, response, options).catch((error: unknown) =>
        fail(response, 400, String(error)),
      );
    },
  );
  const sockets = new Set<Duplex>();
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    const upgrade = { request, socket, head };
    serveUpgrade(upgrade, options).catch((error: unknown) => refuseUpgrade(socket, error));
  });
  return {
    server,
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.closeAllConnections();
      server.close();
    },
  };
}
