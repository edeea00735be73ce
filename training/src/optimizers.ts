import { ShoalError } from '@shoal/core';
import type { GraphBuilder } from './onnx/graph-builder.ts';

interface Common {
  /** Step size, > 0. */
  readonly learningRate: number;
  /** Weight decay, ≥ 0: an L2 penalty added to the gradient; for AdamW decoupled from it. Default 0. */
  readonly weightDecay?: number;
}

export type OptimizerOptions =
  | ({
      readonly name: 'sgd';
      /** Heavy-ball momentum in [0, 1). Default 0. */
      readonly momentum?: number;
      /** Nesterov's form of momentum. Default false. */
      readonly nesterov?: boolean;
    } & Common)
  | ({
      readonly name: 'adam' | 'adamw';
      /** Decay of the first moment. Default 0.9. */
      readonly beta1?: number;
      /** Decay of the second moment. Default 0.999. */
      readonly beta2?: number;
      /** Added to the denominator. Default 1e-8. */
      readonly epsilon?: number;
    } & Common)
  | ({
      readonly name: 'rmsprop';
      /** Decay of the mean square, in [0, 1). Default 0.99. */
      readonly alpha?: number;
      /** Momentum of the scaled gradient, in [0, 1). Default 0. */
      readonly momentum?: number;
      /** Added to the denominator. Default 1e-8. */
      readonly epsilon?: number;
    } & Common)
  | ({
      readonly name: 'adagrad';
      /** Added to the denominator. Default 1e-10. */
      readonly epsilon?: number;
    } & Common);

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

interface Value {
  readonly name: string;
  readonly gradient: string;
  readonly state: readonly string[];
}

export interface OptimizerNodes {
  /** Names of the state tensors kept per parameter; each has the parameter's shape and starts at 0. */
  readonly slots: readonly string[];
  readonly scalars: readonly StepScalar[];
  /**
   * When the update is θ − rate·g and nothing else: name of the rate. A step may then scale the
   * gradient of the loss once instead of that of every parameter.
   */
  readonly linearIn?: string;
  /**
   * Writes the update. Each old state is read by one node only, which comes before its new value:
   * that is what lets the trainer keep both in one buffer.
   */
  readonly write: (builder: GraphBuilder, value: Value) => Update;
}

