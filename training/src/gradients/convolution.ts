import { sizeOf } from '../onnx/tensor-data.ts';
import { reachOf, type Window, windowOf } from '../onnx/window.ts';
import { ends, type GradientContext, type GradientRule } from './gradient.ts';

/**
 * One cross-correlation y = w * x, seen from whichever operator it comes from: for Conv `small` is
 * y and `large` is x, for ConvTranspose the roles are swapped.
 */
interface Correlation {
  readonly batch: number;
  readonly groups: number;
  /** Channels of the large and the small side, over all groups. */
  readonly largeChannels: number;
  readonly smallChannels: number;
  readonly large: readonly number[];
  readonly small: readonly number[];
  readonly window: Window;
}

/** Every cell of a kernel, row-major, as coordinates. */
function cellsOf(kernel: readonly number[]): number[][] {
  return kernel.reduce<number[][]>(
    (cells, size) => cells.flatMap((c) => Array.from({ length: size }, (_, k) => [...c, k])),
    [[]],
  );
}

function spatialAxes(c: Correlation): number[] {
  return c.large.map((_, i) => i + 2);
}

/** The large side with its padding made explicit, as the kernel slides over it. */
function padded(context: GradientContext, large: string, { window }: Correlation): string {
  if ([...window.begins, ...window.ends].every((p) => p === 0)) return large;
  const { builder } = context;
  const pads = [0, 0, ...window.begins, 0, 0, ...window.ends];
  return builder.node('Pad', [large, builder.ints(pads)]);
}

/** What one cell of the kernel sees of the padded large side: `[batch, channels, …small]`. */
function seenBy(
  context: GradientContext,
  source: string,
  at: { readonly cell: readonly number[]; readonly c: Correlation },
): string {
  const { builder } = context;
  const { window, small, large } = at.c;
  const starts = at.cell.map((k, i) => k * (window.dilations[i] ?? 1));
  const stops = starts.map((s, i) => s + ((small[i] ?? 1) - 1) * (window.strides[i] ?? 1) + 1);
  const whole =
    starts.every((s) => s === 0) &&
    window.strides.every((s) => s === 1) &&
    stops.every((s, i) => s === (large[i] ?? 0) + (window.begins[i] ?? 0) + (window.ends[i] ?? 0));
  if (whole) return source;
  return builder.node('Slice', [
    source,
    builder.ints(starts),
    builder.ints(stops),
    builder.ints(spatialAxes(at.c)),
    builder.ints(window.strides),
  ]);
}

/**
 * dW of a depthwise correlation: for each cell, Σ over batch and positions of what it saw times the
 * small side. No product is larger than the tensors themselves.
 */
function depthwiseWeightGradient(
  context: GradientContext,
  at: { large: string; small: string; c: Correlation },
): string {
  const { builder } = context;
  const { c } = at;
  const source = padded(context, at.large, c);
  const axes = builder.ints([0, ...spatialAxes(c)]);
  const sums = cellsOf(c.window.kernel).map((cell) => {
    const product = builder.node('Mul', [seenBy(context, source, { cell, c }), at.small]);
    const sum = builder.node('ReduceSum', [product, axes], { keepdims: 0 });
    return builder.node('Reshape', [sum, builder.ints([c.largeChannels, 1])]);
  });
  const stacked = sums.length === 1 ? (sums[0] ?? '') : builder.node('Concat', sums, { axis: 1 });
  return builder.node('Reshape', [
    stacked,
    builder.ints([c.smallChannels, 1, ...c.window.kernel]),
  ]);
}

/**
 * dW = Σ over batch of small·im2col(large)ᵀ: slices, one batched MatMul and a sum. On the CPU
 * provider this is several times faster than a Conv over transposed tensors.
 */
function weightGradient(
  context: GradientContext,
  at: { large: string; small: string; c: Correlation },
): string {
  const { builder } = context;
  const { c } = at;
  const perGroup = c.largeChannels / c.groups;
  if (perGroup === 1 && c.smallChannels === c.groups && c.groups > 1)
    return depthwiseWeightGradient(context, at);
  const cells = cellsOf(c.window.kernel);
  const length = sizeOf(c.small);
  const source = padded(context, at.large, c);
  const seen = cells.map((cell) =>
    builder.node('Reshape', [
      seenBy(context, source, { cell, c }),
      builder.ints([c.batch, c.largeChannels, 1, length]),
    ]),
  );
  const stacked = seen.length === 1 ? (seen[0] ?? '') : builder.node('Concat', seen, { axis: 2 });
  const lead = c.groups === 1 ? [c.batch] : [c.batch, c.groups];
  const columns = builder.node('Reshape', [
    stacked,
    builder.ints([...lead, perGroup * cells.length, length]),
  ]);
  const rows = builder.node('Reshape', [
    at.small,
    builder.ints([...lead, c.smallChannels / c.groups, length]),
  ]);
  const rank = lead.length + 2;
  const perm = Array.from({ length: rank }, (_, i) => i);
  perm[rank - 2] = rank - 1;
  perm[rank - 1] = rank - 2;
  const perSample = builder.node('MatMul', [
    rows,
    builder.node('Transpose', [columns], { perm }),
  ]);
  const summed = builder.node('ReduceSum', [perSample, builder.ints([0])], { keepdims: 0 });
  return builder.node('Reshape', [
    summed,
    builder.ints([c.smallChannels, perGroup, ...c.window.kernel]),
  ]);
}

