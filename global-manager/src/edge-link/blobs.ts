import {
  closeSync,
  createReadStream,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { digester, digestOf, fromNode, isDigest, ShoalError } from '@shoal/core';

/** Largest artifact taken. */
const MAX_BLOB_BYTES = 8 * 1024 ** 3;
const ABANDONED_MS = 7 * 24 * 3_600_000;

/** Content-addressed files: verified before they get their name, resumable while they arrive. */
export class BlobStore {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
    mkdirSync(dir, { recursive: true });
    this.#sweep();
  }

  /** Transfers that nobody went on with for days are given up. */
  #sweep(): void {
    for (const name of readdirSync(this.#dir).filter((n) => n.endsWith('.part'))) {
      const path = join(this.#dir, name);
      if (Date.now() - statSync(path).mtimeMs > ABANDONED_MS) rmSync(path, { force: true });
    }
  }

  /** @throws ShoalError `invalid_argument` for a text that is no digest (and so no path either). */
  #path(digest: string): string {
    if (!isDigest(digest))
      throw new ShoalError('invalid_argument', `"${digest}" is not a sha256 digest`);
    return join(this.#dir, digest.replace(':', '-'));
  }

  /** Where content arrives: a sender's own file, so that none can spoil what another sends. */
  #part(digest: string, sender: string): string {
    return `${this.#path(digest)}.${digestOf(sender).slice(7, 23)}.part`;
  }

  /**
   * Bytes held of a blob, and whether that is all of it.
   *
   * @param sender Whose transfer is asked for while it is not complete; empty: the cloud's own.
   */
  stat(digest: string, sender = ''): { receivedBytes: number; complete: boolean } {
    const path = this.#path(digest);
    const part = this.#part(digest, sender);
    if (existsSync(path)) {
      // It came another way meanwhile.
      rmSync(part, { force: true });
      return { receivedBytes: statSync(path).size, complete: true };
    }
    return { receivedBytes: existsSync(part) ? statSync(part).size : 0, complete: false };
  }

  /** Chunks of a complete blob from an offset. @throws ShoalError `not_found`. */
  read(digest: string, offset: number, chunkBytes: number): AsyncIterable<Buffer> {
    const path = this.#path(digest);
    if (!existsSync(path)) throw new ShoalError('not_found', `no blob ${digest}`);
    return createReadStream(path, { start: offset, highWaterMark: chunkBytes });
  }

  /**
   * Adds a chunk. A chunk that does not continue what is there is refused; repeated bytes are skipped.
   *
   * @returns Bytes held now.
   */
  append(
    digest: string,
    chunk: { offset: number; sizeBytes: number; data: Uint8Array },
    sender = '',
  ): number {
    const { receivedBytes, complete } = this.stat(digest, sender);
    if (complete) return receivedBytes;
    if (chunk.sizeBytes > MAX_BLOB_BYTES)
      throw new ShoalError(
        'out_of_range',
        `blob ${digest} has ${chunk.sizeBytes} bytes, the limit is ${MAX_BLOB_BYTES}`,
      );
    if (chunk.offset > receivedBytes)
      throw new ShoalError(
        'out_of_range',
        `blob ${digest}: chunk at ${chunk.offset}, but only ${receivedBytes} bytes are here`,
      );
    const fresh = chunk.data.subarray(receivedBytes - chunk.offset);
    if (receivedBytes + fresh.length > chunk.sizeBytes)
      throw new ShoalError(
        'out_of_range',
        `blob ${digest} is longer than its ${chunk.sizeBytes} bytes`,
      );
    let file: number | undefined;
    try {
      file = openSync(this.#part(digest, sender), 'a');
      writeSync(file, fresh);
      fsyncSync(file);
    } catch (error) {
      throw fromNode(error, `writing blob ${digest}`);
    } finally {
      if (file !== undefined) closeSync(file);
    }
    return receivedBytes + fresh.length;
  }

  /** Stores content that is here as a whole. @returns Its digest. */
  async put(data: Uint8Array): Promise<string> {
    const digest = digestOf(data);
    const { receivedBytes, complete } = this.stat(digest);
    if (complete) return digest;
    this.append(digest, {
      offset: receivedBytes,
      sizeBytes: data.length,
      data: data.subarray(receivedBytes),
    });
    await this.finish(digest);
    return digest;
  }

  /** Removes what nobody needs any more. */
  remove(digest: string): void {
    rmSync(this.#path(digest), { force: true });
  }

  /** Checks a blob that has arrived and gives it its name. @throws ShoalError `data_corrupt`. */
  async finish(digest: string, sender = ''): Promise<void> {
    const path = this.#path(digest);
    const part = this.#part(digest, sender);
    if (existsSync(path)) return rmSync(part, { force: true });
    const hash = digester();
    for await (const chunk of createReadStream(part) as AsyncIterable<Buffer>) hash.update(chunk);
    if (hash.digest() !== digest) {
      rmSync(part, { force: true });
      throw new ShoalError(
        'data_corrupt',
        `the content sent as ${digest} has another digest; send it again`,
        { retry: 'backoff' },
      );
    }
    // Somebody else may have finished it meanwhile, or this sender in another transfer.
    if (existsSync(path)) return rmSync(part, { force: true });
    try {
      renameSync(part, path);
    } catch (error) {
      throw fromNode(error, `keeping blob ${digest}`);
    }
  }
}
