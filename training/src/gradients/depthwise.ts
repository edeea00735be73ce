import type { GraphBuilder } from '../onnx/graph-builder.ts';
import { sizeOf } from '../onnx/tensor-data.ts';
import { reachOf } from '../onnx/window.ts';
import {
  type Correlation,
  cellsOf,
  padded,
  type Sides,
  seenBy,
  spatialAxes,
} from './correlation.ts';
import type { GradientContext } from './gradient.ts';

/** The runtime's own layout for convolutions: channels in blocks of 8 or 16, innermost. */
const BLOCKED_DOMAIN = 'com.microsoft.nchwc';

export interface DepthwiseConvolution {
  readonly x: string;
  /** `[channels, 1, …kernel]` */
  readonly w: string;
  readonly channels: number;
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly begins: readonly number[];
  readonly ends: readonly number[];
  /** Name of the result; generated when not given. */
  readonly as?: string;
}

/** Whether a depthwise convolution can run in blocks of this size. */
export function fitsBlocks(
  blockSize: number | undefined,
  c: Pick<DepthwiseConvolution, 'channels' | 'kernel'>,
): blockSize is number {
  return blockSize !== undefined && c.kernel.length === 2 && c.channels % blockSize === 0;
}

/**
 * A depthwise convolution whose weight changes from run to run. The runtime turns convolutions with
 * constant weights into its blocked layout, which is two to four times faster for depthwise ones;
 * here the weights are not constant, so that the nodes are written as the runtime would write them.
 *
 * @param blockSize Channels per block on this machine; undefined for the standard operator.
 */
export function writeDepthwise(
  builder: GraphBuilder,
  c: DepthwiseConvolution,
  blockSize: number | undefined,
): string {
  const attributes = {
    kernel_shape: c.kernel,
    strides: c.strides,
    dilations: c.dilations,
    pads: [...c.begins, ...c.ends],
    group: c.channels,
  };
  if (!fitsBlocks(blockSize, c)) return builder.node('Conv', [c.x, c.w], attributes, c.as);
  const blocked = (op: string, inputs: string[], options: object = {}): string => {
    const [y = ''] = builder.nodeWithOutputs(op, inputs, { domain: BLOCKED_DOMAIN, ...options });
    return y;
  };
  const cells = sizeOf(c.kernel);
  const groups = builder.node('Reshape', [
    c.w,
    builder.ints([c.channels / blockSize, blockSize, cells]),
  ]);
  const innermost = builder.node('Transpose', [groups], { perm: [0, 2, 1] });
  const weight = builder.node('Reshape', [innermost, builder.ints([c.channels, 1, ...c.kernel])]);
  const y = blocked('Conv', [blocked('ReorderInput', [c.x]), weight], { attributes });
  return blocked('ReorderOutput', [y], {
    attributes: { channels: c.channels },
    ...(c.as === undefined ? {} : { as: c.as }),
  });
}

/** Whether every channel is correlated with its own kernel only. */
export function isDepthwise(c: Correlation): boolean {
  return c.groups > 1 && c.largeChannels === c.groups && c.smallChannels === c.groups;
}

/** dW, one cell after the other: Σ over batch and positions of what it saw times the small side. */
function cellwiseWeightGradient(context: GradientContext, at: Sides): string {
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
  return builder.node('Reshape', [stacked, builder.ints([c.smallChannels, 1, ...c.window.kernel])]);
}

/** Where one kernel cell looks along one axis from each output position; outside is left out. */
function looks(
  c: Correlation,
  axis: number,
  cell: number,
): { readonly out: number; readonly at: number }[] {
  const { strides, dilations, begins } = c.window;
  const step = strides[axis] ?? 1;
  const shift = cell * (dilations[axis] ?? 1) - (begins[axis] ?? 0);
  const size = c.large[axis] ?? 1;
  return Array.from({ length: c.small[axis] ?? 1 }, (_, out) => ({
    out,
    at: out * step + shift,
  })).filter(({ at }) => at >= 0 && at < size);
}

/** Which pairs of a position of the large side and one of the small side each kernel cell joins: `[pairs, cells]`. */
function joins(c: Correlation): Float32Array {
  const cells = cellsOf(c.window.kernel);
  const [, width = 1] = c.large;
  const [, ow = 1] = c.small;
  const outs = sizeOf(c.small);
  const matrix = new Float32Array(sizeOf(c.large) * outs * cells.length);
  for (const [k, [r = 0, s = 0]] of cells.entries()) {
    const columns = looks(c, 1, s);
    for (const row of looks(c, 0, r)) {
      for (const column of columns) {
        const pair = (row.at * width + column.at) * outs + row.out * ow + column.out;
        matrix[pair * cells.length + k] = 1;
      }
    }
  }
  return matrix;
}

/** dW over small maps: every pair of positions at once, per channel, then the pairs each cell joins. */
function pairwiseWeightGradient(context: GradientContext, at: Sides): string {
  const { builder } = context;
  const { c } = at;
  const [positions, outs] = [sizeOf(c.large), sizeOf(c.small)];
  const cells = sizeOf(c.window.kernel);
  const rows = (value: string, length: number, perm: number[]): string =>
    builder.node(
      'Transpose',
      [builder.node('Reshape', [value, builder.ints([c.batch, c.groups, length])])],
      { perm },
    );
  const pairs = builder.node('MatMul', [
    rows(at.large, positions, [1, 2, 0]),
    rows(at.small, outs, [1, 0, 2]),
  ]);
  const flat = builder.node('Reshape', [pairs, builder.ints([c.groups, positions * outs])]);
  const chosen = builder.node('MatMul', [
    flat,
    builder.floats(joins(c), [positions * outs, cells]),
  ]);
  return builder.node('Reshape', [chosen, builder.ints([c.groups, 1, ...c.window.kernel])]);
}

