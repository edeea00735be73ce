import { ends, type GradientContext, type GradientRule, refuse } from './gradient.ts';
import { alongAxis } from './reshaping.ts';

interface AxisResize {
  readonly from: number;
  readonly to: number;
  readonly scale: number;
}

const f = Math.fround;

/**
 * Where output position `p` lies on the input axis (ONNX Resize, coordinate_transformation_mode); in float32,
 * step by step, as the runtime has it: ties of `nearest` hang on the last bit.
 */
function coordinate(mode: string, p: number, { from, to, scale }: AxisResize): number | undefined {
  switch (mode) {
    case 'half_pixel':
      return f(f(f(p + 0.5) / f(scale)) - 0.5);
    case 'pytorch_half_pixel':
      return to > 1 ? f(f(f(p + 0.5) / f(scale)) - 0.5) : 0;
    case 'align_corners':
      return to > 1 ? f(f(p * (from - 1)) / (to - 1)) : 0;
    case 'asymmetric':
      return f(p / f(scale));
    default:
      return undefined;
  }
}

/** Ties as ONNX Resize, nearest_mode, breaks them. */
function nearest(mode: string, at: number): number {
  switch (mode) {
    case 'floor':
      return Math.floor(at);
    case 'ceil':
      return Math.ceil(at);
    case 'round_prefer_ceil':
      return Math.floor(at + 0.5);
    default:
      return Math.ceil(at - 0.5);
  }
}

/** Interpolation weights of one axis, `[to, from]` row-major: y = W·x. */
function weights(context: GradientContext, resize: AxisResize): Float32Array {
  const { attributes } = context;
  const transformation = attributes.text('coordinate_transformation_mode', 'half_pixel');
  const mode = attributes.text('mode', 'nearest');
  const { from, to } = resize;
  const values = new Float32Array(to * from);
  const clamp = (i: number): number => Math.min(Math.max(i, 0), from - 1);
  for (let p = 0; p < to; p++) {
    const at = coordinate(transformation, p, resize);
    if (at === undefined)
      refuse(context, `coordinate_transformation_mode=${transformation} cannot be trained`);
    const give = (i: number, share: number): void => {
      const cell = p * from + clamp(i);
      values[cell] = (values[cell] ?? 0) + share;
    };
    if (mode === 'nearest') {
      give(nearest(attributes.text('nearest_mode', 'round_prefer_floor'), at), 1);
    } else {
      const low = Math.floor(at);
      give(low, 1 - (at - low));
      give(low + 1, at - low);
    }
  }
  return values;
}

/**
 * Which position each one copies hangs on the last bit of the runtime's own arithmetic: it is asked, by resizing
 * the identity. The matrix transposed, `[from, to]`; undefined where that asks another question.
 */
function probed(context: GradientContext, { from, to, scale }: AxisResize): string | undefined {
  const { builder, attributes, numbersOf, node } = context;
  const isStretch = attributes.text('keep_aspect_ratio_policy', 'stretch') === 'stretch';
  if (attributes.text('mode', 'nearest') !== 'nearest' || !isStretch) return undefined;
  const isScaled = (numbersOf(node.input[2] ?? '') ?? []).length > 0;
  // Where the shape stays, the runtime copies, whatever the scale.
  if (to === from || (isScaled && Math.floor(from * f(scale)) !== to)) return undefined;
  const identity = new Float32Array(from * from);
  for (let i = 0; i < from; i++) identity[i * from + i] = 1;
  const eye = builder.floats(identity, [from, from]);
  const size = isScaled
    ? [builder.floats(Float32Array.of(scale, 1), [2])]
    : ['', builder.ints([to, from])];
  const coordinates = attributes.text('coordinate_transformation_mode', 'half_pixel');
  const made = builder.node('Resize', [eye, '', ...size], {
    mode: 'nearest',
    nearest_mode: attributes.text('nearest_mode', 'round_prefer_floor'),
    coordinate_transformation_mode: coordinates,
  });
  return builder.node('Transpose', [made], { perm: [1, 0] });
}

