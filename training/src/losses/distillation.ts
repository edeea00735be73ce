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

export interface DistillationOptions {
  /** Softens both distributions, > 0. Default 2. Unused with `match: 'mse'`. */
  readonly temperature?: number;
  /**
   * What the teacher's logits are matched with: `kl`, τ²·KL(teacher ‖ student) (Hinton et al. 2015,
   * §2), or `mse`, the mean squared difference of logits (DER, Buzzega et al. 2020, eq. 6).
   * Default `kl`.
   */
  readonly match?: 'kl' | 'mse';
}

interface Part {
  /** Per sample, `[batch]`. */
  readonly each: string;
  /** ∂each/∂z, `[batch, classes]`. */
  readonly slope: string;
}

function crossEntropyPart(builder: GraphBuilder, z: string, labels: string, classes: number): Part {
  const logP = builder.node('LogSoftmax', [z], { axis: -1 });
  const hot = oneHot(builder, labels, classes);
  return {
    each: builder.node('Neg', [sumRows(builder, builder.node('Mul', [logP, hot]))]),
    slope: builder.node('Sub', [builder.node('Exp', [logP]), hot]),
  };
}

/** τ²·KL(q ‖ p) with q, p softened by τ; its slope is τ·(p − q). */
function klPart(builder: GraphBuilder, z: string, teacher: string, temperature: number): Part {
  const soften = (v: string): string =>
    builder.node('LogSoftmax', [times(builder, v, 1 / temperature)], { axis: -1 });
  const [logP, logQ] = [soften(z), soften(teacher)];
  const q = builder.node('Exp', [logQ]);
  const divergence = sumRows(builder, builder.node('Mul', [q, builder.node('Sub', [logQ, logP])]));
  const difference = builder.node('Sub', [builder.node('Exp', [logP]), q]);
  return {
    each: times(builder, divergence, temperature ** 2),
    slope: times(builder, difference, temperature),
  };
}

/** mean_k (z − t)²; its slope is 2(z − t)/K. */
function squarePart(builder: GraphBuilder, z: string, teacher: string, classes: number): Part {
  const difference = builder.node('Sub', [z, teacher]);
  const square = sumRows(builder, builder.node('Mul', [difference, difference]));
  return {
    each: times(builder, square, 1 / classes),
    slope: times(builder, difference, 2 / classes),
  };
}

/**
 * Cross-entropy on labels together with matching of a teacher's logits, each sample with its own
 * weights a (label) and b (logits):
 * L = (1/batch) Σ_i (a_i·CE(z_i, y_i) + b_i·D(z_i, teacher_i)).
 *
 * Learning without forgetting (Li & Hoiem 2016): a = 1, b = λ. DER++ (Buzzega et al. 2020, eq. 6):
 * fresh samples a = 1, b = 0; replayed ones a = β, b = α, `match: 'mse'`.
 *
 * Targets: `labels` `[batch]` class indices, `labelWeights` `[batch]`, `logits` `[batch, classes]`,
 * `logitWeights` `[batch]`.
 */
export function distillation(options: DistillationOptions): LossDefinition {
  const { temperature = 2, match = 'kl' } = options;
  if (!(temperature > 0))
    throw new ShoalError('invalid_argument', `temperature must be > 0, got ${temperature}`);
  return {
    metrics: [],
    targets: (output) => {
      const classes = classesOf(output);
      const rows = output.slice(0, 1);
      return {
        labels: classTargets(rows, classes),
        labelWeights: floatTargets(rows),
        logits: floatTargets(output),
        logitWeights: floatTargets(rows),
      };
    },
    write: (builder, { name, dims }, given) => {
      const classes = classesOf(dims);
      const [batch = 1] = dims;
      const { labels = '', labelWeights = '', logits = '', logitWeights = '' } = given;
      const hard = crossEntropyPart(builder, name, labels, classes);
      const soft =
        match === 'kl'
          ? klPart(builder, name, logits, temperature)
          : squarePart(builder, name, logits, classes);
      const weighted = (part: Part, weights: string): Part => ({
        each: builder.node('Mul', [part.each, weights]),
        slope: builder.node('Mul', [
          part.slope,
          builder.node('Unsqueeze', [weights, builder.ints([1])]),
        ]),
      });
      const [a, b] = [weighted(hard, labelWeights), weighted(soft, logitWeights)];
      const total = sumAll(builder, builder.node('Add', [a.each, b.each]));
      return {
        loss: times(builder, total, 1 / batch),
        gradient: times(builder, builder.node('Add', [a.slope, b.slope]), 1 / batch),
      };
    },
  };
}
