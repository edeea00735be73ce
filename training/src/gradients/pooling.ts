import { reachOf, type Window, windowOf } from '../onnx/window.ts';
import { ends, type GradientContext, type GradientRule } from './gradient.ts';

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

/**
 * Gradient of a tiling MaxPool: each of the n² strided phases of the input is compared with the
 * maximum; the first that holds it (row by row) takes what is left of the gradient, and
 * DepthToSpace puts the phases back into one grid. The last phase needs no comparison.
 */
function tiledMaxPool(context: GradientContext, n: number, pooling: Pooling): string {
  const { builder, dy } = context;
  const { x, y } = ends(context);
  const [rows = 0, columns = 0] = pooling.out;
  const [height = 0, width = 0] = pooling.spatial;
  const zero = builder.float(0);
  const phases: string[] = [];
  let rest = dy;
  for (let phase = 0; phase < n * n - 1; phase++) {
    const [r, c] = [Math.floor(phase / n), phase % n];
    const seen = builder.node('Slice', [
      x,
      builder.ints([r, c]),
      builder.ints([r + (rows - 1) * n + 1, c + (columns - 1) * n + 1]),
      builder.ints([2, 3]),
      builder.ints([n, n]),
    ]);
    const share = builder.node('Where', [builder.node('Equal', [seen, y]), rest, zero]);
    phases.push(share);
    rest = builder.node('Sub', [rest, share]);
  }
  phases.push(rest);
  const grid = builder.node('DepthToSpace', [builder.node('Concat', phases, { axis: 1 })], {
    blocksize: n,
    mode: 'DCR',
  });
  const [restRows, restColumns] = [height - rows * n, width - columns * n];
  if (restRows === 0 && restColumns === 0) return grid;
  return builder.node('Pad', [grid, builder.ints([0, 0, 0, 0, 0, 0, restRows, restColumns])]);
}

/** Gradient of any MaxPool: the runtime tells where each maximum was, the gradient is added there. */
function scatteredMaxPool(context: GradientContext, { dims }: Pooling): string {
  const { builder, dy, attributes, extraOutput } = context;
  const { x } = ends(context);
  const indices = attributes.int('storage_order', 0) === 0 ? extraOutput(1) : undefined;
  const flat = (value: string): string => builder.node('Reshape', [value, builder.ints([-1])]);
  const zeros = builder.node('Mul', [flat(x), builder.float(0)]);
  const added = builder.node('ScatterElements', [zeros, flat(indices ?? ''), flat(dy)], {
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
  const sizes = perAxis.reduce<number[]>((all, axis) => all.flatMap((a) => axis.map((b) => a * b)), [1]);
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
  const shares = even
    ? dy
    : builder.node('Div', [dy, builder.floats(sizes, [1, 1, ...out])]);
  const cell = builder.float(even ? 1 / first : 1);
  const kernel = builder.node('Expand', [cell, builder.ints([1, 1, ...window.kernel])]);
  const covered = spatial.map(
    (size, i) =>
      size - (((out[i] ?? 1) - 1) * (window.strides[i] ?? 1) + reachOf(window, i)) + (window.begins[i] ?? 0),
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
  const axes = dimsOf(x).slice(2).map((_, i) => i + 2);
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
