import type { Dims } from '../onnx/trace.ts';
import { type GradientContext, type GradientRule, refuse } from './gradient.ts';

/** Letters for what an ellipsis stands for. */
const UPPER = Array.from('ABCDEFGHIJKLMNOPQRSTUVWXYZ');

interface Equation {
  /** Index letters of each operand, one per dimension. */
  readonly operands: readonly string[];
  readonly result: string;
}

/** Takes an equation apart, with letters of its own for `...`; undefined for forms without a gradient here. */
function equationOf(text: string, ranks: readonly number[]): Equation | undefined {
  const [left = '', right] = text.replaceAll(' ', '').split('->');
  const terms = left.split(',');
  const spare = UPPER.filter((l) => !text.includes(l));
  const hidden = terms.map((t, i) =>
    t.includes('...') ? (ranks[i] ?? 0) - t.replace('...', '').length : 0,
  );
  const most = Math.max(...hidden);
  if (most > spare.length) return undefined;
  const letters = spare.slice(0, most).join('');
  const opened = (term: string, count: number): string =>
    term.replace('...', letters.slice(most - count));
  const operands = terms.map((t, i) => opened(t, hidden[i] ?? 0));
  if (right !== undefined) return { operands, result: opened(right, most) };
  // Without an arrow: what occurs once, in alphabetical order, behind the ellipsis.
  const all = operands.join('');
  const once = [...new Set(all)]
    .filter((l) => !letters.includes(l) && all.split(l).length === 2)
    .toSorted()
    .join('');
  return { operands, result: letters + once };
}

function repeats(term: string): boolean {
  return new Set(term).size !== term.length;
}

/**
 * y = Einsum(x₁, x₂, …):  dxᵢ is the same sum with dy in the place of xᵢ, and xᵢ's indices as the result. An index
 * that only xᵢ has was summed away: its gradient is the same along it.
 */
export const einsum: GradientRule = (context: GradientContext) => {
  const { builder, node, attributes, dy, dimsOf, needs } = context;
  const shapes = node.input.map((x) => dimsOf(x));
  const equation = equationOf(
    attributes.text('equation', ''),
    shapes.map((s) => s.length),
  );
  if (!equation || equation.operands.some(repeats) || repeats(equation.result))
    return refuse(context, 'an equation that takes a diagonal cannot be trained');
  const { operands, result } = equation;
  const sizes = new Map<string, number>();
  for (const [i, term] of operands.entries())
    for (const [k, letter] of Array.from(term).entries())
      sizes.set(letter, Math.max(sizes.get(letter) ?? 1, shapes[i]?.[k] ?? 1));
  const gradientOf = (i: number): string => {
    const own = operands[i] ?? '';
    const dims: Dims = shapes[i] ?? [];
    if (Array.from(own).some((l, k) => dims[k] !== sizes.get(l)))
      refuse(context, 'an equation that broadcasts a dimension of 1 cannot be trained');
    const others = operands.filter((_, k) => k !== i);
    const known = [result, ...others].join('');
    const kept = Array.from(own)
      .filter((l) => known.includes(l))
      .join('');
    const inputs = [dy, ...node.input.filter((_, k) => k !== i)];
    const sum = builder.node('Einsum', inputs, {
      equation: `${[result, ...others].join(',')}->${kept}`,
    });
    if (kept === own) return sum;
    const opened = Array.from(own).map((l, k) => (kept.includes(l) ? (dims[k] ?? 1) : 1));
    return builder.node('Expand', [
      builder.node('Reshape', [sum, builder.ints(opened)]),
      builder.ints(dims),
    ]);
  };
  return node.input.map((_, i) => (needs(i) ? gradientOf(i) : undefined));
};
