import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, isAbsolute, join, relative } from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { fromNode, ShoalError } from '@shoal/core';
import { checkGraph } from './check-graph.ts';
import {
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
} from './onnx_pb.ts';
import { revise } from './revise.ts';
import { ELEMENT_BYTES, sizeOf } from './tensor-data.ts';

const MIN_OPSET = 13;
const MAX_OPSET = 22;
/** A protobuf message cannot be larger than this. */
const PROTOBUF_LIMIT_BYTES = 2 ** 31 - 1;

/** Version of the standard operator set a model asks for. */
export function opsetOf(model: ModelProto): number {
  const standard = model.opsetImport.find((o) => o.domain === '' || o.domain === 'ai.onnx');
  return Number(standard?.version ?? 0n);
}

function parse(bytes: Uint8Array): ModelProto {
  try {
    return fromBinary(ModelProtoSchema, bytes);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ShoalError('data_corrupt', `not an ONNX model (${bytes.length} bytes): ${why}`, {
      cause: error,
    });
  }
}

/**
 * Parses an ONNX file. Large tensors share memory with `bytes`.
 *
 * @throws ShoalError `data_corrupt` for bytes that are no ONNX model or a graph that contradicts
 *   itself (a value defined twice or never, a cycle); `unsupported` for operator sets outside 13–22.
 */
export function readModel(bytes: Uint8Array): ModelProto {
  const model = parse(bytes);
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
  const [own] = model.functions;
  if (own)
    throw new ShoalError(
      'unsupported',
      `the model brings operators of its own ("${own.domain}:${own.name}"${model.functions.length > 1 ? ` and ${model.functions.length - 1} more` : ''}); export it with its functions written out (onnx.inliner.inline_local_functions)`,
    );
  checkGraph(model.graph);
  return model;
}

interface ExternalData {
  readonly path: string;
  readonly offset: number;
  readonly length: number;
}

function externalDataOf(tensor: TensorProto, directory: string): ExternalData {
  const entry = (key: string): string | undefined =>
    tensor.externalData.find((e) => e.key === key)?.value;
  const location = entry('location') ?? '';
  const inside = relative(directory, join(directory, location));
  if (location === '' || isAbsolute(location) || inside.startsWith('..')) {
    throw new ShoalError(
      'data_corrupt',
      `initializer "${tensor.name}" points at "${location}", outside the folder of the model; external data must lie beside it`,
    );
  }
  const bytes = sizeOf(tensor.dims) * (ELEMENT_BYTES[tensor.dataType] ?? 0);
  return {
    path: join(directory, location),
    offset: Number(entry('offset') ?? 0),
    length: Number(entry('length') ?? bytes),
  };
}

function readRange({ path, offset, length }: ExternalData, tensor: TensorProto): Uint8Array {
  const wanted = sizeOf(tensor.dims) * (ELEMENT_BYTES[tensor.dataType] ?? 0);
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    throw fromNode(error, `reading external data of initializer "${tensor.name}" from ${path}`);
  }
  try {
    const size = statSync(path).size;
    if (length !== wanted || !(offset >= 0) || offset + length > size) {
      throw new ShoalError(
        'data_corrupt',
        `initializer "${tensor.name}" wants bytes ${offset} to ${offset + length} of ${path} (${size} bytes) for ${wanted} bytes of values`,
      );
    }
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) at += readSync(file, bytes, at, length - at, offset + at);
    return bytes;
  } finally {
    closeSync(file);
  }
}

/**
 * Reads an ONNX file with the external data beside it.
 *
 * @throws ShoalError as {@link readModel}; `not_found` or `data_corrupt` for external data that is
 *   missing, too short, or outside the model's folder.
 */
export function readModelFile(path: string): ModelProto {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw fromNode(error, `reading model ${path}`);
  }
  const model = readModel(bytes);
  for (const tensor of model.graph?.initializer ?? []) {
    if (tensor.dataLocation !== 1) continue;
    tensor.rawData = readRange(externalDataOf(tensor, dirname(path)), tensor);
    tensor.externalData = [];
    tensor.dataLocation = 0;
  }
  return model;
}

/** Numbers of the fields that are written by hand (onnx.proto3). */
const GRAPH_FIELD = 7;
const INITIALIZER_FIELD = 5;
const RAW_DATA_FIELD = 9;

