export type { Batch, InputValues } from './batch.ts';
export type { Parameter } from './candidates.ts';
export { DIFFERENTIABLE_OPERATORS, isDifferentiable } from './differentiate.ts';
export { glorotUniform, heNormal, type Initializer, orthogonal, zeros } from './initializers.ts';
export {
  type InspectedParameter,
  type InspectedValue,
  type Inspection,
  type InspectOptions,
  inspectModel,
} from './inspect.ts';
export {
  add,
  averagePool2d,
  batchNorm,
  type ConvolutionOptions,
  chain,
  concatenate,
  conv1d,
  conv2d,
  type DenseOptions,
  dense,
  dropout,
  embedding,
  type FunctionalOptions,
  flatten,
  functional,
  gelu,
  globalAveragePool,
  type Layer,
  layerNorm,
  maxPool2d,
  relu,
  reshape,
  residual,
  type SequentialOptions,
  sequential,
  sigmoid,
  tanh,
  type Value,
} from './layers.ts';
export { LOSS_NAMES, type LossName, type LossOptions } from './losses/losses.ts';
export { readModel, readModelFile, writeModel, writeModelFile } from './onnx/model-file.ts';
export { type ModelStage, type SplitModelOptions, splitModel } from './onnx/split-model.ts';
export { type EnsembleTree, type TreeEnsemble, treeEnsembleModel } from './onnx/tree-ensemble.ts';
export { OPTIMIZER_NAMES, type OptimizerOptions } from './optimizers.ts';
export type { Penalty } from './plan.ts';
export { constantRate, cosineDecay, type Schedule, stepDecay, warmup } from './schedules.ts';
export type { ExecutionProvider } from './sessions.ts';
export {
  type EvaluationResult,
  type StepResult,
  Trainer,
  type TrainerOptions,
} from './trainer.ts';
export type { Companion } from './training-graphs.ts';
