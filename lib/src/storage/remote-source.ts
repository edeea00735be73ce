import { Readable } from 'node:stream';
import { fromNode, httpSource, pinnedDigest, type RemoteSource, ShoalError } from '@shoal/core';
import type { Client } from 'minio';

/** Where S3 is and with which keys; as the contract's variables give it. */
export interface S3Environment {
  readonly S3_ENDPOINT_URL: string;
  readonly ACCESS_KEY_ID: string;
  readonly SECRET_ACCESS_KEY: string;
}

/**
 * The S3 library is loaded here: most processes never talk to S3 and should not wait for it.
 *
 * @throws ShoalError `invalid_argument` when no endpoint is known.
 */
export async function s3Client(env: S3Environment, what: string): Promise<Client> {
  if (env.S3_ENDPOINT_URL === '')
    throw new ShoalError(
      'invalid_argument',
      `${what} needs a Secret with the annotation s3-endpoint; set credentialName`,
    );
  const endpoint = new URL(env.S3_ENDPOINT_URL);
  const minio = await import('minio');
  return new minio.Client({
    endPoint: endpoint.hostname,
    useSSL: endpoint.protocol === 'https:',
    accessKey: env.ACCESS_KEY_ID,
    secretKey: env.SECRET_ACCESS_KEY,
    ...(endpoint.port ? { port: Number(endpoint.port) } : {}),
  });
}

/** Our error for one of the S3 client. */
export function fromS3(error: unknown, what: string): ShoalError {
  const { code = '' } = error as { code?: string };
  if (/NoSuchKey|NoSuchBucket|NotFound/.test(code))
    return new ShoalError('not_found', `${what}: Not Found`, { cause: error });
  if (/AccessDenied|InvalidAccessKey|SignatureDoesNotMatch|Forbidden/.test(code))
    return new ShoalError('permission_denied', `${what}: ${code}`, { cause: error });
  if (/^S3|^[A-Z][a-z]+[A-Z]/.test(code))
    return new ShoalError('unavailable', `${what}: ${code}`, { cause: error });
  const known = fromNode(error, what);
  return known.code === 'internal'
    ? new ShoalError('unavailable', known.message, { cause: error })
    : known;
}

/** An object of S3. */
export function s3Source(url: URL, env: S3Environment): RemoteSource {
  const name = `s3://${url.host}${url.pathname}`;
  const key = decodeURIComponent(url.pathname.slice(1));
  return {
    name,
    async open(offset, version) {
      const client = await s3Client(env, name);
      try {
        const { size, etag } = await client.statObject(url.hostname, key);
        const from = version === etag && offset <= size ? offset : 0;
        const stream =
          from === size && size > 0
            ? Readable.from([])
            : await client.getPartialObject(url.hostname, key, from);
        // The ETag of an object that was written in one piece is its MD5.
        const digest =
          pinnedDigest(url) ?? (/^[0-9a-f]{32}$/.test(etag) ? `md5:${etag}` : undefined);
        return { stream, offset: from, size, version: etag, digest };
      } catch (error) {
        throw fromS3(error, name);
      }
    },
  };
}

/** A content-addressed file of this node's local controller: `blob:sha256:…`. */
export function blobSource(url: string, server: string): RemoteSource {
  const digest = url.slice('blob:'.length);
  if (!/^sha256:[0-9a-f]{64}$/.test(digest))
    throw new ShoalError(
      'invalid_argument',
      `"${url}" is no blob; expected blob:sha256:<64 hex digits>, as shoal model push prints it`,
    );
  if (server === '')
    throw new ShoalError('failed_precondition', `${url} needs a local controller (LC_SERVER)`);
  const source = httpSource(new URL(`${server}/shoal/blobs/${digest}`), url);
  return {
    name: url,
    open: async () => ({ ...(await source.open(0, undefined)), digest }),
  };
}

/** The source of an address. @throws ShoalError `unsupported` naming the schemes there are. */
export function remoteSource(
  url: string,
  env: S3Environment & { readonly LC_SERVER: string },
): RemoteSource {
  if (url.startsWith('blob:')) return blobSource(url, env.LC_SERVER);
  if (!URL.canParse(url)) throw new ShoalError('invalid_argument', `"${url}" is no address`);
  const parsed = new URL(url);
  if (parsed.protocol === 's3:') return s3Source(parsed, env);
  if (parsed.protocol === 'http:' || parsed.protocol === 'https:') return httpSource(parsed);
  throw new ShoalError(
    'unsupported',
    `${parsed.protocol}// is not supported; use blob:, s3://, http:// or https://`,
  );
}
