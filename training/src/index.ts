export { isDifferentiable } from './differentiate.ts';
export {
  conv2d,
  dense,
  flatten,
  type Layer,
  maxPool2d,
  relu,
  type SequentialOptions,
  sequential,
} from './layers.ts';
export type { LossName } from './losses.ts';
export { readModel, writeModel } from './onnx/model-file.ts';
export type { OptimizerOptions } from './optimizers.ts';
export {
  type Batch,
  type EvaluationResult,
  type StepResult,
  Trainer,
  type TrainerOptions,
} from './trainer.ts';
export type { Parameter } from './training-graphs.ts';
