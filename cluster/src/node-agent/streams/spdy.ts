import { Duplex } from 'node:stream';
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from 'node:zlib';
import { ShoalError } from '@shoal/core';

/**
 * SPDY/3.1 as a server, as far as `kubectl exec`, `attach` and `port-forward` use it: streams that
 * the client opens, without flow control (neither kubectl nor kubelet use any).
 * Source: SPDY Protocol, Draft 3.1 (chromium.org), sections 2.2, 2.6 and 2.6.10.1.
 */

/** Words of the dictionary, each after its length in four bytes. */
const WORDS =
  'options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin';
/** What follows them without lengths. */
const TAIL =
  '100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.';

function withLength(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

/** The dictionary both ends compress headers with (section 2.6.10.1). */
export const SPDY_DICTIONARY: Buffer = Buffer.concat([
  ...WORDS.split(' ').map((word) => withLength(word.replace('_', ' '))),
  Buffer.from(TAIL),
]);

const TYPE = { synStream: 1, synReply: 2, rstStream: 3, ping: 6, goAway: 7, headers: 8 } as const;
const CONTROL = 0x8003;
const FIN = 1;
const HEAD_BYTES = 8;
/** kubectl sends at most 32 KiB at once. */
const MAX_FRAME_BYTES = 1024 * 1024;
const MAX_HEADER_BYTES = 64 * 1024;
const MAX_STREAMS = 1_000;
const PING_MS = 10_000;

function refused(what: string): ShoalError {
  return new ShoalError('invalid_argument', `SPDY: ${what}`);
}

/** Compresses and decompresses header blocks; one context for the life of a connection. */
class HeaderCodec {
  readonly #inflate: Inflate = createInflate({ dictionary: SPDY_DICTIONARY });
  readonly #deflate: Deflate = createDeflate({ dictionary: SPDY_DICTIONARY });
  readonly #inflated: Buffer[] = [];
  readonly #deflated: Buffer[] = [];

  constructor() {
    this.#inflate.on('data', (chunk: Buffer) => this.#inflated.push(chunk));
    this.#deflate.on('data', (chunk: Buffer) => this.#deflated.push(chunk));
    this.#deflate.on('error', () => undefined);
  }

  async decode(block: Buffer): Promise<Map<string, string>> {
    if (block.length > MAX_HEADER_BYTES) throw refused('a header block is too large');
    await new Promise<void>((resolve, reject) => {
      this.#inflate.once('error', reject);
      this.#inflate.write(block, () => {
        this.#inflate.off('error', reject);
        setImmediate(resolve);
      });
    });
    return readPairs(Buffer.concat(this.#inflated.splice(0)));
  }

  async encodeNone(): Promise<Buffer> {
    this.#deflate.write(Buffer.alloc(4));
    await new Promise<void>((resolve) => {
      this.#deflate.flush(constants.Z_SYNC_FLUSH, () => setImmediate(resolve));
    });
    return Buffer.concat(this.#deflated.splice(0));
  }

  close(): void {
    this.#inflate.close();
    this.#deflate.close();
  }
}

function readPairs(block: Buffer): Map<string, string> {
  const pairs = new Map<string, string>();
  if (block.length < 4 || block.length > MAX_HEADER_BYTES)
    throw refused('a malformed header block');
  let at = 4;
  const text = (): string => {
    const end = at + 4 + (at + 4 <= block.length ? block.readUInt32BE(at) : Infinity);
    if (end > block.length) throw refused('a malformed header block');
    const found = block.toString('utf8', at + 4, end);
    at = end;
    return found;
  };
  const count = block.readUInt32BE(0);
  for (let i = 0; i < count; i++) {
    const name = text();
    pairs.set(name, text());
  }
  return pairs;
}

/** One stream of a connection. */
export class SpdyStream extends Duplex {
  readonly id: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly #send: (data: Buffer, fin: boolean, done: (error?: Error | null) => void) => void;
  #onRead: (() => void) | undefined;

  constructor(
    id: number,
    headers: ReadonlyMap<string, string>,
    send: (data: Buffer, fin: boolean, done: (error?: Error | null) => void) => void,
  ) {
    super();
    this.id = id;
    this.headers = headers;
    this.#send = send;
    this.on('error', () => undefined);
  }

  override _read(): void {
    this.#onRead?.();
    this.#onRead = undefined;
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#send(chunk, false, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#send(Buffer.alloc(0), true, done);
  }

  /** Takes data from the peer; resolves when more may come. */
  async receive(data: Buffer, fin: boolean): Promise<void> {
    if (this.destroyed || this.readableEnded) return;
    const full = data.length > 0 && !this.push(data);
    if (fin) this.push(null);
    if (!full || fin) return;
    await new Promise<void>((resolve) => {
      this.#onRead = resolve;
      this.once('close', resolve);
    });
  }
}

interface Frame {
  /** Type of a control frame; undefined for data. */
  readonly type: number | undefined;
  readonly stream: number;
  readonly flags: number;
  readonly payload: Buffer;
}

/** Cuts a byte stream into frames. */
async function* framesOf(source: AsyncIterable<Buffer>): AsyncGenerator<Frame> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of source) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    while (rest.length >= HEAD_BYTES) {
      const length = rest.readUIntBE(5, 3);
      if (length > MAX_FRAME_BYTES) throw refused(`a frame of ${length} bytes is too large`);
      if (rest.length < HEAD_BYTES + length) break;
      const isControl = (rest[0] ?? 0) >= 0x80;
      if (isControl && rest.readUInt16BE(0) !== CONTROL) throw refused('not version 3');
      const payload = rest.subarray(HEAD_BYTES, HEAD_BYTES + length);
      yield {
        type: isControl ? rest.readUInt16BE(2) : undefined,
        stream: isControl ? 0 : rest.readUInt32BE(0),
        flags: rest[4] ?? 0,
        payload,
      };
      rest = rest.subarray(HEAD_BYTES + length);
    }
  }
}

