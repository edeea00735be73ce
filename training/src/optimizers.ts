import { ShoalError } from '@shoal/core';
import type { GraphBuilder, Shape } from './onnx/graph-builder.ts';

export type OptimizerOptions =
  | {
      readonly name: 'sgd';
      /** Step size, > 0. */
      readonly learningRate: number;
      /** Heavy-ball momentum in [0, 1). Default 0. */
      readonly momentum?: number;
      /** L2 penalty added to the gradient, ≥ 0. Default 0. */
      readonly weightDecay?: number;
    }
  | {
      readonly name: 'adam';
      /** Step size, > 0; 1e-3 is usual. */
      readonly learningRate: number;
      /** Decay of the first moment. Default 0.9. */
      readonly beta1?: number;
      /** Decay of the second moment. Default 0.999. */
      readonly beta2?: number;
      /** Added to the denominator. Default 1e-8. */
      readonly epsilon?: number;
      /** L2 penalty added to the gradient, ≥ 0. Default 0. */
      readonly weightDecay?: number;
    };

/** One parameter's update as nodes. */
export interface Update {
  readonly parameter: string;
  /** New values of the optimizer's state for this parameter, in the order of {@link OptimizerNodes.slots}. */
  readonly state: readonly string[];
}

/** A per-step number the graph takes as input, computed from the step count (from 1). */
export interface StepScalar {
  readonly name: string;
  readonly at: (step: number, learningRate: number) => number;
}

export interface OptimizerNodes {
  /** Names of the state tensors kept per parameter; each has the parameter's shape. */
  readonly slots: readonly string[];
  readonly scalars: readonly StepScalar[];
  readonly write: (
    builder: GraphBuilder,
    value: { name: string; gradient: string; shape: Shape; state: readonly string[] },
  ) => Update;
}

function decayed(
  builder: GraphBuilder,
  value: { name: string; gradient: string },
  weightDecay: number,
): string {
  if (weightDecay === 0) return value.gradient;
  return builder.node('Add', [
    value.gradient,
    builder.node('Mul', [value.name, builder.float(weightDecay)]),
  ]);
}

const LEARNING_RATE: StepScalar = {
  name: 'shoal/learning_rate',
  at: (_step, learningRate) => learningRate,
};

/** v ← μ·v + g,  θ ← θ − η·v  (Sutskever et al. 2013, as PyTorch writes it). */
function sgd(options: Extract<OptimizerOptions, { name: 'sgd' }>): OptimizerNodes {
  const { momentum = 0, weightDecay = 0 } = options;
  return {
    slots: momentum > 0 ? ['velocity'] : [],
    scalars: [LEARNING_RATE],
    write: (builder, value) => {
      const g = decayed(builder, value, weightDecay);
      const [v = ''] = value.state;
      const velocity =
        momentum > 0
          ? builder.node('Add', [builder.node('Mul', [v, builder.float(momentum)]), g])
          : g;
      const parameter = builder.node('Sub', [
        value.name,
        builder.node('Mul', [velocity, LEARNING_RATE.name]),
      ]);
      return { parameter, state: momentum > 0 ? [velocity] : [] };
    },
  };
}

/**
 * Adam (Kingma & Ba 2015, algorithm 1): m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,
 * θ ← θ − η·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε). The bias corrections are inputs of the graph:
 * α = η/(1−β₁ᵗ) and c = 1/(1−β₂ᵗ).
 */
function adam(options: Extract<OptimizerOptions, { name: 'adam' }>): OptimizerNodes {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = options;
  const alpha: StepScalar = {
    name: 'shoal/adam_alpha',
    at: (t, learningRate) => learningRate / (1 - beta1 ** t),
  };
  const correction: StepScalar = { name: 'shoal/adam_correction', at: (t) => 1 / (1 - beta2 ** t) };
  return {
    slots: ['m', 'v'],
    scalars: [alpha, correction],
    write: (builder, value) => {
      const g = decayed(builder, value, weightDecay);
      const [m0 = '', v0 = ''] = value.state;
      const blend = (old: string, next: string, beta: number): string =>
        builder.node('Add', [
          builder.node('Mul', [old, builder.float(beta)]),
          builder.node('Mul', [next, builder.float(1 - beta)]),
        ]);
      const m = blend(m0, g, beta1);
      const v = blend(v0, builder.node('Mul', [g, g]), beta2);
      const root = builder.node('Sqrt', [builder.node('Mul', [v, correction.name])]);
      const step = builder.node('Div', [m, builder.node('Add', [root, builder.float(epsilon)])]);
      const parameter = builder.node('Sub', [value.name, builder.node('Mul', [step, alpha.name])]);
      return { parameter, state: [m, v] };
    },
  };
}

/** @throws ShoalError `invalid_argument` for numbers out of range. */
export function optimizerNodes(options: OptimizerOptions): OptimizerNodes {
  if (!(options.learningRate > 0))
    throw new ShoalError(
      'invalid_argument',
      `learningRate must be > 0, got ${options.learningRate}`,
    );
  if (options.weightDecay !== undefined && !(options.weightDecay >= 0)) {
    throw new ShoalError('invalid_argument', `weightDecay must be ≥ 0, got ${options.weightDecay}`);
  }
  return options.name === 'sgd' ? sgd(options) : adam(options);
}
