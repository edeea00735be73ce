import { type GradientRule, unbroadcast } from './gradient.ts';

function operands(context: Parameters<GradientRule>[0]): { a: string; b: string; y: string } {
  const [a = '', b = ''] = context.node.input;
  const [y = ''] = context.node.output;
  return { a, b, y };
}

/** y = a + b:  da = dy,  db = dy */
const add: GradientRule = (context) => {
  const { a, b, y } = operands(context);
  const { dy, shapeOf, needs } = context;
  return [a, b].map((x, i) =>
    needs(i) ? unbroadcast(context, dy, shapeOf(y), shapeOf(x)) : undefined,
  );
};

/** y = a − b:  da = dy,  db = −dy */
const sub: GradientRule = (context) => {
  const { a, b, y } = operands(context);
  const { builder, dy, shapeOf, needs } = context;
  return [
    needs(0) ? unbroadcast(context, dy, shapeOf(y), shapeOf(a)) : undefined,
    needs(1) ? unbroadcast(context, builder.node('Neg', [dy]), shapeOf(y), shapeOf(b)) : undefined,
  ];
};

/** y = a·b:  da = dy·b,  db = dy·a */
const mul: GradientRule = (context) => {
  const { a, b, y } = operands(context);
  const { builder, dy, shapeOf, needs } = context;
  return [
    needs(0)
      ? unbroadcast(context, builder.node('Mul', [dy, b]), shapeOf(y), shapeOf(a))
      : undefined,
    needs(1)
      ? unbroadcast(context, builder.node('Mul', [dy, a]), shapeOf(y), shapeOf(b))
      : undefined,
  ];
};

/** y = a/b:  da = dy/b,  db = −dy·y/b */
const div: GradientRule = (context) => {
  const { a, b, y } = operands(context);
  const { builder, dy, shapeOf, needs } = context;
  const overB = builder.node('Div', [dy, b]);
  return [
    needs(0) ? unbroadcast(context, overB, shapeOf(y), shapeOf(a)) : undefined,
    needs(1)
      ? unbroadcast(
          context,
          builder.node('Neg', [builder.node('Mul', [overB, y])]),
          shapeOf(y),
          shapeOf(b),
        )
      : undefined,
  ];
};

/** y = −x:  dx = −dy */
const neg: GradientRule = ({ builder, dy }) => [builder.node('Neg', [dy])];

/** y = eˣ:  dx = dy·y */
const exp: GradientRule = ({ builder, dy, node }) => [
  builder.node('Mul', [dy, node.output[0] ?? '']),
];

/** y = max(x, 0):  dx = dy·1[y > 0]; the gradient at 0 is 0 */
const relu: GradientRule = ({ builder, dy, node }) => {
  const active = builder.node('Greater', [node.output[0] ?? '', builder.float(0)]);
  return [builder.node('Where', [active, dy, builder.float(0)])];
};

/** y = x for x ≥ 0, αx below:  dx = dy or α·dy */
const leakyRelu: GradientRule = ({ builder, dy, node, attributes }) => {
  const active = builder.node('GreaterOrEqual', [node.input[0] ?? '', builder.float(0)]);
  const below = builder.node('Mul', [dy, builder.float(attributes.float('alpha', 0.01))]);
  return [builder.node('Where', [active, dy, below])];
};

/** y = 1/(1 + e⁻ˣ):  dx = dy·y·(1 − y) */
const sigmoid: GradientRule = ({ builder, dy, node }) => {
  const [y = ''] = node.output;
  const slope = builder.node('Mul', [y, builder.node('Sub', [builder.float(1), y])]);
  return [builder.node('Mul', [dy, slope])];
};

/** y = tanh x:  dx = dy·(1 − y²) */
const tanh: GradientRule = ({ builder, dy, node }) => {
  const [y = ''] = node.output;
  const slope = builder.node('Sub', [builder.float(1), builder.node('Mul', [y, y])]);
  return [builder.node('Mul', [dy, slope])];
};

/** y = softmax(x) along one axis:  dx = y·(dy − Σ dy·y) */
const softmax: GradientRule = ({ builder, dy, node, attributes, shapeOf }) => {
  const [y = ''] = node.output;
  const rank = shapeOf(y).length;
  const axis = (attributes.int('axis', -1) + rank) % rank;
  const dot = builder.node('ReduceSum', [builder.node('Mul', [dy, y]), builder.ints([axis])], {
    keepdims: 1,
  });
  return [builder.node('Mul', [y, builder.node('Sub', [dy, dot])])];
};

/** y = log softmax(x) along one axis:  dx = dy − eʸ·Σ dy */
const logSoftmax: GradientRule = ({ builder, dy, node, attributes, shapeOf }) => {
  const [y = ''] = node.output;
  const rank = shapeOf(y).length;
  const axis = (attributes.int('axis', -1) + rank) % rank;
  const total = builder.node('ReduceSum', [dy, builder.ints([axis])], { keepdims: 1 });
  return [builder.node('Sub', [dy, builder.node('Mul', [builder.node('Exp', [y]), total])])];
};

export const ELEMENTWISE: Readonly<Record<string, GradientRule>> = {
  Add: add,
  Sub: sub,
  Mul: mul,
  Div: div,
  Neg: neg,
  Exp: exp,
  Identity: ({ dy }) => [dy],
  Relu: relu,
  LeakyRelu: leakyRelu,
  Sigmoid: sigmoid,
  Tanh: tanh,
  Softmax: softmax,
  LogSoftmax: logSoftmax,
};
