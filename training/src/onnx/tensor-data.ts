import { create } from '@bufbuild/protobuf';
import { ShoalError } from '@shoal/core';
import { type TensorProto, TensorProtoSchema } from './onnx_pb.ts';

/** ONNX element types (TensorProto.DataType). */
export const DATA_TYPE = {
  float: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  bfloat16: 16,
  double: 11,
  uint32: 12,
  uint64: 13,
} as const;

/** Values of a tensor as the runtime hands them out. */
export type TensorValues =
  | Float32Array
  | Float64Array
  | Int32Array
  | BigInt64Array
  | BigUint64Array
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array;

/** Number of elements of a shape. */
export function sizeOf(dims: readonly (number | bigint)[]): number {
  return dims.reduce<number>((n, d) => n * Number(d), 1);
}

function refuseExternal(tensor: TensorProto): void {
  if (tensor.dataLocation !== 1) return;
  const file = tensor.externalData.find((e) => e.key === 'location')?.value ?? 'another file';
  throw new ShoalError(
    'failed_precondition',
    `initializer "${tensor.name}" keeps its data in ${file}; open the model with readModelFile(path), which reads the files beside it`,
  );
}

function expectSize(tensor: TensorProto, length: number): void {
  const wanted = sizeOf(tensor.dims);
  if (length === wanted) return;
  throw new ShoalError(
    'data_corrupt',
    `initializer "${tensor.name}" has ${length} values, its shape [${tensor.dims.join(', ')}] needs ${wanted}`,
  );
}

/**
 * Values of a float32 initializer; shares memory with the model where alignment allows.
 *
 * @throws ShoalError `data_corrupt` when the bytes do not fit the shape.
 */
export function floatsOf(tensor: TensorProto): Float32Array {
  refuseExternal(tensor);
  const raw = tensor.rawData;
  let values: Float32Array;
  if (raw.length === 0) values = Float32Array.from(tensor.floatData);
  else if (raw.byteOffset % 4 === 0)
    values = new Float32Array(raw.buffer, raw.byteOffset, raw.length >> 2);
  else values = new Float32Array(new Uint8Array(raw).buffer); // a Buffer’s own slice() would share memory
  expectSize(tensor, values.length);
  return values;
}

/**
 * Copies the values of a float32 initializer.
 *
 * @throws ShoalError `data_corrupt` when they are not as many.
 */
export function copyFloats(tensor: TensorProto, into: Float32Array): void {
  refuseExternal(tensor);
  const { rawData } = tensor;
  if (rawData.length === 0) {
    expectSize(tensor, tensor.floatData.length);
    into.set(tensor.floatData);
    return;
  }
  expectSize(tensor, rawData.length >> 2);
  bytesOf(into).set(rawData);
}

/** Values of an integer or boolean initializer as numbers. */
export function integersOf(tensor: TensorProto): number[] {
  refuseExternal(tensor);
  const values = integerValues(tensor);
  expectSize(tensor, values.length);
  return values;
}

function integerValues(tensor: TensorProto): number[] {
  if (tensor.rawData.length === 0) {
    return tensor.dataType === DATA_TYPE.int64
      ? tensor.int64Data.map(Number)
      : [...tensor.int32Data];
  }
  const { buffer } = new Uint8Array(tensor.rawData);
  if (tensor.dataType === DATA_TYPE.int64) return Array.from(new BigInt64Array(buffer), Number);
  if (tensor.dataType === DATA_TYPE.int32) return Array.from(new Int32Array(buffer));
  return Array.from(new Uint8Array(buffer));
}

function bytesOf(values: TensorValues): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** A tensor in raw form that shares memory with `values`. */
export function tensorOf(
  name: string,
  dataType: number,
  value: { readonly dims: readonly number[]; readonly values: TensorValues },
): TensorProto {
  return create(TensorProtoSchema, {
    name,
    dims: value.dims.map(BigInt),
    dataType,
    rawData: bytesOf(value.values),
  });
}

/** A float32 tensor in raw form; shares memory with `values`. */
export function floatTensor(
  name: string,
  dims: readonly number[],
  values: Float32Array,
): TensorProto {
  return tensorOf(name, DATA_TYPE.float, { dims, values });
}

export function int64Tensor(
  name: string,
  dims: readonly number[],
  values: readonly number[],
): TensorProto {
  return tensorOf(name, DATA_TYPE.int64, { dims, values: BigInt64Array.from(values, BigInt) });
}

/** Bytes per element of the types that can be stored outside the model file. */
export const ELEMENT_BYTES: Readonly<Record<number, number>> = {
  [DATA_TYPE.float]: 4,
  [DATA_TYPE.uint8]: 1,
  [DATA_TYPE.int8]: 1,
  [DATA_TYPE.uint16]: 2,
  [DATA_TYPE.int16]: 2,
  [DATA_TYPE.int32]: 4,
  [DATA_TYPE.int64]: 8,
  [DATA_TYPE.bool]: 1,
  [DATA_TYPE.float16]: 2,
  [DATA_TYPE.double]: 8,
  [DATA_TYPE.uint32]: 4,
  [DATA_TYPE.uint64]: 8,
};
