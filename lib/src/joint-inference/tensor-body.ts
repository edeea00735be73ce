import { ShoalError } from '@shoal/core';

/** Content type of bodies that are tensors rather than digits. */
export const TENSOR_TYPE = 'application/octet-stream';
/** `[size, …sample]`, separated by commas. */
export const SHAPE_HEADER = 'x-shoal-shape';
export const DTYPE_HEADER = 'x-shoal-dtype';
/** Milliseconds after which an answer is of no use. */
export const DEADLINE_HEADER = 'x-shoal-deadline-ms';

/** A batch as a body: float32, little endian, with its shape beside it. */
export function tensorBody(rows: readonly Float32Array[]): {
  readonly body: Uint8Array<ArrayBuffer>;
  readonly headers: Record<string, string>;
} {
  const width = rows[0]?.length ?? 0;
  const values = new Float32Array(rows.length * width);
  for (const [i, row] of rows.entries()) values.set(row, i * width);
  return {
    body: new Uint8Array(values.buffer),
    headers: {
      'Content-Type': TENSOR_TYPE,
      [DTYPE_HEADER]: 'float32',
      [SHAPE_HEADER]: `${rows.length},${width}`,
    },
  };
}

/**
 * Rows of a tensor body.
 *
 * @throws ShoalError `invalid_argument` for another dtype, a malformed shape, or a body that does not fit it.
 */
export function tensorRows(
  body: Uint8Array,
  header: (name: string) => string | undefined,
): Float32Array[] {
  const dtype = header(DTYPE_HEADER) ?? 'float32';
  if (dtype !== 'float32')
    throw new ShoalError('invalid_argument', `${DTYPE_HEADER} must be float32, got "${dtype}"`);
  const shape = (header(SHAPE_HEADER) ?? '').split(',').map(Number);
  const [size = 0, ...rest] = shape;
  const width = rest.reduce((n, d) => n * d, 1);
  if (!shape.every((d) => Number.isInteger(d) && d > 0) || rest.length === 0)
    throw new ShoalError(
      'invalid_argument',
      `${SHAPE_HEADER} must be [size, …sample] as whole numbers separated by commas, got "${header(SHAPE_HEADER) ?? ''}"`,
    );
  if (body.length !== size * width * 4)
    throw new ShoalError(
      'invalid_argument',
      `a float32 tensor of shape [${shape.join(', ')}] has ${size * width * 4} bytes, the body has ${body.length}`,
    );
  const values = new Float32Array(new Uint8Array(body).buffer);
  return Array.from({ length: size }, (_, i) => values.subarray(i * width, (i + 1) * width));
}
