import { outputSizes, type Window, windowOf } from '../onnx/shape-inference.ts';
import type { GradientContext, GradientRule } from './gradient.ts';

/** Windows that tile the input (kernel = stride = n × n, no padding) have a cheap gradient. */
function tileSize(window: Window): number | undefined {
  const [k = 0] = window.kernel;
  const plain = window.pads.every((p) => p === 0) && window.dilations.every((d) => d === 1);
  const square =
    window.kernel.length === 2 && [...window.kernel, ...window.strides].every((n) => n === k);
  return plain && square && k > 1 ? k : undefined;
}

/**
 * Gradient of a tiling MaxPool: each of the n² strided phases of the input is compared with the
 * maximum, the first that holds it (row by row) gets the gradient, and DepthToSpace puts the
 * phases back into one grid.
 */
function tiledMaxPool(context: GradientContext, n: number, spatial: readonly number[]): string {
  const { builder, node, dy } = context;
  const [x = ''] = node.input;
  const [y = ''] = node.output;
  const [height = 0, width = 0] = spatial;
  const rows = Math.floor(height / n);
  const columns = Math.floor(width / n);
  const zero = builder.float(0);
  const phases: string[] = [];
  let free: string | undefined;
  for (let phase = 0; phase < n * n; phase++) {
    const [r, c] = [Math.floor(phase / n), phase % n];
    const seen = builder.node('Slice', [
      x,
      builder.ints([r, c]),
      builder.ints([r + (rows - 1) * n + 1, c + (columns - 1) * n + 1]),
      builder.ints([2, 3]),
      builder.ints([n, n]),
    ]);
    const holds = builder.node('Equal', [seen, y]);
    const first: string = free === undefined ? holds : builder.node('And', [holds, free]);
    phases.push(builder.node('Where', [first, dy, zero]));
    const others = builder.node('Not', [holds]);
    free = free === undefined ? others : builder.node('And', [free, others]);
  }
  const grid = builder.node('DepthToSpace', [builder.node('Concat', phases, { axis: 1 })], {
    blocksize: n,
    mode: 'DCR',
  });
  const [restRows, restColumns] = [height - rows * n, width - columns * n];
  if (restRows === 0 && restColumns === 0) return grid;
  return builder.node('Pad', [grid, builder.ints([0, 0, 0, 0, 0, 0, restRows, restColumns])]);
}

/** Gradient of any MaxPool: the runtime tells where each maximum was, the gradient is added there. */
function scatteredMaxPool(context: GradientContext): string {
  const { builder, node, dy } = context;
  const [x = ''] = node.input;
  const attributes = Object.fromEntries(
    node.attribute.map((a) => [a.name, a.type === 7 ? a.ints.map(Number) : Number(a.i)]),
  );
  const [, indices = ''] = builder.nodeWithOutputs('MaxPool', [x], { attributes, outputs: 2 });
  const flat = (value: string): string => builder.node('Reshape', [value, builder.ints([-1])]);
  const zeros = builder.node('Mul', [flat(x), builder.float(0)]);
  const added = builder.node('ScatterElements', [zeros, flat(indices), flat(dy)], {
    axis: 0,
    reduction: 'add',
  });
  return builder.node('Reshape', [added, builder.node('Shape', [x])]);
}

const maxPool: GradientRule = (context) => {
  const { node, shapeOf, attributes } = context;
  const window = windowOf(node, attributes.ints('kernel_shape', []));
  const n = attributes.int('ceil_mode', 0) === 0 ? tileSize(window) : undefined;
  const spatial = shapeOf(node.input[0] ?? '')
    .slice(2)
    .map(Number);
  return [n === undefined ? scatteredMaxPool(context) : tiledMaxPool(context, n, spatial)];
};

/** y = mean over each window: every cell gets dy/|window|, spread by a transposed convolution. */
const averagePool: GradientRule = (context) => {
  const { builder, node, dy, shapeOf, attributes } = context;
  const window = windowOf(node, attributes.ints('kernel_shape', []));
  const [, channels = 1, ...spatial] = shapeOf(node.input[0] ?? '').map(Number);
  const [kh = 1, kw = 1] = window.kernel;
  const n = 1 / (kh * kw);
  const kernel = builder.node('Expand', [builder.float(n), builder.ints([1, 1, kh, kw])]);
  const out = outputSizes(spatial, window);
  const padding = spatial.map(
    (s, i) =>
      s -
      (((out[i] ?? 1) - 1) * (window.strides[i] ?? 1) +
        (window.kernel[i] ?? 1) -
        (window.pads[i] ?? 0) -
        (window.pads[i + 2] ?? 0)),
  );
  const merged = builder.node('Reshape', [dy, builder.ints([-1, 1, ...out])]);
  const spread = builder.node('ConvTranspose', [merged, kernel], {
    strides: window.strides,
    pads: window.pads,
    output_padding: padding,
  });
  return [builder.node('Reshape', [spread, builder.ints([-1, channels, ...spatial])])];
};

/** y = mean over all positions:  dx = dy/(H·W) everywhere */
const globalAveragePool: GradientRule = (context) => {
  const { builder, node, dy, shapeOf } = context;
  const [x = ''] = node.input;
  const positions = shapeOf(x)
    .slice(2)
    .reduce<number>((n, d) => n * Number(d), 1);
  const each = builder.node('Mul', [dy, builder.float(1 / positions)]);
  return [builder.node('Expand', [each, builder.node('Shape', [x])])];
};

export const POOLING: Readonly<Record<string, GradientRule>> = {
  MaxPool: maxPool,
  AveragePool: averagePool,
  GlobalAveragePool: globalAveragePool,
};
