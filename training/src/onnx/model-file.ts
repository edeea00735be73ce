import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { ShoalError } from '@shoal/core';
import {
  type ModelProto,
  ModelProtoSchema,
  type TensorProto,
  TensorProtoSchema,
} from './onnx_pb.ts';

/** ONNX element types that occur here (TensorProto.DataType). */
export const DATA_TYPE = { float: 1, int32: 6, int64: 7, bool: 9 } as const;

const MIN_OPSET = 13;
const MAX_OPSET = 22;

/** Version of the standard operator set a model asks for. */
export function opsetOf(model: ModelProto): number {
  const standard = model.opsetImport.find((o) => o.domain === '' || o.domain === 'ai.onnx');
  return Number(standard?.version ?? 0n);
}

/**
 * Parses an ONNX file.
 *
 * @throws ShoalError `data_corrupt` for bytes that are no ONNX model; `unsupported` for operator
 *   sets outside 13–22.
 */
export function readModel(bytes: Uint8Array): ModelProto {
  let model: ModelProto;
  try {
    model = fromBinary(ModelProtoSchema, bytes);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ShoalError('data_corrupt', `not an ONNX model (${bytes.length} bytes): ${why}`, {
      cause: error,
    });
  }
  if (!model.graph || model.graph.node.length === 0) {
    throw new ShoalError(
      'data_corrupt',
      `not an ONNX model (${bytes.length} bytes): it has no graph`,
    );
  }
  const opset = opsetOf(model);
  if (opset < MIN_OPSET || opset > MAX_OPSET) {
    throw new ShoalError(
      'unsupported',
      `the model uses ONNX operator set ${opset}; supported are ${MIN_OPSET} to ${MAX_OPSET}. Export it again with one of these (torch.onnx.export(…, opset_version=17))`,
    );
  }
  return model;
}

/** Writes a model as an ONNX file. */
export function writeModel(model: ModelProto): Uint8Array {
  return toBinary(ModelProtoSchema, model);
}

function external(tensor: TensorProto): never {
  throw new ShoalError(
    'unsupported',
    `initializer "${tensor.name}" keeps its data in another file; external data is not read yet`,
  );
}

/** Number of elements of a shape. */
export function sizeOf(dims: readonly (number | bigint)[]): number {
  return dims.reduce<number>((n, d) => n * Number(d), 1);
}

/**
 * Values of a float32 initializer; shares memory with the model where alignment allows.
 *
 * @throws ShoalError `data_corrupt` when the bytes do not fit the shape.
 */
export function floatsOf(tensor: TensorProto): Float32Array {
  if (tensor.dataLocation === 1) external(tensor);
  const wanted = sizeOf(tensor.dims);
  const raw = tensor.rawData;
  let values: Float32Array;
  if (raw.length === 0) values = Float32Array.from(tensor.floatData);
  else if (raw.byteOffset % 4 === 0)
    values = new Float32Array(raw.buffer, raw.byteOffset, raw.length >> 2);
  else values = new Float32Array(new Uint8Array(raw).buffer); // a Buffer’s own slice() would share memory
  if (values.length !== wanted) {
    throw new ShoalError(
      'data_corrupt',
      `initializer "${tensor.name}" has ${values.length} values, its shape [${tensor.dims.join(', ')}] needs ${wanted}`,
    );
  }
  return values;
}

/** Values of an int64 initializer as numbers. */
export function integersOf(tensor: TensorProto): number[] {
  if (tensor.dataLocation === 1) external(tensor);
  if (tensor.rawData.length === 0) return tensor.int64Data.map(Number);
  return Array.from(new BigInt64Array(new Uint8Array(tensor.rawData).buffer), Number);
}

/** A float32 tensor in raw form; the bytes are copied. */
export function floatTensor(
  name: string,
  dims: readonly number[],
  values: Float32Array,
): TensorProto {
  return create(TensorProtoSchema, {
    name,
    dims: dims.map(BigInt),
    dataType: DATA_TYPE.float,
    rawData: new Uint8Array(values.slice().buffer),
  });
}

export function int64Tensor(
  name: string,
  dims: readonly number[],
  values: readonly number[],
): TensorProto {
  return create(TensorProtoSchema, {
    name,
    dims: dims.map(BigInt),
    dataType: DATA_TYPE.int64,
    int64Data: values.map(BigInt),
  });
}
