import { ShoalError } from '@shoal/core';

/** Bytes per chunk: few messages, and the sender's buffers stay small. */
export const CHUNK_BYTES: number = 1024 * 1024;
/** Largest model or update either side takes. */
export const MAX_VECTOR_BYTES: number = 2 ** 31;

/** A running SHA-256, as `digester` of `@shoal/core` or one for browsers makes it. */
export interface Hasher {
  update(chunk: Uint8Array): void;
  /** `sha256:…` */
  digest(): string;
}

type Piece = { readonly digest: string; readonly offset: bigint; readonly data: Uint8Array };

/** @throws ShoalError `resource_exhausted` for more bytes than are taken. */
function requireSize(size: number, limit: number): void {
  if (!Number.isSafeInteger(size) || size < 0 || size > limit)
    throw new ShoalError(
      'resource_exhausted',
      `${size} bytes were announced, at most ${limit} are taken`,
    );
}

/** Checks content that comes in chunks, in order, against its digest, and hands the bytes on. */
export class Intake {
  readonly digest: string;
  readonly size: number;
  #told: string;
  readonly #put: (data: Uint8Array, at: number) => void;
  readonly #hash: Hasher;
  #at = 0;

  /**
   * @param digest Empty where the chunks tell it, the last one at the latest.
   * @param size Announced bytes; at most `limit`.
   * @param at.put Where the bytes go.
   * @throws ShoalError `resource_exhausted` for more than `limit`.
   */
  constructor(
    digest: string,
    size: number,
    at: {
      readonly hash: Hasher;
      readonly put: (data: Uint8Array, at: number) => void;
      readonly limit?: number;
    },
  ) {
    const { hash, put, limit = MAX_VECTOR_BYTES } = at;
    requireSize(size, limit);
    this.digest = digest;
    this.#told = digest;
    this.size = size;
    this.#hash = hash;
    this.#put = put;
  }

  get offset(): number {
    return this.#at;
  }

  /**
   * Adds a chunk.
   *
   * @returns Whether that was all.
   * @throws ShoalError `data_corrupt` for a chunk out of place or a digest that does not fit.
   */
  add({ digest, offset, data }: Piece): boolean {
    const isNamed = this.digest === '' || digest === this.digest;
    if (!isNamed || Number(offset) !== this.#at || this.#at + data.length > this.size)
      throw new ShoalError(
        'data_corrupt',
        `a chunk of ${data.length} bytes at ${offset} does not continue ${this.digest} at ${this.#at} of ${this.size}`,
      );
    if (digest !== '') this.#told = digest;
    this.#put(data, this.#at);
    this.#hash.update(data);
    this.#at += data.length;
    if (this.#at < this.size) return false;
    const found = this.#hash.digest();
    if (found !== this.#told)
      throw new ShoalError('data_corrupt', `the content is ${found}, announced was ${this.#told}`);
    return true;
  }
}

/** Puts content together in memory from chunks that come in order, and checks it against its digest. */
export class Assembly {
  readonly #intake: Intake;
  readonly #bytes: Uint8Array<ArrayBuffer>;

  /**
   * @param size Announced bytes; at most `limit`.
   * @param at.memory Where to put them, when it is of that size: fresh memory takes longer than what comes.
   * @throws ShoalError `resource_exhausted` before anything is allocated.
   */
  constructor(
    digest: string,
    size: number,
    at: {
      readonly hash: Hasher;
      readonly limit?: number;
      readonly memory?: ArrayBuffer | undefined;
    },
  ) {
    const { hash, limit = MAX_VECTOR_BYTES, memory } = at;
    requireSize(size, limit);
    const bytes = memory?.byteLength === size ? new Uint8Array(memory) : new Uint8Array(size);
    const put = (data: Uint8Array, offset: number): void => bytes.set(data, offset);
    this.#bytes = bytes;
    this.#intake = new Intake(digest, size, { hash, limit, put });
  }

  get digest(): string {
    return this.#intake.digest;
  }

  get offset(): number {
    return this.#intake.offset;
  }

  /**
   * Adds a chunk.
   *
   * @returns The whole content once it is complete.
   * @throws ShoalError `data_corrupt` for a chunk out of place or a digest that does not fit.
   */
  add(chunk: Piece): Uint8Array<ArrayBuffer> | undefined {
    return this.#intake.add(chunk) ? this.#bytes : undefined;
  }
}

/** Where frames go: a stream that says when it has enough. */
export interface FrameSink<Frame> {
  /** @returns Whether more may come at once; else wait for {@link drained}. */
  write(frame: Frame): boolean;
  drained(): Promise<void>;
}

/** A writable side of a stream, as Node and gRPC have it. */
interface NodeWritable<Frame> {
  write(frame: Frame): boolean;
  once(event: 'drain' | 'close' | 'error', listener: () => void): unknown;
  off(event: 'drain' | 'close' | 'error', listener: () => void): unknown;
}

/** Resolves when a stream takes more, or never will again. */
export function drained(stream: Pick<NodeWritable<never>, 'once' | 'off'>): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      for (const event of ['drain', 'close', 'error'] as const) stream.off(event, done);
      resolve();
    };
    for (const event of ['drain', 'close', 'error'] as const) stream.once(event, done);
  });
}

export function sinkOf<Frame>(stream: NodeWritable<Frame>): FrameSink<Frame> {
  return { write: (frame) => stream.write(frame), drained: () => drained(stream) };
}

/** Sends content in chunks from an offset on, as fast as the other side takes them. */
export async function sendChunks<Frame>(
  sink: FrameSink<Frame>,
  content: { readonly digest: string; readonly bytes: Uint8Array; readonly offset?: number },
  frameOf: (chunk: { digest: string; offset: bigint; data: Uint8Array }) => Frame,
): Promise<number> {
  const { digest, bytes, offset = 0 } = content;
  for (let at = offset; at < bytes.length || (at === 0 && bytes.length === 0); at += CHUNK_BYTES) {
    const data = bytes.subarray(at, at + CHUNK_BYTES);
    const more = sink.write(frameOf({ digest, offset: BigInt(at), data }));
    if (!more) await sink.drained();
    if (bytes.length === 0) break;
  }
  return bytes.length - offset;
}
