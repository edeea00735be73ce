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

/**
 * Content behind http(s), by ranges where the server knows them.
 *
 * @param name How messages call it; default the address without its query.
 */
export function httpSource(url: URL, name = `${url.origin}${url.pathname}`): RemoteSource {
  const plain = new URL(url);
  plain.hash = '';
  return {
    name,
    async open(offset, version) {
      const headers: Record<string, string> =
        offset > 0 && version ? { Range: `bytes=${offset}-`, 'If-Range': version } : {};
      const stop = new AbortController();
      const timer = setTimeout(() => stop.abort(), TIMEOUT_MS);
      const response = await fetch(plain, { headers, signal: stop.signal })
        .catch((error: unknown) => {
          throw new ShoalError('unavailable', `${name} cannot be reached`, { cause: error });
        })
        .finally(() => clearTimeout(timer));
      if (!response.ok || !response.body) throw httpError(name, response.status);
      const isPart = response.status === 206;
      const length = Number(response.headers.get('content-length') ?? Number.NaN);
      const encoded = response.headers.get('content-encoding') !== null;
      return {
        stream: Readable.fromWeb(response.body),
        offset: isPart ? offset : 0,
        size: Number.isFinite(length) && !encoded ? length + (isPart ? offset : 0) : undefined,
        version: response.headers.get('etag') ?? response.headers.get('last-modified') ?? '',
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
