import { ShoalError } from '@shoal/core';
import { floatTargets, type LossDefinition, sumAll } from './loss.ts';

/**
 * Negative Cox partial log-likelihood (Cox 1972; Breslow's treatment of ties), mean over the events
 * of the batch. With risk scores h `[batch, 1]`, times t and event flags e:
 * L = −(1/E) Σ_i e_i (h_i − log Σ_{j: t_j ≥ t_i} e^{h_j}),
 * ∂L/∂h_k = −(1/E)(e_k − Σ_i e_i·1[t_k ≥ t_i]·e^{h_k}/S_i), S_i the inner sum. A batch without an
 * event has loss 0 and gradient 0.
 *
 * Targets: `time` `[batch]` and `event` `[batch]` (1 observed, 0 censored).
 */
export const coxPartialLikelihood: LossDefinition = {
  metrics: [],
  targets: (output) => {
    const [batch = 1, ...rest] = output;
    if (rest.reduce((a, b) => a * b, 1) !== 1) {
      throw new ShoalError(
        'invalid_argument',
        `the Cox loss needs one score per sample, the model gives [${output.join(', ')}]`,
      );
    }
    return { time: floatTargets([batch]), event: floatTargets([batch]) };
  },
  write: (builder, { name, dims }, given) => {
    const { time = '', event = '' } = given;
    const h = builder.node('Reshape', [name, builder.ints([-1])]);
    const column = (value: string): string => builder.node('Unsqueeze', [value, builder.ints([1])]);
    const row = (value: string): string => builder.node('Unsqueeze', [value, builder.ints([0])]);
    const atRisk = builder.node('GreaterOrEqual', [row(time), column(time)]);
    // Each sum from its own largest term: scores far apart neither overflow nor vanish.
    const scores = builder.node('Where', [atRisk, row(h), builder.float(-1e30)]);
    const top = builder.node('ReduceMax', [scores, builder.ints([1])], { keepdims: 1 });
    const hazards = builder.node('Exp', [builder.node('Sub', [scores, top])]);
    const inner = builder.node('ReduceSum', [hazards, builder.ints([1])], { keepdims: 1 });
    const logInner = builder.node('Reshape', [
      builder.node('Add', [builder.node('Log', [inner]), top]),
      builder.ints([-1]),
    ]);
    const events = builder.node('Max', [sumAll(builder, event), builder.float(1)]);
    const total = sumAll(builder, builder.node('Mul', [event, builder.node('Sub', [h, logInner])]));
    const share = builder.node('Div', [column(event), inner]);
    const pull = builder.node(
      'ReduceSum',
      [builder.node('Mul', [hazards, share]), builder.ints([0])],
      { keepdims: 0 },
    );
    const gradient = builder.node('Div', [builder.node('Sub', [pull, event]), events]);
    return {
      loss: builder.node('Neg', [builder.node('Div', [total, events])]),
      gradient: builder.node('Reshape', [gradient, builder.ints(dims)]),
    };
  },
};
