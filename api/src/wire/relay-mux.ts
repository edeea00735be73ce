import { create } from '@bufbuild/protobuf';
import { type ByteStream, ShoalError } from '@shoal/core';
import { type RelayFrame, RelayFrameSchema } from './edge-link_pb.ts';

/** Bytes one side may send before the other has said that it has passed some on. */
export const RELAY_WINDOW_BYTES: number = 256 * 1024;
const CHUNK_BYTES = 32 * 1024;
const MAX_STREAMS = 256;
const MAX_TARGET = 300;

/** One byte stream through the link: more than its credit waits here, a careful sender stops until `onDrain`. */
export interface RelayStream extends ByteStream {
  readonly target: string;
}

type Side = 'edge' | 'cloud';

class Stream implements RelayStream {
  readonly target: string;
  readonly #id: number;
  readonly #send: (frame: RelayFrame) => void;
  readonly #forget: () => void;
  #credit = RELAY_WINDOW_BYTES;
  /** Bytes the other side may still send. */
  #granted = RELAY_WINDOW_BYTES;
  #waiting: Uint8Array[] = [];
  #isEnding = false;
  #isOver = false;
  #data: (bytes: Uint8Array, pass: () => void) => void = (_bytes, pass) => pass();
  #drain: () => void = () => undefined;
  #end: (error: string | undefined) => void = () => undefined;
  #unpassed = 0;

  constructor(
    id: number,
    target: string,
    ports: { send: (frame: RelayFrame) => void; forget: () => void },
  ) {
    this.#id = id;
    this.target = target;
    this.#send = ports.send;
    this.#forget = ports.forget;
  }

  get credit(): number {
    return this.#waiting.length > 0 ? 0 : this.#credit;
  }

