import { ShoalError } from '@shoal/core';
import type { GraphBuilder } from '../onnx/graph-builder.ts';
import {
  classesOf,
  classTargets,
  floatTargets,
  type LossDefinition,
  oneHot,
  sumAll,
  sumRows,
  times,
} from './loss.ts';

export interface SoftmaxCrossEntropyOptions {
  /** Whether targets are class indices `[batch]` (default) or probabilities `[batch, classes]`. */
  readonly targets?: 'indices' | 'distribution';
  /** Share of the target moved evenly to all classes, in [0, 1) (Szegedy et al. 2016, §7). Default 0. */
  readonly labelSmoothing?: number;
  /** Weight of each class in the mean, `[classes]`, ≥ 0; the mean is divided by the sum of weights. */
  readonly classWeights?: readonly number[];
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

/**
 * Softmax cross-entropy. With logits z `[batch, K]`, p = softmax(z) and target distribution q:
 * L = −Σ_b w_b Σ_k q[b, k]·log p[b, k] / Σ_b w_b,  ∂L/∂z[b] = w_b·(p·Σq − q)/Σ w.
 * w_b is the weight of the sample's class, 1 without class weights. With weights and smoothing
 * together, each term is weighted by its own class, as PyTorch's `CrossEntropyLoss` does.
 */
export function softmaxCrossEntropy(options: SoftmaxCrossEntropyOptions): LossDefinition {
  const { targets = 'indices', labelSmoothing = 0, classWeights } = options;
  if (!(labelSmoothing >= 0 && labelSmoothing < 1))
    throw new ShoalError(
      'invalid_argument',
      `labelSmoothing must be in [0, 1), got ${labelSmoothing}`,
    );
  if (classWeights && targets === 'distribution')
    throw new ShoalError('invalid_argument', 'classWeights need targets given as class indices');
  return {
    metrics: targets === 'indices' ? ['accuracy'] : [],
    targets: (output) => {
      const classes = classesOf(output);
      if (classWeights && classWeights.length !== classes) {
        throw new ShoalError(
          'invalid_argument',
          `there are ${classWeights.length} class weights for ${classes} classes`,
        );
      }
      return {
        targets:
          targets === 'indices' ? classTargets(output.slice(0, 1), classes) : floatTargets(output),
      };
    },
    write: (builder, { name, dims }, given) => {
      const classes = classesOf(dims);
      const [batch = 1] = dims;
      const labels = given['targets'] ?? '';
      const hard = targets === 'indices' ? oneHot(builder, labels, classes) : labels;
      const q = smoothed(builder, hard, labelSmoothing, classes);
      const logP = builder.node('LogSoftmax', [name], { axis: -1 });
      const p = builder.node('Exp', [logP]);
      if (!classWeights) {
        const total = sumAll(builder, builder.node('Mul', [logP, q]));
        const mass =
          targets === 'indices'
            ? p
            : builder.node('Mul', [
                p,
                builder.node('Unsqueeze', [sumRows(builder, q), builder.ints([1])]),
              ]);
        return {
          loss: times(builder, total, -1 / batch),
          gradient: times(builder, builder.node('Sub', [mass, q]), 1 / batch),
        };
      }
      const weights = builder.floats(Float32Array.from(classWeights), [1, classes]);
      const wq = builder.node('Mul', [q, weights]);
      const sum = sumAll(builder, builder.node('Mul', [hard, weights]));
      const total = sumAll(builder, builder.node('Mul', [logP, wq]));
      const rows = builder.node('Unsqueeze', [sumRows(builder, wq), builder.ints([1])]);
      const difference = builder.node('Sub', [builder.node('Mul', [p, rows]), wq]);
      return {
        loss: builder.node('Neg', [builder.node('Div', [total, sum])]),
        gradient: builder.node('Div', [difference, sum]),
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
