import { sizeOf } from '../onnx/tensor-data.ts';
import { ends, type GradientContext, type GradientRule, refuse, unbroadcast } from './gradient.ts';

/** Any rearrangement that keeps the order of elements: dx = dy in the shape of x. */
const keepOrder: GradientRule = (context) => {
  const { builder, dy, dimsOf } = context;
  return [builder.node('Reshape', [dy, builder.ints(dimsOf(ends(context).x))])];
};

/** y = permuted x:  dx = dy permuted back */
const transpose: GradientRule = (context) => {
  const { builder, dy, attributes, dimsOf } = context;
  const rank = dimsOf(ends(context).x).length;
  const perm = attributes.ints(
    'perm',
    Array.from({ length: rank }, (_, i) => rank - 1 - i),
  );
  return [builder.node('Transpose', [dy], { perm: perm.map((_, i) => perm.indexOf(i)) })];
};

/** y = x₁ ‖ x₂ ‖ …:  dxᵢ = its part of dy */
const concat: GradientRule = (context) => {
  const { builder, node, dy, attributes, dimsOf, needs } = context;
  const rank = dimsOf(ends(context).y).length;
  const axis = (attributes.int('axis', 0) + rank) % rank;
  let at = 0;
  return node.input.map((x, i) => {
    const from = at;
    at += dimsOf(x)[axis] ?? 0;
    if (!needs(i)) return undefined;
    return builder.node('Slice', [
      dy,
      builder.ints([from]),
      builder.ints([at]),
      builder.ints([axis]),
    ]);
  });
};

function zeros({ builder }: GradientContext, dims: readonly number[]): string {
  return builder.node('Expand', [builder.float(0), builder.ints(dims)]);
}

/** y₁, y₂, … = parts of x:  dx = dy₁ ‖ dy₂ ‖ …, zero where nothing depends on a part */
const split: GradientRule = (context) => {
  const { builder, node, attributes, dimsOf, dyOf } = context;
  const axis = attributes.int('axis', 0);
  const parts = node.output.map((y, i) => dyOf(i) ?? zeros(context, dimsOf(y)));
  return [builder.node('Concat', parts, { axis })];
};

interface Stride {
  readonly axis: number;
  readonly from: number;
  readonly step: number;
}

/** Spreads dy along an axis to a tensor of `size`, at `from`, `from + step`, …; zero elsewhere. */
function scatterStride(
  context: GradientContext,
  value: string,
  at: Stride & { dims: number[]; size: number },
): string {
  const { builder } = context;
  const { axis, dims, step } = at;
  const count = dims[axis] ?? 0;
  const apart = Math.abs(step);
  // A negative step reads backwards: turn around first, then the last read is the first position.
  const forward =
    step > 0
      ? value
      : builder.node('Slice', [
          value,
          builder.ints([-1]),
          builder.ints([-count - 1]),
          builder.ints([axis]),
          builder.ints([-1]),
        ]);
  const from = step > 0 ? at.from : at.from + (count - 1) * step;
  const padAxis = (v: string, rank: number, on: number, pads: [number, number]): string => {
    const all = Array.from({ length: 2 * rank }, () => 0);
    all[on] = pads[0];
    all[on + rank] = pads[1];
    return pads.every((p) => p === 0) ? v : builder.node('Pad', [v, builder.ints(all)]);
  };
  let spread = forward;
  let length = count;
  if (apart > 1) {
    const cells = dims.flatMap((d, i) => (i === axis ? [d, 1] : [d]));
    const opened = builder.node('Reshape', [forward, builder.ints(cells)]);
    const filled = padAxis(opened, cells.length, axis + 1, [0, apart - 1]);
    length = count * apart;
    spread = builder.node('Reshape', [
      filled,
      builder.ints(dims.map((d, i) => (i === axis ? length : d))),
    ]);
  }
  dims[axis] = at.size;
  return padAxis(spread, dims.length, axis, [from, at.size - from - length]);
}

