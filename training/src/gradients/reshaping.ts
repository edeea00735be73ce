import type { GradientContext, GradientRule } from './gradient.ts';

/** Any rearrangement that keeps the order of elements: dx = dy in the shape of x. */
const keepOrder: GradientRule = ({ builder, dy, node, shapeOf }: GradientContext) => {
  const [x = ''] = node.input;
  const shape = shapeOf(x);
  const symbols = shape.filter((d) => typeof d === 'string').length;
  const target =
    symbols <= 1
      ? builder.ints(shape.map((d) => (typeof d === 'number' ? d : -1)))
      : builder.node('Shape', [x]);
  return [builder.node('Reshape', [dy, target])];
};

/** y = permuted x:  dx = dy permuted back */
const transpose: GradientRule = ({ builder, dy, node, attributes, shapeOf }) => {
  const rank = shapeOf(node.input[0] ?? '').length;
  const perm = attributes.ints(
    'perm',
    Array.from({ length: rank }, (_, i) => rank - 1 - i),
  );
  return [builder.node('Transpose', [dy], { perm: perm.map((_, i) => perm.indexOf(i)) })];
};

export const RESHAPING: Readonly<Record<string, GradientRule>> = {
  Reshape: keepOrder,
  Flatten: keepOrder,
  Transpose: transpose,
};
