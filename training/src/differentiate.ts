import { ShoalError } from '@shoal/core';
import { CONVOLUTION } from './gradients/convolution.ts';
import { ELEMENTWISE } from './gradients/elementwise.ts';
import type { GradientRule } from './gradients/gradient.ts';
import { LINEAR } from './gradients/linear.ts';
import { POOLING } from './gradients/pooling.ts';
import { RESHAPING } from './gradients/reshaping.ts';
import { Attributes, type GraphBuilder } from './onnx/graph-builder.ts';
import type { GraphProto, NodeProto } from './onnx/onnx_pb.ts';
import type { Shapes } from './onnx/shape-inference.ts';

const RULES: Readonly<Record<string, GradientRule>> = {
  ...ELEMENTWISE,
  ...LINEAR,
  ...CONVOLUTION,
  ...POOLING,
  ...RESHAPING,
};

/** Operators that can stand between the loss and a trainable parameter. */
export function isDifferentiable(opType: string): boolean {
  return opType in RULES;
}

export interface DifferentiateOptions {
  readonly forward: GraphProto;
  readonly shapes: Shapes;
  /** The forward graph's output that the loss is computed from. */
  readonly output: string;
  /** Gradient of the loss with respect to it. */
  readonly seed: string;
  readonly parameters: readonly string[];
  readonly builder: GraphBuilder;
}

/** Values on which a parameter has influence. */
function influencedBy(forward: GraphProto, parameters: readonly string[]): Set<string> {
  const active = new Set(parameters);
  for (const node of forward.node) {
    if (node.input.some((i) => active.has(i))) for (const o of node.output) active.add(o);
  }
  return active;
}

function ruleFor(
  node: NodeProto,
  parameters: readonly string[],
  forward: GraphProto,
): GradientRule {
  const rule = RULES[node.opType];
  if (rule) return rule;
  const blocked = parameters.filter((p) => influencedBy(forward, [p]).has(node.output[0] ?? ''));
  throw new ShoalError(
    'unsupported',
    `node "${node.name}": operator ${node.opType} has no gradient, which blocks parameter "${blocked[0]}". Freeze it and everything before this node`,
  );
}

/**
 * Reverse-mode differentiation (Griewank & Walther, "Evaluating Derivatives", ch. 3): walks the
 * forward graph backwards and writes, for each node on a path from a parameter to the output, its
 * vector-Jacobian product. Gradients of a value used several times are summed.
 *
 * @returns Name of the gradient of each parameter, in its shape.
 * @throws ShoalError `unsupported` naming node, operator and parameter when a gradient is missing;
 *   `invalid_argument` when a parameter does not influence the output.
 */
export function differentiate(options: DifferentiateOptions): Map<string, string> {
  const { forward, shapes, output, seed, parameters, builder } = options;
  const active = influencedBy(forward, parameters);
  const parts = new Map<string, string[]>([[output, [seed]]]);
  const total = (value: string): string | undefined => {
    const list = parts.get(value);
    if (!list) return undefined;
    const sum = list.reduce((a, b) => builder.node('Add', [a, b]));
    parts.set(value, [sum]);
    return sum;
  };
  const shapeOf = (value: string): NonNullable<ReturnType<Shapes['get']>> => {
    const shape = shapes.get(value);
    if (!shape) throw new ShoalError('invalid_argument', `the shape of "${value}" is not known`);
    return shape;
  };
  for (const node of forward.node.toReversed()) {
    const [y = ''] = node.output;
    if (!active.has(y) || !parts.has(y)) continue;
    const dy = total(y) ?? '';
    const rule = ruleFor(node, parameters, forward);
    const needs = (index: number): boolean => active.has(node.input[index] ?? '');
    const gradients = rule({ builder, node, attributes: new Attributes(node), dy, shapeOf, needs });
    for (const [i, gradient] of gradients.entries()) {
      const input = node.input[i] ?? '';
      if (gradient !== undefined && active.has(input))
        parts.set(input, [...(parts.get(input) ?? []), gradient]);
    }
  }
  return new Map(
    parameters.map((p) => {
      const gradient = total(p);
      if (gradient === undefined)
        throw new ShoalError(
          'invalid_argument',
          `parameter "${p}" has no influence on output "${output}"`,
        );
      return [p, gradient];
    }),
  );
}
