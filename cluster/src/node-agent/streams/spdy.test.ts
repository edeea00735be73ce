import { createHash } from 'node:crypto';
import { Duplex } from 'node:stream';
import { constants, deflateSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SPDY_DICTIONARY, SpdyConnection, type SpdyStream } from './spdy.ts';

/** A transport whose other end is the test. */
class Wire extends Duplex {
  readonly sent: Buffer[] = [];
  override _read(): void {
    // the test pushes when it likes
  }
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.sent.push(chunk);
    done();
  }
}

function control(type: number, payload: Buffer, flags = 0): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt16BE(0x8003, 0);
  head.writeUInt16BE(type, 2);
  head[4] = flags;
  head.writeUIntBE(payload.length, 5, 3);
  return Buffer.concat([head, payload]);
}

function data(stream: number, payload: Buffer, flags = 0): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(stream, 0);
  head[4] = flags;
  head.writeUIntBE(payload.length, 5, 3);
  return Buffer.concat([head, payload]);
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

function synStream(id: number, headers: Record<string, string>): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(Object.keys(headers).length);
  const pairs = Object.entries(headers).flatMap(([k, v]) => [text(k), text(v)]);
  const block = deflateSync(Buffer.concat([count, ...pairs]), {
    dictionary: SPDY_DICTIONARY,
    finishFlush: constants.Z_SYNC_FLUSH,
  });
  const head = Buffer.alloc(10);
  head.writeUInt32BE(id);
  return control(1, Buffer.concat([head, block]));
}

async function opened(wire: Wire, bytes: Buffer): Promise<SpdyStream> {
  return await new Promise((resolve) => {
    new SpdyConnection(wire, resolve);
    wire.push(bytes);
  });
}

test('the dictionary is that of the protocol, byte for byte', () => {
  expect(SPDY_DICTIONARY).toHaveLength(1423);
  const digest = createHash('sha256').update(SPDY_DICTIONARY).digest('hex');
  expect(digest.slice(0, 16)).toBe('51d27341373f923f');
});

test('a stream: opened with its headers, answered, read and written', async () => {
  const wire = new Wire();
  const stream = await opened(wire, synStream(1, { streamtype: 'data', port: '80' }));
  expect(Object.fromEntries(stream.headers)).toEqual({ streamtype: 'data', port: '80' });
  expect(wire.sent[0]?.readUInt16BE(2)).toBe(2);
  expect(wire.sent[0]?.readUInt32BE(8)).toBe(1);
  wire.push(data(1, Buffer.from('hel')));
  wire.push(data(1, Buffer.from('lo'), 1));
  const received: Buffer[] = [];
  for await (const chunk of stream) received.push(chunk as Buffer);
  expect(Buffer.concat(received).toString()).toBe('hello');
  await new Promise<void>((resolve) => {
    stream.end('back', () => resolve());
  });
  const [back, fin] = wire.sent.slice(-2);
  expect(back).toEqual(data(1, Buffer.from('back')));
  expect(fin).toEqual(data(1, Buffer.alloc(0), 1));
});

test('frames arrive in any pieces', async () => {
  const bytes = Buffer.concat([
    synStream(3, { streamtype: 'stdin' }),
    data(3, Buffer.from('in pieces'), 1),
  ]);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(bytes.length), { maxLength: 8 }), async (cuts) => {
      const wire = new Wire();
      const stream = opened(wire, Buffer.alloc(0));
      const at = [0, ...cuts.toSorted((a, b) => a - b), bytes.length];
      for (const [i, from] of at.slice(0, -1).entries()) wire.push(bytes.subarray(from, at[i + 1]));
      const received: Buffer[] = [];
      for await (const chunk of await stream) received.push(chunk as Buffer);
      expect(Buffer.concat(received).toString()).toBe('in pieces');
    }),
    { numRuns: 40 },
  );
});

test('nonsense ends the connection and nothing else', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 8, maxLength: 200 }), async (bytes) => {
      const wire = new Wire();
      const connection = new SpdyConnection(wire, () => undefined);
      wire.push(Buffer.from(bytes));
      wire.push(null);
      await connection.closed;
      expect(wire.destroyed).toBe(true);
    }),
    { numRuns: 200 },
  );
});

test('a frame beyond the limit is refused before it is held', async () => {
  const wire = new Wire();
  const connection = new SpdyConnection(wire, () => undefined);
  const head = Buffer.from([0, 0, 0, 1, 0, 0xff, 0xff, 0xff]);
  wire.push(head);
  await connection.closed;
  expect(wire.destroyed).toBe(true);
});
