import { ShoalError } from '@shoal/core';

/** An array of unsigned bytes with its shape, as the MNIST family of files holds it. */
export interface IdxArray {
  readonly dims: readonly number[];
  readonly data: Uint8Array;
}

const UNSIGNED_BYTE = 0x08;
const MAX_DIMS = 8;

/**
 * Parses the IDX format (Y. LeCun, "THE MNIST DATABASE", file format section): two zero bytes,
 * element type, number of dimensions, big-endian sizes, data.
 *
 * @throws ShoalError `data_corrupt` when the header or the length does not fit.
 */
export function parseIdx(bytes: Uint8Array, source: string): IdxArray {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const bad = (why: string): never => {
    throw new ShoalError('data_corrupt', `${source} is not an IDX file of unsigned bytes: ${why}`);
  };
  if (bytes.length < 4 || view.getUint16(0) !== 0) bad('wrong magic number');
  if (view.getUint8(2) !== UNSIGNED_BYTE) bad(`element type 0x${view.getUint8(2).toString(16)}`);
  const rank = view.getUint8(3);
  if (rank === 0 || rank > MAX_DIMS || bytes.length < 4 + 4 * rank) bad(`${rank} dimensions`);
  const dims = Array.from({ length: rank }, (_, i) => view.getUint32(4 + 4 * i));
  const size = dims.reduce((n, d) => n * d, 1);
  const start = 4 + 4 * rank;
  if (bytes.length !== start + size)
    bad(`shape [${dims.join(', ')}] needs ${start + size} bytes, the file has ${bytes.length}`);
  return { dims, data: bytes.subarray(start) };
}
