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
 * dx = γ/σ · (dy − mean(dy) − x̂·mean(dy·x̂)).  dγ = Σ dy·x̂,  dβ = Σ dy.
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
  return [needs(0) ? dx() : undefined, needs(1) ? dot : undefined, needs(2) ? sumDy : undefined];
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

export const NORMALIZATION: Readonly<Record<string, GradientRule>> = {
  BatchNormalization: batchNormalization,
  LayerNormalization: layerNormalization,
  InstanceNormalization: groupedNormalization,
  GroupNormalization: groupedNormalization,
};
