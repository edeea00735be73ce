import { ShoalError } from '@shoal/core';
import { Attributes, type Dim, type Shape } from './graph-builder.ts';
import { integersOf } from './model-file.ts';
import type { GraphProto, NodeProto, TensorProto, ValueInfoProto } from './onnx_pb.ts';

/** Shapes of the values of a graph; a dimension that is not known at build time is a name. */
export type Shapes = Map<string, Shape>;

interface Inference {
  readonly node: NodeProto;
  readonly attributes: Attributes;
  readonly shapes: Shapes;
  readonly constants: ReadonlyMap<string, TensorProto>;
}

/** Shape of a declared input or output. */
export function declaredShape(info: ValueInfoProto): Shape | undefined {
  if (info.type?.value.case !== 'tensorType') return undefined;
  return info.type.value.value.shape?.dim.map((d, i): Dim => {
    if (d.value.case === 'dimValue' && d.value.value > 0n) return Number(d.value.value);
    return d.value.case === 'dimParam' && d.value.value !== ''
      ? d.value.value
      : i === 0
        ? 'batch'
        : `${info.name}_${i}`;
  });
}

function shapeOf(at: Inference, index: number): Shape {
  const name = at.node.input[index] ?? '';
  const found = at.shapes.get(name);
  if (found) return found;
  throw new ShoalError(
    'invalid_argument',
    `node "${at.node.name}" (${at.node.opType}) reads "${name}", which nothing defines`,
  );
}

function fixed(dim: Dim | undefined, at: Inference): number {
  if (typeof dim === 'number') return dim;
  throw new ShoalError(
    'unsupported',
    `node "${at.node.name}" (${at.node.opType}): dimension ${dim} must be known; only the batch may be symbolic`,
  );
}

/** Shape of two operands under broadcasting (ONNX "Broadcasting in ONNX"). */
export function broadcastShape(a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i): Dim => {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    return x === 1 ? y : x;
  });
}

function gemm(at: Inference): Shape {
  const a = shapeOf(at, 0);
  const b = shapeOf(at, 1);
  const rows = at.attributes.int('transA', 0) ? a[1] : a[0];
  const columns = at.attributes.int('transB', 0) ? b[0] : b[1];
  return [rows ?? 1, columns ?? 1];
}

function matMul(at: Inference): Shape {
  const a = shapeOf(at, 0);
  const b = shapeOf(at, 1);
  const batch = broadcastShape(a.slice(0, -2), b.slice(0, -2));
  return [...batch, a.at(-2) ?? 1, b.at(-1) ?? 1];
}

/** Geometry of a sliding window over the spatial axes. */
export interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  /** Begins, then ends, per spatial axis. */
  readonly pads: readonly number[];
}

/** Reads strides, dilations and padding of a Conv or pooling node. */
export function windowOf(node: NodeProto, kernel: readonly number[]): Window {
  const attributes = new Attributes(node);
  const autoPad = attributes.text('auto_pad', 'NOTSET');
  if (autoPad !== 'NOTSET' && autoPad !== 'VALID') {
    throw new ShoalError(
      'unsupported',
      `node "${node.name}" (${node.opType}): auto_pad=${autoPad} is not supported; export the model with explicit pads`,
    );
  }
  const ones = kernel.map(() => 1);
  return {
    kernel,
    strides: attributes.ints('strides', ones),
    dilations: attributes.ints('dilations', ones),
    pads: attributes.ints(
      'pads',
      [...kernel, ...kernel].map(() => 0),
    ),
  };
}

/** Spatial output sizes of a window over an input. */
export function outputSizes(spatial: readonly number[], window: Window): number[] {
  const n = spatial.length;
  return spatial.map((size, i) => {
    const padded = size + (window.pads[i] ?? 0) + (window.pads[i + n] ?? 0);
    const reach = ((window.kernel[i] ?? 1) - 1) * (window.dilations[i] ?? 1) + 1;
    return Math.floor((padded - reach) / (window.strides[i] ?? 1)) + 1;
  });
}

