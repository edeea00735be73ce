import { ShoalError } from '@shoal/core';
import type { GraphBuilder } from '../onnx/graph-builder.ts';
import { DATA_TYPE, sizeOf } from '../onnx/tensor-data.ts';
import type { Dims } from '../onnx/trace.ts';
import {
  classesOf,
  classTargets,
  floatTargets,
  type LossDefinition,
  type LossNodes,
  oneHot,
  sumAll,
  sumRows,
  type TargetSpec,
  times,
} from './loss.ts';

export interface SoftmaxCrossEntropyOptions {
  /** Whether targets are class indices (default) or probabilities, of the output's shape. */
  readonly targets?: 'indices' | 'distribution';
  /** Share of the target moved evenly to all classes, in [0, 1) (Szegedy et al. 2016, §7). Default 0. */
  readonly labelSmoothing?: number;
  /** Weight of each class in the mean, `[classes]`, ≥ 0; the mean is divided by the sum of weights. */
  readonly classWeights?: readonly number[];
  /**
   * Where an output of more than two dimensions has its classes: `last` for `[batch, tokens, classes]`, `second` for
   * `[batch, classes, height, width]`. Indices have the other dimensions; the mean is over all of them.
   */
  readonly classAxis?: 'last' | 'second';
  /** Class index of what does not count (padding): a whole number outside the classes. */
  readonly ignoreIndex?: number;
}

/** Every place of an output that is classified as a row. */
interface Rows {
  readonly count: number;
  readonly classes: number;
  /** The output's dimensions with the classes last. */
  readonly dims: Dims;
  /** Dimensions of class indices. */
  readonly labelDims: Dims;
  /** Brings the classes to the end; undefined where they are. */
  readonly perm: readonly number[] | undefined;
}

/** @throws ShoalError `invalid_argument` for an output without classes, or whose classes could be in two places. */
function rowsOf(output: Dims, axis: SoftmaxCrossEntropyOptions['classAxis']): Rows {
  const rank = output.length;
  if (rank > 2 && axis === undefined)
    throw new ShoalError(
      'invalid_argument',
      `the model gives [${output.join(', ')}]: say where its classes are, classAxis: 'last' (${output.at(-1)}) or 'second' (${output[1]})`,
    );
  if (rank <= 2) classesOf(output);
  const at = axis === 'second' ? 1 : rank - 1;
  const others = Array.from({ length: rank }, (_, i) => i).filter((i) => i !== at);
  const labelDims = others.map((i) => output[i] ?? 1);
  const classes = output[at] ?? 1;
  const perm = at === rank - 1 ? undefined : [...others, at];
  return { count: sizeOf(labelDims), classes, dims: [...labelDims, classes], labelDims, perm };
}

/** Values in the output's shape as `[rows, classes]`. */
function toRows(
  builder: GraphBuilder,
  value: string,
  { perm, dims, count, classes }: Rows,
): string {
  const turned = perm ? builder.node('Transpose', [value], { perm }) : value;
  return dims.length === 2
    ? turned
    : builder.node('Reshape', [turned, builder.ints([count, classes])]);
}

/** `[rows, classes]` in the output's shape. */
function fromRows(builder: GraphBuilder, value: string, { perm, dims }: Rows): string {
  const shaped = dims.length === 2 ? value : builder.node('Reshape', [value, builder.ints(dims)]);
  if (!perm) return shaped;
  const back = dims.map((_, i) => perm.indexOf(i));
  return builder.node('Transpose', [shaped], { perm: back });
}

function smoothed(
  builder: GraphBuilder,
  target: string,
  smoothing: number,
  classes: number,
): string {
  if (smoothing === 0) return target;
  return builder.node('Add', [
    times(builder, target, 1 - smoothing),
    builder.float(smoothing / classes),
  ]);
}

function expectAxis(axis: SoftmaxCrossEntropyOptions['classAxis']): void {
  if (axis === undefined || axis === 'last' || axis === 'second') return;
  throw new ShoalError(
    'invalid_argument',
    `classAxis must be 'last' or 'second', got ${JSON.stringify(axis)}`,
  );
}

