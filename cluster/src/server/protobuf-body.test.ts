import { describe, expect, it } from 'vitest';
import { decodeProtobuf, isProtobuf } from './protobuf-body.ts';
import { StatusError } from './status-error.ts';

/** A field with bytes, texts or messages in it. */
function field(number: number, value: string | Buffer): Buffer {
  const bytes = Buffer.from(value);
  const length: number[] = [];
  for (let n = bytes.length; ; n >>= 7) {
    length.push(n > 127 ? (n & 127) | 128 : n);
    if (n <= 127) break;
  }
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...length]), bytes]);
}

function number(n: number, value: number): Buffer {
  return Buffer.from([n << 3, value]);
}

function body(apiVersion: string, kind: string, message: Buffer): Buffer {
  const meta = Buffer.concat([field(1, apiVersion), field(2, kind)]);
  const raw = Buffer.concat([field(1, meta), field(2, message), field(3, ''), field(4, '')]);
  return Buffer.concat([Buffer.from([0x6b, 0x38, 0x73, 0]), raw]);
}

function outcomeOf(bytes: Buffer): string {
  try {
    decodeProtobuf(bytes);
    return 'an object';
  } catch (error) {
    return error instanceof StatusError ? 'refused' : String(error);
  }
}

const named = field(1, Buffer.concat([field(1, 'some'), field(2, ''), field(5, '')]));
const entry = (key: string, value: string): Buffer =>
  Buffer.concat([field(1, key), field(2, value)]);

describe('protobuf bodies', () => {
  it('are told by their first bytes', () => {
    expect(isProtobuf(body('v1', 'ConfigMap', named))).toBe(true);
    expect(isProtobuf(Buffer.from('{"kind":"ConfigMap"}'))).toBe(false);
  });

  it('become the object they stand for: maps, and bytes as base64', () => {
    const config = Buffer.concat([named, field(2, entry('a', '1')), field(2, entry('b', ''))]);
    expect(decodeProtobuf(body('v1', 'ConfigMap', config))).toEqual({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'some' },
      data: { a: '1', b: '' },
    });
    const secret = Buffer.concat([named, field(2, entry('p', 'geheim')), field(3, 'Opaque')]);
    expect(decodeProtobuf(body('v1', 'Secret', secret))).toMatchObject({
      type: 'Opaque',
      data: { p: Buffer.from('geheim').toString('base64') },
    });
  });

  it('lose the zeros that Go writes although nobody gave them, and keep those that somebody gave', () => {
    const port = Buffer.concat([field(1, ''), field(2, 'TCP'), number(3, 80), number(5, 0)]);
    const target = field(4, Buffer.concat([number(1, 0), number(2, 90), field(3, '')]));
    const spec = Buffer.concat([
      field(1, Buffer.concat([port, target])),
      number(12, 0),
      field(4, ''),
    ]);
    expect(
      decodeProtobuf(body('v1', 'Service', Buffer.concat([named, field(2, spec), field(3, '')]))),
    ).toEqual({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'some' },
      spec: { ports: [{ protocol: 'TCP', port: 80, targetPort: 90 }] },
    });
    const none = field(2, number(1, 0));
    expect(
      decodeProtobuf(body('apps/v1', 'Deployment', Buffer.concat([named, none]))),
    ).toMatchObject({
      spec: { replicas: 0 },
    });
  });

  it.each([
    [
      'a kind whose message is not known',
      body('v1', 'Gadget', named),
      /does not read v1 Gadget as protobuf/,
    ],
    [
      'a field that is not known',
      body('v1', 'ConfigMap', field(15, 'x')),
      /ConfigMap has a field 15/,
    ],
    [
      'a body that ends early',
      body('v1', 'ConfigMap', named).subarray(0, 30),
      /not valid protobuf/,
    ],
    [
      'a length beyond the end',
      body('v1', 'ConfigMap', Buffer.from([0x0a, 0xff, 0xff, 0xff, 0x7f])),
      /not valid protobuf/,
    ],
    [
      'a number without an end',
      body('v1', 'ConfigMap', Buffer.alloc(12, 0xff)),
      /not valid protobuf/,
    ],
  ])('refuse %s', (_what, bytes, message) => {
    expect(() => decodeProtobuf(bytes)).toThrow(message);
  });

  it('never do anything but refuse what is no message', () => {
    const good = body('apps/v1', 'Deployment', Buffer.concat([named, field(2, number(1, 2))]));
    const outcomes = new Set<string>();
    for (let at = 4; at < good.length; at++)
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        const broken = Buffer.from(good);
        broken[at] = value;
        outcomes.add(outcomeOf(broken));
      }
    expect([...outcomes].toSorted()).toEqual(['an object', 'refused']);
  });
});