/** dW per sample and channel as a correlation of the large side with the small one, then a sum over samples. */
function correlatedWeightGradient(
  context: GradientContext,
  at: Sides & { readonly ends: readonly number[] },
): string {
  const { builder, blockSize } = context;
  const { c } = at;
  const { window } = c;
  const channels = c.batch * c.groups;
  const y = writeDepthwise(
    builder,
    {
      x: builder.node('Reshape', [at.large, builder.ints([1, channels, ...c.large])]),
      w: builder.node('Reshape', [at.small, builder.ints([channels, 1, ...c.small])]),
      channels,
      kernel: c.small,
      strides: window.dilations,
      dilations: window.strides,
      begins: window.begins,
      ends: at.ends,
    },
    blockSize,
  );
  const perSample = builder.node('Reshape', [
    y,
    builder.ints([c.batch, c.groups, sizeOf(window.kernel)]),
  ]);
  const summed = builder.node('ReduceSum', [perSample, builder.ints([0])], { keepdims: 0 });
  return builder.node('Reshape', [summed, builder.ints([c.groups, 1, ...window.kernel])]);
}

/** Pairs of positions up to which all of them at once are cheaper than the kernel's cells. */
const MAX_PAIRS = 64 * 64;

/** dW of a depthwise correlation, in the form that is fastest for the shape. */
export function depthwiseWeightGradient(context: GradientContext, at: Sides): string {
  const { c } = at;
  const { window } = c;
  if (c.large.length !== 2) return cellwiseWeightGradient(context, at);
  if (sizeOf(c.large) * sizeOf(c.small) <= MAX_PAIRS) return pairwiseWeightGradient(context, at);
  // Rows and columns the last window does not reach are no part of the correlation.
  const reached = c.small.map((n, i) => (n - 1) * (window.strides[i] ?? 1) + reachOf(window, i));
  const ends = reached.map((r, i) => r - (c.large[i] ?? 0) - (window.begins[i] ?? 0));
  if (ends.some((e) => e < 0)) return cellwiseWeightGradient(context, at);
  return correlatedWeightGradient(context, { ...at, ends });
}

/** The kernel turned around in every spatial direction. */
export function turnedKernel(builder: GraphBuilder, w: string, kernel: readonly number[]): string {
  if (sizeOf(kernel) === 1) return w;
  const axes = kernel.map((_, i) => i + 2);
  return builder.node('Slice', [
    w,
    builder.ints(kernel.map((k) => k - 1)),
    builder.ints(kernel.map((k) => -k - 1)),
    builder.ints(axes),
    builder.ints(axes.map(() => -1)),
  ]);
}

/** The small side with zeros between its positions, as a stride of s skipped them. */
function opened(context: GradientContext, small: string, c: Correlation): string {
  const { builder } = context;
  const { strides } = c.window;
  if (strides.every((s) => s === 1)) return small;
  const size = c.small.map((n, i) => n * (strides[i] ?? 1));
  const [height = 1, width = 1] = size;
  const mask = Float32Array.from({ length: height * width }, (_, k) => {
    const [y, x] = [Math.floor(k / width), k % width];
    return y % (strides[0] ?? 1) === 0 && x % (strides[1] ?? 1) === 0 ? 1 : 0;
  });
  const scales = builder.floats(Float32Array.of(1, 1, ...strides), [4]);
  const stretched = builder.node('Resize', [small, '', scales], {
    mode: 'nearest',
    coordinate_transformation_mode: 'asymmetric',
    nearest_mode: 'floor',
  });
  return builder.node('Mul', [stretched, builder.floats(mask, size)]);
}

/** dX of a depthwise correlation, as one with the kernel turned around; undefined where that does not fit. */
export function depthwiseSpread(
  context: GradientContext,
  small: string,
  w: string,
  c: Correlation,
): string | undefined {
  const { window } = c;
  const begins = window.begins.map((p, i) => reachOf(window, i) - 1 - p);
  const ends = c.large.map(
    (size, i) =>
      size -
      (c.small[i] ?? 0) * (window.strides[i] ?? 1) -
      (begins[i] ?? 0) +
      reachOf(window, i) -
      1,
  );
  const strided = window.strides.some((s) => s > 1);
  if (c.large.length !== 2 || [...begins, ...ends].some((p) => p < 0)) return undefined;
  if (strided && !fitsBlocks(context.blockSize, { channels: c.groups, kernel: window.kernel }))
    return undefined;
  const plain = window.strides.map(() => 1);
  return writeDepthwise(
    context.builder,
    {
      x: opened(context, small, c),
      w: turnedKernel(context.builder, w, window.kernel),
      channels: c.groups,
      kernel: window.kernel,
      strides: plain,
      dilations: window.dilations,
      begins,
      ends,
    },
    context.blockSize,
  );
}