function expectOptions(options: SoftmaxCrossEntropyOptions): void {
  const { targets = 'indices', labelSmoothing = 0, classWeights, ignoreIndex } = options;
  if (!(labelSmoothing >= 0 && labelSmoothing < 1))
    throw new ShoalError(
      'invalid_argument',
      `labelSmoothing must be in [0, 1), got ${labelSmoothing}`,
    );
  if (targets === 'distribution' && (classWeights ?? ignoreIndex) !== undefined)
    throw new ShoalError(
      'invalid_argument',
      `${classWeights ? 'classWeights' : 'ignoreIndex'} needs targets given as class indices`,
    );
  const bad = classWeights?.findIndex((w) => !(w >= 0 && Number.isFinite(w))) ?? -1;
  if (bad >= 0)
    throw new ShoalError(
      'invalid_argument',
      `the weight of class ${bad} must be a number ≥ 0, got ${classWeights?.[bad]}`,
    );
  if (ignoreIndex !== undefined && !Number.isSafeInteger(ignoreIndex))
    throw new ShoalError(
      'invalid_argument',
      `ignoreIndex must be a whole number, got ${ignoreIndex}`,
    );
}

function targetSpec(options: SoftmaxCrossEntropyOptions, output: Dims): TargetSpec {
  const { targets = 'indices', classWeights, classAxis, ignoreIndex } = options;
  const { classes, labelDims } = rowsOf(output, classAxis);
  if (classWeights && classWeights.length !== classes)
    throw new ShoalError(
      'invalid_argument',
      `there are ${classWeights.length} class weights for ${classes} classes`,
    );
  if (ignoreIndex !== undefined && ignoreIndex >= 0 && ignoreIndex < classes)
    throw new ShoalError(
      'invalid_argument',
      `ignoreIndex ${ignoreIndex} is one of the ${classes} classes; choose another, as -100`,
    );
  return targets === 'indices'
    ? classTargets(labelDims, classes, ignoreIndex)
    : floatTargets(output);
}

/** The mean over rows that all count alike. */
function plainMean(
  builder: GraphBuilder,
  { logP, q, count, mass }: { logP: string; q: string; count: number; mass: string },
): LossNodes {
  const total = sumAll(builder, builder.node('Mul', [logP, q]));
  return {
    loss: times(builder, total, -1 / count),
    gradient: times(builder, builder.node('Sub', [mass, q]), 1 / count),
  };
}

/** The mean over rows each of which has its weight; 0 where none has any. */
function weightedMean(
  builder: GraphBuilder,
  { logP, p, wq, weights }: { logP: string; p: string; wq: string; weights: string },
): LossNodes {
  const sum = sumAll(builder, weights);
  const counts = builder.node('Greater', [sum, builder.float(0)]);
  const some = builder.node('Where', [counts, sum, builder.float(1)]);
  const factor = builder.node('Cast', [counts], { to: DATA_TYPE.float });
  const mean = (value: string): string =>
    builder.node('Mul', [builder.node('Div', [value, some]), factor]);
  const total = sumAll(builder, builder.node('Mul', [logP, wq]));
  const rows = builder.node('Unsqueeze', [sumRows(builder, wq), builder.ints([1])]);
  const difference = builder.node('Sub', [builder.node('Mul', [p, rows]), wq]);
  return {
    loss: mean(builder.node('Neg', [total])),
    gradient: mean(difference),
  };
}

/** 1 for every row whose label counts, `[rows]`. */
function countedRows(builder: GraphBuilder, labels: string, ignored: number): string {
  const isIgnored = builder.node('Equal', [labels, builder.int(ignored)]);
  return builder.node('Cast', [builder.node('Not', [isIgnored])], { to: DATA_TYPE.float });
}

