import { sizeOf } from '../onnx/tensor-data.ts';
import { reachOf, type Window, windowOf } from '../onnx/window.ts';
import {
  type Correlation,
  cellsOf,
  padded,
  type Sides,
  seenBy,
  spatialAxes,
} from './correlation.ts';
import {
  depthwiseSpread,
  depthwiseWeightGradient,
  isDepthwise,
  turnedKernel,
} from './depthwise.ts';
import { ends, type GradientContext, type GradientRule } from './gradient.ts';

function swapped(rank: number): number[] {
  const perm = Array.from({ length: rank }, (_, i) => i);
  perm[rank - 2] = rank - 1;
  perm[rank - 1] = rank - 2;
  return perm;
}

/**
 * dW = Σ over batch of small·im2col(large)ᵀ: slices, one batched MatMul and a sum. On the CPU
 * provider this is several times faster than a Conv over transposed tensors.
 */
function slicedWeightGradient(context: GradientContext, at: Sides): string {
  const { builder } = context;
  const { c } = at;
  const perGroup = c.largeChannels / c.groups;
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
  const perSample = builder.node('MatMul', [
    rows,
    builder.node('Transpose', [columns], { perm: swapped(lead.length + 2) }),
  ]);
  const summed = builder.node('ReduceSum', [perSample, builder.ints([0])], { keepdims: 0 });
  return builder.node('Reshape', [
    summed,
    builder.ints([c.smallChannels, perGroup, ...c.window.kernel]),
  ]);
}

/** Positions, row-major, of what each cell of each window sees in a padded large side. */
function windowPositions({ window, small, large }: Correlation): number[] {
  const [height = 1, width = 1] = small;
  const [, padding = 0] = window.begins;
  const across = (large[1] ?? 1) + padding + (window.ends[1] ?? 0);
  const [sh = 1, sw = 1] = window.strides;
  const [dh = 1, dw = 1] = window.dilations;
  const positions: number[] = [];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (const [r = 0, k = 0] of cellsOf(window.kernel))
        positions.push((y * sh + r * dh) * across + x * sw + k * dw);
  return positions;
}

/**
 * dW with channels last: one Gather of whole channel rows lays out im2col, so that copies are long.
 * Pays off from 16 channels on; needs a kernel of more than one cell and one group.
 */
function gatheredWeightGradient(context: GradientContext, at: Sides): string {
  const { builder } = context;
  const { c } = at;
  const { window } = c;
  const cells = sizeOf(window.kernel);
  const last = builder.node('Transpose', [at.large], { perm: [0, 2, 3, 1] });
  const pads = [0, ...window.begins, 0, 0, ...window.ends, 0];
  const source = pads.every((p) => p === 0)
    ? last
    : builder.node('Pad', [last, builder.ints(pads)]);
  const cellsOfSource = c.large.reduce(
    (n, d, i) => n * (d + (window.begins[i] ?? 0) + (window.ends[i] ?? 0)),
    1,
  );
  const flat = builder.node('Reshape', [
    source,
    builder.ints([c.batch, cellsOfSource, c.largeChannels]),
  ]);
  const seen = builder.node('Gather', [flat, builder.ints(windowPositions(c))], { axis: 1 });
  const length = sizeOf(c.small);
  const columns = builder.node('Reshape', [
    seen,
    builder.ints([c.batch, length, cells * c.largeChannels]),
  ]);
  const rows = builder.node('Reshape', [
    at.small,
    builder.ints([c.batch, c.smallChannels, length]),
  ]);
  const perSample = builder.node('MatMul', [rows, columns]);
  const summed = builder.node('ReduceSum', [perSample, builder.ints([0])], { keepdims: 0 });
  const opened = builder.node('Reshape', [
    summed,
    builder.ints([c.smallChannels, ...window.kernel, c.largeChannels]),
  ]);
  return builder.node('Transpose', [opened], { perm: [0, 3, 1, 2] });
}

/** A value as one row of channels per sample and position: `[batch·positions, channels]`. */
function positionRows(
  { builder }: GradientContext,
  value: string,
  at: { batch: number; channels: number; length: number },
): string {
  const flat = builder.node('Reshape', [value, builder.ints([at.batch, at.channels, at.length])]);
  const turned = builder.node('Transpose', [flat], { perm: [0, 2, 1] });
  return builder.node('Reshape', [turned, builder.ints([-1, at.channels])]);
}

/** Whether a correlation is a product of channels at each position: kernel of one cell, nothing skipped. */
function isPointwise({ groups, window }: Correlation): boolean {
  return (
    groups === 1 &&
    sizeOf(window.kernel) === 1 &&
    [...window.begins, ...window.ends].every((p) => p === 0) &&
    window.strides.every((s) => s === 1)
  );
}

/** dW of a pointwise correlation over few positions: one Gemm over all samples. */
function pointwiseWeightGradient(context: GradientContext, at: Sides): string {
  const { batch, largeChannels, smallChannels, small, window } = at.c;
  const length = sizeOf(small);
  const rows = positionRows(context, at.small, { batch, channels: smallChannels, length });
  const columns = positionRows(context, at.large, { batch, channels: largeChannels, length });
  const { builder } = context;
  const product = builder.node('Gemm', [rows, columns], { transA: 1 });
  return builder.node('Reshape', [
    product,
    builder.ints([smallChannels, largeChannels, ...window.kernel]),
  ]);
}

