import type { Attributes, GraphBuilder, Shape } from '../onnx/graph-builder.ts';
import type { NodeProto } from '../onnx/onnx_pb.ts';

/** What a gradient rule works with. It writes nodes and returns names of values. */
export interface GradientContext {
  readonly builder: GraphBuilder;
  readonly node: NodeProto;
  readonly attributes: Attributes;
  /** Gradient of the loss with respect to the node's first output, of that output's shape. */
  readonly dy: string;
  /** Shape of any value of the forward graph. */
  readonly shapeOf: (value: string) => Shape;
  /** Whether the gradient of this input is needed by anything. */
  readonly needs: (index: number) => boolean;
}

/**
 * A vector-Jacobian product: for each input, the name of its gradient, or undefined where none is
 * needed or the input is not differentiable.
 */
export type GradientRule = (context: GradientContext) => readonly (string | undefined)[];

/** Sums a gradient over the axes along which an operand was broadcast, giving its own shape back. */
export function unbroadcast(
  context: GradientContext,
  gradient: string,
  from: Shape,
  to: Shape,
): string {
  const { builder } = context;
  const lead = from.length - to.length;
  const axes = from.flatMap((d, i) => (i < lead || (to[i - lead] === 1 && d !== 1) ? [i] : []));
  if (axes.length === 0) return gradient;
  const summed = builder.node('ReduceSum', [gradient, builder.ints(axes)], { keepdims: 1 });
  if (lead === 0) return summed;
  return builder.node('Squeeze', [summed, builder.ints(Array.from({ length: lead }, (_, i) => i))]);
}
