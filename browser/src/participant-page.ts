import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fromNode, type KeyPair, type Logger, silentLogger } from '@shoal/core';
import type { AggregationServer } from '@shoal/lib';
import { WebSocketServer } from 'ws';
import { bundlePage } from './bundle.ts';
import type { FederationInfo } from './federation-info.ts';
import { WebSocketCall } from './web-socket-call.ts';

export interface ParticipantPageOptions extends FederationInfo {
  /** The federation participants of the page join. */
  readonly aggregation: Pick<AggregationServer, 'attach'>;
  /** The ONNX file every participant starts from. */
  readonly model: Uint8Array;
  readonly host?: string;
  /** Default 0: any free port. */
  readonly port?: number;
  /** Certificate of the page; without it the page is not encrypted. */
  readonly tls?: KeyPair;
  readonly logger?: Logger;
}

const MAX_FRAME_BYTES = 8 * 1024 * 1024;
const ORT_FILES = ['ort-wasm-simd-threaded.wasm', 'ort-wasm-simd-threaded.mjs'];

const HEADERS = {
  'content-security-policy':
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self' ws: wss:; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
} as const;

interface Content {
  readonly type: string;
  readonly body: string | Uint8Array;
}

/**
 * Serves a page in which anybody can take part in a federation with samples of their own: the samples stay
 * in the browser. Who may is decided by the federation's token, which stands behind `#token=` in the
 * address, so that it reaches neither logs nor other servers.
 */
export class ParticipantPage {
  readonly #options: ParticipantPageOptions;
  readonly #http: Server;
  readonly #sockets: WebSocketServer;
  readonly #contents = new Map<string, Content>();

  constructor(options: ParticipantPageOptions) {
    this.#options = options;
    const { tls, aggregation, logger = silentLogger } = options;
    const answer = (q: IncomingMessage, s: ServerResponse): void => this.#answer(q, s);
    this.#http = tls
      ? createTlsServer({ cert: tls.certificate, key: tls.privateKey }, answer)
      : createServer(answer);
    this.#sockets = new WebSocketServer({
      server: this.#http,
      path: '/participate',
      maxPayload: MAX_FRAME_BYTES,
      // Pages of other sites must not take part in somebody's name; what is no page says no origin.
      verifyClient: ({ origin, req }: { origin: string | undefined; req: IncomingMessage }) =>
        origin === undefined || URL.parse(origin)?.host === req.headers.host,
    });
    this.#sockets.on('connection', (socket) => aggregation.attach(new WebSocketCall(socket)));
    this.#sockets.on('error', (error) => logger.warn('page socket', { reason: error.message }));
  }

  /** Builds the page and starts listening; resolves with its address. @throws ShoalError when the port is taken. */
  async start(): Promise<string> {
    const { job, inputShape, local, model, host = '127.0.0.1', port = 0, tls } = this.#options;
    const file = (name: string): string =>
      readFileSync(join(import.meta.dirname, 'page', name), 'utf8');
    const info: FederationInfo = { job, inputShape, local };
    const script = 'text/javascript; charset=utf-8';
    const add = (path: string, type: string, body: string | Uint8Array): unknown =>
      this.#contents.set(path, { type, body });
    add('/', 'text/html; charset=utf-8', file('index.html'));
    add('/page.css', 'text/css; charset=utf-8', file('page.css'));
    add('/page.js', script, await bundlePage());
    add('/federation.json', 'application/json', JSON.stringify(info));
    add('/model.onnx', 'application/octet-stream', model);
    const runtime = dirname(createRequire(import.meta.url).resolve('onnxruntime-web/wasm'));
    for (const name of ORT_FILES)
      add(
        `/ort/${name}`,
        name.endsWith('.wasm') ? 'application/wasm' : script,
        readFileSync(join(runtime, name)),
      );
    return await new Promise((resolve, reject) => {
      this.#http.once('error', (error) =>
        reject(fromNode(error, `the page cannot listen on ${host}:${port}`)),
      );
      this.#http.listen(port, host, () => {
        const address = this.#http.address();
        const bound = typeof address === 'object' && address ? address.port : port;
        resolve(`${tls ? 'https' : 'http'}://${host}:${bound}/`);
      });
    });
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
    const found = request.method === 'GET' ? this.#contents.get(path) : undefined;
    if (!found) {
      response.writeHead(404, HEADERS).end('there is no such page; begin at /\n');
      return;
    }
    response.writeHead(200, { ...HEADERS, 'content-type': found.type }).end(found.body);
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets.clients) socket.terminate();
    this.#http.closeAllConnections();
    await new Promise((resolve) => this.#http.close(resolve));
  }
}
