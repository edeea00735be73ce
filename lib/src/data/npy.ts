import { ShoalError } from '@shoal/core';

/** An array of a NumPy file, values as numbers in C order. */
export interface NpyArray {
  readonly dims: readonly number[];
  readonly values: Float32Array;
}

const MAGIC = '\x93NUMPY';

type Reader = (view: DataView, at: number) => number;

const READERS: Readonly<Record<string, { readonly bytes: number; readonly read: Reader }>> = {
  f4: { bytes: 4, read: (v, at) => v.getFloat32(at, true) },
  f8: { bytes: 8, read: (v, at) => v.getFloat64(at, true) },
  i8: { bytes: 8, read: (v, at) => Number(v.getBigInt64(at, true)) },
  i4: { bytes: 4, read: (v, at) => v.getInt32(at, true) },
  i2: { bytes: 2, read: (v, at) => v.getInt16(at, true) },
  i1: { bytes: 1, read: (v, at) => v.getInt8(at) },
  u1: { bytes: 1, read: (v, at) => v.getUint8(at) },
  u2: { bytes: 2, read: (v, at) => v.getUint16(at, true) },
  u4: { bytes: 4, read: (v, at) => v.getUint32(at, true) },
  b1: { bytes: 1, read: (v, at) => v.getUint8(at) },
};

/**
 * Parses the NPY format (NEP 1, versions 1 to 3): magic, header length, a Python dictionary with
 * `descr`, `fortran_order` and `shape`, data. Little-endian numbers and booleans in C order.
 *
 * @throws ShoalError `data_corrupt` or `unsupported` saying what the header holds.
 */
export function parseNpy(bytes: Uint8Array, source: string): NpyArray {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const bad = (why: string): never => {
    throw new ShoalError('data_corrupt', `${source} is not a NumPy array: ${why}`);
  };
  if (bytes.length < 12 || Buffer.from(bytes.subarray(0, 6)).toString('latin1') !== MAGIC)
    bad('wrong magic number');
  const wide = view.getUint8(6) > 1;
  const headerLength = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = (wide ? 12 : 10) + headerLength;
  if (start > bytes.length) bad('the header is cut off');
  const header = Buffer.from(bytes.subarray(wide ? 12 : 10, start)).toString('latin1');
  const type = /'descr':\s*'[<|=]([a-z]\d)'/.exec(header)?.[1] ?? '';
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  const reader = READERS[type];
  if (shape === undefined) return bad(`header ${header.trim()}`);
  if (!reader || header.includes("'fortran_order': True")) {
    throw new ShoalError(
      'unsupported',
      `${source}: ${header.trim()}; save it as numpy.ascontiguousarray(a, dtype='<f4')`,
    );
  }
  const dims = shape
    .split(',')
    .map((d) => d.trim())
    .filter((d) => d !== '')
    .map(Number);
  const size = dims.reduce((n, d) => n * d, 1);
  if (bytes.length !== start + size * reader.bytes)
    bad(
      `shape (${dims.join(', ')}) of ${type} needs ${size * reader.bytes} bytes, there are ${bytes.length - start}`,
    );
  const values = Float32Array.from({ length: size }, (_, i) =>
    reader.read(view, start + i * reader.bytes),
  );
  return { dims, values };
}

/** An array as an NPY file (version 1.0): float32, C order. */
export function toNpy(dims: readonly number[], values: Float32Array): Uint8Array {
  const shape = `(${dims.join(', ')}${dims.length === 1 ? ',' : ''})`;
  const dictionary = `{'descr': '<f4', 'fortran_order': False, 'shape': ${shape}, }`;
  // Magic, version, length and dictionary end at a multiple of 64 (NEP 1).
  const padding = 63 - ((10 + dictionary.length) % 64);
  const header = `${dictionary}${' '.repeat(padding)}\n`;
  const bytes = Buffer.alloc(10 + header.length + 4 * values.length);
  bytes.write(MAGIC, 'latin1');
  bytes.writeUInt8(1, 6);
  bytes.writeUInt16LE(header.length, 8);
  bytes.write(header, 10, 'latin1');
  for (const [i, v] of values.entries()) bytes.writeFloatLE(v, 10 + header.length + 4 * i);
  return bytes;
}
