import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Duplex } from 'node:stream';
import type { KeyPair, Logger } from '@shoal/core';
import { authenticate, type TokenTable } from './authenticate.ts';
import { createAutoscaler } from './autoscaling-v1.ts';
import { aggregatedDiscovery, groupList, oneGroup, resourceList } from './discovery.ts';
import { type Exchange, refuse, sendFailure, sendJson } from './exchange.ts';
import type { LogProxy } from './log-proxy.ts';
import type { Metrics } from './metrics.ts';
import type { OpenApi } from './openapi.ts';
import { refuseUpgrade } from './refuse-upgrade.ts';
import { ResourceHandler, type ResourceRequest } from './resource-handler.ts';
import type { ResourceRegistry } from './resource-registry.ts';
import { answerReview } from './reviews.ts';
import { StatusError } from './status-error.ts';
import { isStream, type StreamProxy, type UpgradeRequest } from './stream-proxy.ts';
import type { Verbs } from './verbs.ts';

/** The version whose client behaviour this server was built against. */
const VERSION = {
  major: '1',
  minor: '32',
  gitVersion: 'v1.32.4-shoal',
  gitCommit: '',
  gitTreeState: 'clean',
  buildDate: '1970-01-01T00:00:00Z',
  goVersion: '',
  compiler: '',
  platform: 'linux/amd64',
};

export interface HttpOptions {
  readonly verbs: Verbs;
  readonly registry: ResourceRegistry;
  readonly openApi: OpenApi;
  readonly logs: LogProxy;
  readonly streams: StreamProxy;
  readonly metrics: Metrics;
  readonly tls: KeyPair;
  readonly authority: string;
  readonly tokens: TokenTable;
  readonly logger: Logger;
  readonly isReady: () => boolean;
}

/** The API server's HTTPS front: authenticates, routes, and turns every failure into a Status. */
export class HttpFront {
  readonly server: Server;
  readonly #options: HttpOptions;
  readonly #resources: ResourceHandler;
  readonly #upgraded = new Set<Duplex>();

