import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Duplex } from 'node:stream';
import type { KeyPair, Logger } from '@shoal/core';
import { type Access, parsePath, type ResourcePath } from './access.ts';
import { createAutoscaler } from './autoscaling-v1.ts';
import { aggregatedDiscovery, groupList, oneGroup, resourceList } from './discovery.ts';
import { type Exchange, refuse, sendFailure, sendJson } from './exchange.ts';
import type { LogProxy } from './log-proxy.ts';
import type { Metrics } from './metrics.ts';
import type { OpenApi } from './openapi.ts';
import { refuseUpgrade } from './refuse-upgrade.ts';
import { ResourceHandler } from './resource-handler.ts';
import type { ResourceRegistry } from './resource-registry.ts';
import { answerReview } from './reviews.ts';
import type { ServiceAccountTokens } from './service-account-tokens.ts';
import { StatusError } from './status-error.ts';
import { isStream, type StreamProxy, type UpgradeRequest } from './stream-proxy.ts';
import type { Verbs, WriteGuard } from './verbs.ts';

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
  readonly access: Access;
  readonly accounts: ServiceAccountTokens;
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
        connectionsCheckingInterval: 1_000,
      },
      (request, response) => void this.#serve(request, response),
    );
    this.server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) =>
      this.#upgrade({ request, socket, head }),
    );
    this.server.requestTimeout = 60_000;
    this.server.headersTimeout = 5_000;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { path, query } = splitUrl(request.url ?? '/');
    const method = request.method ?? 'GET';
    const exchange: Exchange = { request, response, method, path, query };
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
      const { access } = this.#options;
      const user = access.identify(request);
      const { path: pathname, query } = splitUrl(request.url ?? '/');
      const path = parsePath(pathname);
      const method = request.method ?? 'GET';
      if (!path || !isPod(path) || !isStream(path.subresource))
        return refuse('BadRequest', `${pathname} cannot be upgraded`);
      if (method !== 'GET' && method !== 'POST')
        return refuse('MethodNotAllowed', `${method} is not supported on ${pathname}`);
      const { namespace = '', name = '', subresource = '' } = path;
      access.check(user, method, path, query);
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
    const { access } = this.#options;
    const user = access.identify(exchange.request);
    if (this.#meta(exchange) || (await answerReview(exchange, user, access))) return;
    const parsed = parsePath(path);
    if (!parsed) return refuse('NotFound', 'the server could not find the requested resource');
    access.check(user, exchange.method, parsed, exchange.query);
    await this.#resource(exchange, parsed, access.guard(user, parsed));
  }

  async #resource(exchange: Exchange, path: ResourcePath, guard: WriteGuard): Promise<void> {
    const { registry, verbs, metrics, accounts, logs } = this.#options;
    if (await createAutoscaler(exchange, registry, verbs)) return;
    if (await metrics.serve(exchange)) return;
    const { namespace = '', name, subresource, plural } = path;
    const resource = registry.find(path.group, path.version, plural);
    // What is cluster-wide has no place in a namespace: rights there would count for it.
    if (!resource || (path.namespace !== undefined && !resource.namespaced))
      return refuse('NotFound', 'the server could not find the requested resource');
    const core = path.group === '';
    if (core && plural === 'serviceaccounts' && subresource === 'token' && name !== undefined)
      return await accounts.issue(exchange, namespace, name);
    if (isPod(path) && subresource === 'log' && name !== undefined)
      return await logs.serve(exchange, namespace, name);
    if (isPod(path) && isStream(subresource)) refuse('BadRequest', 'Upgrade request required');
    await this.#resources.handle(exchange, { ...path, resource, guard });
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
}

/** A pod of the core group: kinds of other groups may have the same name. */
function isPod({ group, version, plural, name }: ResourcePath): boolean {
  return group === '' && version === 'v1' && plural === 'pods' && Boolean(name);
}

/** Path and query of a request line; by hand, since not every request line is a URL. */
function splitUrl(url: string): { path: string; query: URLSearchParams } {
  const mark = url.indexOf('?');
  const path = mark < 0 ? url : url.slice(0, mark);
  return { path, query: new URLSearchParams(mark < 0 ? '' : url.slice(mark + 1)) };
}

function sendText(exchange: Exchange, text: string, type = 'text/plain; charset=utf-8'): void {
  exchange.response.writeHead(200, {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(text),
  });
  exchange.response.end(text);
}
