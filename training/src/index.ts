export { DIFFERENTIABLE_OPERATORS, isDifferentiable } from './differentiate.ts';
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
export { LOSS_NAMES, type LossName, type LossOptions } from './losses/losses.ts';
export type { MetricName } from './losses/loss.ts';
export { readModel, readModelFile, writeModel, writeModelFile } from './onnx/model-file.ts';
export { OPTIMIZER_NAMES, type OptimizerOptions } from './optimizers.ts';
export type { Parameter, Penalty } from './plan.ts';
export {
  type Batch,
  type EvaluationResult,
  type ExecutionProvider,
  type InputValues,
  type StepResult,
  Trainer,
  type TrainerOptions,
} from './trainer.ts';
export type { Companion } from './training-graphs.ts';
