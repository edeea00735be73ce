import type { IncomingMessage, ServerResponse } from 'node:http';
import { isJsonObject } from '@shoal/core';
import { decodeProtobuf, isProtobuf } from './protobuf-body.ts';
import { StatusError, type StatusReason } from './status-error.ts';

/** Largest request body, as etcd's limit makes it on a real cluster. */
const MAX_BODY_BYTES = 1.5 * 1024 * 1024;
/** CustomResourceDefinitions with several pod templates are larger than ordinary objects. */
const MAX_DEFINITION_BYTES = 6 * 1024 * 1024;

/** One HTTP request and its answer. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
}

function contentLength(request: IncomingMessage): number {
  return Number(request.headers['content-length'] ?? 0);
}

/** Reads a body, refusing it before it is in memory when it is too large. */
export async function readBody(exchange: Exchange): Promise<Buffer> {
  const { request, path } = exchange;
  const limit = path.includes('/customresourcedefinitions') ? MAX_DEFINITION_BYTES : MAX_BODY_BYTES;
  const tooLarge = (): StatusError =>
    new StatusError('RequestEntityTooLarge', `Request entity too large: limit is ${limit}`);
  if (contentLength(request) > limit) throw tooLarge();
  // Not `for await`: leaving such a loop closes the socket, and the refusal would never arrive.
  return await new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    request.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= limit) chunks.push(chunk);
      else reject(tooLarge());
    });
    request.on('end', () => resolve(Buffer.concat(chunks)));
    request.on('error', reject);
  });
}

const JSON_TYPES = new Set([
  '',
  'application/json',
  'application/vnd.kubernetes.protobuf',
  'application/json-patch+json',
  'application/merge-patch+json',
  'application/strategic-merge-patch+json',
]);
const YAML_TYPES = new Set(['application/yaml', 'application/apply-patch+yaml']);

/** Reads the body of a request, JSON, YAML or protobuf; an empty one is undefined. */
export async function readJson(exchange: Exchange): Promise<unknown> {
  const type = (exchange.request.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '';
  const body = await readBody(exchange);
  if (body.length === 0) return undefined;
  if (isProtobuf(body)) return decodeProtobuf(body);
  const text = body.toString('utf8');
  const yaml = YAML_TYPES.has(type);
  if (!yaml && !JSON_TYPES.has(type)) {
    throw new StatusError(
      'UnsupportedMediaType',
      'the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf',
    );
  }
  try {
    return yaml && !text.startsWith('{') ? await readYaml(text) : (JSON.parse(text) as unknown);
  } catch (error) {
    throw new StatusError(
      'BadRequest',
      `the body is not valid ${yaml ? 'YAML' : 'JSON'}: ${error instanceof Error ? error.message : error}`,
    );
  }
}

async function readYaml(text: string): Promise<unknown> {
  const { parse } = await import('yaml');
  return parse(text, { maxAliasCount: 0 }) as unknown;
}

export interface Reply {
  readonly code?: number;
  readonly contentType?: string;
  readonly warnings?: readonly string[];
  readonly headers?: Readonly<Record<string, string>>;
}

/** Sends a JSON value (or ready JSON text). */
export function sendJson(exchange: Exchange, body: unknown, reply: Reply = {}): void {
  const { response } = exchange;
  if (response.headersSent) return;
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const warnings = (reply.warnings ?? []).map((w) => {
    // Headers are Latin-1 at best.
    const plain = w.replace(/[^\x20-\x7e]/g, '?');
    return `299 - "${plain.replace(/[\\"]/g, '\\$&')}"`;
  });
  response.writeHead(reply.code ?? 200, {
    'Content-Type': reply.contentType ?? 'application/json',
    'Cache-Control': 'no-cache, private',
    'Content-Length': Buffer.byteLength(text),
    ...reply.headers,
    ...(warnings.length > 0 ? { Warning: warnings } : {}),
  });
  response.end(text);
}

/** Sends any failure as a Kubernetes Status. */
export function sendFailure(exchange: Exchange, error: unknown): void {
  const failure =
    error instanceof StatusError
      ? error
      : new StatusError('InternalError', error instanceof Error ? error.message : String(error));
  const seconds = failure.status.details?.retryAfterSeconds;
  const headers: Record<string, string> = seconds ? { 'Retry-After': String(seconds) } : {};
  sendJson(exchange, failure.status, { code: failure.code, headers });
}

export function refuse(reason: StatusReason, message: string): never {
  throw new StatusError(reason, message);
}

function readGrace(grace: unknown): { gracePeriodSeconds?: number } {
  if (grace === undefined || grace === null) return {};
  const seconds = Number(grace);
  if (!Number.isInteger(seconds) || seconds < 0)
    refuse('Invalid', 'gracePeriodSeconds: Invalid value: must be a whole number from 0');
  return { gracePeriodSeconds: seconds };
}

/** Options that DELETE carries in its body or its query. */
export function readDeleteOptions(
  body: unknown,
  query: URLSearchParams,
): {
  dryRun: boolean;
  gracePeriodSeconds?: number;
  propagationPolicy?: 'Background' | 'Foreground' | 'Orphan';
  preconditions?: { uid?: string; resourceVersion?: string };
} {
  const given = isJsonObject(body) ? body : {};
  const grace = given['gracePeriodSeconds'] ?? query.get('gracePeriodSeconds') ?? undefined;
  const policy = given['propagationPolicy'] ?? query.get('propagationPolicy') ?? undefined;
  const dry = given['dryRun'] ?? query.getAll('dryRun');
  if (
    policy !== undefined &&
    policy !== 'Background' &&
    policy !== 'Foreground' &&
    policy !== 'Orphan'
  ) {
    refuse('Invalid', `propagationPolicy: Unsupported value: ${JSON.stringify(policy)}`);
  }
  return {
    dryRun: Array.isArray(dry) && dry.includes('All'),
    ...readGrace(grace),
    ...(policy === undefined ? {} : { propagationPolicy: policy }),
    ...(isJsonObject(given['preconditions']) ? { preconditions: given['preconditions'] } : {}),
  };
}
