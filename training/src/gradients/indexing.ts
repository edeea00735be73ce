import { sizeOf } from '../onnx/tensor-data.ts';
import { ends, type GradientContext, type GradientRule, refuse } from './gradient.ts';

function zeros({ builder }: GradientContext, dims: readonly number[]): string {
  return builder.node('Expand', [builder.float(0), builder.ints(dims)]);
}

/** One fixed position of an axis: its gradient with zeros around. */
function single(context: GradientContext, axis: number, index: number): string {
  const { builder, dy, dimsOf } = context;
  const dims = dimsOf(ends(context).x);
  const at = index < 0 ? index + (dims[axis] ?? 1) : index;
  const opened = builder.node('Reshape', [
    dy,
    builder.ints(dims.map((d, i) => (i === axis ? 1 : d))),
  ]);
  const pads = Array.from({ length: 2 * dims.length }, () => 0);
  pads[axis] = at;
  pads[axis + dims.length] = (dims[axis] ?? 1) - at - 1;
  return builder.node('Pad', [opened, builder.ints(pads)]);
}

/** y = x[indices] along an axis (an embedding, say):  dx = Σ dy over the places each row was read */
const gather: GradientRule = (context) => {
  const { builder, node, dy, attributes, dimsOf, numbersOf } = context;
  const [x = '', indices = ''] = node.input;
  const dims = dimsOf(x);
  const axis = (attributes.int('axis', 0) + dims.length) % dims.length;
  const fixed = numbersOf(indices);
  if (fixed?.length === 1) return [single(context, axis, fixed[0] ?? 0)];
  const count = sizeOf(dimsOf(indices));
  const before = sizeOf(dims.slice(0, axis));
  const after = sizeOf(dims.slice(axis + 1));
  const size = dims[axis] ?? 1;
  const list = builder.node(
    'Cast',
    [builder.node('Reshape', [indices, builder.ints([count, 1])])],
    { to: 7 },
  );
  const opened = builder.node('Reshape', [dy, builder.ints([before, count, after])]);
  const rows = axis === 0 ? opened : builder.node('Transpose', [opened], { perm: [1, 0, 2] });
  const updates = builder.node('Reshape', [rows, builder.ints([count, before * after])]);
  const added = builder.node('ScatterND', [zeros(context, [size, before * after]), list, updates], {
    reduction: 'add',
  });
  const back = builder.node('Reshape', [added, builder.ints([size, before, after])]);
  const turned = axis === 0 ? back : builder.node('Transpose', [back], { perm: [1, 0, 2] });
  return [builder.node('Reshape', [turned, builder.ints(dims)])];
};

/** y[i, j] = x[indices[i, j], j]:  dx = Σ dy over the places each element was read */
const gatherElements: GradientRule = (context) => {
  const { builder, node, dy, attributes, dimsOf } = context;
  const [x = '', indices = ''] = node.input;
  return [
    builder.node('ScatterElements', [zeros(context, dimsOf(x)), indices, dy], {
      axis: attributes.int('axis', 0),
      reduction: 'add',
    }),
  ];
};

/** y = x at index tuples:  dx = Σ dy over the places each slice was read */
const gatherNd: GradientRule = (context) => {
  const { builder, node, dy, attributes, dimsOf } = context;
  const [x = '', indices = ''] = node.input;
  if (attributes.int('batch_dims', 0) !== 0)
    refuse(context, 'batch_dims other than 0 cannot be trained');
  return [
    builder.node('ScatterND', [zeros(context, dimsOf(x)), indices, dy], { reduction: 'add' }),
  ];
};

/**
 * y = x with updates written over, or added, at index tuples or along an axis:  dx = dy, without what was written
 * over;  dupdates = dy read at the same places.
 */
function scatter(
  read: (context: GradientContext, from: string, indices: string) => string,
  write: (context: GradientContext, indices: string, updates: string) => string,
): GradientRule {
  return (context) => {
    const { builder, node, dy, attributes, dimsOf, needs } = context;
    const [, indices = '', updates = ''] = node.input;
    const reduction = attributes.text('reduction', 'none');
    if (reduction !== 'none' && reduction !== 'add')
      refuse(context, `reduction ${reduction} cannot be trained`);
    const nothing = (): string =>
      builder.node('Expand', [builder.float(0), builder.ints(dimsOf(updates))]);
    return [
      needs(0) ? (reduction === 'add' ? dy : write(context, indices, nothing())) : undefined,
      undefined,
      needs(2) ? read(context, dy, indices) : undefined,
    ];
  };
}

const scatterNd = scatter(
  ({ builder }, from, indices) => builder.node('GatherND', [from, indices]),
  ({ builder, dy }, indices, updates) => builder.node('ScatterND', [dy, indices, updates]),
);

const scatterElements = scatter(
  ({ builder, attributes }, from, indices) =>
    builder.node('GatherElements', [from, indices], { axis: attributes.int('axis', 0) }),
  ({ builder, dy, attributes }, indices, updates) =>
    builder.node('ScatterElements', [dy, indices, updates], { axis: attributes.int('axis', 0) }),
);

/** y, i = the k largest or smallest along an axis and their places:  dx = dy at these places, 0 elsewhere */
const topK: GradientRule = (context) => {
  const { builder, dy, attributes, dimsOf, extraOutput } = context;
  const inputs = [zeros(context, dimsOf(ends(context).x)), extraOutput(1), dy];
  return [builder.node('ScatterElements', inputs, { axis: attributes.int('axis', -1) })];
};

export const INDEXING: Readonly<Record<string, GradientRule>> = {
  Gather: gather,
  GatherElements: gatherElements,
  GatherND: gatherNd,
  ScatterElements: scatterElements,
  ScatterND: scatterNd,
  TopK: topK,
};