/** Whether so few positions carry so many weights that per-sample products would mostly write weights. */
function hasFewPositions(c: Correlation): boolean {
  const length = sizeOf(c.small);
  return c.smallChannels * c.largeChannels > 4 * length * (c.smallChannels + c.largeChannels);
}

/** The weight gradient in the form that is fastest for the shape; each form was measured. */
function weightGradient(context: GradientContext, at: Sides): string {
  const { c } = at;
  if (isDepthwise(c)) return depthwiseWeightGradient(context, at);
  if (isPointwise(c) && hasFewPositions(c)) return pointwiseWeightGradient(context, at);
  const plane = c.groups === 1 && c.large.length === 2;
  const whole = [...c.window.begins, ...c.window.ends].every((p) => p >= 0);
  if (plane && whole && c.largeChannels >= 16 && sizeOf(c.window.kernel) > 1)
    return gatheredWeightGradient(context, at);
  return slicedWeightGradient(context, at);
}

function windowAttributes(c: Correlation): Record<string, number | readonly number[]> {
  return {
    strides: c.window.strides,
    dilations: c.window.dilations,
    pads: [...c.window.begins, ...c.window.ends],
    group: c.groups,
  };
}

/** The transposed correlation; output_padding restores what the stride cut off. */
function transposedSpread(
  context: GradientContext,
  small: string,
  w: string,
  c: Correlation,
): string {
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

/** With stride 1 the transposed correlation is a correlation with the kernel turned around. */
function turnedSpread(context: GradientContext, small: string, w: string, c: Correlation): string {
  const { builder } = context;
  const { window } = c;
  const axes = window.kernel.map((_, i) => i + 2);
  const turned = turnedKernel(builder, w, window.kernel);
  const pads = [window.begins, window.ends].flatMap((side) =>
    side.map((p, i) => reachOf(window, i) - 1 - p),
  );
  return builder.node(
    'Conv',
    [small, builder.node('Transpose', [turned], { perm: [1, 0, ...axes] })],
    { dilations: window.dilations, pads },
  );
}

/** Pointwise over few positions: one product over all samples. */
function pointwiseSpread(
  context: GradientContext,
  small: string,
  w: string,
  c: Correlation,
): string {
  const { builder } = context;
  const { batch, smallChannels, largeChannels, large } = c;
  const length = sizeOf(large);
  const rows = positionRows(context, small, { batch, channels: smallChannels, length });
  const matrix = builder.node('Reshape', [w, builder.ints([smallChannels, largeChannels])]);
  const product = builder.node('Reshape', [
    builder.node('MatMul', [rows, matrix]),
    builder.ints([batch, length, largeChannels]),
  ]);
  const turned = builder.node('Transpose', [product], { perm: [0, 2, 1] });
  return builder.node('Reshape', [turned, builder.ints([batch, largeChannels, ...large])]);
}

/** From the small side to the large, in the form that is fastest for the shape. */
function spread(context: GradientContext, small: string, w: string, c: Correlation): string {
  const { window, groups, smallChannels, largeChannels } = c;
  if (isPointwise(c) && hasFewPositions(c)) return pointwiseSpread(context, small, w, c);
  const depthwise = isDepthwise(c) ? depthwiseSpread(context, small, w, c) : undefined;
  if (depthwise !== undefined) return depthwise;
  const dense = groups === 1 && window.strides.every((s) => s === 1);
  const fits = [...window.begins, ...window.ends].every(
    (p, i) => p >= 0 && p < reachOf(window, i % window.kernel.length),
  );
  const pays = sizeOf(window.kernel) === 1 || Math.min(smallChannels, largeChannels) >= 64;
  if (fits && dense && pays) return turnedSpread(context, small, w, c);
  return transposedSpread(context, small, w, c);
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

/** With output_shape the padding is what is left, halved; the odd one goes where auto_pad says (ONNX ConvTranspose). */
function splitBegins(
  window: Window,
  at: Pick<GradientContext, 'attributes'> & {
    readonly large: readonly number[];
    readonly small: readonly number[];
  },
): number[] {
  const { attributes, large, small } = at;
  const isUpper = attributes.text('auto_pad', 'NOTSET') === 'SAME_UPPER';
  const extra = attributes.ints('output_padding', []);
  return large.map((size, i) => {
    const full = ((small[i] ?? 1) - 1) * (window.strides[i] ?? 1) + reachOf(window, i);
    const total = Math.max(0, full + (extra[i] ?? 0) - size);
    return isUpper ? Math.floor(total / 2) : total - Math.floor(total / 2);
  });
}

/** Y = Wᵀ * X + B: the input gradient is a convolution, the weight gradient that of one with X and Y swapped. */
const convTranspose: GradientRule = (context) => {
  const { builder, node, attributes, dy, dimsOf, needs } = context;
  const [x = '', w = '', b = ''] = node.input;
  const [batch = 1, smallChannels = 1, ...small] = dimsOf(x);
  const [, largeChannels = 1, ...large] = dimsOf(ends(context).y);
  const kernel = dimsOf(w).slice(2);
  const asked = windowOf(node, { kernel, spatial: large, out: small });
  const plain = attributes.has('output_shape')
    ? { ...asked, begins: splitBegins(asked, { attributes, large, small }) }
    : asked;
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
