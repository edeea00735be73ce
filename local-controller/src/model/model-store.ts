import {
  closeSync,
  copyFileSync,
  createReadStream,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { type BlobChunk, BlobChunkSchema } from '@shoal/api';
import { type Digest, digester, fromNode, isDigest, ShoalError } from '@shoal/core';
import type { EdgeTransport } from '../link/transport.ts';

const CHUNK_BYTES = 256 * 1024;

/** Digest of a file. @throws ShoalError `not_found`. */
export async function fileDigest(path: string): Promise<Digest> {
  const hash = digester();
  try {
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) hash.update(chunk);
  } catch (error) {
    throw fromNode(error, `reading model ${path}`);
  }
  return hash.digest();
}

/** Models by content: sent once, fetched by range, verified before they are used. */
export class ModelStore {
  readonly #dir: string;
  readonly #transport: EdgeTransport;
  /** Downloads under way: two askers share one. */
  readonly #fetching = new Map<string, Promise<string>>();

  constructor(dir: string, transport: EdgeTransport) {
    this.#dir = dir;
    this.#transport = transport;
    mkdirSync(dir, { recursive: true });
  }

  /** Sends a model to the cloud; what the cloud already holds is not sent again. */
  async publish(path: string): Promise<{ digest: Digest; sizeBytes: number }> {
    const digest = await fileDigest(path);
    const sizeBytes = statSync(path).size;
    const { receivedBytes, complete } = await this.#transport.statBlob(digest);
    if (complete) return { digest, sizeBytes };
    const result = await this.#transport.putBlob(
      chunks(path, { digest, sizeBytes, offset: receivedBytes }),
    );
    if (!result.complete)
      throw new ShoalError(
        'unavailable',
        `the cloud holds ${result.receivedBytes} of ${sizeBytes} bytes of ${digest}`,
      );
    return { digest, sizeBytes };
  }

  /** Where a model of this digest is once it was fetched. @throws ShoalError for a text that is no digest. */
  pathOf(digest: string): string {
    if (!isDigest(digest)) throw new ShoalError('invalid_argument', `"${digest}" is not a digest`);
    return join(this.#dir, digest.replace(':', '-'));
  }

  /**
   * A local file with this content, fetched if need be; a broken download goes on where it stopped.
   *
   * @throws ShoalError `data_corrupt` when the content has another digest (it is thrown away).
   */
  async fetch(digest: string): Promise<string> {
    const path = this.pathOf(digest);
    if (existsSync(path)) return path;
    const under = this.#fetching.get(digest);
    if (under) return await under;
    const download = this.#download(digest, path).finally(() => this.#fetching.delete(digest));
    this.#fetching.set(digest, download);
    return await download;
  }

  /** Removes what is needed no more. */
  forget(digest: string): void {
    rmSync(this.pathOf(digest), { force: true });
  }

  async #download(digest: string, path: string): Promise<string> {
    const part = `${path}.part`;
    const file = openSync(part, 'a');
    try {
      for await (const chunk of this.#transport.getBlob(digest, statSync(part).size))
        writeSync(file, chunk.data);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    if ((await fileDigest(part)) !== digest) {
      rmSync(part);
      throw new ShoalError('data_corrupt', `the content fetched as ${digest} has another digest`, {
        retry: 'backoff',
      });
    }
    renameSync(part, path);
    return path;
  }
}

async function* chunks(
  path: string,
  blob: { digest: string; sizeBytes: number; offset: number },
): AsyncIterable<BlobChunk> {
  let { offset } = blob;
  if (offset >= blob.sizeBytes) {
    // All of it has arrived, but nobody heard of it: a last chunk of nothing lets the cloud finish.
    const { digest, sizeBytes } = blob;
    const [at, size] = [BigInt(offset), BigInt(sizeBytes)];
    yield create(BlobChunkSchema, { digest, offset: at, sizeBytes: size, data: new Uint8Array() });
    return;
  }
  for await (const data of createReadStream(path, {
    start: offset,
    highWaterMark: CHUNK_BYTES,
  }) as AsyncIterable<Buffer>) {
    yield create(BlobChunkSchema, {
      digest: blob.digest,
      offset: BigInt(offset),
      sizeBytes: BigInt(blob.sizeBytes),
      data,
    });
    offset += data.length;
  }
}

/** Copies a file into place: complete or not at all. */
export function placeFile(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, `${to}.tmp`);
  const file = openSync(`${to}.tmp`, 'r+');
  fsyncSync(file);
  closeSync(file);
  renameSync(`${to}.tmp`, to);
}
