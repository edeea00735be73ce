import { ends, type GradientContext, type GradientRule, refuse } from './gradient.ts';
import { alongAxis } from './reshaping.ts';

interface AxisResize {
  readonly from: number;
  readonly to: number;
  readonly scale: number;
}

/** Where output position `p` lies on the input axis (ONNX Resize, coordinate_transformation_mode). */
function coordinate(mode: string, p: number, { from, to, scale }: AxisResize): number | undefined {
  switch (mode) {
    case 'half_pixel':
      return (p + 0.5) / scale - 0.5;
    case 'pytorch_half_pixel':
      return to > 1 ? (p + 0.5) / scale - 0.5 : 0;
    case 'align_corners':
      return to > 1 ? (p * (from - 1)) / (to - 1) : 0;
    case 'asymmetric':
      return p / scale;
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
  out: readonly number[],
): boolean {
  const { attributes } = context;
  if (attributes.text('mode', 'nearest') !== 'nearest') return false;
  return dims.every((from, axis) => {
    const to = out[axis] ?? 1;
    if (to % from !== 0) return false;
    const w = weights(context, { from, to, scale: to / from });
    return Array.from({ length: to }, (_, p) => w[p * from + Math.floor((p * from) / to)]).every(
      (v) => v === 1,
    );
  });
}

/** Resize is linear in x and separable: y = W₁·x·W₂ᵀ…,  dx = W₁ᵀ·dy·W₂… */
const resize: GradientRule = (context) => {
  const { node, attributes, dy, dimsOf, numbersOf } = context;
  const { x, y } = ends(context);
  const mode = attributes.text('mode', 'nearest');
  if (mode === 'cubic' || attributes.int('antialias', 0) === 1)
    refuse(context, 'cubic and antialiased resizing cannot be trained');
  const dims = dimsOf(x);
  const shape = [...dimsOf(y)];
  if (repeatsWholly(context, dims, shape)) return [blockSums(context, dims, shape)];
  const scales = numbersOf(node.input[2] ?? '') ?? [];
  const axes = attributes.ints(
    'axes',
    dims.map((_, i) => i),
  );
  let value = dy;
  for (const [axis, from] of dims.entries()) {
    const to = shape[axis] ?? 1;
    if (to === from) continue;
    const given = scales.length > 0 ? scales[axes.indexOf(axis)] : undefined;
    const matrix = weights(context, { from, to, scale: given ?? to / from });
    value = alongAxis(context, value, {
      dims: shape,
      axis,
      matrix: { values: matrix, rows: to, columns: from },
    });
    shape[axis] = from;
  }
  return [value];
};

export const RESIZING: Readonly<Record<string, GradientRule>> = { Resize: resize };
