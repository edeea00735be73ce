import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { create, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf';
import { type AggregatorFrameSchema, ChunkSchema, type ParticipantFrameSchema } from '@shoal/api';
import { messageOf, ShoalError } from '@shoal/core';

/** What both sides say first. */
const PREFACE: Buffer = Buffer.from('SHOAL/1\n', 'latin1');
/** First byte of a socket that carries frames; HTTP/2, and so gRPC, begins with another. */
export const FIRST_BYTE: number | undefined = PREFACE[0];
/** Name of the protocol in TLS (ALPN, RFC 7301). */
export const FRAME_PROTOCOL = 'shoal-frames/1';

/** Two lengths before every frame: of the message, and of a chunk's data behind it. */
const HEADER_BYTES = 8;
const MAX_MESSAGE_BYTES = 8 * 1024 * 1024;
const MAX_DATA_BYTES = 4 * 1024 * 1024;
/** Largest message of one that has not said who it is. */
const MAX_STRANGER_BYTES = 64 * 1024;
/** Bytes that may wait to be written before the sender does. */
const HIGH_WATER_BYTES = 2 * 1024 * 1024;

const PING_MS = 8_000;
/** Pings of the other side that may be missing. */
const MOST_SILENT = 2;
/** Until a side that does not take the end of its connection loses it. */
const END_MS = 5_000;

type FrameSchema = typeof AggregatorFrameSchema | typeof ParticipantFrameSchema;
type Frame = MessageShape<FrameSchema>;

/**
 * Takes frames out of a stream of bytes. The data of a chunk is handed on as it comes, in pieces that
 * share memory with what was read: nothing is put together but small messages.
 */
class FrameReader {
  readonly #schema: FrameSchema;
  readonly #onFrame: (frame: Frame) => void;
  /** Bytes still to come of what is collected. */
  #collected: Buffer = Buffer.alloc(PREFACE.length);
  #have = 0;
  #stage: 'preface' | 'header' | 'message' | 'data' = 'preface';
  #dataBytes = 0;
  #isTrusted: boolean;
  #chunk: { digest: string; offset: bigint } | undefined;

  constructor(
    schema: FrameSchema,
    at: { readonly isTrusted: boolean; readonly onFrame: (frame: Frame) => void },
  ) {
    this.#schema = schema;
    this.#onFrame = at.onFrame;
    this.#isTrusted = at.isTrusted;
  }

  /** Who sends is known: its frames may be large. */
  trust(): void {
    this.#isTrusted = true;
  }

  get hasBegun(): boolean {
    return this.#stage !== 'preface';
  }

  /** @throws ShoalError `data_corrupt` for what is no frame, `resource_exhausted` for one that is too long. */
  push(piece: Buffer): void {
    let at = 0;
    while (at < piece.length)
      at += this.#stage === 'data' ? this.#pass(piece, at) : this.#collect(piece, at);
  }

  #collect(piece: Buffer, at: number): number {
    const wanted = this.#collected.length - this.#have;
    const took = piece.copy(this.#collected, this.#have, at, at + wanted);
    this.#have += took;
    if (took === wanted) this.#complete(this.#collected);
    return took;
  }

  #expect(stage: 'header' | 'message', bytes: number): void {
    this.#stage = stage;
    this.#collected = Buffer.allocUnsafe(bytes);
    this.#have = 0;
  }

  #complete(bytes: Buffer): void {
    switch (this.#stage) {
      case 'preface':
        if (!bytes.equals(PREFACE))
          throw new ShoalError('data_corrupt', 'the other side does not speak frames');
        this.#expect('header', HEADER_BYTES);
        return;
      case 'header':
        this.#header(bytes.readUInt32LE(0), bytes.readUInt32LE(4));
        return;
      case 'message':
      case 'data':
        this.#message(bytes);
        return;
    }
  }

  #header(messageBytes: number, dataBytes: number): void {
    const most = this.#isTrusted ? MAX_MESSAGE_BYTES : MAX_STRANGER_BYTES;
    const mostData = this.#isTrusted ? MAX_DATA_BYTES : 0;
    if (messageBytes > most || dataBytes > mostData)
      throw new ShoalError(
        'resource_exhausted',
        `a frame of ${messageBytes} and ${dataBytes} bytes was announced, at most ${most} and ${mostData} are taken`,
      );
    this.#dataBytes = dataBytes;
    if (messageBytes > 0) this.#expect('message', messageBytes);
    else this.#expect('header', HEADER_BYTES); // a ping
  }

  #message(bytes: Buffer): void {
    let frame: Frame;
    try {
      frame = fromBinary(this.#schema as typeof AggregatorFrameSchema, bytes);
    } catch (error) {
      throw new ShoalError('data_corrupt', `a message is no frame: ${messageOf(error)}`);
    }
    this.#expect('header', HEADER_BYTES);
    if (this.#dataBytes === 0) {
      this.#onFrame(frame);
      return;
    }
    if (frame.frame.case !== 'chunk')
      throw new ShoalError('data_corrupt', 'only a chunk has data behind its message');
    this.#chunk = frame.frame.value;
    this.#stage = 'data';
  }

  #pass(piece: Buffer, at: number): number {
    const data = piece.subarray(at, at + this.#dataBytes);
    const { digest = '', offset = 0n } = this.#chunk ?? {};
    this.#chunk = { digest, offset: offset + BigInt(data.length) };
    this.#dataBytes -= data.length;
    if (this.#dataBytes === 0) this.#stage = 'header';
    const value = create(ChunkSchema, { digest, offset, data });
    this.#onFrame({ $typeName: this.#schema.typeName, frame: { case: 'chunk', value } } as Frame);
    return data.length;
  }
}

