import { ShoalError } from '@shoal/core';
import { sizeOf } from '../onnx/tensor-data.ts';
import { floatTargets, type LossDefinition, sumAll, times } from './loss.ts';

/** Mean squared error: L = mean (ŷ − y)²,  ∂L/∂ŷ = 2(ŷ − y)/n over all n elements. */
export const meanSquaredError: LossDefinition = {
  metrics: ['mae'],
  targets: (output) => ({ targets: floatTargets(output) }),
  write: (builder, { name, dims }, given) => {
    const n = sizeOf(dims);
    const difference = builder.node('Sub', [name, given['targets'] ?? '']);
    const square = builder.node('Mul', [difference, difference]);
    return {
      loss: times(builder, sumAll(builder, square), 1 / n),
      gradient: times(builder, difference, 2 / n),
    };
  },
};

/**
 * Huber loss (Huber 1964), mean over all n elements, with d = ŷ − y:
 * L = d²/2 for |d| ≤ δ, else δ(|d| − δ/2);  ∂L/∂ŷ = clamp(d, −δ, δ)/n.
 * Both parts at once: with c = clamp(d, −δ, δ), L = c·(d − c/2).
 *
 * @param delta > 0; default 1.
 */
export function huber(delta = 1): LossDefinition {
  if (!(delta > 0)) throw new ShoalError('invalid_argument', `delta must be > 0, got ${delta}`);
  return {
    metrics: ['mae'],
    targets: (output) => ({ targets: floatTargets(output) }),
    write: (builder, { name, dims }, given) => {
      const n = sizeOf(dims);
      const difference = builder.node('Sub', [name, given['targets'] ?? '']);
      const clamped = builder.node('Clip', [
        difference,
        builder.float(-delta),
        builder.float(delta),
      ]);
      const each = builder.node('Mul', [
        clamped,
        builder.node('Sub', [difference, times(builder, clamped, 0.5)]),
      ]);
      return {
        loss: times(builder, sumAll(builder, each), 1 / n),
        gradient: times(builder, clamped, 1 / n),
      };
    },
  };
}
