import {
  backoffMs,
  type Clock,
  type Random,
  ShoalError,
  seededRandom,
  systemClock,
} from '@shoal/core';
import { fromS3, type S3Environment, s3Client } from './remote-source.ts';

const ATTEMPTS = 6;
const BACKOFF = { baseMs: 500, capMs: 30_000 };

/**
 * Writes a file to `s3://bucket/key`, again with jitter while S3 is away.
 *
 * @throws ShoalError `permission_denied`, `not_found` (no such bucket), `unavailable`.
 */
export async function uploadToS3(
  file: string,
  url: string,
  options: { readonly env: S3Environment; readonly clock?: Clock; readonly random?: Random },
): Promise<void> {
  const { env, clock = systemClock, random = seededRandom(Date.now()) } = options;
  const to = new URL(url);
  if (to.protocol !== 's3:')
    throw new ShoalError('unsupported', `${to.protocol}// cannot be written to; use s3://`);
  const client = await s3Client(env, url);
  for (let attempt = 0; ; attempt++) {
    try {
      await client.fPutObject(to.hostname, decodeURIComponent(to.pathname.slice(1)), file);
      return;
    } catch (error) {
      const failure = fromS3(error, `writing ${url}`);
      if (failure.retry !== 'backoff' || attempt + 1 >= ATTEMPTS) throw failure;
      await clock.sleep(backoffMs(attempt, BACKOFF, random));
    }
  }
}
