import { DATA_TYPE, sizeOf } from '../onnx/tensor-data.ts';
import { reachOf, type Window, windowOf } from '../onnx/window.ts';
import { ends, type GradientContext, type GradientRule, refuse } from './gradient.ts';

interface Pooling {
  readonly dims: readonly number[];
  readonly spatial: readonly number[];
  readonly out: readonly number[];
  readonly window: Window;
}

function poolingOf(context: GradientContext): Pooling {
  const { node, attributes, dimsOf } = context;
  const { x, y } = ends(context);
  const dims = dimsOf(x);
  const spatial = dims.slice(2);
  const out = dimsOf(y).slice(2);
  const kernel = attributes.ints('kernel_shape', []);
  return { dims, spatial, out, window: windowOf(node, { kernel, spatial, out }) };
}

/** Side of windows that tile the input (kernel = stride = n × n, no padding), which have a cheap gradient. */
function tileSide({ window, spatial, out }: Pooling): number | undefined {
  const [n = 0] = window.kernel;
  const plain =
    [...window.begins, ...window.ends].every((p) => p === 0) &&
    window.dilations.every((d) => d === 1) &&
    out.every((o, i) => o * n <= (spatial[i] ?? 0));
  const square =
    window.kernel.length === 2 && [...window.kernel, ...window.strides].every((k) => k === n);
  return plain && square && n > 1 ? n : undefined;
}

/** A value stretched over the tiles it came from: each cell repeated n × n times. */
function stretched({ builder }: GradientContext, value: string, n: number): string {
  const scales = builder.floats(Float32Array.of(1, 1, n, n), [4]);
  return builder.node('Resize', [value, '', scales], {
    mode: 'nearest',
    coordinate_transformation_mode: 'asymmetric',
    nearest_mode: 'floor',
  });
}

/** Ranks within each tile, n² for the first cell down to 1 for the last, row by row: `[1, 1, rows·n, columns·n]`. */
function tileRanks({ builder }: GradientContext, n: number, rows: number, columns: number): string {
  const [height, width] = [rows * n, columns * n];
  const ranks = Float32Array.from({ length: height * width }, (_, k) => {
    const [r, c] = [Math.floor(k / width) % n, (k % width) % n];
    return n * n - (r * n + c);
  });
  return builder.floats(ranks, [1, 1, height, width]);
}

/** Rows or columns of zeros after the last one, where the tiles do not reach. */
function extended(
  { builder }: GradientContext,
  value: string,
  at: { axis: number; dims: number[]; size: number },
): string {
  const missing = at.size - (at.dims[at.axis] ?? 0);
  if (missing === 0) return value;
  const zeros = at.dims.map((d, i) => (i === at.axis ? missing : d));
  at.dims[at.axis] = at.size;
  const rest = builder.floats(new Float32Array(sizeOf(zeros)), zeros);
  return builder.node('Concat', [value, rest], { axis: at.axis });
}

/**
 * Gradient of a tiling MaxPool. Cells that hold their tile's maximum get a rank, the first the
 * highest; the highest rank of each tile, found by the same pooling, is the one cell that gets the
 * gradient. Stretching by Resize is three times faster here than slicing phases and putting them
 * back with DepthToSpace.
 */
function tiledMaxPool(context: GradientContext, n: number, pooling: Pooling): string {
  const { builder, dy } = context;
  const { x, y } = ends(context);
  const [batch = 1, channels = 1, height = 0, width = 0] = pooling.dims;
  const [rows = 0, columns = 0] = pooling.out;
  const covered = [rows * n, columns * n];
  const source =
    covered[0] === height && covered[1] === width
      ? x
      : builder.node('Slice', [
          x,
          builder.ints([0, 0]),
          builder.ints(covered),
          builder.ints([2, 3]),
        ]);
  const ranks = tileRanks(context, n, rows, columns);
  const holds = builder.node('Cast', [builder.node('Equal', [source, stretched(context, y, n)])], {
    to: DATA_TYPE.float,
  });
  const ranked = builder.node('Mul', [holds, ranks]);
  const window = { kernel_shape: [n, n], strides: [n, n] };
  const best = stretched(context, builder.node('MaxPool', [ranked], window), n);
  const chosen = builder.node('Cast', [builder.node('Equal', [ranks, best])], {
    to: DATA_TYPE.float,
  });
  const grid = builder.node('Mul', [chosen, stretched(context, dy, n)]);
  const dims = [batch, channels, ...covered];
  const wide = extended(context, grid, { axis: 3, dims, size: width });
  return extended(context, wide, { axis: 2, dims, size: height });
}