/** Whole-number enlargement by nearest neighbours: dx = Σ dy over each block. */
function blockSums(
  context: GradientContext,
  dims: readonly number[],
  out: readonly number[],
): string {
  const { builder, dy } = context;
  const cells = dims.flatMap((d, i) => [d, (out[i] ?? 1) / d]);
  const opened = builder.node('Reshape', [dy, builder.ints(cells)]);
  const axes = dims.flatMap((d, i) => ((out[i] ?? 1) === d ? [] : [2 * i + 1]));
  if (axes.length === 0) return dy; // a ReduceSum over no axes would sum everything
  const summed = builder.node('ReduceSum', [opened, builder.ints(axes)], { keepdims: 0 });
  return builder.node('Reshape', [summed, builder.ints(dims)]);
}

function repeatsWholly(
  context: GradientContext,
  dims: readonly number[],
  { out, scales }: { readonly out: readonly number[]; readonly scales: readonly number[] },
): boolean {
  const { attributes } = context;
  if (attributes.text('mode', 'nearest') !== 'nearest') return false;
  return dims.every((from, axis) => {
    const to = out[axis] ?? 1;
    if (to % from !== 0) return false;
    const w = weights(context, { from, to, scale: scales[axis] ?? 1 });
    return Array.from({ length: to }, (_, p) => w[p * from + Math.floor((p * from) / to)]).every(
      (v) => v === 1,
    );
  });
}

/** How much larger the output is, by axis: as the node says, else by the sizes. */
function scalesOf(context: GradientContext, dims: readonly number[]): number[] {
  const { node, attributes, dimsOf, numbersOf } = context;
  const out = dimsOf(ends(context).y);
  const all = dims.map((_, i) => i);
  const axes = attributes.ints('axes', all).map((a) => (a + dims.length) % dims.length);
  const given = numbersOf(node.input[2] ?? '') ?? [];
  if (given.length > 0) return dims.map((_, axis) => given[axes.indexOf(axis)] ?? 1);
  const wanted = numbersOf(node.input[3] ?? '') ?? [];
  const policy = attributes.text('keep_aspect_ratio_policy', 'stretch');
  const ratios = axes.map((axis, i) => Math.fround((wanted[i] ?? 1) / (dims[axis] ?? 1)));
  const common = policy === 'not_larger' ? Math.min(...ratios) : Math.max(...ratios);
  return dims.map((from, axis) =>
    policy !== 'stretch' && axes.includes(axis) ? common : (out[axis] ?? 1) / from,
  );
}

/** Resize is linear in x and separable: y = W₁·x·W₂ᵀ…,  dx = W₁ᵀ·dy·W₂… */
const resize: GradientRule = (context) => {
  const { attributes, dy, dimsOf } = context;
  const { x, y } = ends(context);
  const mode = attributes.text('mode', 'nearest');
  if (mode === 'cubic' || attributes.int('antialias', 0) === 1)
    refuse(context, 'cubic and antialiased resizing cannot be trained');
  const dims = dimsOf(x);
  const shape = [...dimsOf(y)];
  if (dims.every((d, axis) => d === shape[axis])) return [dy];
  const scales = scalesOf(context, dims);
  if (repeatsWholly(context, dims, { out: shape, scales }))
    return [blockSums(context, dims, shape)];
  let value = dy;
  for (const [axis, from] of dims.entries()) {
    const to = shape[axis] ?? 1;
    const scale = scales[axis] ?? 1;
    if (to === from && scale === 1) continue;
    const along = { from, to, scale };
    const values = probed(context, along) ?? weights(context, along);
    value = alongAxis(context, value, {
      dims: shape,
      axis,
      matrix: { values, rows: to, columns: from },
    });
    shape[axis] = from;
  }
  return [value];
};

export const RESIZING: Readonly<Record<string, GradientRule>> = { Resize: resize };
