import type { IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest, type RequestOptions } from 'node:https';
import { createInterface } from 'node:readline';
import { type ErrorCode, errnoOf, fromNode, ShoalError } from '@shoal/core';
import { type ApiObject, digString } from '../object.ts';

export interface ClientOptions {
  /** `https://host:port` */
  readonly server: string;
  /** PEM of the authority that signed the server's certificate. */
  readonly authority: string;
  readonly token?: string;
  readonly certificate?: string;
  readonly privateKey?: string;
}

export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR';
  readonly object: ApiObject;
}

const CODES: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_argument',
  401: 'unauthenticated',
  403: 'permission_denied',
  404: 'not_found',
  409: 'conflict',
  410: 'out_of_range',
  413: 'invalid_argument',
  415: 'unsupported',
  422: 'invalid_argument',
  429: 'unavailable',
  503: 'unavailable',
};

/** A small Kubernetes client: plain JSON over one pool of kept-alive connections. */
export class ApiClient {
  readonly #options: ClientOptions;
  readonly #agent: Agent;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#agent = new Agent({
      keepAlive: true,
      maxSockets: 32,
      ca: options.authority,
      ...(options.certificate ? { cert: options.certificate } : {}),
      ...(options.privateKey ? { key: options.privateKey } : {}),
    });
  }

  #open(
    method: string,
    path: string,
    options: {
      body?: string;
      contentType?: string;
      accept?: string;
      signal?: AbortSignal | undefined;
    },
  ): Promise<IncomingMessage> {
    const { token } = this.#options;
    const headers: Record<string, string> = { Accept: options.accept ?? 'application/json' };
    if (token !== undefined) headers['Authorization'] = `Bearer ${token}`;
    if (options.body !== undefined) {
      headers['Content-Type'] = options.contentType ?? 'application/json';
      headers['Content-Length'] = String(Buffer.byteLength(options.body));
    }
    const settings: RequestOptions = {
      method,
      agent: this.#agent,
      headers,
      ...(options.signal ? { signal: options.signal } : {}),
    };
    const attempt = (again: boolean): Promise<IncomingMessage> =>
      new Promise((resolve, reject) => {
        const request = httpsRequest(new URL(path, this.#options.server), settings, resolve);
        request.on('error', (error) => {
          // The server may have closed a kept-alive connection just as it was taken again.
          if (again && request.reusedSocket && errnoOf(error) === 'ECONNRESET')
            resolve(attempt(false));
          else reject(fromNode(error, `${method} ${path}`));
        });
        request.end(options.body);
      });
    return attempt(true);
  }

  /**
   * Sends one request and reads the JSON answer.
   *
   * @throws ShoalError with the code that fits the HTTP status; `unavailable` without a connection.
   */
  async request(
    method: string,
    path: string,
    body?: unknown,
    options: { contentType?: string; accept?: string; signal?: AbortSignal } = {},
  ): Promise<unknown> {
    const signal = options.signal ?? AbortSignal.timeout(30_000);
    const text = body === undefined ? undefined : JSON.stringify(body);
    const response = await this.#open(method, path, {
      ...options,
      signal,
      ...(text === undefined ? {} : { body: text }),
    });
    const answer = await readText(response);
    return parseAnswer(response.statusCode ?? 0, answer, `${method} ${path}`);
  }

  /** GET of a plain text resource, chunk by chunk (logs). */
  async stream(
    path: string,
    onChunk: (chunk: Buffer) => void,
    signal?: AbortSignal,
  ): Promise<void> {
    const response = await this.#open('GET', path, { accept: '*/*', signal });
    if ((response.statusCode ?? 0) >= 400)
      parseAnswer(response.statusCode ?? 0, await readText(response), `GET ${path}`);
    for await (const chunk of response as AsyncIterable<Buffer>) onChunk(chunk);
  }

  /**
   * Watches a collection from a revision; ends when the server ends it.
   *
   * @throws ShoalError `out_of_range` when the revision is too old: list again.
   */
  async watch(
    path: string,
    onEvent: (event: WatchEvent) => void,
    signal?: AbortSignal,
  ): Promise<void> {
    const response = await this.#open('GET', path, { signal });
    if (response.statusCode !== 200)
      parseAnswer(response.statusCode ?? 0, await readText(response), `watch ${path}`);
    try {
      for await (const line of createInterface({ input: response })) {
        if (line === '') continue;
        const event = JSON.parse(line) as WatchEvent;
        if (event.type === 'ERROR')
          throw new ShoalError('out_of_range', digString(event.object, 'message') ?? 'watch ended');
        onEvent(event);
      }
    } catch (error) {
      throw fromNode(error, `watch ${path}`);
    } finally {
      response.destroy();
    }
  }

  close(): void {
    this.#agent.destroy();
  }
}

async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

function parseAnswer(code: number, text: string, what: string): unknown {
  let body: unknown;
  try {
    body = text === '' ? {} : JSON.parse(text);
  } catch {
    body = { message: text };
  }
  if (code < 400) return body;
  const reason = digString(body, 'reason');
  const kind = reason === 'AlreadyExists' ? 'already_exists' : (CODES[code] ?? 'internal');
  throw new ShoalError(kind, digString(body, 'message') ?? `${what}: HTTP ${code}`, {
    details: { status: code, body },
  });
}
