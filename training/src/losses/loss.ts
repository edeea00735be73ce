import { ShoalError } from '@shoal/core';
import type { GraphBuilder } from '../onnx/graph-builder.ts';
import { DATA_TYPE } from '../onnx/tensor-data.ts';
import type { Dims } from '../onnx/trace.ts';

/** A loss written as ONNX nodes, with its gradient. */
export interface LossNodes {
  /** Scalar: the mean over the batch. */
  readonly loss: string;
  /** ∂loss/∂output, of the output's shape. */
  readonly gradient: string;
  /** What metrics of classes look at; only from losses of class indices. */
  readonly ranked?: Ranked;
}

/** Scores of classes and right answers, row by row. */
export interface Ranked {
  /** `[rows, classes]` */
  readonly scores: string;
  readonly classes: number;
  /** `[rows]`, int64 */
  readonly labels: string;
  /** `[rows]`: 1 where a row counts, 0 where not; all do when not given. */
  readonly counted?: string | undefined;
}

/** Shape and element type of one tensor of targets. */
export interface TargetSpec {
  readonly dims: Dims;
  readonly elementType: number;
  /** For class indices: how many classes there are. */
  readonly classes?: number;
  /** For class indices: the one that marks what does not count. */
  readonly ignored?: number | undefined;
}

export interface LossDefinition {
  /**
   * The targets a batch must bring, by name, for an output of the given shape. A loss with one
   * tensor of targets calls it `targets`.
   *
   * @throws ShoalError `invalid_argument` when the output's shape does not suit the loss.
   */
  readonly targets: (output: Dims) => Readonly<Record<string, TargetSpec>>;
  readonly write: (
    builder: GraphBuilder,
    output: { readonly name: string; readonly dims: Dims },
    targets: Readonly<Record<string, string>>,
  ) => LossNodes;
  /** Metrics that make sense with these targets, reported when none are asked for. */
  readonly metrics: readonly MetricName[];
}

/** Scores computed in the graph beside the loss. */
export type MetricName = 'accuracy' | 'mae' | `top${number}`;

export function floatTargets(dims: Dims): TargetSpec {
  return { dims, elementType: DATA_TYPE.float };
}

export function classTargets(dims: Dims, classes: number, ignored?: number): TargetSpec {
  return { dims, elementType: DATA_TYPE.int64, classes, ignored };
}

/** The classes of an output `[batch, classes, …]`. @throws ShoalError `invalid_argument` for other shapes. */
export function classesOf(output: Dims): number {
  const [, classes] = output;
  if (output.length !== 2 || classes === undefined) {
    throw new ShoalError(
      'invalid_argument',
      `this loss needs an output of shape [batch, classes], the model gives [${output.join(', ')}]`,
    );
  }
  return classes;
}

/** Rows that are 1 at the class and 0 elsewhere: `[batch, classes]`. */
export function oneHot(builder: GraphBuilder, labels: string, classes: number): string {
  const values = builder.node(
    'Concat',
    [0, 1].map((v) => builder.node('Unsqueeze', [builder.float(v), builder.ints([0])])),
    { axis: 0 },
  );
  return builder.node('OneHot', [labels, builder.ints([classes]), values], { axis: -1 });
}

export function sumRows(builder: GraphBuilder, value: string): string {
  return builder.node('ReduceSum', [value, builder.ints([1])], { keepdims: 0 });
}

export function sumAll(builder: GraphBuilder, value: string): string {
  return builder.node('ReduceSum', [value], { keepdims: 0 });
}

export function times(builder: GraphBuilder, value: string, factor: number): string {
  return factor === 1 ? value : builder.node('Mul', [value, builder.float(factor)]);
}
