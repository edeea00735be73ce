import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { Readable } from 'node:stream';
import { ShoalError } from './errors.ts';

/** Remote content from some byte on. */
export interface RemoteContent {
  readonly stream: Readable;
  /** Byte the stream begins at: the one asked for, or 0 when the source begins anew. */
  readonly offset: number;
  /** Bytes of the whole content; undefined when the source does not say. */
  readonly size: number | undefined;
  /** Changes with the content. */
  readonly version: string;
  /** `md5:…` or `sha256:…` of the whole content, where the source says. */
  readonly digest: string | undefined;
}

/** Something that can be fetched by ranges. */
export interface RemoteSource {
  /** For messages: the address without query, keys or fragment. */
  readonly name: string;
  /**
   * @param version What an earlier part came from; the source begins at 0 when it has changed.
   * @throws ShoalError `not_found`, `permission_denied`, `unavailable`.
   */
  open(offset: number, version: string | undefined): Promise<RemoteContent>;
}

const TIMEOUT_MS = 30_000;

/** `#sha256=<hex>` at the end of an address: what the content must be. */
export function pinnedDigest(url: URL): string | undefined {
  const hex = /^#sha256=([0-9a-f]{64})$/i.exec(url.hash)?.[1];
  return hex && `sha256:${hex.toLowerCase()}`;
}

function httpError(name: string, status: number): ShoalError {
  const code =
    status === 404 || status === 410
      ? 'not_found'
      : status === 401 || status === 403
        ? 'permission_denied'
        : 'unavailable';
  return new ShoalError(code, `${name} answers HTTP ${status}`);
}

/** Size of the content as an answer to a range beyond its end tells it. */
function totalOf({ headers }: IncomingMessage): number {
  return Number(/\*\/(\d+)$/.exec(headers['content-range'] ?? '')?.[1] ?? Number.NaN);
}

const MAX_REDIRECTS = 5;

/** One GET; the answer's body is not read yet. Follows redirects, also to other hosts. */
async function get(
  url: URL,
  headers: Readonly<Record<string, string>>,
  name: string,
): Promise<IncomingMessage> {
  let at = url;
  for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const request = (at.protocol === 'https:' ? httpsRequest : httpRequest)(at, { headers });
      request.setTimeout(TIMEOUT_MS, () =>
        request.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)),
      );
      request.once('response', resolve);
      request.once('error', (error) =>
        reject(new ShoalError('unavailable', `${name} cannot be reached`, { cause: error })),
      );
      request.end();
    });
    const { statusCode = 0, headers: said } = response;
    if (statusCode < 300 || statusCode >= 400 || statusCode === 304 || !said.location)
      return response;
    discard({ stream: response });
    at = new URL(said.location, at);
    if (at.protocol !== 'http:' && at.protocol !== 'https:') break;
  }
  throw new ShoalError('unavailable', `${name} redirects too often, or to what is no http address`);
}

/**
 * Content behind http(s), by ranges where the server knows them.
 *
 * @param name How messages call it; default the address without its query.
 */
export function httpSource(url: URL, name: string = `${url.origin}${url.pathname}`): RemoteSource {
  return {
    name,
    async open(offset, version) {
      const headers: Record<string, string> =
        offset > 0 && version ? { Range: `bytes=${offset}-`, 'If-Range': version } : {};
      const response = await get(url, headers, name);
      const { statusCode = 0, headers: said } = response;
      if (statusCode === 416 && offset > 0) {
        discard({ stream: response });
        // Everything was here already, or it is something else by now.
        if (totalOf(response) !== offset) return await this.open(0, undefined);
        const rest = { stream: Readable.from([]), offset, size: offset };
        return { ...rest, version: version ?? '', digest: pinnedDigest(url) };
      }
      if (statusCode < 200 || statusCode >= 300) {
        discard({ stream: response });
        throw httpError(name, statusCode);
      }
      const isPart = statusCode === 206;
      const length = Number(said['content-length'] ?? Number.NaN);
      return {
        stream: response,
        offset: isPart ? offset : 0,
        size: Number.isFinite(length) ? length + (isPart ? offset : 0) : undefined,
        version: said.etag ?? said['last-modified'] ?? '',
        digest: pinnedDigest(url),
      };
    },
  };
}

/** Gives content up that was opened; what its connection says afterwards matters to nobody. */
export function discard(content: Pick<RemoteContent, 'stream'>): void {
  content.stream.on('error', () => undefined);
  content.stream.destroy();
}
