import type { GraphBuilder, Shape } from './onnx/graph-builder.ts';
import { DATA_TYPE } from './onnx/model-file.ts';

/** A loss written as ONNX nodes, with its gradient. */
export interface LossNodes {
  /** Scalar: the mean over the batch. */
  readonly loss: string;
  /** ∂loss/∂output, of the output's shape. */
  readonly gradient: string;
  /** Scalar metrics by name. */
  readonly metrics: Readonly<Record<string, string>>;
}

export interface LossDefinition {
  /** Shape and element type of the targets for an output of the given shape. */
  readonly targets: (output: Shape) => { readonly shape: Shape; readonly elementType: number };
  readonly write: (
    builder: GraphBuilder,
    output: { readonly name: string; readonly shape: Shape },
    targets: string,
  ) => LossNodes;
}

/** 1 / batch size, known when the graph runs. */
function reciprocalBatch(builder: GraphBuilder, value: string): string {
  const size = builder.node('Gather', [builder.node('Shape', [value]), builder.int(0)], {
    axis: 0,
  });
  return builder.node('Div', [
    builder.float(1),
    builder.node('Cast', [size], { to: DATA_TYPE.float }),
  ]);
}

/**
 * Softmax cross-entropy over class indices. With logits z `[batch, K]`, p = softmax(z), one-hot y:
 * L = −mean_b log p[b, y_b],  ∂L/∂z = (p − y)/batch.
 */
const softmaxCrossEntropy: LossDefinition = {
  targets: (output) => ({ shape: [output[0] ?? 'batch'], elementType: DATA_TYPE.int64 }),
  write: (builder, { name, shape }, targets) => {
    const classes = Number(shape[1]);
    const depth = builder.ints([classes]);
    const values = builder.node(
      'Concat',
      [0, 1].map((v) => builder.node('Unsqueeze', [builder.float(v), builder.ints([0])])),
      { axis: 0 },
    );
    const oneHot = builder.node('OneHot', [targets, depth, values], { axis: -1 });
    const logP = builder.node('LogSoftmax', [name], { axis: -1 });
    const perSample = builder.node(
      'ReduceSum',
      [builder.node('Mul', [logP, oneHot]), builder.ints([1])],
      { keepdims: 0 },
    );
    const loss = builder.node('Neg', [builder.node('ReduceMean', [perSample], { keepdims: 0 })]);
    const difference = builder.node('Sub', [builder.node('Exp', [logP]), oneHot]);
    const gradient = builder.node('Mul', [difference, reciprocalBatch(builder, name)]);
    const hit = builder.node('Equal', [
      builder.node('ArgMax', [name], { axis: 1, keepdims: 0 }),
      targets,
    ]);
    const accuracy = builder.node(
      'ReduceMean',
      [builder.node('Cast', [hit], { to: DATA_TYPE.float })],
      { keepdims: 0 },
    );
    return { loss, gradient, metrics: { accuracy } };
  },
};

/** Mean squared error: L = mean (ŷ − y)²,  ∂L/∂ŷ = 2(ŷ − y)/n over all n elements. */
const meanSquaredError: LossDefinition = {
  targets: (output) => ({ shape: output, elementType: DATA_TYPE.float }),
  write: (builder, { name, shape }, targets) => {
    const perRow = shape.slice(1).reduce<number>((n, d) => n * Number(d), 1);
    const difference = builder.node('Sub', [name, targets]);
    const loss = builder.node('ReduceMean', [builder.node('Mul', [difference, difference])], {
      keepdims: 0,
    });
    const factor = builder.node('Mul', [reciprocalBatch(builder, name), builder.float(2 / perRow)]);
    const mae = builder.node('ReduceMean', [builder.node('Abs', [difference])], { keepdims: 0 });
    return { loss, gradient: builder.node('Mul', [difference, factor]), metrics: { mae } };
  },
};

export type LossName = 'softmax-cross-entropy' | 'mean-squared-error';

export const LOSSES: Readonly<Record<LossName, LossDefinition>> = {
  'softmax-cross-entropy': softmaxCrossEntropy,
  'mean-squared-error': meanSquaredError,
};
