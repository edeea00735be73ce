import { createHash } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { backoffMs } from './backoff.ts';
import { type Clock, systemClock } from './clock.ts';
import { fromNode, isShoalError, ShoalError } from './errors.ts';
import { type Random, seededRandom } from './random.ts';
import { discard, type RemoteContent, type RemoteSource } from './remote-source.ts';

export interface DownloadOptions {
  /** Largest content taken, in bytes. Default 16 GiB. */
  readonly maxBytes?: number;
  /** Attempts without progress before it is given up. Default 5. */
  readonly attempts?: number;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly signal?: AbortSignal;
}

const MAX_BYTES = 16 * 1024 ** 3;
/** Bytes of the disk that are left for others. */
const RESERVE_BYTES = 64 * 1024 * 1024;
const BACKOFF = { baseMs: 200, capMs: 5_000 };

interface Part {
  readonly version: string;
}

function sizeOf(path: string): number {
  return existsSync(path) ? statSync(path).size : 0;
}

/** Refuses content that is too large or does not fit the disk, before anything is written. */
function expectRoom(
  content: RemoteContent,
  at: { readonly folder: string; readonly name: string; readonly maxBytes: number },
): void {
  const { size = 0, offset } = content;
  if (size > at.maxBytes)
    throw new ShoalError(
      'resource_exhausted',
      `${at.name} has ${size} bytes, at most ${at.maxBytes} are fetched`,
      { retry: 'terminal' },
    );
  const { bavail, bsize } = statfsSync(at.folder);
  const free = bavail * bsize - RESERVE_BYTES;
  if (size - offset > free)
    throw new ShoalError(
      'resource_exhausted',
      `${at.name} needs ${size - offset} bytes, ${at.folder} has ${Math.max(0, free)} free`,
      { retry: 'terminal' },
    );
}

/**
 * Writes a stream behind what a file holds, as it comes: when the connection breaks, everything that
 * arrived is there.
 */
async function collect(
  content: RemoteContent,
  path: string,
  limits: { readonly maxBytes: number; readonly name: string; readonly signal?: AbortSignal },
): Promise<void> {
  const { stream, offset } = content;
  const { maxBytes, name, signal } = limits;
  const file = openSync(path, 'a');
  let size = offset;
  const abort = (): void => void stream.destroy(new ShoalError('cancelled', `${name}: given up`));
  signal?.addEventListener('abort', abort, { once: true });
  try {
    await new Promise<void>((resolve, reject) => {
      stream.once('end', resolve);
      stream.once('error', reject);
      stream.once('close', () => reject(new ShoalError('unavailable', `${name} broke off`)));
      stream.on('data', (chunk: Buffer) => {
        try {
          size += chunk.length;
          if (size > maxBytes)
            throw new ShoalError(
              'resource_exhausted',
              `${name} sends more than ${maxBytes} bytes`,
              {
                retry: 'terminal',
              },
            );
          writeSync(file, chunk);
        } catch (error) {
          stream.destroy(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
    fsyncSync(file);
  } finally {
    signal?.removeEventListener('abort', abort);
    closeSync(file);
  }
}

async function expectDigest(path: string, digest: string, name: string): Promise<void> {
  const algorithm = digest.slice(0, digest.indexOf(':'));
  const hash = createHash(algorithm);
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) hash.update(chunk);
  const found = `${algorithm}:${hash.digest('hex')}`;
  if (found !== digest)
    throw new ShoalError('data_corrupt', `${name} is ${found}, announced was ${digest}`, {
      retry: 'backoff',
    });
}

/** One attempt, from where the last one stopped. */
async function attempt(
  source: RemoteSource,
  file: string,
  options: Required<Pick<DownloadOptions, 'maxBytes'>> & DownloadOptions,
): Promise<void> {
  const part = `${file}.part`;
  const note = `${part}.json`;
  const known = existsSync(note)
    ? (JSON.parse(readFileSync(note, 'utf8')) as Part).version
    : undefined;
  const before = known ? sizeOf(part) : 0;
  const content = await source.open(before, known);
  try {
    expectRoom(content, { folder: dirname(file), name: source.name, maxBytes: options.maxBytes });
  } catch (error) {
    discard(content);
    throw error;
  }
  if (content.offset === 0) rmSync(part, { force: true });
  else truncateSync(part, content.offset);
  writeFileSync(note, JSON.stringify({ version: content.version } satisfies Part));
  await collect(content, part, { ...options, name: source.name });
  const size = sizeOf(part);
  if (content.size !== undefined && size !== content.size)
    throw new ShoalError('unavailable', `${source.name} ended at ${size} of ${content.size} bytes`);
  try {
    if (content.digest) await expectDigest(part, content.digest, source.name);
  } catch (error) {
    rmSync(part, { force: true });
    throw error;
  } finally {
    rmSync(note, { force: true });
  }
  renameSync(part, file);
}

/**
 * Fetches content into a file: complete and checked, or not at all. What was fetched before a failure
 * is kept beside it and gone on from, also by the next process.
 *
 * @throws ShoalError `resource_exhausted` for content that is too large or does not fit the disk;
 *   `data_corrupt` for another content than announced; `not_found`, `permission_denied`, `unavailable`.
 */
export async function download(
  source: RemoteSource,
  file: string,
  options: DownloadOptions = {},
): Promise<void> {
  const { clock = systemClock, random = seededRandom(Date.now()), attempts = 5 } = options;
  const { maxBytes = MAX_BYTES, signal } = options;
  try {
    mkdirSync(dirname(file), { recursive: true });
  } catch (error) {
    throw fromNode(error, `writing ${file}`);
  }
  let fruitless = 0;
  for (;;) {
    const before = sizeOf(`${file}.part`);
    try {
      return await attempt(source, file, { ...options, maxBytes });
    } catch (error) {
      const failure = isShoalError(error) ? error : transferError(error, source.name);
      fruitless = sizeOf(`${file}.part`) > before ? 1 : fruitless + 1;
      if (failure.retry !== 'backoff' || fruitless >= attempts || signal?.aborted) throw failure;
      await clock.sleep(backoffMs(fruitless, BACKOFF, random), signal);
    }
  }
}

/** A connection that broke is tried again; a disk that is full is not. */
function transferError(error: unknown, name: string): ShoalError {
  const known = fromNode(error, `fetching ${name}`);
  const isDisk = ['resource_exhausted', 'permission_denied', 'not_found'].includes(known.code);
  if (isDisk) return new ShoalError(known.code, known.message, { retry: 'terminal', cause: error });
  return new ShoalError('unavailable', known.message, { cause: error });
}
