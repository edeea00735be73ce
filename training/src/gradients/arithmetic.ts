import { DATA_TYPE } from '../onnx/tensor-data.ts';
import { ends, type GradientContext, type GradientRule, unbroadcast } from './gradient.ts';

/** Rule of a broadcasting operator of two operands, from the gradients at full shape. */
function binary(
  left: (context: GradientContext, at: { a: string; b: string; y: string }) => string,
  right: (context: GradientContext, at: { a: string; b: string; y: string }) => string,
): GradientRule {
  return (context) => {
    const [a = '', b = ''] = context.node.input;
    const [y = ''] = context.node.output;
    const from = context.dimsOf(y);
    const at = { a, b, y };
    return [left, right].map((gradient, i) =>
      context.needs(i)
        ? unbroadcast(context, gradient(context, at), from, context.dimsOf(i === 0 ? a : b))
        : undefined,
    );
  };
}

/** y = a + b:  da = dy,  db = dy */
const add = binary(
  ({ dy }) => dy,
  ({ dy }) => dy,
);

/** y = a − b:  da = dy,  db = −dy */
const sub = binary(
  ({ dy }) => dy,
  ({ builder, dy }) => builder.node('Neg', [dy]),
);

/** y = a·b:  da = dy·b,  db = dy·a */
const mul = binary(
  ({ builder, dy }, { b }) => builder.node('Mul', [dy, b]),
  ({ builder, dy }, { a }) => builder.node('Mul', [dy, a]),
);

/** y = a/b:  da = dy/b,  db = −dy·y/b */
const div = binary(
  ({ builder, dy }, { b }) => builder.node('Div', [dy, b]),
  ({ builder, dy }, { b, y }) =>
    builder.node('Neg', [builder.node('Mul', [builder.node('Div', [dy, b]), y])]),
);

/** y = aᵇ:  da = dy·b·aᵇ⁻¹,  db = dy·y·ln a where a > 0, else 0 */
const pow: GradientRule = (context) => {
  const { builder, numbersOf, typeOf } = context;
  const [, given = ''] = context.node.input;
  const exponents = numbersOf(given);
  const isConstant = exponents?.length === 1;
  const b =
    isConstant || typeOf(given) === DATA_TYPE.float
      ? given
      : builder.node('Cast', [given], { to: DATA_TYPE.float });
  const exponent = isConstant ? exponents[0] : undefined;
  const left = ({ dy }: GradientContext, { a }: { a: string }): string => {
    if (exponent === 2)
      return builder.node('Mul', [dy, builder.node('Mul', [a, builder.float(2)])]);
    const power = exponent === undefined ? b : builder.float(exponent);
    const less =
      exponent === undefined
        ? builder.node('Sub', [b, builder.float(1)])
        : builder.float(exponent - 1);
    const slope = builder.node('Mul', [power, builder.node('Pow', [a, less])]);
    return builder.node('Mul', [dy, slope]);
  };
  const right = ({ dy }: GradientContext, { a, y }: { a: string; y: string }): string => {
    const positive = builder.node('Greater', [a, builder.float(0)]);
    const logarithm = builder.node('Log', [builder.node('Where', [positive, a, builder.float(1)])]);
    return builder.node('Mul', [dy, builder.node('Mul', [y, logarithm])]);
  };
  return binary(left, right)(context);
};

/** y = x₁ + x₂ + …, or their mean:  dxᵢ = dy, or dy/n */
const sumOf: GradientRule = (context) => {
  const { builder, node, dy, dimsOf, needs } = context;
  const { y } = ends(context);
  const share =
    node.opType === 'Mean' ? builder.node('Mul', [dy, builder.float(1 / node.input.length)]) : dy;
  return node.input.map((x, i) =>
    needs(i) ? unbroadcast(context, share, dimsOf(y), dimsOf(x)) : undefined,
  );
};

