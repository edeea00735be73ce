import { isJsonObject, type JsonObject } from '@shoal/core';
import table from './protobuf-fields-generated.json' with { type: 'json' };
import { StatusError } from './status-error.ts';

/** What a protobuf body of Kubernetes begins with. */
const MAGIC = Buffer.from([0x6b, 0x38, 0x73, 0]);
const MAX_DEPTH = 40;

type Field = readonly [name: string, type: string, flags: string];
type Fields = Readonly<Record<string, Field>>;

const KINDS: Readonly<Record<string, string>> = table.kinds;
const MESSAGES = table.messages as unknown as Readonly<Record<string, Fields>>;

const META = 'k8s.io.apimachinery.pkg.apis.meta.v1';
const QUANTITY = 'k8s.io.apimachinery.pkg.api.resource.Quantity';
const INT_OR_STRING = 'k8s.io.apimachinery.pkg.util.intstr.IntOrString';

/** Messages whose fields stand in the message around them (Go's embedded structs). */
const INLINE: ReadonlySet<string> = new Set(['volumeSource', 'handler', 'localObjectReference']);

/** Structs that Go writes also when nothing is in them. */
const ALWAYS_WRITTEN: ReadonlySet<string> = new Set([
  'status',
  'strategy',
  'resources',
  'creationTimestamp',
  'updateStrategy',
  'loadBalancer',
  'metadata',
]);
/** Numbers that Go writes only when somebody gave them, so that 0 means 0. */
const GIVEN: ReadonlySet<string> = new Set([
  'replicas',
  'minReplicas',
  'parallelism',
  'completions',
  'backoffLimit',
  'activeDeadlineSeconds',
  'ttlSecondsAfterFinished',
  'terminationGracePeriodSeconds',
  'defaultMode',
  'mode',
  'runAsUser',
  'runAsGroup',
  'fsGroup',
]);

export function isProtobuf(body: Uint8Array): boolean {
  return MAGIC.equals(body.subarray(0, MAGIC.length));
}

function broken(what: string): StatusError {
  return new StatusError('BadRequest', `the body is not valid protobuf: ${what}`);
}

/** Wire format: tags, lengths and numbers of one message. */
class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#bytes.length;
  }

  varint(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#bytes[this.#at++];
      if (byte === undefined) throw broken('it ends in a number');
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asIntN(64, value);
    }
    throw broken('a number is too long');
  }

  take(length: number): Buffer {
    const end = this.#at + length;
    if (length < 0 || end > this.#bytes.length) throw broken('it ends in a field');
    const part = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return part;
  }

  bytes(): Buffer {
    return this.take(Number(this.varint()));
  }
}

type Wire = { readonly bytes: Buffer } | { readonly number: bigint };

/** Fields of a message as they come: number and value. */
function* fieldsOf(bytes: Buffer): Generator<readonly [number: string, wire: Wire]> {
  const reader = new Reader(bytes);
  while (!reader.isAtEnd) {
    const tag = reader.varint();
    const number = String(tag >> 3n);
    switch (Number(tag & 7n)) {
      case 0:
        yield [number, { number: reader.varint() }];
        break;
      case 1:
        yield [number, { bytes: reader.take(8) }];
        break;
      case 2:
        yield [number, { bytes: reader.bytes() }];
        break;
      case 5:
        yield [number, { bytes: reader.take(4) }];
        break;
      default:
        throw broken(`field ${number} has a type nobody writes`);
    }
  }
}

function bytesOf(wire: Wire | undefined): Buffer {
  return wire && 'bytes' in wire ? wire.bytes : Buffer.alloc(0);
}

function numberOf(wire: Wire | undefined): bigint {
  return wire && 'number' in wire ? wire.number : 0n;
}

function wires(bytes: Buffer): Map<string, Wire> {
  return new Map(fieldsOf(bytes));
}

function timeOf(bytes: Buffer, isMicro: boolean): string | undefined {
  const fields = wires(bytes);
  const seconds = numberOf(fields.get('1'));
  const nanos = numberOf(fields.get('2'));
  if (seconds === 0n && nanos === 0n) return undefined;
  const ms = Number(seconds) * 1000 + Number(nanos / 1_000_000n);
  const text = new Date(ms).toISOString();
  return isMicro ? text.replace('Z', '000Z') : text.replace(/\.\d{3}Z$/, 'Z');
}

