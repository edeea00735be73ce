import { ShoalError } from '@shoal/core';
import type { Attributes } from '../onnx/attributes.ts';
import type { GraphBuilder } from '../onnx/graph-builder.ts';
import type { NodeProto } from '../onnx/onnx_pb.ts';
import { sizeOf } from '../onnx/tensor-data.ts';
import type { Dims } from '../onnx/trace.ts';

/** What a gradient rule works with. It writes nodes and returns names of values. */
export interface GradientContext {
  readonly builder: GraphBuilder;
  readonly node: NodeProto;
  readonly attributes: Attributes;
  /** Gradient of the loss with respect to the node's first output, of that output's shape. */
  readonly dy: string;
  /** The same for any output; undefined where nothing depends on it. */
  readonly dyOf: (output: number) => string | undefined;
  /** Shape of any value of the forward graph. */
  readonly dimsOf: (value: string) => Dims;
  /** ONNX element type of any value of the forward graph. */
  readonly typeOf: (value: string) => number;
  /** Values of a constant of the forward graph; undefined when it is not constant or very large. */
  readonly numbersOf: (value: string) => readonly number[] | undefined;
  /** Whether the gradient of this input is needed by anything. */
  readonly needs: (input: number) => boolean;
  /** Whether a value goes on to an operator whose slope can be infinite: a gradient that a mask of zeros does not end. */
  readonly isSteep: (value: string) => boolean;
  /** Channels per block of the runtime's own convolution layout on this machine, if it was found. */
  readonly blockSize: number | undefined;
  /** Asks the forward node for an output it does not give yet; returns its name. */
  readonly extraOutput: (output: number) => string;
}

/**
 * A vector-Jacobian product: for each input, the name of its gradient, or undefined where none is
 * needed or the input is not differentiable.
 */
export type GradientRule = (context: GradientContext) => readonly (string | undefined)[];

/** First input and first output of the node. */
export function ends(context: GradientContext): { x: string; y: string } {
  const [x = ''] = context.node.input;
  const [y = ''] = context.node.output;
  return { x, y };
}

/** Refuses something a rule cannot do, naming the node. */
export function refuse(context: GradientContext, what: string): never {
  const { node } = context;
  throw new ShoalError(
    'unsupported',
    `node "${node.name}" (${node.opType}): ${what}. Freeze it and everything before it, or export the model without it`,
  );
}

/** Sums a gradient over the axes along which an operand was broadcast, giving its own shape back. */
export function unbroadcast(
  context: GradientContext,
  gradient: string,
  from: Dims,
  to: Dims,
): string {
  const { builder } = context;
  const lead = from.length - to.length;
  const axes = from.flatMap((d, i) => (i < lead || (to[i - lead] === 1 && d !== 1) ? [i] : []));
  if (axes.length === 0) return gradient;
  if (sizeOf(from) === sizeOf(to)) return builder.node('Reshape', [gradient, builder.ints(to)]);
  const last = from.at(-1) ?? 1;
  if (sizeOf(to) === last && to.at(-1) === last && last > 1) {
    // Everything but the last axis: a row of ones times the rows is faster than ReduceSum.
    const rows = sizeOf(from) / last;
    const flat =
      from.length === 2
        ? gradient
        : builder.node('Reshape', [gradient, builder.ints([rows, last])]);
    return builder.node('Reshape', [
      builder.node('MatMul', [builder.ones(rows), flat]),
      builder.ints(to),
    ]);
  }
  const keepdims = lead === 0 ? 1 : 0;
  const summed = builder.node('ReduceSum', [gradient, builder.ints(axes)], { keepdims });
  if (keepdims === 1) return summed;
  const rank = from.length - axes.length;
  return rank === to.length ? summed : builder.node('Reshape', [summed, builder.ints(to)]);
}

/** The axes of a reduction or squeeze, non-negative, from its input or attribute. */
export function axesOf(context: GradientContext, rank: number): number[] | undefined {
  const { node, attributes, numbersOf } = context;
  const [, name = ''] = node.input;
  const given = name !== '' ? numbersOf(name) : attributes.ints('axes', []);
  if (!given) refuse(context, 'its axes must be constant');
  return given.length === 0 ? undefined : given.map((a) => (a + rank) % rank);
}
