import { sizeOf } from '../onnx/tensor-data.ts';
import type { Dims } from '../onnx/trace.ts';
import { type GradientContext, type GradientRule, unbroadcast } from './gradient.ts';

function mul(context: GradientContext, a: string, b: string): string {
  return context.builder.node('Mul', [a, b]);
}

/** A per-channel vector as `[1, C, 1, …]`. */
function perChannel({ builder }: GradientContext, value: string, rank: number): string {
  const dims = Array.from({ length: rank }, (_, i) => (i === 1 ? -1 : 1));
  return builder.node('Reshape', [value, builder.ints(dims)]);
}

function channelAxes(rank: number): number[] {
  return Array.from({ length: rank }, (_, i) => i).filter((i) => i !== 1);
}

function sum(
  context: GradientContext,
  value: string,
  axes: readonly number[],
  keepdims = 0,
): string {
  return context.builder.node('ReduceSum', [value, context.builder.ints(axes)], { keepdims });
}

/** 1/√(variance + ε) */
function inverseDeviation({ builder, attributes }: GradientContext, variance: string): string {
  const safe = builder.node('Add', [variance, builder.float(attributes.float('epsilon', 1e-5))]);
  return builder.node('Reciprocal', [builder.node('Sqrt', [safe])]);
}

/**
 * BatchNormalization (Ioffe & Szegedy 2015), y = γ·x̂ + β with x̂ = (x − μ)/σ per channel.
 * With frozen statistics  dx = dy·γ/σ. With statistics of the batch (m values per channel):
 * dx = γ/σ · (dy − mean(dy) − x̂·mean(dy·x̂)).  dγ = Σ dy·x̂,  dβ = Σ dy. Given statistics that are computed get
 * dμ = −γ/σ·Σ dy,  dσ² = −γ/(2σ²)·Σ dy·x̂.
 *
 * Per channel dx = a·dy + b·x + c, in two passes: the runtime's own BatchNormalization computes
 * a·dy + c in one.
 */
const batchNormalization: GradientRule = (context) => {
  const { builder, node, attributes, dy, dimsOf, needs } = context;
  const [x = '', scale = ''] = node.input;
  const byBatch = attributes.int('training_mode', 0) === 1;
  const [mean = '', variance = ''] = byBatch ? node.output.slice(1) : node.input.slice(3);
  const dims = dimsOf(x);
  const axes = channelAxes(dims.length);
  const inverse = inverseDeviation(context, variance);
  const sumDy = sum(context, dy, axes);
  const centered = builder.node('Sub', [x, perChannel(context, mean, dims.length)]);
  const dot = mul(context, sum(context, mul(context, dy, centered), axes), inverse);
  const gain = mul(context, scale, inverse);
  const dx = (): string => {
    if (!byBatch) return mul(context, dy, perChannel(context, gain, dims.length));
    const share = builder.float((dims[1] ?? 1) / sizeOf(dims));
    const slope = builder.node('Neg', [
      mul(context, mul(context, gain, inverse), mul(context, dot, share)),
    ]);
    const shift = builder.node('Neg', [mul(context, gain, mul(context, sumDy, share))]);
    return builder.node('Add', [
      affine(context, dy, { factor: gain, offset: shift }),
      mul(context, centered, perChannel(context, slope, dims.length)),
    ]);
  };
  const ofStatistics = byBatch
    ? []
    : [
        needs(3) ? builder.node('Neg', [mul(context, sumDy, gain)]) : undefined,
        needs(4)
          ? mul(context, mul(context, dot, gain), mul(context, inverse, builder.float(-0.5)))
          : undefined,
      ];
  return [
    needs(0) ? dx() : undefined,
    needs(1) ? dot : undefined,
    needs(2) ? sumDy : undefined,
    ...ofStatistics,
  ];
};