function decayed(builder: GraphBuilder, value: Value, weightDecay: number): string {
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

function moved(builder: GraphBuilder, from: string, direction: string, rate: string): string {
  return builder.node('Sub', [from, builder.node('Mul', [direction, rate])]);
}

/** v ← μ·v + g,  θ ← θ − η·v, or θ − η·(g + μ·v) with Nesterov (Sutskever et al. 2013, as PyTorch writes it). */
function sgd(options: Extract<OptimizerOptions, { name: 'sgd' }>): OptimizerNodes {
  const { momentum = 0, nesterov = false, weightDecay = 0 } = options;
  return {
    slots: momentum > 0 ? ['velocity'] : [],
    scalars: [LEARNING_RATE],
    ...(momentum === 0 && weightDecay === 0 ? { linearIn: LEARNING_RATE.name } : {}),
    write: (builder, value) => {
      const g = decayed(builder, value, weightDecay);
      const [v = ''] = value.state;
      if (momentum === 0)
        return { parameter: moved(builder, value.name, g, LEARNING_RATE.name), state: [] };
      const velocity = builder.node('Add', [builder.node('Mul', [v, builder.float(momentum)]), g]);
      const direction = nesterov
        ? builder.node('Add', [g, builder.node('Mul', [velocity, builder.float(momentum)])])
        : velocity;
      return {
        parameter: moved(builder, value.name, direction, LEARNING_RATE.name),
        state: [velocity],
      };
    },
  };
}

/** β·old + (1 − β)·next */
function blend(builder: GraphBuilder, old: string, next: string, beta: number): string {
  return builder.node('Add', [
    builder.node('Mul', [old, builder.float(beta)]),
    builder.node('Mul', [next, builder.float(1 - beta)]),
  ]);
}

/**
 * Adam (Kingma & Ba 2015, algorithm 1): m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²,
 * θ ← θ − η·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε). The bias corrections are inputs of the graph:
 * α = η/(1−β₁ᵗ) and c = 1/(1−β₂ᵗ). AdamW (Loshchilov & Hutter 2019, algorithm 2) decays the
 * parameter itself, θ ← θ − η·λ·θ, and leaves the gradient alone.
 */
function adam(options: Extract<OptimizerOptions, { name: 'adam' | 'adamw' }>): OptimizerNodes {
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = options;
  const decoupled = options.name === 'adamw';
  const alpha: StepScalar = {
    name: 'shoal/adam_alpha',
    at: (t, learningRate) => learningRate / (1 - beta1 ** t),
  };
  const correction: StepScalar = { name: 'shoal/adam_correction', at: (t) => 1 / (1 - beta2 ** t) };
  const keep: StepScalar = {
    name: 'shoal/adamw_keep',
    at: (_t, learningRate) => 1 - learningRate * weightDecay,
  };
  const shrinks = decoupled && weightDecay > 0;
  return {
    slots: ['m', 'v'],
    scalars: shrinks ? [alpha, correction, keep] : [alpha, correction],
    write: (builder, value) => {
      const g = decoupled ? value.gradient : decayed(builder, value, weightDecay);
      const [m0 = '', v0 = ''] = value.state;
      const m = blend(builder, m0, g, beta1);
      const v = blend(builder, v0, builder.node('Mul', [g, g]), beta2);
      const root = builder.node('Sqrt', [builder.node('Mul', [v, correction.name])]);
      const step = builder.node('Div', [m, builder.node('Add', [root, builder.float(epsilon)])]);
      const from = shrinks ? builder.node('Mul', [value.name, keep.name]) : value.name;
      return { parameter: moved(builder, from, step, alpha.name), state: [m, v] };
    },
  };
}

/** RMSprop (Tieleman & Hinton 2012): s ← α·s + (1−α)·g²,  θ ← θ − η·g/(√s + ε), with momentum on the scaled gradient. */
function rmsprop(options: Extract<OptimizerOptions, { name: 'rmsprop' }>): OptimizerNodes {
  const { alpha = 0.99, momentum = 0, epsilon = 1e-8, weightDecay = 0 } = options;
  return {
    slots: momentum > 0 ? ['square', 'velocity'] : ['square'],
    scalars: [LEARNING_RATE],
    write: (builder, value) => {
      const g = decayed(builder, value, weightDecay);
      const [s0 = '', v0 = ''] = value.state;
      const square = blend(builder, s0, builder.node('Mul', [g, g]), alpha);
      const root = builder.node('Add', [builder.node('Sqrt', [square]), builder.float(epsilon)]);
      const scaled = builder.node('Div', [g, root]);
      if (momentum === 0) {
        const parameter = moved(builder, value.name, scaled, LEARNING_RATE.name);
        return { parameter, state: [square] };
      }
      const velocity = builder.node('Add', [
        builder.node('Mul', [v0, builder.float(momentum)]),
        scaled,
      ]);
      return {
        parameter: moved(builder, value.name, velocity, LEARNING_RATE.name),
        state: [square, velocity],
      };
    },
  };
}

/** Adagrad (Duchi et al. 2011): s ← s + g²,  θ ← θ − η·g/(√s + ε). */
function adagrad(options: Extract<OptimizerOptions, { name: 'adagrad' }>): OptimizerNodes {
  const { epsilon = 1e-10, weightDecay = 0 } = options;
  return {
    slots: ['square'],
    scalars: [LEARNING_RATE],
    write: (builder, value) => {
      const g = decayed(builder, value, weightDecay);
      const square = builder.node('Add', [value.state[0] ?? '', builder.node('Mul', [g, g])]);
      const root = builder.node('Add', [builder.node('Sqrt', [square]), builder.float(epsilon)]);
      const parameter = moved(
        builder,
        value.name,
        builder.node('Div', [g, root]),
        LEARNING_RATE.name,
      );
      return { parameter, state: [square] };
    },
  };
}

export const OPTIMIZER_NAMES = ['sgd', 'adam', 'adamw', 'rmsprop', 'adagrad'] as const;

function nodesOf(options: OptimizerOptions): OptimizerNodes {
  switch (options.name) {
    case 'sgd':
      return sgd(options);
    case 'adam':
    case 'adamw':
      return adam(options);
    case 'rmsprop':
      return rmsprop(options);
    case 'adagrad':
      return adagrad(options);
    default:
      throw new ShoalError(
        'invalid_argument',
        `there is no optimizer "${String((options as { name: unknown }).name)}"; choose one of ${OPTIMIZER_NAMES.join(', ')}`,
      );
  }
}

/** @throws ShoalError `invalid_argument` for an unknown name or numbers out of range. */
export function optimizerNodes(options: OptimizerOptions): OptimizerNodes {
  const fractions = ['momentum', 'beta1', 'beta2', 'alpha'] as const;
  const numbers = options as Partial<Record<(typeof fractions)[number] | 'epsilon', number>>;
  if (!(options.learningRate > 0 && Number.isFinite(options.learningRate)))
    throw new ShoalError(
      'invalid_argument',
      `learningRate must be > 0 and finite, got ${options.learningRate}`,
    );
  if (numbers.epsilon !== undefined && !(numbers.epsilon > 0 && numbers.epsilon < 1))
    throw new ShoalError('invalid_argument', `epsilon must be in (0, 1), got ${numbers.epsilon}`);
  if (options.weightDecay !== undefined && !(options.weightDecay >= 0)) {
    throw new ShoalError('invalid_argument', `weightDecay must be ≥ 0, got ${options.weightDecay}`);
  }
  for (const name of fractions) {
    const value = numbers[name];
    if (value !== undefined && !(value >= 0 && value < 1))
      throw new ShoalError('invalid_argument', `${name} must be in [0, 1), got ${value}`);
  }
  return nodesOf(options);
}