/** y = max or min of several:  dxᵢ = dy where xᵢ is the first that equals y, else 0 */
const extremum: GradientRule = (context) => {
  const { builder, node, dy, dimsOf, needs } = context;
  const { y } = ends(context);
  let rest = dy;
  return node.input.map((x, i) => {
    const holds = builder.node('Equal', [x, y]);
    const share = builder.node('Where', [holds, rest, builder.float(0)]);
    rest = builder.node('Sub', [rest, share]);
    return needs(i) ? unbroadcast(context, share, dimsOf(y), dimsOf(x)) : undefined;
  });
};

/** y = a where c, else b:  da = dy where c, else 0;  db the rest */
const where: GradientRule = (context) => {
  const { builder, node, dy, dimsOf, needs } = context;
  const [c = '', a = '', b = ''] = node.input;
  const { y } = ends(context);
  const zero = builder.float(0);
  const part = (value: string, chosen: readonly [string, string]): string =>
    unbroadcast(context, builder.node('Where', [c, ...chosen]), dimsOf(y), dimsOf(value));
  return [
    undefined,
    needs(1) ? part(a, [dy, zero]) : undefined,
    needs(2) ? part(b, [zero, dy]) : undefined,
  ];
};

/** y = a − b·t with t = a/b cut or rounded down to a whole number:  da = dy,  db = −dy·t */
const remainder = binary(
  ({ dy }) => dy,
  ({ builder, dy }, { a, b, y }) => {
    const whole = builder.node('Div', [builder.node('Sub', [a, y]), b]);
    return builder.node('Neg', [builder.node('Mul', [dy, builder.node('Round', [whole])])]);
  },
);

const flat: GradientRule = () => [undefined];

/** Rule of a function of one value: dx = dy·f′, from x and y. */
export function unary(
  gradient: (context: GradientContext, at: { x: string; y: string }) => string,
): GradientRule {
  return (context) => [gradient(context, ends(context))];
}

export const ARITHMETIC: Readonly<Record<string, GradientRule>> = {
  Add: add,
  Sub: sub,
  Mul: mul,
  Div: div,
  Pow: pow,
  Sum: sumOf,
  Mean: sumOf,
  Max: extremum,
  Min: extremum,
  Where: where,
  /** y = −x:  dx = −dy */
  Neg: unary(({ builder, dy }) => builder.node('Neg', [dy])),
  /** y = eˣ:  dx = dy·y */
  Exp: unary(({ builder, dy }, { y }) => builder.node('Mul', [dy, y])),
  /** y = ln x:  dx = dy/x */
  Log: unary(({ builder, dy }, { x }) => builder.node('Div', [dy, x])),
  /** y = √x:  dx = dy/(2y) */
  Sqrt: unary(({ builder, dy }, { y }) =>
    builder.node('Div', [dy, builder.node('Mul', [y, builder.float(2)])]),
  ),
  /** y = 1/x:  dx = −dy·y² */
  Reciprocal: unary(({ builder, dy }, { y }) =>
    builder.node('Neg', [builder.node('Mul', [dy, builder.node('Mul', [y, y])])]),
  ),
  /** y = |x|:  dx = dy·sign x; 0 at 0 */
  Abs: unary(({ builder, dy }, { x }) => builder.node('Mul', [dy, builder.node('Sign', [x])])),
  /** y = erf x:  dx = dy·(2/√π)·e^(−x²) */
  Erf: unary(({ builder, dy }, { x }) => {
    const bell = builder.node('Exp', [builder.node('Neg', [builder.node('Mul', [x, x])])]);
    const slope = builder.node('Mul', [bell, builder.float(2 / Math.sqrt(Math.PI))]);
    return builder.node('Mul', [dy, slope]);
  }),
  Identity: unary(({ dy }) => dy),
  Mod: remainder,
  /** Steps: their gradient is 0 where they have one. */
  Ceil: flat,
  Floor: flat,
  Round: flat,
  Sign: flat,
  /** Only the shape of x goes in. */
  EyeLike: flat,
  RandomNormalLike: flat,
  RandomUniformLike: flat,
};