  constructor(options: HttpOptions) {
    this.#options = options;
    this.#resources = new ResourceHandler(options.verbs);
    this.server = createServer(
      {
        key: options.tls.privateKey,
        cert: options.tls.certificate,
        ca: options.authority,
        requestCert: true,
        rejectUnauthorized: false,
      },
      (request, response) => void this.#serve(request, response),
    );
    this.server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) =>
      this.#upgrade({ request, socket, head }),
    );
    this.server.requestTimeout = 60_000;
    this.server.headersTimeout = 10_000;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'https://server');
    const exchange: Exchange = {
      request,
      response,
      method: request.method ?? 'GET',
      path: url.pathname,
      query: url.searchParams,
    };
    try {
      await this.#route(exchange);
    } catch (error) {
      if (!(error instanceof StatusError)) {
        this.#options.logger.error('request failed', { path: exchange.path, error });
      }
      sendFailure(exchange, error);
    }
    request.resume();
  }

  /** exec, attach and port-forward; everything else has no business upgrading. */
  #upgrade(upgrade: UpgradeRequest): void {
    const { request, socket } = upgrade;
    this.#upgraded.add(socket);
    socket.on('close', () => this.#upgraded.delete(socket));
    socket.on('error', () => socket.destroy());
    try {
      const user = authenticate(request, this.#options.tokens);
      if (!user) refuse('Unauthorized', 'Unauthorized');
      const url = new URL(request.url ?? '/', 'https://server');
      const target = this.#parse(url.pathname);
      const { namespace = '', name, subresource = '' } = target ?? {};
      if (target?.resource.plural !== 'pods' || !name || !isStream(subresource))
        refuse('BadRequest', `${url.pathname} cannot be upgraded`);
      const query = url.searchParams;
      this.#options.streams.serve(upgrade, { namespace, name, subresource, query });
    } catch (error) {
      refuseUpgrade(socket, error);
    }
  }

  /** Ends every connection, upgraded ones too. */
  async close(): Promise<void> {
    for (const socket of this.#upgraded) socket.destroy();
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  async #route(exchange: Exchange): Promise<void> {
    const { path } = exchange;
    if (path === '/livez' || path === '/healthz') return sendText(exchange, 'ok');
    if (path === '/readyz') {
      return this.#options.isReady()
        ? sendText(exchange, 'ok')
        : refuse('ServiceUnavailable', 'not ready');
    }
    const user = authenticate(exchange.request, this.#options.tokens);
    if (!user) refuse('Unauthorized', 'Unauthorized');
    if (this.#meta(exchange) || (await answerReview(exchange, user))) return;
    const { registry, verbs } = this.#options;
    if (await createAutoscaler(exchange, registry, verbs)) return;
    if (await this.#options.metrics.serve(exchange)) return;
    const request = this.#parse(path);
    if (!request) refuse('NotFound', 'the server could not find the requested resource');
    if (request.subresource === 'log' && request.name) {
      return await this.#options.logs.serve(exchange, request.namespace ?? '', request.name);
    }
    if (request.resource.plural === 'pods' && isStream(request.subresource))
      refuse('BadRequest', 'Upgrade request required');
    await this.#resources.handle(exchange, request);
  }

  /** Discovery, OpenAPI, version. */
  #meta(exchange: Exchange): boolean {
    const { path } = exchange;
    const { registry, openApi } = this.#options;
    if (path === '/version') sendJson(exchange, VERSION);
    else if (path === '/openapi/v2')
      sendText(exchange, '', 'application/com.github.proto-openapi.spec.v2.v1.0+protobuf');
    else if (path === '/openapi/v3') sendJson(exchange, openApi.index());
    else if (path.startsWith('/openapi/v3/'))
      this.#openApiDocument(exchange, path.slice('/openapi/v3/'.length));
    else if (path === '/api' || path === '/apis') this.#discovery(exchange, path === '/api');
    else if (path === '/api/v1') sendJson(exchange, resourceList(registry, '', 'v1'));
    else return this.#groupMeta(exchange);
    return true;
  }

  #groupMeta(exchange: Exchange): boolean {
    const { registry } = this.#options;
    const match = /^\/apis\/([^/]+)(?:\/([^/]+))?$/.exec(exchange.path);
    if (!match) return false;
    const [, group = '', version] = match;
    const found =
      version === undefined ? oneGroup(registry, group) : resourceList(registry, group, version);
    if (found === undefined) refuse('NotFound', 'the server could not find the requested resource');
    sendJson(exchange, found);
    return true;
  }

  #openApiDocument(exchange: Exchange, path: string): void {
    const text = this.#options.openApi.document(path);
    if (text === undefined) refuse('NotFound', 'the server could not find the requested resource');
    const hash = exchange.query.get('hash');
    const headers = hash ? { ETag: `"${hash}"`, 'Cache-Control': 'public, immutable' } : {};
    sendJson(exchange, text, { headers });
  }

  #discovery(exchange: Exchange, core: boolean): void {
    const { registry } = this.#options;
    const accept = exchange.request.headers.accept ?? '';
    const version = accept.includes('v=v2;')
      ? 'v2'
      : accept.includes('v=v2beta1;')
        ? 'v2beta1'
        : undefined;
    if (version) {
      const contentType = `application/json;g=apidiscovery.k8s.io;v=${version};as=APIGroupDiscoveryList`;
      sendJson(exchange, aggregatedDiscovery(registry, core, version), { contentType });
    } else if (core) {
      sendJson(exchange, {
        kind: 'APIVersions',
        apiVersion: 'v1',
        versions: ['v1'],
        serverAddressByClientCIDRs: [],
      });
    } else {
      sendJson(exchange, groupList(registry));
    }
  }

  /** `/api/v1/namespaces/n/pods/p/log` and its kin. */
  #parse(path: string): ResourceRequest | undefined {
    const parts = path.split('/').slice(1).map(decodeURIComponent);
    const core = parts[0] === 'api';
    if (!core && parts[0] !== 'apis') return undefined;
    const [group = '', version = ''] = core ? ['', parts[1]] : [parts[1], parts[2]];
    const rest = parts.slice(core ? 2 : 3).filter((p) => p !== '');
    const scoped =
      rest[0] === 'namespaces' && rest.length > 2 && rest[2] !== 'status' && rest[2] !== 'finalize';
    const [plural = '', name, subresource] = scoped ? rest.slice(2) : rest;
    const resource = this.#options.registry.find(group, version, plural);
    if (!resource || rest.length > (scoped ? 5 : 3)) return undefined;
    return { resource, namespace: scoped ? rest[1] : undefined, name, subresource };
  }
}

function sendText(exchange: Exchange, text: string, type = 'text/plain; charset=utf-8'): void {
  exchange.response.writeHead(200, {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(text),
  });
  exchange.response.end(text);
}