/** factor·x + offset per channel, in one pass: a BatchNormalization with mean 0 and variance 1. */
function affine(
  { builder }: GradientContext,
  x: string,
  at: { factor: string; offset: string },
): string {
  const zeros = builder.node('Mul', [at.factor, builder.float(0)]);
  const ones = builder.node('Add', [zeros, builder.float(1)]);
  return builder.node('BatchNormalization', [x, at.factor, at.offset, zeros, ones], {
    epsilon: { float: 0 },
  });
}

/**
 * Gradient through x̂ = (x − μ)/σ with statistics over the given axes, where g = ∂L/∂x̂:
 * dx = (g − mean(g) − x̂·mean(g·x̂))/σ.
 */
function throughStandardized(
  context: GradientContext,
  g: string,
  at: { normalized: string; inverse: string; axes: readonly number[] },
): string {
  const { builder } = context;
  const meanOf = (value: string): string =>
    builder.node('ReduceMean', [value, builder.ints(at.axes)], { keepdims: 1 });
  const projected = mul(context, at.normalized, meanOf(mul(context, g, at.normalized)));
  const centered = builder.node('Sub', [builder.node('Sub', [g, meanOf(g)]), projected]);
  return mul(context, centered, at.inverse);
}

/** LayerNormalization (Ba et al. 2016) over the axes from `axis` on; the node gives mean and 1/σ itself. */
const layerNormalization: GradientRule = (context) => {
  const { builder, node, attributes, dy, dimsOf, needs, extraOutput } = context;
  const [x = '', scale = '', bias = ''] = node.input;
  const rank = dimsOf(x).length;
  const axis = (attributes.int('axis', -1) + rank) % rank;
  const axes = Array.from({ length: rank - axis }, (_, i) => axis + i);
  const inverse = extraOutput(2);
  const normalized = mul(context, builder.node('Sub', [x, extraOutput(1)]), inverse);
  const overLead = (value: string, like: string): string =>
    unbroadcast(context, value, dimsOf(x), dimsOf(like));
  return [
    needs(0)
      ? throughStandardized(context, mul(context, dy, scale), { normalized, inverse, axes })
      : undefined,
    needs(1) ? overLead(mul(context, dy, normalized), scale) : undefined,
    bias !== '' && needs(2) ? overLead(dy, bias) : undefined,
  ];
};

/**
 * InstanceNormalization (Ulyanov et al. 2016) and GroupNormalization (Wu & He 2018): statistics per
 * sample and group of channels, an instance being a group of one. Values are seen as
 * `[batch, groups, channels per group, positions]`; γ and β are per group (opset 18) or per channel.
 */
const groupedNormalization: GradientRule = (context) => {
  const { builder, node, attributes, dy, dimsOf, needs } = context;
  const [x = '', scale = ''] = node.input;
  const dims = dimsOf(x);
  const [batch = 1, channels = 1, ...spatial] = dims;
  const groups =
    node.opType === 'InstanceNormalization' ? channels : attributes.int('num_groups', 1);
  const each = channels / groups;
  const view = [batch, groups, each, sizeOf(spatial)];
  const scaleView = [1, groups, sizeOf(dimsOf(scale)) === groups ? 1 : each, 1];
  const as = (value: string, shape: Dims): string =>
    builder.node('Reshape', [value, builder.ints(shape)]);
  const axes = [2, 3];
  const meanOf = (value: string): string =>
    builder.node('ReduceMean', [value, builder.ints(axes)], { keepdims: 1 });
  const viewed = as(x, view);
  const centered = builder.node('Sub', [viewed, meanOf(viewed)]);
  const inverse = inverseDeviation(context, meanOf(mul(context, centered, centered)));
  const normalized = mul(context, centered, inverse);
  const dyViewed = as(dy, view);
  const perScale = (value: string): string =>
    as(
      sum(
        context,
        value,
        scaleView.flatMap((d, i) => (d === 1 ? [i] : [])),
      ),
      dimsOf(scale),
    );
  const g = mul(context, dyViewed, as(scale, scaleView));
  return [
    needs(0) ? as(throughStandardized(context, g, { normalized, inverse, axes }), dims) : undefined,
    needs(1) ? perScale(mul(context, dyViewed, normalized)) : undefined,
    needs(2) ? perScale(dyViewed) : undefined,
  ];
};