/** Types that are no objects in JSON. */
function scalarMessage(type: string, bytes: Buffer): unknown {
  const fields = wires(bytes);
  switch (type) {
    case `${META}.Time`:
      return timeOf(bytes, false);
    case `${META}.MicroTime`:
      return timeOf(bytes, true);
    case QUANTITY:
      return bytesOf(fields.get('1')).toString('utf8');
    case INT_OR_STRING:
      return numberOf(fields.get('1')) === 1n
        ? bytesOf(fields.get('3')).toString('utf8')
        : Number(numberOf(fields.get('2')));
    case `${META}.FieldsV1`:
      return JSON.parse(bytesOf(fields.get('1')).toString('utf8') || '{}');
    default:
      return undefined;
  }
}

const SCALAR_MESSAGES: ReadonlySet<string> = new Set([
  `${META}.Time`,
  `${META}.MicroTime`,
  `${META}.FieldsV1`,
  QUANTITY,
  INT_OR_STRING,
]);

function valueOf(type: string, wire: Wire, at: { depth: number; where: string }): unknown {
  switch (type) {
    case 'string':
      return bytesOf(wire).toString('utf8');
    case 'bytes':
      return bytesOf(wire).toString('base64');
    case 'bool':
      return numberOf(wire) !== 0n;
    case 'double':
      return bytesOf(wire).readDoubleLE(0);
    default:
      if ('number' in wire) return Number(wire.number);
      if (SCALAR_MESSAGES.has(type)) return scalarMessage(type, wire.bytes);
      return messageOf(type, wire.bytes, { depth: at.depth + 1, where: at.where });
  }
}

/** What Go writes although nobody gave it. */
function isUnsaid(name: string, value: unknown): boolean {
  if (value === undefined || value === '' || value === false) return true;
  if (value === 0) return !GIVEN.has(name);
  return isJsonObject(value) && Object.keys(value).length === 0 && ALWAYS_WRITTEN.has(name);
}

function mapEntry(
  type: string,
  bytes: Buffer,
  at: { depth: number; where: string },
): [string, unknown] {
  const fields = wires(bytes);
  const value = fields.get('2') ?? { bytes: Buffer.alloc(0) };
  return [bytesOf(fields.get('1')).toString('utf8'), valueOf(type, value, at)];
}

function messageOf(
  type: string,
  bytes: Buffer,
  at: { readonly depth: number; readonly where: string },
): JsonObject {
  const fields = MESSAGES[type];
  if (!fields || at.depth > MAX_DEPTH) throw broken(`${at.where} is nested too deeply`);
  const found: Record<string, unknown> = {};
  for (const [number, wire] of fieldsOf(bytes)) {
    const field = fields[number];
    // A newer client's field: to drop it would store something else than was meant.
    if (!field) throw broken(`${at.where} has a field ${number} that this server does not know`);
    const [name, fieldType, flags] = field;
    const inner = { depth: at.depth, where: `${at.where}.${name}` };
    if (flags === 'm') {
      const [key, value] = mapEntry(fieldType, bytesOf(wire), inner);
      const map = (found[name] ??= {}) as Record<string, unknown>;
      map[key] = value;
    } else if (flags === 'r') {
      const list = (found[name] ??= []) as unknown[];
      list.push(valueOf(fieldType, wire, inner));
    } else {
      const value = valueOf(fieldType, wire, inner);
      if (INLINE.has(name) && isJsonObject(value)) Object.assign(found, value);
      else if (!isUnsaid(name, value)) found[name] = value;
    }
  }
  return found;
}

/**
 * A body as `kubectl create configmap` and its like send it since 1.32: an envelope with kind and
 * message, as the object it stands for.
 *
 * @throws StatusError `UnsupportedMediaType` for a kind whose message is not known here, `BadRequest`
 *   for bytes that are none.
 */
export function decodeProtobuf(body: Buffer): JsonObject {
  const envelope = wires(body.subarray(MAGIC.length));
  const typeMeta = wires(bytesOf(envelope.get('1')));
  const [apiVersion, kind] = ['1', '2'].map((n) => bytesOf(typeMeta.get(n)).toString('utf8'));
  const type = KINDS[`${apiVersion}/${kind}`];
  if (type === undefined)
    throw new StatusError(
      'UnsupportedMediaType',
      `this server does not read ${apiVersion} ${kind} as protobuf; use: kubectl create … --dry-run=client -o yaml | kubectl apply -f -`,
    );
  const message = messageOf(type, bytesOf(envelope.get('2')), { depth: 0, where: kind ?? '' });
  return { apiVersion, kind, ...message };
}
