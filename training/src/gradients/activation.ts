import { unary } from './arithmetic.ts';
import { ends, type GradientContext, type GradientRule, refuse, unbroadcast } from './gradient.ts';

/** dy where the condition holds, else 0. */
function masked({ builder, dy }: GradientContext, condition: string): string {
  return builder.node('Where', [condition, dy, builder.float(0)]);
}

/**
 * 1 where a value ≥ 0 is positive, 0 where it is 0, as floats: the clamp of a very steep line. A
 * product with it costs a third of Where, and half of a cast comparison, on the CPU provider.
 */
function positive({ builder }: GradientContext, value: string): string {
  return builder.node('HardSigmoid', [value], { alpha: { float: 3e38 }, beta: { float: 0 } });
}

/** dy where a value ≥ 0 is positive, else 0: by a product, or by choice where dy may be infinite. */
function wherePositive(context: GradientContext, value: string): string {
  const { builder, dy, node, isSteep } = context;
  if (isSteep(node.output[0] ?? ''))
    return masked(context, builder.node('Greater', [value, builder.float(0)]));
  return builder.node('Mul', [dy, positive(context, value)]);
}

/** y = max(x, 0):  dx = dy·1[y > 0]; the gradient at 0 is 0 */
const relu = unary((context, { y }) => wherePositive(context, y));

/** y = x for x > 0, αx below:  dx = dy or α·dy */
const leakyRelu = unary(({ builder, dy, attributes }, { x }) => {
  const active = builder.node('Greater', [x, builder.float(0)]);
  const below = builder.node('Mul', [dy, builder.float(attributes.float('alpha', 0.01))]);
  return builder.node('Where', [active, dy, below]);
});

/** y = x for x > 0, s·x below, s learned:  dx = dy or s·dy;  ds = Σ dy·x over x ≤ 0 */
const prelu: GradientRule = (context) => {
  const { builder, node, dy, dimsOf, needs } = context;
  const [x = '', slope = ''] = node.input;
  const active = builder.node('Greater', [x, builder.float(0)]);
  const zero = builder.float(0);
  const ds = (): string => {
    const below = builder.node('Where', [active, zero, builder.node('Mul', [dy, x])]);
    return unbroadcast(context, below, dimsOf(x), dimsOf(slope));
  };
  return [
    needs(0) ? builder.node('Where', [active, dy, builder.node('Mul', [dy, slope])]) : undefined,
    needs(1) ? ds() : undefined,
  ];
};

/** y = x for x > 0, α(eˣ − 1) below:  dx = dy or dy·(y + α) */
const elu = unary(({ builder, dy, attributes }, { x, y }) => {
  const active = builder.node('Greater', [x, builder.float(0)]);
  const below = builder.node('Add', [y, builder.float(attributes.float('alpha', 1))]);
  return builder.node('Where', [active, dy, builder.node('Mul', [dy, below])]);
});

/** y = γx for x > 0, γα(eˣ − 1) below:  dx = γ·dy or dy·(y + γα) */
const selu = unary(({ builder, dy, attributes }, { x, y }) => {
  const alpha = attributes.float('alpha', 1.6732632423543772);
  const gamma = attributes.float('gamma', 1.0507009873554805);
  const active = builder.node('Greater', [x, builder.float(0)]);
  const above = builder.node('Mul', [dy, builder.float(gamma)]);
  const below = builder.node('Mul', [dy, builder.node('Add', [y, builder.float(gamma * alpha)])]);
  return builder.node('Where', [active, above, below]);
});

/** y = x for x > 0, α(e^(x/α) − 1) below:  dx = dy or dy·(y/α + 1) */
const celu = unary(({ builder, dy, attributes }, { x, y }) => {
  const active = builder.node('Greater', [x, builder.float(0)]);
  const share = builder.node('Mul', [y, builder.float(1 / attributes.float('alpha', 1))]);
  const below = builder.node('Mul', [dy, builder.node('Add', [share, builder.float(1)])]);
  return builder.node('Where', [active, dy, below]);
});