/** y = x[from:to:step] on some axes:  dx = dy back at its places, zero elsewhere */
const slice: GradientRule = (context) => {
  const { node, dy, dimsOf, numbersOf } = context;
  const { x, y } = ends(context);
  const dims = dimsOf(x);
  const [, startsName = '', , axesName = '', stepsName = ''] = node.input;
  const starts = numbersOf(startsName);
  if (!starts) refuse(context, 'its starts must be constant');
  const axes = numbersOf(axesName) ?? starts.map((_, i) => i);
  const steps = numbersOf(stepsName) ?? starts.map(() => 1);
  const shape = [...dimsOf(y)];
  let value = dy;
  for (const [i, start] of starts.entries()) {
    const axis = ((axes[i] ?? 0) + dims.length) % dims.length;
    const size = dims[axis] ?? 1;
    const step = steps[i] ?? 1;
    const top = step > 0 ? size : size - 1;
    const from = Math.min(Math.max(start < 0 ? start + size : start, 0), top);
    value = scatterStride(context, value, { axis, from, step, dims: shape, size });
  }
  return [value];
};

/** y = x repeated to a larger shape:  dx = Σ dy over the repeats */
const expand: GradientRule = (context) => {
  const { dy, dimsOf } = context;
  const { x, y } = ends(context);
  return [unbroadcast(context, dy, dimsOf(y), dimsOf(x))];
};

/** y = x laid side by side rᵢ times along axis i:  dx = Σ dy over the tiles */
const tile: GradientRule = (context) => {
  const { builder, dy, dimsOf } = context;
  const { x, y } = ends(context);
  const dims = dimsOf(x);
  const cells = dims.flatMap((d, i) => [(dimsOf(y)[i] ?? 1) / d, d]);
  const opened = builder.node('Reshape', [dy, builder.ints(cells)]);
  const axes = dims.map((_, i) => 2 * i);
  return [builder.node('ReduceSum', [opened, builder.ints(axes)], { keepdims: 0 })];
};

/** y = a matrix with one triangle kept:  dx = the same triangle of dy */
const triangle: GradientRule = ({ builder, node, dy, attributes }) => [
  builder.node('Trilu', [dy, ...node.input.slice(1)], { upper: attributes.int('upper', 1) }),
];

/** y = x as another float type:  dx = dy */
const cast: GradientRule = (context) => {
  const { builder, dy, typeOf } = context;
  const { x, y } = ends(context);
  return [typeOf(x) === typeOf(y) ? dy : builder.node('Cast', [dy], { to: typeOf(x) })];
};

/** Blocks of depth laid out in space and back undo each other. */
const depthToSpace: GradientRule = (context) => {
  const { builder, dy, attributes } = context;
  const blocksize = attributes.int('blocksize', 1);
  if (attributes.text('mode', 'DCR') === 'DCR')
    return [builder.node('SpaceToDepth', [dy], { blocksize })];
  const [batch = 1, channels = 1, height = 1, width = 1] = context.dimsOf(ends(context).x);
  const b = blocksize;
  const opened = builder.node('Reshape', [
    dy,
    builder.ints([batch, channels / (b * b), height, b, width, b]),
  ]);
  const turned = builder.node('Transpose', [opened], { perm: [0, 1, 3, 5, 2, 4] });
  return [builder.node('Reshape', [turned, builder.ints([batch, channels, height, width])])];
};

const spaceToDepth: GradientRule = ({ builder, dy, attributes }) => [
  builder.node('DepthToSpace', [dy], { blocksize: attributes.int('blocksize', 1), mode: 'DCR' }),
];