function frame(head: { type?: number; stream?: number; flags?: number }, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(HEAD_BYTES);
  if (head.type === undefined) bytes.writeUInt32BE(head.stream ?? 0, 0);
  else {
    bytes.writeUInt16BE(CONTROL, 0);
    bytes.writeUInt16BE(head.type, 2);
  }
  bytes[4] = head.flags ?? 0;
  bytes.writeUIntBE(payload.length, 5, 3);
  return Buffer.concat([bytes, payload]);
}

/** The server's end of a SPDY connection over any byte stream. */
export class SpdyConnection {
  readonly #transport: Duplex;
  readonly #onStream: (stream: SpdyStream) => void;
  readonly #streams = new Map<number, SpdyStream>();
  readonly #codec = new HeaderCodec();
  #pings = 0;
  /** Settles when the connection has ended, for whatever reason. */
  readonly closed: Promise<void>;

  constructor(transport: Duplex, onStream: (stream: SpdyStream) => void) {
    this.#transport = transport;
    this.#onStream = onStream;
    transport.on('error', () => undefined);
    this.closed = this.#run();
    // A client that is gone is noticed by writing to it, also while nothing is read from it.
    const ping = setInterval(() => this.#ping(), PING_MS).unref();
    void this.closed.then(() => clearInterval(ping));
  }

  /** Pings of a server have even numbers. */
  #ping(): void {
    this.#pings += 2;
    const id = Buffer.alloc(4);
    id.writeUInt32BE(this.#pings);
    if (!this.#transport.destroyed) this.#transport.write(frame({ type: TYPE.ping }, id));
  }

  async #run(): Promise<void> {
    try {
      for await (const received of framesOf(this.#transport)) await this.#handle(received);
    } catch {
      // a peer that breaks the protocol or the connection: the streams end with it
    } finally {
      for (const stream of this.#streams.values()) stream.destroy();
      this.#transport.destroy();
      this.#codec.close();
    }
  }

  async #handle({ type, stream, flags, payload }: Frame): Promise<void> {
    const fin = (flags & FIN) !== 0;
    if (type === undefined) return await this.#streams.get(stream)?.receive(payload, fin);
    if (type === TYPE.synStream) return await this.#open(payload, fin);
    if (type === TYPE.headers) await this.#codec.decode(payload.subarray(4));
    // Those with odd numbers are the client's; the others are answers to ours.
    if (type === TYPE.ping && ((payload[3] ?? 0) & 1) === 1)
      this.#transport.write(frame({ type }, payload));
    if (type === TYPE.rstStream && payload.length >= 4) this.#forget(payload.readUInt32BE(0));
  }

  #forget(id: number): void {
    this.#streams.get(id)?.destroy();
    this.#streams.delete(id);
  }

  async #open(payload: Buffer, fin: boolean): Promise<void> {
    if (payload.length < 10) throw refused('a malformed SYN_STREAM');
    if (this.#streams.size >= MAX_STREAMS) throw refused('too many streams');
    const id = payload.readUInt32BE(0) & 0x7fffffff;
    const headers = await this.#codec.decode(payload.subarray(10));
    const stream = new SpdyStream(id, headers, (data, last, done) => {
      if (this.#transport.destroyed) return done();
      this.#transport.write(frame({ stream: id, flags: last ? FIN : 0 }, data), done);
    });
    this.#streams.set(id, stream);
    stream.on('close', () => this.#streams.delete(id));
    const idBytes = Buffer.alloc(4);
    idBytes.writeUInt32BE(id);
    const reply = Buffer.concat([idBytes, await this.#codec.encodeNone()]);
    this.#transport.write(frame({ type: TYPE.synReply }, reply));
    this.#onStream(stream);
    if (fin) await stream.receive(Buffer.alloc(0), true);
  }

  /** Lets what was written go out, then ends the connection. */
  end(): void {
    this.#transport.end();
  }
}