/**
 * Frames over a socket, as gRPC would carry them, without its costs for bulk: data is neither copied
 * nor put together on its way, and comes in the pieces in which the socket has it. Emits `data`,
 * `drain`, `fault` with the error when what comes is no frame, and at its end `end` and `close`.
 */
export class FrameSocket extends EventEmitter {
  readonly #socket: Socket;
  readonly #schema: FrameSchema;
  readonly #timer: NodeJS.Timeout;
  readonly #reader: FrameReader;
  #silent = 0;
  #hasWritten = true;
  /** Nothing is read any more. */
  #isOver = false;
  /** Why it ended. */
  reason = 'closed';

  /**
   * @param at.read Schema of what is read, `write` of what is written.
   * @param at.isTrusted Whether large frames are taken; else {@link admit} says from when on.
   */
  constructor(
    socket: Socket,
    at: { readonly write: FrameSchema; readonly read: FrameSchema; readonly isTrusted: boolean },
  ) {
    super();
    this.#socket = socket;
    const { write, read, isTrusted } = at;
    this.#schema = write;
    const onFrame = (frame: Frame): void => {
      // Ended by what came before it in the same piece.
      if (!this.#isOver) this.emit('data', frame);
    };
    this.#reader = new FrameReader(read, { isTrusted, onFrame });
    socket.setNoDelay(true);
    socket.write(PREFACE);
    socket.on('data', (piece: Buffer) => this.take(piece));
    socket.on('drain', () => this.emit('drain'));
    socket.on('error', (error) => {
      this.reason = messageOf(error);
    });
    socket.on('close', () => {
      clearInterval(this.#timer);
      this.emit('end');
      this.emit('close');
    });
    this.#timer = setInterval(() => this.#watch(), PING_MS).unref();
  }

  /** Whether the other side has said that it speaks frames. */
  get hasBegun(): boolean {
    return this.#reader.hasBegun;
  }

  /** Takes what was read, where the socket does not tell it by `data`; it is not kept. */
  take(piece: Buffer): void {
    if (this.#isOver) return;
    this.#silent = 0;
    try {
      this.#reader.push(piece);
    } catch (error) {
      this.reason = messageOf(error);
      // What is said of it still goes out.
      this.emit('fault', error);
      this.end();
    }
  }

  /** Ticks are counted, not time: of a process that was busy for long nothing was read either. */
  #watch(): void {
    this.#silent++;
    if (this.#silent > MOST_SILENT) {
      const seconds = (this.#silent * PING_MS) / 1000;
      this.#socket.destroy(
        new ShoalError('deadline_exceeded', `nothing was heard for ${seconds} s`),
      );
    } else if (!this.#hasWritten && this.#socket.writable)
      this.#socket.write(Buffer.alloc(HEADER_BYTES));
    this.#hasWritten = false;
  }

  /** @returns Whether more may come at once; else `drain` tells when. */
  write(frame: Frame): boolean {
    const socket = this.#socket;
    if (!socket.writable) return true;
    this.#hasWritten = true;
    const data = frame.frame.case === 'chunk' ? frame.frame.value.data : undefined;
    const bare = data ? withoutData(frame) : frame;
    const message = toBinary(this.#schema as typeof AggregatorFrameSchema, bare as never);
    const head = Buffer.allocUnsafe(HEADER_BYTES + message.length);
    head.writeUInt32LE(message.length, 0);
    head.writeUInt32LE(data?.length ?? 0, 4);
    head.set(message, HEADER_BYTES);
    socket.cork();
    socket.write(head);
    if (data && data.length > 0) socket.write(data);
    socket.uncork();
    return socket.writableLength < HIGH_WATER_BYTES;
  }

  /** Resolves when nothing that was written is read any more. */
  flushed(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#socket.writable) this.#socket.write('', () => resolve());
      else resolve();
    });
  }

  /** Who sends is known: its frames may be large. */
  admit(): void {
    this.#reader.trust();
  }

  /** Sends what is written already, reads nothing more, and closes. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#socket.destroySoon();
    setTimeout(() => this.#socket.destroy(), END_MS).unref();
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

function withoutData(frame: Frame): Frame {
  const { digest, offset } = frame.frame.value as { digest: string; offset: bigint };
  const value = create(ChunkSchema, { digest, offset });
  return { ...frame, frame: { case: 'chunk', value } } as Frame;
}