/** y = x with a border. Constant: dx = dy without it. Edge, reflect, wrap: the border's gradient returns to what it copied. */
const pad: GradientRule = (context) => {
  const { builder, node, attributes, dy, dimsOf, numbersOf } = context;
  const [x = '', padsName = '', , axesName = ''] = node.input;
  const dims = dimsOf(x);
  const pads = numbersOf(padsName);
  if (!pads) refuse(context, 'its pads must be constant');
  const axes = (numbersOf(axesName) ?? dims.map((_, i) => i)).map(
    (a) => (a + dims.length) % dims.length,
  );
  const mode = attributes.text('mode', 'constant');
  if (mode !== 'constant' && pads.some((p) => p < 0))
    refuse(context, `negative pads with mode=${mode} cannot be trained`);
  let value = dy;
  const shape = [...dimsOf(ends(context).y)];
  for (const [i, axis] of axes.entries()) {
    const border = { before: pads[i] ?? 0, after: pads[i + axes.length] ?? 0 };
    const size = dims[axis] ?? 1;
    if (border.before === 0 && border.after === 0) continue;
    if (mode === 'constant') {
      const all = Array.from({ length: 2 * dims.length }, () => 0);
      all[axis] = -border.before;
      all[axis + dims.length] = -border.after;
      value = builder.node('Pad', [value, builder.ints(all)]);
    } else {
      const map = sources(mode, size, border);
      value = alongAxis(context, value, {
        dims: shape,
        axis,
        matrix: { values: selection(map, size), rows: map.length, columns: size },
      });
    }
    shape[axis] = size;
  }
  return [value];
};

/** Which position each padded position copies. */
function sources(mode: string, size: number, border: { before: number; after: number }): number[] {
  return Array.from({ length: size + border.before + border.after }, (_, p) => {
    const at = p - border.before;
    if (mode === 'edge') return Math.min(Math.max(at, 0), size - 1);
    if (mode === 'wrap') return ((at % size) + size) % size;
    const period = Math.max(1, 2 * (size - 1));
    const folded = ((at % period) + period) % period;
    return folded < size ? folded : period - folded;
  });
}

/** The matrix S with S[i, map(i)] = 1. */
function selection(map: readonly number[], size: number): Float32Array {
  const values = new Float32Array(map.length * size);
  for (const [row, column] of map.entries()) values[row * size + column] = 1;
  return values;
}

export interface AxisMap {
  /** Shape of the value. */
  readonly dims: readonly number[];
  readonly axis: number;
  /** `[size of the axis, new size]`, row-major; or the name of a value that holds it transposed. */
  readonly matrix: {
    readonly values: Float32Array | string;
    readonly rows: number;
    readonly columns: number;
  };
}

function transposed(
  values: Float32Array,
  { rows, columns }: { readonly rows: number; readonly columns: number },
): Float32Array {
  const turned = new Float32Array(values.length);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) turned[c * rows + r] = values[r * columns + c] ?? 0;
  return turned;
}

/** Multiplies a value with a constant matrix along one axis: `…×rows×…` → `…×columns×…`. */
export function alongAxis(context: GradientContext, value: string, at: AxisMap): string {
  const { builder } = context;
  const { dims, axis, matrix } = at;
  const before = sizeOf(dims.slice(0, axis));
  const after = sizeOf(dims.slice(axis + 1));
  const opened = builder.node('Reshape', [value, builder.ints([before, matrix.rows, after])]);
  const { values, rows, columns } = matrix;
  const factor =
    typeof values === 'string'
      ? values
      : builder.floats(transposed(values, { rows, columns }), [columns, rows]);
  const product = builder.node('MatMul', [factor, opened]);
  const shape = dims.map((d, i) => (i === axis ? matrix.columns : d));
  return builder.node('Reshape', [product, builder.ints(shape)]);
}

export const RESHAPING: Readonly<Record<string, GradientRule>> = {
  Reshape: keepOrder,
  Flatten: keepOrder,
  Squeeze: keepOrder,
  Unsqueeze: keepOrder,
  Transpose: transpose,
  Concat: concat,
  Split: split,
  Slice: slice,
  Expand: expand,
  Tile: tile,
  Pad: pad,
  Trilu: triangle,
  Cast: cast,
  DepthToSpace: depthToSpace,
  SpaceToDepth: spaceToDepth,
};