  send(bytes: Uint8Array): void {
    if (this.#isOver || this.#isEnding) return;
    for (let i = 0; i < bytes.length; i += CHUNK_BYTES)
      this.#waiting.push(bytes.subarray(i, i + CHUNK_BYTES));
    this.#flush();
  }

  #flush(): void {
    for (let next = this.#waiting[0]; next && this.#credit > 0; next = this.#waiting[0]) {
      const part = next.subarray(0, this.#credit);
      this.#credit -= part.length;
      if (part.length === next.length) this.#waiting.shift();
      else this.#waiting[0] = next.subarray(part.length);
      this.#frame({ case: 'data', value: new Uint8Array(part) });
    }
    if (this.#waiting.length > 0) return;
    if (this.#isEnding) this.#close('');
    else if (this.#credit > 0) this.#drain();
  }

  #frame(frame: RelayFrame['frame']): void {
    this.#send(create(RelayFrameSchema, { stream: this.#id, frame }));
  }

  end(error?: string): void {
    if (this.#isOver) return;
    if (error === undefined && this.#waiting.length > 0) this.#isEnding = true;
    else this.#close(error ?? '');
  }

  #close(error: string): void {
    this.#isOver = true;
    this.#frame({ case: 'close', value: { error, $typeName: 'shoal.edgelink.v1.RelayClose' } });
    this.#forget();
  }

  onData(listener: (bytes: Uint8Array, pass: () => void) => void): void {
    this.#data = listener;
  }

  onDrain(listener: () => void): void {
    this.#drain = listener;
  }

  onEnd(listener: (error: string | undefined) => void): void {
    this.#end = listener;
  }

  /** A frame of the other side. */
  receive(frame: RelayFrame['frame']): void {
    if (this.#isOver) return;
    if (frame.case === 'credit') {
      this.#credit = Math.min(RELAY_WINDOW_BYTES, this.#credit + frame.value);
      this.#flush();
    } else if (frame.case === 'data') this.#take(frame.value);
    else if (frame.case === 'close') {
      this.#isOver = true;
      this.#forget();
      this.#end(frame.value.error === '' ? undefined : frame.value.error);
    }
  }

  #take(bytes: Uint8Array): void {
    this.#granted -= bytes.length;
    if (this.#granted < 0) {
      this.end('more was sent than there was credit for');
      return this.#end('more came than there was credit for');
    }
    let isPassed = false;
    this.#data(bytes, () => {
      if (isPassed || this.#isOver) return;
      isPassed = true;
      this.#unpassed += bytes.length;
      // Credit in portions: a frame for every chunk would double the traffic.
      if (this.#unpassed < RELAY_WINDOW_BYTES / 4) return;
      const credit = this.#unpassed;
      this.#unpassed = 0;
      this.#granted += credit;
      this.#frame({ case: 'credit', value: credit });
    });
  }

  /** The connection is gone. */
  lost(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#end('the connection between cloud and edge is gone');
  }
}

/**
 * Byte streams over one connection, opened by either side, each with its own credit: a reader that
 * is slow holds up its own stream only.
 */
export class RelayMux {
  readonly #side: Side;
  readonly #send: (frame: RelayFrame) => void;
  readonly #accept: (stream: RelayStream) => void;
  readonly #streams = new Map<number, Stream>();
  #next: number;
  #isClosed = false;

  constructor(
    side: Side,
    send: (frame: RelayFrame) => void,
    accept: (stream: RelayStream) => void,
  ) {
    this.#side = side;
    this.#send = send;
    this.#accept = accept;
    this.#next = side === 'edge' ? 1 : 2;
  }

  /** Opens a stream to what the other side knows under a name. @throws ShoalError `resource_exhausted`. */
  open(target: string): RelayStream {
    if (this.#isClosed) throw new ShoalError('unavailable', 'the connection of this relay is gone');
    if (this.#streams.size >= MAX_STREAMS)
      throw new ShoalError('resource_exhausted', `${MAX_STREAMS} streams of this node are open`);
    const id = this.#next;
    this.#next += 2;
    const stream = this.#add(id, target);
    const value = { target, $typeName: 'shoal.edgelink.v1.RelayOpen' as const };
    this.#send(create(RelayFrameSchema, { stream: id, frame: { case: 'open', value } }));
    return stream;
  }

  #add(id: number, target: string): Stream {
    const forget = (): void => void this.#streams.delete(id);
    const stream = new Stream(id, target, { send: this.#send, forget });
    this.#streams.set(id, stream);
    return stream;
  }

  receive(frame: RelayFrame): void {
    if (this.#isClosed) return;
    if (frame.frame.case !== 'open') {
      this.#streams.get(frame.stream)?.receive(frame.frame);
      return;
    }
    const { target } = frame.frame.value;
    const isTheirs = frame.stream % 2 === (this.#side === 'edge' ? 0 : 1);
    if (!isTheirs || this.#streams.has(frame.stream)) return;
    const stream = this.#add(frame.stream, target);
    if (this.#streams.size > MAX_STREAMS) stream.end(`more than ${MAX_STREAMS} streams are open`);
    else if (target.length > MAX_TARGET) stream.end('a target is at most 300 characters long');
    else this.#accept(stream);
  }

  /** The connection is gone: every stream ends with an error. */
  close(): void {
    this.#isClosed = true;
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    for (const stream of streams) stream.lost();
  }

  get size(): number {
    return this.#streams.size;
  }
}

/** What a relay needs of a socket; `net.Socket` is one. */
export interface RelaySocket {
  on(event: 'data', listener: (chunk: Uint8Array) => void): unknown;
  on(event: 'end' | 'close', listener: () => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
  write(bytes: Uint8Array, done?: () => void): boolean;
  pause(): unknown;
  resume(): unknown;
  end(): unknown;
  destroy(): unknown;
}

/** Joins a stream and a socket, both ways, as fast as the slower of them. */
export function pipeSocket(stream: RelayStream, socket: RelaySocket): void {
  let isOver = false;
  const over = (error?: string): void => {
    if (isOver) return;
    isOver = true;
    stream.end(error);
  };
  stream.onData((bytes, pass) => void socket.write(bytes, pass));
  stream.onDrain(() => socket.resume());
  stream.onEnd((error) => {
    isOver = true;
    if (error === undefined) socket.end();
    else socket.destroy();
  });
  socket.on('data', (chunk: Uint8Array) => {
    stream.send(chunk);
    if (stream.credit <= 0) socket.pause();
  });
  socket.on('end', () => over());
  socket.on('close', () => over());
  socket.on('error', (error: Error) => over(error.message));
}