/** Gradient of any MaxPool: the runtime tells where each maximum was, the gradient is added there. */
function scatteredMaxPool(context: GradientContext, { dims }: Pooling): string {
  const { builder, dy, attributes, extraOutput } = context;
  const { x } = ends(context);
  if (attributes.int('storage_order', 0) === 1)
    refuse(context, 'storage_order=1 with its Indices read cannot be trained');
  const indices = extraOutput(1);
  const flat = (value: string): string => builder.node('Reshape', [value, builder.ints([-1])]);
  const zeros = builder.node('Mul', [flat(x), builder.float(0)]);
  const added = builder.node('ScatterElements', [zeros, flat(indices), flat(dy)], {
    axis: 0,
    reduction: 'add',
  });
  return builder.node('Reshape', [added, builder.ints(dims)]);
}

/** y = max over each window: the gradient goes to the first position that holds the maximum. */
const maxPool: GradientRule = (context) => {
  const pooling = poolingOf(context);
  const n = tileSide(pooling);
  return [n === undefined ? scatteredMaxPool(context, pooling) : tiledMaxPool(context, n, pooling)];
};

/** Cells of each window that count, per output position: less than the kernel at padded borders. */
function windowSizes({ window, spatial, out }: Pooling, includePad: boolean): Float32Array {
  const perAxis = out.map((length, axis) =>
    Array.from({ length }, (_, o) => {
      const begin = window.begins[axis] ?? 0;
      const end = window.ends[axis] ?? 0;
      const from = o * (window.strides[axis] ?? 1) - begin;
      const size = spatial[axis] ?? 1;
      let cells = 0;
      for (let k = 0; k < (window.kernel[axis] ?? 1); k++) {
        const at = from + k * (window.dilations[axis] ?? 1);
        if (includePad ? at < size + end : at >= 0 && at < size) cells++;
      }
      return cells;
    }),
  );
  const sizes = perAxis.reduce<number[]>(
    (all, axis) => all.flatMap((a) => axis.map((b) => a * b)),
    [1],
  );
  return Float32Array.from(sizes);
}

/** y = mean over each window: every cell that counted gets dy/|window|, spread by a transposed convolution. */
const averagePool: GradientRule = (context) => {
  const { builder, dy, attributes } = context;
  const pooling = poolingOf(context);
  const { window, spatial, out, dims } = pooling;
  const sizes = windowSizes(pooling, attributes.int('count_include_pad', 0) === 1);
  const first = sizes[0] ?? 1;
  const even = sizes.every((s) => s === first);
  const shares = even ? dy : builder.node('Div', [dy, builder.floats(sizes, [1, 1, ...out])]);
  const cell = builder.float(even ? 1 / first : 1);
  const kernel = builder.node('Expand', [cell, builder.ints([1, 1, ...window.kernel])]);
  const covered = spatial.map(
    (size, i) =>
      size -
      (((out[i] ?? 1) - 1) * (window.strides[i] ?? 1) + reachOf(window, i)) +
      (window.begins[i] ?? 0),
  );
  const merged = builder.node('Reshape', [shares, builder.ints([-1, 1, ...out])]);
  const spread = builder.node('ConvTranspose', [merged, kernel], {
    strides: window.strides,
    dilations: window.dilations,
    pads: [...window.begins, ...covered.map((c) => Math.max(0, -c))],
    output_padding: covered.map((c) => Math.max(0, c)),
  });
  return [builder.node('Reshape', [spread, builder.ints(dims)])];
};

/** y = mean over all positions:  dx = dy/positions everywhere */
const globalAveragePool: GradientRule = (context) => {
  const { builder, dy, dimsOf } = context;
  const dims = dimsOf(ends(context).x);
  const positions = dims.slice(2).reduce((n, d) => n * d, 1);
  const each = builder.node('Mul', [dy, builder.float(1 / positions)]);
  return [builder.node('Expand', [each, builder.ints(dims)])];
};

/** y = max over all positions:  dx = dy shared evenly by the positions that hold it */
const globalMaxPool: GradientRule = (context) => {
  const { builder, dy, dimsOf } = context;
  const { x, y } = ends(context);
  const axes = dimsOf(x)
    .slice(2)
    .map((_, i) => i + 2);
  const holds = builder.node('Cast', [builder.node('Equal', [x, y])], { to: 1 });
  const count = builder.node('ReduceSum', [holds, builder.ints(axes)], { keepdims: 1 });
  return [builder.node('Mul', [holds, builder.node('Div', [dy, count])])];
};

export const POOLING: Readonly<Record<string, GradientRule>> = {
  MaxPool: maxPool,
  AveragePool: averagePool,
  GlobalAveragePool: globalAveragePool,
  GlobalMaxPool: globalMaxPool,
};