/** The head of a field of bytes: its tag and the length of what follows (protobuf encoding, "Length-Delimited Records"). */
function fieldHead(field: number, length: number): Uint8Array {
  const bytes = [(field << 3) | 2];
  let rest = length;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

function lengthOf(pieces: readonly Uint8Array[]): number {
  return pieces.reduce((n, p) => n + p.length, 0);
}

/** A tensor with the values as they lie in memory. */
function tensorPieces(tensor: TensorProto): Uint8Array[] {
  const { rawData } = tensor;
  if (rawData.length === 0) return [toBinary(TensorProtoSchema, tensor)];
  const others = revise(tensor, {});
  Reflect.deleteProperty(others, 'rawData');
  const rest = toBinary(TensorProtoSchema, others);
  return [rest, fieldHead(RAW_DATA_FIELD, rawData.length), rawData];
}

/**
 * The bytes of a model, in order, without copying tensors: the library would copy each of them once for every
 * message around it.
 */
function modelPieces(model: ModelProto): Uint8Array[] {
  const { graph } = model;
  if (!graph) return [toBinary(ModelProtoSchema, model)];
  const own = toBinary(GraphProtoSchema, revise(graph, { initializer: [] }));
  const inside: Uint8Array[] = [own];
  for (const tensor of graph.initializer) {
    const pieces = tensorPieces(tensor);
    inside.push(fieldHead(INITIALIZER_FIELD, lengthOf(pieces)), ...pieces);
  }
  const around = toBinary(ModelProtoSchema, revise(model, { graph: undefined }));
  return [around, fieldHead(GRAPH_FIELD, lengthOf(inside)), ...inside];
}

/** @throws ShoalError `out_of_range` beyond 2 GiB. */
function expectFits(model: ModelProto): void {
  const size = model.graph?.initializer.reduce((n, t) => n + t.rawData.length, 0) ?? 0;
  if (size > PROTOBUF_LIMIT_BYTES) {
    throw new ShoalError(
      'out_of_range',
      `the model holds ${size} bytes of values, a protobuf file at most ${PROTOBUF_LIMIT_BYTES}; write it with writeModelFile(path, model, { externalData: true })`,
    );
  }
}

/** Writes a model as the bytes of an ONNX file. @throws ShoalError `out_of_range` beyond 2 GiB. */
export function writeModel(model: ModelProto): Uint8Array {
  expectFits(model);
  const pieces = modelPieces(model);
  const bytes = new Uint8Array(lengthOf(pieces));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function writePieces(path: string, pieces: readonly Uint8Array[]): void {
  const file = openSync(path, 'w');
  try {
    for (const piece of pieces)
      for (let at = 0; at < piece.length; ) at += writeSync(file, piece, at, piece.length - at);
  } finally {
    closeSync(file);
  }
}

/** Tensors smaller than this stay in the model file. */
const EXTERNAL_FROM_BYTES = 1024;

/**
 * Writes a model file; with `externalData`, its large tensors go to `<path>.data`, which lifts the
 * 2 GiB limit of the format.
 */
export function writeModelFile(
  path: string,
  model: ModelProto,
  options: { readonly externalData?: boolean } = {},
): void {
  mkdirSync(dirname(path), { recursive: true });
  const { graph } = model;
  if (!options.externalData || !graph) {
    expectFits(model);
    writePieces(path, modelPieces(model));
    return;
  }
  const location = `${path}.data`;
  const chunks: Uint8Array[] = [];
  let offset = 0;
  const initializer = graph.initializer.map((tensor) => {
    const { length } = tensor.rawData;
    if (length < EXTERNAL_FROM_BYTES) return tensor;
    chunks.push(tensor.rawData);
    const fields = { location: relative(dirname(path), location), offset, length };
    offset += length;
    const externalData = Object.entries(fields).map(([key, value]) =>
      create(StringStringEntryProtoSchema, { key, value: String(value) }),
    );
    return create(TensorProtoSchema, {
      name: tensor.name,
      dims: tensor.dims,
      dataType: tensor.dataType,
      dataLocation: 1,
      externalData,
    });
  });
  writePieces(location, chunks);
  writeFileSync(path, writeModel(revise(model, { graph: revise(graph, { initializer }) })));
}
