import { ShoalError } from '@shoal/core';
import { type GradientContext, type GradientRule, unbroadcast } from './gradient.ts';

function scaled(context: GradientContext, value: string, factor: number): string {
  return factor === 1 ? value : context.builder.node('Mul', [value, context.builder.float(factor)]);
}

/**
 * Y = α·A'B' + β·C, where ' transposes when transA / transB is set.
 * With G = α·dY:  dA' = G·B'ᵀ,  dB' = A'ᵀ·G,  dC = β·Σ dY over broadcast axes.
 */
const gemm: GradientRule = (context) => {
  const { builder, node, attributes, dy, shapeOf, needs } = context;
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
      shapeOf(node.output[0] ?? ''),
      shapeOf(c),
    );
  return [
    needs(0) ? dA() : undefined,
    needs(1) ? dB() : undefined,
    c !== '' && needs(2) ? bias() : undefined,
  ];
};

function swapLast(context: GradientContext, value: string): string {
  const rank = context.shapeOf(value).length;
  const perm = Array.from({ length: rank }, (_, i) => i);
  perm[rank - 2] = rank - 1;
  perm[rank - 1] = rank - 2;
  return context.builder.node('Transpose', [value], { perm });
}

/** Y = A·B on the last two axes:  dA = dY·Bᵀ,  dB = Aᵀ·dY, summed over broadcast batch axes. */
const matMul: GradientRule = (context) => {
  const { builder, node, dy, shapeOf, needs } = context;
  const [a = '', b = ''] = node.input;
  const [y = ''] = node.output;
  if (shapeOf(a).length < 2 || shapeOf(b).length < 2) {
    throw new ShoalError(
      'unsupported',
      `node "${node.name}" (MatMul): operands with one dimension are not supported`,
    );
  }
  const batch = shapeOf(y).slice(0, -2);
  const dA = (): string => {
    const full = builder.node('MatMul', [dy, swapLast(context, b)]);
    return unbroadcast(context, full, [...batch, ...shapeOf(a).slice(-2)], shapeOf(a));
  };
  const dB = (): string => {
    const full = builder.node('MatMul', [swapLast(context, a), dy]);
    return unbroadcast(context, full, [...batch, ...shapeOf(b).slice(-2)], shapeOf(b));
  };
  return [needs(0) ? dA() : undefined, needs(1) ? dB() : undefined];
};

export const LINEAR: Readonly<Record<string, GradientRule>> = { Gemm: gemm, MatMul: matMul };