function conv(at: Inference): Shape {
  const x = shapeOf(at, 0);
  const w = shapeOf(at, 1);
  const kernel = w.slice(2).map((d) => fixed(d, at));
  const spatial = x.slice(2).map((d) => fixed(d, at));
  return [x[0] ?? 1, w[0] ?? 1, ...outputSizes(spatial, windowOf(at.node, kernel))];
}

function pool(at: Inference): Shape {
  const x = shapeOf(at, 0);
  const spatial = x.slice(2).map((d) => fixed(d, at));
  const window = windowOf(at.node, at.attributes.ints('kernel_shape', []));
  return [x[0] ?? 1, x[1] ?? 1, ...outputSizes(spatial, window)];
}

function flatten(at: Inference): Shape {
  const x = shapeOf(at, 0);
  const axis = at.attributes.int('axis', 1);
  const tail = x.slice(axis).reduce<number>((n, d) => n * fixed(d, at), 1);
  if (axis === 1) return [x[0] ?? 1, tail];
  return [x.slice(0, axis).reduce<number>((n, d) => n * fixed(d, at), 1), tail];
}

function reshape(at: Inference): Shape {
  const x = shapeOf(at, 0);
  const target = at.constants.get(at.node.input[1] ?? '');
  if (!target)
    throw new ShoalError(
      'unsupported',
      `node "${at.node.name}" (Reshape): the shape must be a constant`,
    );
  const wanted: Dim[] = integersOf(target).map((d, i) => (d === 0 ? (x[i] ?? 1) : d));
  const hole = wanted.indexOf(-1);
  if (hole < 0) return wanted;
  const symbol = x.find((d) => typeof d === 'string');
  const keepsSymbol = symbol === undefined || wanted.includes(symbol);
  const size = (dims: readonly Dim[]): number =>
    dims.reduce<number>((n, d) => (typeof d === 'number' && d > 0 ? n * d : n), 1);
  const rest = size(x) / size(wanted);
  if (keepsSymbol) wanted[hole] = rest;
  else if (rest === 1 && symbol !== undefined) wanted[hole] = symbol;
  else wanted[hole] = `${symbol}x${rest}`;
  return wanted;
}

function transpose(at: Inference): Shape {
  const x = shapeOf(at, 0);
  const perm = at.attributes.ints(
    'perm',
    x.map((_, i) => x.length - 1 - i),
  );
  return perm.map((p) => x[p] ?? 1);
}

const same = (at: Inference): Shape => shapeOf(at, 0);
const broadcast = (at: Inference): Shape => broadcastShape(shapeOf(at, 0), shapeOf(at, 1));

const RULES: Readonly<Record<string, (at: Inference) => Shape>> = {
  Identity: same,
  Relu: same,
  LeakyRelu: same,
  Sigmoid: same,
  Tanh: same,
  Neg: same,
  Exp: same,
  Softmax: same,
  LogSoftmax: same,
  Add: broadcast,
  Sub: broadcast,
  Mul: broadcast,
  Div: broadcast,
  Gemm: gemm,
  MatMul: matMul,
  Conv: conv,
  MaxPool: pool,
  AveragePool: pool,
  Flatten: flatten,
  Reshape: reshape,
  Transpose: transpose,
  GlobalAveragePool: (at) => {
    const x = shapeOf(at, 0);
    return x.map((d, i) => (i < 2 ? d : 1));
  },
};

/**
 * Infers the shape of every value, in graph order.
 *
 * @throws ShoalError naming the node when a shape cannot be found.
 */
export function inferShapes(graph: GraphProto): Shapes {
  const shapes: Shapes = new Map();
  const constants = new Map(graph.initializer.map((t) => [t.name, t]));
  for (const info of graph.input) {
    const shape = declaredShape(info);
    if (shape) shapes.set(info.name, shape);
  }
  for (const tensor of graph.initializer) shapes.set(tensor.name, tensor.dims.map(Number));
  for (const node of graph.node) {
    const rule = RULES[node.opType];
    if (!rule) {
      throw new ShoalError(
        'unsupported',
        `node "${node.name}" uses operator ${node.opType}, which the training engine does not know`,
      );
    }
    const [output = ''] = node.output;
    shapes.set(output, rule({ node, attributes: new Attributes(node), shapes, constants }));
  }
  return shapes;
}
