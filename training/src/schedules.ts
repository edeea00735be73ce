import { ShoalError } from '@shoal/core';

/** Learning rate of a step, counted from 1; pass it to `Trainer.step`. */
export type Schedule = (step: number) => number;

/** The same rate always. */
export function constantRate(learningRate: number): Schedule {
  return () => learningRate;
}

/**
 * Half a cosine from the rate down to `floor` over `steps` (Loshchilov & Hutter 2017, eq. 5,
 * without restarts).
 */
export function cosineDecay(learningRate: number, steps: number, floor = 0): Schedule {
  if (!(steps >= 1)) throw new ShoalError('invalid_argument', `steps must be ≥ 1, got ${steps}`);
  return (step) => {
    const share = Math.min(1, Math.max(0, (step - 1) / steps));
    return floor + ((learningRate - floor) * (1 + Math.cos(Math.PI * share))) / 2;
  };
}

/** Times `factor` after every `every` steps. */
export function stepDecay(learningRate: number, every: number, factor: number): Schedule {
  return (step) => learningRate * factor ** Math.floor((step - 1) / every);
}

/** Rises linearly to the schedule's rate over the first `steps` (Goyal et al. 2017, §2.2). */
export function warmup(steps: number, schedule: Schedule): Schedule {
  return (step) => schedule(step) * Math.min(1, step / steps);
}