function windowAttributes(c: Correlation): Record<string, number | readonly number[]> {
  return {
    strides: c.window.strides,
    dilations: c.window.dilations,
    pads: [...c.window.begins, ...c.window.ends],
    group: c.groups,
  };
}

/** From the small side to the large: the transposed correlation; output_padding restores what the stride cut off. */
function spread(context: GradientContext, small: string, w: string, c: Correlation): string {
  const { window } = c;
  const outputPadding = c.large.map(
    (size, i) =>
      size -
      (((c.small[i] ?? 1) - 1) * (window.strides[i] ?? 1) +
        reachOf(window, i) -
        (window.begins[i] ?? 0) -
        (window.ends[i] ?? 0)),
  );
  return context.builder.node('ConvTranspose', [small, w], {
    ...windowAttributes(c),
    output_padding: outputPadding,
  });
}

function biasGradient({ builder, dy }: GradientContext, c: Correlation): string {
  return builder.node('ReduceSum', [dy, builder.ints([0, ...spatialAxes(c)])], { keepdims: 0 });
}

/** Y = W * X + B (cross-correlation). */
const conv: GradientRule = (context) => {
  const { node, attributes, dy, dimsOf, needs } = context;
  const [x = '', w = '', b = ''] = node.input;
  const [batch = 1, largeChannels = 1, ...large] = dimsOf(x);
  const [, smallChannels = 1, ...small] = dimsOf(ends(context).y);
  const kernel = dimsOf(w).slice(2);
  const c: Correlation = {
    batch,
    groups: attributes.int('group', 1),
    largeChannels,
    smallChannels,
    large,
    small,
    window: windowOf(node, { kernel, spatial: large, out: small }),
  };
  return [
    needs(0) ? spread(context, dy, w, c) : undefined,
    needs(1) ? weightGradient(context, { large: x, small: dy, c }) : undefined,
    b !== '' && needs(2) ? biasGradient(context, c) : undefined,
  ];
};

/** Y = Wᵀ * X + B: the input gradient is a convolution, the weight gradient that of one with X and Y swapped. */
const convTranspose: GradientRule = (context) => {
  const { builder, node, attributes, dy, dimsOf, needs } = context;
  const [x = '', w = '', b = ''] = node.input;
  const [batch = 1, smallChannels = 1, ...small] = dimsOf(x);
  const [, largeChannels = 1, ...large] = dimsOf(ends(context).y);
  const kernel = dimsOf(w).slice(2);
  const plain = windowOf(node, { kernel, spatial: large, out: small });
  // Whatever the node says (pads, output_padding, output_shape): the end padding that fits the sizes.
  const endPads = large.map(
    (size, i) =>
      ((small[i] ?? 1) - 1) * (plain.strides[i] ?? 1) +
      reachOf(plain, i) -
      size -
      (plain.begins[i] ?? 0),
  );
  const c: Correlation = {
    batch,
    groups: attributes.int('group', 1),
    largeChannels,
    smallChannels,
    large,
    small,
    window: { ...plain, ends: endPads },
  };
  const surplus = endPads.map((p) => Math.max(0, -p));
  const dx = (): string => {
    const cropped = surplus.every((s) => s === 0)
      ? dy
      : builder.node('Slice', [
          dy,
          builder.ints(large.map(() => 0)),
          builder.ints(large.map((size, i) => size - (surplus[i] ?? 0))),
          builder.ints(spatialAxes(c)),
        ]);
    const pads = [...plain.begins, ...endPads.map((p) => Math.max(0, p))];
    return builder.node('Conv', [cropped, w], { ...windowAttributes(c), pads });
  };
  return [
    needs(0) ? dx() : undefined,
    needs(1) ? weightGradient(context, { large: dy, small: x, c }) : undefined,
    b !== '' && needs(2) ? biasGradient(context, c) : undefined,
  ];
};

export const CONVOLUTION: Readonly<Record<string, GradientRule>> = {
  Conv: conv,
  ConvTranspose: convTranspose,
};
