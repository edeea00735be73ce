import { ShoalError } from '@shoal/core';
import {
  binaryCrossEntropy,
  type SoftmaxCrossEntropyOptions,
  softmaxCrossEntropy,
} from './classification.ts';
import { type DistillationOptions, distillation } from './distillation.ts';
import type { LossDefinition } from './loss.ts';
import { huber, meanSquaredError } from './regression.ts';
import { coxPartialLikelihood } from './survival.ts';

/** Losses by name, with what each can be told. */
export type LossOptions =
  | ({ readonly name: 'softmax-cross-entropy' } & SoftmaxCrossEntropyOptions)
  | { readonly name: 'binary-cross-entropy' }
  | { readonly name: 'mean-squared-error' }
  | { readonly name: 'huber'; readonly delta?: number }
  | { readonly name: 'cox-partial-likelihood' }
  | ({ readonly name: 'distillation' } & DistillationOptions)
  | {
      /**
       * Your own: an ONNX graph whose first input is the model's output, whose other inputs are
       * the targets (by their names) and whose first output is the scalar loss.
       */
      readonly name: 'graph';
      readonly model: Uint8Array;
    };

export type LossName = Exclude<LossOptions['name'], 'graph'>;

export const LOSS_NAMES: readonly LossName[] = [
  'softmax-cross-entropy',
  'binary-cross-entropy',
  'mean-squared-error',
  'huber',
  'cox-partial-likelihood',
  'distillation',
];

/** The nodes of a named loss. @throws ShoalError `invalid_argument` for an unknown name or bad numbers. */
export function lossDefinition(options: Exclude<LossOptions, { name: 'graph' }>): LossDefinition {
  switch (options.name) {
    case 'softmax-cross-entropy':
      return softmaxCrossEntropy(options);
    case 'binary-cross-entropy':
      return binaryCrossEntropy;
    case 'mean-squared-error':
      return meanSquaredError;
    case 'huber':
      return huber(options.delta);
    case 'cox-partial-likelihood':
      return coxPartialLikelihood;
    case 'distillation':
      return distillation(options);
    default:
      throw new ShoalError(
        'invalid_argument',
        `there is no loss "${String((options as { name: unknown }).name)}"; choose one of ${LOSS_NAMES.join(', ')}`,
      );
  }
}
