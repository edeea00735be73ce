import { isJsonObject, ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import type { Values } from '../paradigms/pipeline-stage.ts';

/** Bytes of a message with values, at most. */
export const MAX_MESSAGE_BYTES: number = 64 * 1024 ** 2;

type Bytes = Uint8Array<ArrayBuffer>;

/** How values are laid out in bytes. */
const ARRAYS: Readonly<Record<string, (bytes: Bytes) => ort.Tensor.DataType>> = {
  float32: (b) => new Float32Array(b.buffer),
  float64: (b) => new Float64Array(b.buffer),
  int32: (b) => new Int32Array(b.buffer),
  int64: (b) => new BigInt64Array(b.buffer),
  uint8: (b) => new Uint8Array(b.buffer),
  bool: (b) => new Uint8Array(b.buffer),
};

function bytesOf(tensor: ort.Tensor): Buffer {
  const data = tensor.data as Float32Array;
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}

/** Bytes of the numbers of some values. */
export function valueBytes(values: Values): number {
  return [...values.values()].reduce((n, t) => n + bytesOf(t).length, 0);
}

/** Values as one message: a line of JSON that says what follows, then the bytes, little-endian. */
export function encodeValues(values: Values): Buffer {
  const head = [...values].map(([name, t]) => ({ name, type: t.type, dims: t.dims }));
  const parts = [...values.values()].map(bytesOf);
  return Buffer.concat([Buffer.from(`${JSON.stringify(head)}\n`), ...parts]);
}

/** @throws ShoalError `invalid_argument` for bytes that are no such message. */
export function decodeValues(message: Buffer): Values {
  const end = message.indexOf(0x0a);
  const fault = (what: string): ShoalError =>
    new ShoalError('invalid_argument', `not a message with values: ${what}`);
  if (end < 0) throw fault('it has no first line');
  const head: unknown = JSON.parse(message.subarray(0, end).toString('utf8'));
  if (!Array.isArray(head)) throw fault('its first line is no list');
  const values = new Map<string, ort.Tensor>();
  let at = end + 1;
  for (const entry of head) {
    const { name, type, dims } = isJsonObject(entry) ? entry : {};
    const make = typeof type === 'string' ? ARRAYS[type] : undefined;
    if (typeof name !== 'string' || !make || !Array.isArray(dims))
      throw fault(`${JSON.stringify(entry)} is no value`);
    const sizes = dims.map(Number);
    const width =
      type === 'float64' || type === 'int64' ? 8 : type === 'uint8' || type === 'bool' ? 1 : 4;
    const length = sizes.reduce((n, d) => n * d, width);
    if (!(length >= 0) || at + length > message.length) throw fault(`${name} is cut off`);
    const own = new Uint8Array(message.subarray(at, at + length));
    values.set(name, new ort.Tensor(type as 'float32', make(own) as Float32Array, sizes));
    at += length;
  }
  return values;
}
