import { sizeOf } from '../onnx/tensor-data.ts';
import type { Dims } from '../onnx/trace.ts';
import { axesOf, ends, type GradientContext, type GradientRule } from './gradient.ts';

interface Reduction {
  readonly x: string;
  readonly y: string;
  readonly dims: Dims;
  readonly axes: readonly number[];
  /** How many values went into each result. */
  readonly count: number;
  /** A value of y's shape with the reduced axes back as 1. */
  readonly kept: (value: string) => string;
}

function reductionOf(context: GradientContext): Reduction {
  const { builder, attributes, dimsOf } = context;
  const { x, y } = ends(context);
  const dims = dimsOf(x);
  const given = axesOf(context, dims.length);
  const none = given === undefined && attributes.int('noop_with_empty_axes', 0) === 1;
  const axes = given ?? (none ? [] : dims.map((_, i) => i));
  const shape = dims.map((d, i) => (axes.includes(i) ? 1 : d));
  const keeps = attributes.int('keepdims', 1) === 1;
  return {
    x,
    y,
    dims,
    axes,
    count: axes.reduce((n, a) => n * (dims[a] ?? 1), 1),
    kept: (value) => (keeps ? value : builder.node('Reshape', [value, builder.ints(shape)])),
  };
}

/** Rule of a reduction, from what each element gets as `[broadcastable to x]`. */
function reduction(
  gradient: (context: GradientContext, r: Reduction) => string,
  spread = false,
): GradientRule {
  return (context) => {
    const r = reductionOf(context);
    const dx = gradient(context, r);
    const { builder } = context;
    return [
      spread && sizeOf(r.dims) !== sizeOf(context.dimsOf(r.y))
        ? builder.node('Expand', [dx, builder.ints(r.dims)])
        : dx,
    ];
  };
}

/** y = max or min over the axes:  dx = dy shared evenly by the positions that hold it */
const extremum = reduction(({ builder, dy }, r) => {
  const holds = builder.node('Cast', [builder.node('Equal', [r.x, r.kept(r.y)])], { to: 1 });
  const count = builder.node('ReduceSum', [holds, builder.ints(r.axes)], {
    keepdims: 1,
    noop_with_empty_axes: 1,
  });
  return builder.node('Mul', [holds, builder.node('Div', [r.kept(dy), count])]);
});

/** y = Πx:  dxᵢ = dy·Π_{j ≠ i} xⱼ, also where one of them is 0 */
const product = reduction(({ builder, dy }, r) => {
  const axes = builder.ints(r.axes);
  const keep = { keepdims: 1, noop_with_empty_axes: 1 };
  const isZero = builder.node('Equal', [r.x, builder.float(0)]);
  const filled = builder.node('Where', [isZero, builder.float(1), r.x]);
  const zeros = builder.node('ReduceSum', [builder.node('Cast', [isZero], { to: 1 }), axes], keep);
  const others = builder.node('Div', [builder.node('ReduceProd', [filled, axes], keep), filled]);
  // All other factors are without zeros when this one holds all there are.
  const own = builder.node('Cast', [isZero], { to: 1 });
  const counts = builder.node('Cast', [builder.node('Equal', [zeros, own])], { to: 1 });
  return builder.node('Mul', [builder.node('Mul', [others, counts]), r.kept(dy)]);
});

/** y[i] = Σ_{j ≤ i} x[j]:  dx[j] = Σ_{i ≥ j} dy[i], the sum the other way round */
const cumulativeSum: GradientRule = ({ builder, node, dy, attributes }) => {
  const [, axis = ''] = node.input;
  const reverse = attributes.int('reverse', 0) === 1 ? 0 : 1;
  return [
    builder.node('CumSum', [dy, axis], { reverse, exclusive: attributes.int('exclusive', 0) }),
  ];
};

export const REDUCTION: Readonly<Record<string, GradientRule>> = {
  /** y = Σ x:  dx = dy */
  ReduceSum: reduction(({ dy }, r) => r.kept(dy), true),
  /** y = Σ x/n:  dx = dy/n */
  ReduceMean: reduction(
    ({ builder, dy }, r) => builder.node('Mul', [r.kept(dy), builder.float(1 / r.count)]),
    true,
  ),
  ReduceMax: extremum,
  ReduceMin: extremum,
  /** y = √Σx²:  dx = dy·x/y, and 0 where y is, as PyTorch has it */
  ReduceL2: reduction(({ builder, dy }, r) => {
    const isZero = builder.node('Equal', [r.y, builder.float(0)]);
    const divisor = builder.node('Where', [isZero, builder.float(1), r.y]);
    return builder.node('Mul', [r.x, builder.node('Div', [r.kept(dy), r.kept(divisor)])]);
  }),
  /** y = Σ|x|:  dx = dy·sign x */
  ReduceL1: reduction(({ builder, dy }, r) =>
    builder.node('Mul', [builder.node('Sign', [r.x]), r.kept(dy)]),
  ),
  /** y = Σx²:  dx = 2·dy·x */
  ReduceSumSquare: reduction(({ builder, dy }, r) =>
    builder.node('Mul', [r.x, builder.node('Mul', [r.kept(dy), builder.float(2)])]),
  ),
  /** y = ln Σeˣ:  dx = dy·e^(x−y) */
  ReduceLogSumExp: reduction(({ builder, dy }, r) =>
    builder.node('Mul', [
      builder.node('Exp', [builder.node('Sub', [r.x, r.kept(r.y)])]),
      r.kept(dy),
    ]),
  ),
  /** y = ln Σx:  dx = dy·e^(−y) */
  ReduceLogSum: reduction(
    ({ builder, dy }, r) =>
      builder.node('Mul', [r.kept(dy), builder.node('Exp', [builder.node('Neg', [r.kept(r.y)])])]),
    true,
  ),
  ReduceProd: product,
  CumSum: cumulativeSum,
};