/**
 * Softmax cross-entropy. With logits z `[batch, K]`, p = softmax(z) and target distribution q:
 * L = −Σ_b w_b Σ_k q[b, k]·log p[b, k] / Σ_b w_b,  ∂L/∂z[b] = w_b·(p·Σq − q)/Σ w.
 * w_b is the weight of the sample's class, 1 without class weights, 0 for what does not count. With weights and
 * smoothing together, each term is weighted by its own class, as PyTorch's `CrossEntropyLoss` does. In outputs of more
 * dimensions every place is a sample.
 *
 * @throws ShoalError `invalid_argument` for numbers out of range.
 */
export function softmaxCrossEntropy(options: SoftmaxCrossEntropyOptions): LossDefinition {
  const { targets = 'indices', labelSmoothing = 0, classWeights, classAxis, ignoreIndex } = options;
  expectOptions(options);
  expectAxis(classAxis);
  const isByIndex = targets === 'indices';
  return {
    metrics: isByIndex ? ['accuracy'] : [],
    targets: (output) => ({ targets: targetSpec(options, output) }),
    write: (builder, { name, dims }, given) => {
      const rows = rowsOf(dims, classAxis);
      const { classes, count } = rows;
      const scores = toRows(builder, name, rows);
      const flat = (value: string): string =>
        rows.labelDims.length === 1 ? value : builder.node('Reshape', [value, builder.ints([-1])]);
      const labels = isByIndex ? flat(given['targets'] ?? '') : '';
      const hard = isByIndex
        ? oneHot(builder, labels, classes)
        : toRows(builder, given['targets'] ?? '', rows);
      const q = smoothed(builder, hard, labelSmoothing, classes);
      const logP = builder.node('LogSoftmax', [scores], { axis: -1 });
      const p = builder.node('Exp', [logP]);
      const counted =
        ignoreIndex === undefined ? undefined : countedRows(builder, labels, ignoreIndex);
      const ranked = isByIndex ? { scores, classes, labels, counted } : undefined;
      const column = (value: string): string =>
        builder.node('Unsqueeze', [value, builder.ints([1])]);
      let nodes: LossNodes;
      if (classWeights || counted !== undefined) {
        const perClass = classWeights ?? Array.from({ length: classes }, () => 1);
        const ofClass = builder.floats(Float32Array.from(perClass), [1, classes]);
        const weights =
          counted === undefined ? ofClass : builder.node('Mul', [column(counted), ofClass]);
        nodes = weightedMean(builder, {
          logP,
          p,
          wq: builder.node('Mul', [q, weights]),
          weights: builder.node('Mul', [hard, weights]),
        });
      } else {
        const mass = isByIndex ? p : builder.node('Mul', [p, column(sumRows(builder, q))]);
        nodes = plainMean(builder, { logP, q, count, mass });
      }
      return {
        ...nodes,
        gradient: fromRows(builder, nodes.gradient, rows),
        ...(ranked ? { ranked } : {}),
      };
    },
  };
}

/**
 * Binary cross-entropy with logits, mean over all n elements:
 * L = mean(softplus(z) − y·z),  ∂L/∂z = (σ(z) − y)/n. Stable: softplus(z) = max(z, 0) + ln(1 + e^−|z|).
 */
export const binaryCrossEntropy: LossDefinition = {
  metrics: [],
  targets: (output) => ({ targets: floatTargets(output) }),
  write: (builder, { name, dims }, given) => {
    const y = given['targets'] ?? '';
    const n = dims.reduce((a, b) => a * b, 1);
    const decay = builder.node('Exp', [builder.node('Neg', [builder.node('Abs', [name])])]);
    const soft = builder.node('Add', [
      builder.node('Relu', [name]),
      builder.node('Log', [builder.node('Add', [decay, builder.float(1)])]),
    ]);
    const each = builder.node('Sub', [soft, builder.node('Mul', [y, name])]);
    const difference = builder.node('Sub', [builder.node('Sigmoid', [name]), y]);
    return {
      loss: times(builder, sumAll(builder, each), 1 / n),
      gradient: times(builder, difference, 1 / n),
    };
  },
};
