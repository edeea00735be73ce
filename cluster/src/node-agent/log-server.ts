import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import { TLSSocket } from 'node:tls';
import type { KeyPair } from '@shoal/core';
import { followLog, type LogQuery, readLog } from './container-log.ts';
import type { PodRunner } from './pod-runner.ts';

export interface LogServerOptions {
  readonly tls: KeyPair;
  readonly authority: string;
  readonly find: (uid: string) => PodRunner | undefined;
}

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

async function serve(
  request: IncomingMessage,
  response: ServerResponse,
  options: LogServerOptions,
): Promise<void> {
  const peer =
    request.socket instanceof TLSSocket ? request.socket.getPeerCertificate() : undefined;
  if (peer?.subject?.CN !== 'kube-apiserver')
    return fail(response, 403, 'only the API server may read logs here');
  const url = new URL(request.url ?? '/', 'https://agent');
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
      onText: (text) => response.write(text),
    });
  }
  response.end();
}

/** Serves container logs to the API server, which must show the cluster's own certificate. */
export function createLogServer(options: LogServerOptions): Server {
  return createServer(
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
}
