import type { Dims } from '../onnx/trace.ts';
import { einsum } from './einsum.ts';
import { type GradientContext, type GradientRule, unbroadcast } from './gradient.ts';

function scaled(context: GradientContext, value: string, factor: number): string {
  return factor === 1 ? value : context.builder.node('Mul', [value, context.builder.float(factor)]);
}

/**
 * Y = α·A'B' + β·C, where ' transposes when transA / transB is set.
 * With G = α·dY:  dA' = G·B'ᵀ,  dB' = A'ᵀ·G,  dC = β·Σ dY over broadcast axes.
 */
const gemm: GradientRule = (context) => {
  const { builder, node, attributes, dy, dimsOf, needs } = context;
  const [a = '', b = '', c = ''] = node.input;
  const transA = attributes.int('transA', 0);
  const transB = attributes.int('transB', 0);
  const alpha = attributes.float('alpha', 1);
  const g = scaled(context, dy, alpha);
  const product = (x: string, y: string, transX: number, transY: number): string =>
    builder.node('Gemm', [x, y], { transA: transX, transB: transY });
  const dA = transA ? () => product(b, g, transB, 1) : () => product(g, b, 0, transB ? 0 : 1);
  const dB = transB ? () => product(g, a, 1, transA) : () => product(a, g, transA ? 0 : 1, 0);
  const bias = (): string =>
    unbroadcast(
      context,
      scaled(context, dy, attributes.float('beta', 1)),
      dimsOf(node.output[0] ?? ''),
      dimsOf(c),
    );
  return [
    needs(0) ? dA() : undefined,
    needs(1) ? dB() : undefined,
    c !== '' && needs(2) ? bias() : undefined,
  ];
};

function swapLast(context: GradientContext, value: string, rank: number): string {
  const perm = Array.from({ length: rank }, (_, i) => i);
  perm[rank - 2] = rank - 1;
  perm[rank - 1] = rank - 2;
  return context.builder.node('Transpose', [value], { perm });
}

interface Operand {
  readonly name: string;
  /** At least two dimensions. */
  readonly dims: Dims;
}

/** dB when B is one matrix: all rows of A and dY at once, Aᵀ·dY without a batch of products to add up. */
function sharedMatrixGradient(context: GradientContext, a: Operand, dy: Operand): string {
  const { builder } = context;
  const rows = (x: Operand): string =>
    x.dims.length === 2
      ? x.name
      : builder.node('Reshape', [x.name, builder.ints([-1, x.dims.at(-1) ?? 1])]);
  return builder.node('Gemm', [rows(a), rows(dy)], { transA: 1 });
}

/** Y = A·B on the last two axes:  dA = dY·Bᵀ,  dB = Aᵀ·dY, summed over broadcast batch axes. */
const matMul: GradientRule = (context) => {
  const { builder, node, dimsOf, needs } = context;
  const [aName = '', bName = ''] = node.input;
  const reshaped = (name: string, dims: Dims, wanted: Dims): string =>
    dims.length === wanted.length ? name : builder.node('Reshape', [name, builder.ints(wanted)]);
  const aDims = dimsOf(aName).length === 1 ? [1, ...dimsOf(aName)] : dimsOf(aName);
  const bDims = dimsOf(bName).length === 1 ? [...dimsOf(bName), 1] : dimsOf(bName);
  const a = { name: reshaped(aName, dimsOf(aName), aDims), dims: aDims };
  const b = { name: reshaped(bName, dimsOf(bName), bDims), dims: bDims };
  const lead = broadcastDims(aDims.slice(0, -2), bDims.slice(0, -2));
  const full = [...lead, aDims.at(-2) ?? 1, bDims.at(-1) ?? 1];
  const dy = { name: reshaped(context.dy, dimsOf(node.output[0] ?? ''), full), dims: full };
  const dA = (): string => {
    const product = builder.node('MatMul', [dy.name, swapLast(context, b.name, b.dims.length)]);
    const from = [...lead, ...a.dims.slice(-2)];
    return reshaped(unbroadcast(context, product, from, a.dims), a.dims, dimsOf(aName));
  };
  const dB = (): string => {
    if (b.dims.length === 2)
      return reshaped(sharedMatrixGradient(context, a, dy), b.dims, dimsOf(bName));
    const product = builder.node('MatMul', [swapLast(context, a.name, a.dims.length), dy.name]);
    return unbroadcast(context, product, [...lead, ...b.dims.slice(-2)], b.dims);
  };
  return [needs(0) ? dA() : undefined, needs(1) ? dB() : undefined];
};

/** Shape of two operands under broadcasting (ONNX "Broadcasting in ONNX"). */
function broadcastDims(a: Dims, b: Dims): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    return x === 1 ? y : x;
  });
}

export const LINEAR: Readonly<Record<string, GradientRule>> = {
  Gemm: gemm,
  MatMul: matMul,
  Einsum: einsum,
};