/** y = x for x > α, 0 below:  dx = dy or 0 */
const thresholdedRelu = unary((context, { x }) => {
  const { builder, attributes } = context;
  return masked(context, builder.node('Greater', [x, builder.float(attributes.float('alpha', 1))]));
});

/** y = x + b below −λ, x − b above λ, 0 between:  dx = dy outside, 0 between */
const shrink = unary((context, { x }) => {
  const { builder, attributes } = context;
  const size = builder.node('Abs', [x]);
  return masked(
    context,
    builder.node('Greater', [size, builder.float(attributes.float('lambd', 0.5))]),
  );
});

/** y = 1/(1 + e⁻ˣ):  dx = dy·y·(1 − y) */
const sigmoid = unary(({ builder, dy }, { y }) => {
  const slope = builder.node('Mul', [y, builder.node('Sub', [builder.float(1), y])]);
  return builder.node('Mul', [dy, slope]);
});

/** y = tanh x:  dx = dy·(1 − y²) */
const tanh = unary(({ builder, dy }, { y }) => {
  const slope = builder.node('Sub', [builder.float(1), builder.node('Mul', [y, y])]);
  return builder.node('Mul', [dy, slope]);
});

/** Φ(x) + x·φ(x) for the exact GELU (Hendrycks & Gimpel 2016), or the derivative of its tanh form. */
const gelu = unary((context, { x }) => {
  const { builder, dy, attributes } = context;
  const mul = (a: string, b: string): string => builder.node('Mul', [a, b]);
  const number = (value: number): string => builder.float(value);
  const square = mul(x, x);
  if (attributes.text('approximate', 'none') === 'none') {
    const cdf = mul(
      builder.node('Add', [builder.node('Erf', [mul(x, number(Math.SQRT1_2))]), number(1)]),
      number(0.5),
    );
    const density = mul(
      builder.node('Exp', [mul(square, number(-0.5))]),
      number(1 / Math.sqrt(2 * Math.PI)),
    );
    return mul(dy, builder.node('Add', [cdf, mul(x, density)]));
  }
  const c = Math.sqrt(2 / Math.PI);
  const inner = mul(
    mul(x, number(c)),
    builder.node('Add', [mul(square, number(0.044715)), number(1)]),
  );
  const t = builder.node('Tanh', [inner]);
  const half = mul(builder.node('Add', [t, number(1)]), number(0.5));
  const innerSlope = builder.node('Add', [mul(square, number(3 * 0.044715 * c)), number(c)]);
  const sech = builder.node('Sub', [number(1), mul(t, t)]);
  const rest = mul(mul(mul(x, number(0.5)), sech), innerSlope);
  return mul(dy, builder.node('Add', [half, rest]));
});

/** y = clamp(αx + β, 0, 1):  dx = α·dy inside, 0 outside */
const hardSigmoid = unary((context, { y }) => {
  const { builder, attributes } = context;
  const inside = builder.node('And', [
    builder.node('Greater', [y, builder.float(0)]),
    builder.node('Less', [y, builder.float(1)]),
  ]);
  return builder.node('Mul', [
    masked(context, inside),
    builder.float(attributes.float('alpha', 0.2)),
  ]);
});

/** y = x·clamp(x/6 + ½, 0, 1):  dx = 0 below −3, dy above 3, dy·(x/3 + ½) between */
const hardSwish = unary(({ builder, dy }, { x }) => {
  const middle = builder.node('Add', [
    builder.node('Mul', [x, builder.float(1 / 3)]),
    builder.float(0.5),
  ]);
  const slope = builder.node('Where', [
    builder.node('Greater', [x, builder.float(3)]),
    builder.float(1),
    builder.node('Where', [builder.node('Less', [x, builder.float(-3)]), builder.float(0), middle]),
  ]);
  return builder.node('Mul', [dy, slope]);
});