/** y = x/n with n = ‖x‖₂ or ‖x‖₁ along an axis:  dx = (dy − n′·Σ dy·y)/n, n′ = y or sign x */
const lpNormalization: GradientRule = (context) => {
  const { builder, node, attributes, dy } = context;
  const [x = ''] = node.input;
  const [y = ''] = node.output;
  const p = attributes.int('p', 2);
  const axes = builder.ints([attributes.int('axis', -1)]);
  const norm = builder.node(p === 1 ? 'ReduceL1' : 'ReduceL2', [x, axes], { keepdims: 1 });
  const dot = builder.node('ReduceSum', [mul(context, dy, y), axes], { keepdims: 1 });
  const slope = p === 1 ? builder.node('Sign', [x]) : y;
  const isZero = builder.node('Equal', [norm, builder.float(0)]);
  const divisor = builder.node('Where', [isZero, builder.float(1), norm]);
  return [builder.node('Div', [builder.node('Sub', [dy, mul(context, slope, dot)]), divisor])];
};

/** Sums over neighbouring channels: `before` of them, the channel itself, and those after, `size` in all. */
function overChannels(
  { builder }: GradientContext,
  value: string,
  at: { readonly dims: Dims; readonly size: number; readonly before: number },
): string {
  const { dims, size, before } = at;
  const [batch = 1, channels = 1, ...spatial] = dims;
  const flat = builder.node('Reshape', [
    value,
    builder.ints([batch, 1, channels, sizeOf(spatial)]),
  ]);
  const mean = builder.node('AveragePool', [flat], {
    kernel_shape: [size, 1],
    pads: [before, 0, size - 1 - before, 0],
    count_include_pad: 1,
  });
  const shaped = builder.node('Reshape', [mean, builder.ints(dims)]);
  return builder.node('Mul', [shaped, builder.float(size)]);
}

/**
 * Local response normalization (Krizhevsky et al. 2012, §3.3), y = x·s^−β with s = k + (α/n)·Σ x² over n channels:
 * dx = dy·s^−β − (2αβ/n)·x·Σ dy·x·s^(−β−1), the sum over the channels that x counts in.
 */
const localResponse: GradientRule = (context) => {
  const { builder, node, attributes, dy, dimsOf } = context;
  const [x = ''] = node.input;
  const dims = dimsOf(x);
  const size = attributes.int('size', 1);
  const [alpha, beta] = [attributes.float('alpha', 1e-4), attributes.float('beta', 0.75)];
  const before = Math.floor((size - 1) / 2);
  const squares = overChannels(context, mul(context, x, x), { dims, size, before });
  const s = builder.node('Add', [
    builder.node('Mul', [squares, builder.float(alpha / size)]),
    builder.float(attributes.float('bias', 1)),
  ]);
  const power = (exponent: number): string => builder.node('Pow', [s, builder.float(exponent)]);
  const own = mul(context, dy, power(-beta));
  const pull = mul(context, mul(context, dy, x), power(-beta - 1));
  const pulls = overChannels(context, pull, { dims, size, before: size - 1 - before });
  const share = builder.node('Mul', [pulls, builder.float((2 * alpha * beta) / size)]);
  return [builder.node('Sub', [own, mul(context, x, share)])];
};

export const NORMALIZATION: Readonly<Record<string, GradientRule>> = {
  BatchNormalization: batchNormalization,
  LayerNormalization: layerNormalization,
  InstanceNormalization: groupedNormalization,
  GroupNormalization: groupedNormalization,
  LpNormalization: lpNormalization,
  LRN: localResponse,
};
