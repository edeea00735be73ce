import { unary } from './arithmetic.ts';
import type { GradientContext, GradientRule } from './gradient.ts';

/** x² + shift */
function square({ builder }: GradientContext, x: string, shift: number): string {
  return builder.node('Add', [builder.node('Mul', [x, x]), builder.float(shift)]);
}

/** 1 − x² */
function complement({ builder }: GradientContext, x: string): string {
  return builder.node('Sub', [builder.float(1), builder.node('Mul', [x, x])]);
}

function divided({ builder, dy }: GradientContext, by: string): string {
  return builder.node('Div', [dy, by]);
}

function root({ builder }: GradientContext, value: string): string {
  return builder.node('Sqrt', [value]);
}

function times({ builder, dy }: GradientContext, slope: string): string {
  return builder.node('Mul', [dy, slope]);
}

export const TRIGONOMETRY: Readonly<Record<string, GradientRule>> = {
  /** y = sin x:  dx = dy·cos x */
  Sin: unary((c, { x }) => times(c, c.builder.node('Cos', [x]))),
  /** y = cos x:  dx = −dy·sin x */
  Cos: unary((c, { x }) => c.builder.node('Neg', [times(c, c.builder.node('Sin', [x]))])),
  /** y = tan x:  dx = dy·(y² + 1) */
  Tan: unary((c, { y }) => times(c, square(c, y, 1))),
  /** y = asin x:  dx = dy/√(1 − x²) */
  Asin: unary((c, { x }) => divided(c, root(c, complement(c, x)))),
  /** y = acos x:  dx = −dy/√(1 − x²) */
  Acos: unary((c, { x }) => c.builder.node('Neg', [divided(c, root(c, complement(c, x)))])),
  /** y = atan x:  dx = dy/(x² + 1) */
  Atan: unary((c, { x }) => divided(c, square(c, x, 1))),
  /** y = sinh x:  dx = dy·cosh x */
  Sinh: unary((c, { x }) => times(c, c.builder.node('Cosh', [x]))),
  /** y = cosh x:  dx = dy·sinh x */
  Cosh: unary((c, { x }) => times(c, c.builder.node('Sinh', [x]))),
  /** y = asinh x:  dx = dy/√(x² + 1) */
  Asinh: unary((c, { x }) => divided(c, root(c, square(c, x, 1)))),
  /** y = acosh x:  dx = dy/√(x² − 1) */
  Acosh: unary((c, { x }) => divided(c, root(c, square(c, x, -1)))),
  /** y = atanh x:  dx = dy/(1 − x²) */
  Atanh: unary((c, { x }) => divided(c, complement(c, x))),
};