/** y = clamp(x, low, high):  dx = dy strictly inside the bounds, 0 on and outside them */
const clip: GradientRule = (context) => {
  const { builder, node, dy } = context;
  const { y } = ends(context);
  const [, low = '', high = ''] = node.input;
  const bounds = [context.numbersOf(low)?.[0], context.numbersOf(high)?.[0]];
  if (bounds[0] === 0 && bounds[1] !== undefined) {
    // The rectifier with a ceiling (ReLU6): y·(c − y) is positive strictly inside.
    const inside = builder.node('Mul', [y, builder.node('Sub', [high, y])]);
    return [wherePositive(context, inside)];
  }
  const conditions = [
    ...(low === '' ? [] : [builder.node('Greater', [y, low])]),
    ...(high === '' ? [] : [builder.node('Less', [y, high])]),
  ];
  if (conditions.length === 0) return [dy];
  return [
    masked(
      context,
      conditions.reduce((a, b) => builder.node('And', [a, b])),
    ),
  ];
};

/** y = ln(1 + eˣ):  dx = dy·σ(x) */
const softplus = unary(({ builder, dy }, { x }) =>
  builder.node('Mul', [dy, builder.node('Sigmoid', [x])]),
);

/** y = x/(1 + |x|):  dx = dy/(1 + |x|)² */
const softsign = unary(({ builder, dy }, { x }) => {
  const scale = builder.node('Add', [builder.node('Abs', [x]), builder.float(1)]);
  return builder.node('Div', [dy, builder.node('Mul', [scale, scale])]);
});

/** y = x·tanh(s), s = softplus x:  dx = dy·(tanh s + x·σ(x)·(1 − tanh² s)) */
const mish = unary(({ builder, dy }, { x }) => {
  const t = builder.node('Tanh', [builder.node('Softplus', [x])]);
  const sech = builder.node('Sub', [builder.float(1), builder.node('Mul', [t, t])]);
  const rest = builder.node('Mul', [builder.node('Mul', [x, builder.node('Sigmoid', [x])]), sech]);
  return builder.node('Mul', [dy, builder.node('Add', [t, rest])]);
});

function axisOf(context: GradientContext): number {
  const rank = context.dimsOf(ends(context).y).length;
  return (context.attributes.int('axis', -1) + rank) % rank;
}

/** y = softmax(x) along one axis:  dx = y·(dy − Σ dy·y) */
const softmax = unary((context, { y }) => {
  const { builder, dy } = context;
  const product = builder.node('Mul', [dy, y]);
  const dot = builder.node('ReduceSum', [product, builder.ints([axisOf(context)])], {
    keepdims: 1,
  });
  return builder.node('Mul', [y, builder.node('Sub', [dy, dot])]);
});

/** y = log softmax(x) along one axis:  dx = dy − eʸ·Σ dy */
const logSoftmax = unary((context, { y }) => {
  const { builder, dy } = context;
  const total = builder.node('ReduceSum', [dy, builder.ints([axisOf(context)])], { keepdims: 1 });
  return builder.node('Sub', [dy, builder.node('Mul', [builder.node('Exp', [y]), total])]);
});

/**
 * Dropout (Srivastava et al. 2014) in training: y = x·m/(1 − r) with the mask m the node itself
 * drew:  dx = dy·m/(1 − r). Outside training it is the identity.
 */
const dropout: GradientRule = (context) => {
  const { builder, node, dy, numbersOf, extraOutput } = context;
  const [, ratio = '', training = ''] = node.input;
  if (training === '' || numbersOf(training)?.[0] !== 1) return [dy];
  const rate = ratio === '' ? 0.5 : numbersOf(ratio)?.[0];
  if (rate === undefined) refuse(context, 'its ratio must be constant');
  const kept = masked(context, extraOutput(1));
  return [builder.node('Mul', [kept, builder.float(1 / (1 - rate))])];
};

export const ACTIVATION: Readonly<Record<string, GradientRule>> = {
  Relu: relu,
  LeakyRelu: leakyRelu,
  PRelu: prelu,
  Elu: elu,
  Celu: celu,
  ThresholdedRelu: thresholdedRelu,
  Shrink: shrink,
  Selu: selu,
  Gelu: gelu,
  Sigmoid: sigmoid,
  Tanh: tanh,
  HardSigmoid: hardSigmoid,
  HardSwish: hardSwish,
  Clip: clip,
  Softplus: softplus,
  Softsign: softsign,
  Mish: mish,
  Softmax: softmax,
  LogSoftmax: logSoftmax,
  Dropout: dropout,
};
