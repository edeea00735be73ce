export { type IdxArray, parseIdx } from './data/idx.ts';
export {
  type ImageLine,
  imageData,
  parseImageData,
  parseImageLines,
  readImageLines,
  toImageLine,
} from './data/image-lines.ts';
export { DATASET_FORMATS, loadDataset, toSamples } from './data/load-dataset.ts';
export { type NpyArray, parseNpy } from './data/npy.ts';
export {
  dirichletPartition,
  iidPartition,
  quantityPartition,
  shardPartition,
} from './data/partition.ts';
export { batches, concatenate, type Samples, select, slice } from './data/samples.ts';
export {
  type ReadOptions,
  readTrainingData,
  TRAINING_FORMATS,
  type TrainingData,
} from './data/training-data.ts';
export { Adwin } from './drift/adwin.ts';
export type { DriftDetector } from './drift/detector.ts';
export { DRIFT_DETECTORS, driftDetector } from './drift/drift-detector.ts';
export { PageHinkley } from './drift/page-hinkley.ts';
export {
  BoostedTreesEstimator,
  type BoostedTreesOptions,
  treesToOnnx,
} from './estimator/boosted-trees/boosted-trees.ts';
export {
  type BoostedTrees,
  type BoostingOptions,
  boostTrees,
  type LabelledRows,
  marginsOf,
} from './estimator/boosted-trees/boosting.ts';
export { argMax, classificationMetrics } from './estimator/classification-metrics.ts';
export {
  type Box,
  boxAgreement,
  type Detector,
  intersectionOverUnion,
  isDetector,
  suppress,
} from './estimator/detection.ts';
export type {
  Estimator,
  Metrics,
  Predictions,
  Rehearsal,
  TrainOptions,
  TrainProgress,
} from './estimator/estimator.ts';
export { OnnxEstimator, type OnnxEstimatorOptions } from './estimator/onnx.ts';
export { OnnxDetector, type OnnxDetectorOptions } from './estimator/onnx-detector.ts';
export { TfjsEstimator, type TfjsEstimatorOptions } from './estimator/tfjs.ts';
export { aggregateRound } from './federated-learning/aggregate.ts';
export type { AggregationServerOptions } from './federated-learning/aggregation-options.ts';
export { AggregationServer } from './federated-learning/aggregation-server.ts';
export type { CompressionOptions } from './federated-learning/compression.ts';
export {
  aggregatorTransport,
  FEDERATED_SETTINGS,
  type FederatedEnvironment,
  FederatedLearning,
  type FederatedLearningOptions,
  localRuleOf,
} from './federated-learning/federated-learning.ts';
export type {
  FederatedModel,
  LayoutEntry,
  LocalResult,
  LocalTask,
} from './federated-learning/federated-model.ts';
export type { FederationOptions, PrivacyOptions } from './federated-learning/federation-options.ts';
export {
  GroupAggregator,
  type GroupAggregatorOptions,
} from './federated-learning/group-aggregator.ts';
export { addWeighted, kernelVectors } from './federated-learning/kernels.ts';
export { fileProgress } from './federated-learning/participant/file-progress.ts';
export { grpcTransport, nodePlatform } from './federated-learning/participant/grpc-transport.ts';
export {
  Participant,
  type ParticipantOptions,
  type ParticipantResult,
} from './federated-learning/participant/participant.ts';
export type { ProgressStore } from './federated-learning/participant/progress.ts';
export { socketTransport } from './federated-learning/participant/socket-transport.ts';
export type { ParticipantCall } from './federated-learning/participant-call.ts';
export {
  createIdentities,
  type SigningIdentity,
} from './federated-learning/privacy/secure-aggregation/identity.ts';
export type { RoundSummary } from './federated-learning/round-summary.ts';
export type { FederationResult } from './federated-learning/rounds.ts';
export {
  type SednaAggregationOptions,
  SednaAggregationServer,
} from './federated-learning/sedna-aggregation-server.ts';
export {
  type SimulatedRound,
  type SimulatedWork,
  type SimulationOptions,
  type SimulationResult,
  simulateFederation,
} from './federated-learning/simulation.ts';
export { createStrategy, STRATEGY_NAMES } from './federated-learning/strategies/strategies.ts';
export type {
  JointRule,
  LocalRule,
  MeanRule,
  ModelUpdate,
  Strategy,
  StrategyState,
} from './federated-learning/strategy.ts';
export { TrainerModel, type TrainerModelOptions } from './federated-learning/trainer-model.ts';
export { type BudgetOptions, UploadBudget } from './hard-example/budget.ts';
export {
  calibrationError,
  fitTemperature,
  type LabelledLogits,
} from './hard-example/calibration.ts';
export { configureMiner } from './hard-example/configured-miner.ts';
export {
  type DeferralModel,
  deferralScore,
  fitDeferral,
} from './hard-example/deferral.ts';
export { type GrownDeferral, growDeferral } from './hard-example/grown-deferral.ts';
export type {
  EdgeResult,
  HardExampleMiner,
  MinerParameters,
  Verdict,
} from './hard-example/miner.ts';
export { createMiner, MINER_NAMES } from './hard-example/miners.ts';
export type { ModelPair } from './hard-example/model-pair.ts';
export {
  conformalRiskThreshold,
  learnThenTestThreshold,
  type ScoredSample,
} from './hard-example/risk-control.ts';
export {
  exampleId,
  type FoundExample,
  HardExampleSink,
  type HardExampleSinkOptions,
} from './incremental-learning/hard-example-sink.ts';
export { followModel, type HotUpdateOptions } from './incremental-learning/hot-update.ts';
export {
  IncrementalInference,
  type IncrementalInferenceMetrics,
  type IncrementalInferenceOptions,
  type IncrementalResult,
} from './incremental-learning/incremental-inference.ts';
export {
  hostPathOf,
  type IncrementalEnvironment,
  IncrementalLearning,
} from './incremental-learning/incremental-learning.ts';
export {
  type LabellerOptions,
  type LabellingPass,
  labelWithModel,
} from './incremental-learning/labeller.ts';
export { RehearsalBuffer, type RehearsalOptions } from './incremental-learning/rehearsal-buffer.ts';
export {
  type CloudSample,
  SampleClient,
  type SampleClientOptions,
  type SampleJobCounts,
  type SampleQuery as HardSampleQuery,
  type SampleState,
  type SampleVerdict,
} from './incremental-learning/sample-client.ts';
export {
  BigModelService,
  type BigModelServiceOptions,
} from './joint-inference/big-model-service.ts';
export {
  type CloudClientOptions,
  type CloudModel,
  createCloudClient,
} from './joint-inference/cloud-client.ts';
export {
  JointInference,
  type JointInferenceMetrics,
  type JointInferenceOptions,
  type JointInferenceResult,
} from './joint-inference/joint-inference.ts';
export {
  CONTINUAL_NAMES,
  ContinualLearner,
  type ContinualOptions,
  type ContinualStrategy,
} from './lifelong-learning/continual/continual-learner.ts';
export {
  EdgeTasks,
  type EdgeTasksOptions,
  type LifelongResult,
  type LifelongSample,
} from './lifelong-learning/edge-tasks.ts';
export {
  KnowledgeClient,
  type KnowledgeClientOptions,
} from './lifelong-learning/knowledge-base/client.ts';
export type {
  Change,
  EdgeUsage,
  KnowledgeBase,
  KnowledgeSample,
  KnowledgeSnapshot,
  KnowledgeTask,
  Neighbour,
  SampleQuery,
  SharedValue,
  TaskRelation,
} from './lifelong-learning/knowledge-base/knowledge-base.ts';
export {
  KnowledgeServer,
  type KnowledgeServerOptions,
} from './lifelong-learning/knowledge-base/server.ts';
export {
  type JobSummary,
  KnowledgeStore,
  type KnowledgeStoreOptions,
} from './lifelong-learning/knowledge-base/store.ts';
export {
  type KnowledgeIndex,
  LIFELONG_SETTINGS,
  type LifelongEnvironment,
  LifelongLearning,
  type LifelongOptions,
  readIndex,
} from './lifelong-learning/lifelong-learning.ts';
export {
  type LifelongMetrics,
  lifelongMetrics,
  samplesTransferRatio,
  type TransferMatrix,
} from './lifelong-learning/metrics.ts';
export {
  type BlendOptions,
  blend,
  blendWeights,
  type ModelProbabilities,
} from './lifelong-learning/task/blend.ts';
export {
  COMPONENT_NAMES,
  type ComponentChoice,
  type ComponentChoices,
  type LifelongComponents,
  resolveComponents,
} from './lifelong-learning/task/components.ts';
export {
  concatenateTasks,
  readTaskSamples,
  selectTask,
  type TaskReadOptions,
  type TaskSamples,
} from './lifelong-learning/task/task-samples.ts';
export type { AdmissionCriterion, EvaluatedTasks } from './lifelong-learning/task-evaluation.ts';
export type { CreateEstimator, TaskEstimatorOptions } from './lifelong-learning/task-models.ts';
export { GLOBAL_TASK, type TrainedTasks } from './lifelong-learning/task-training.ts';
export {
  type ModelResult,
  Reporter,
  type ReporterOptions,
  type TaskInfo,
  type TaskKind,
  type TaskStatus,
} from './report/local-controller.ts';
export {
  parseMinerParameters,
  WORKER_SETTINGS,
  type WorkerEnvironment,
} from './report/worker-environment.ts';
export {
  blobSource,
  remoteSource,
  type S3Environment,
  s3Source,
} from './storage/remote-source.ts';
export { uploadToS3 } from './storage/upload.ts';
export { TokenClient, type TokenService } from './transfer/grpc-client.ts';
export { fromStatus } from './transfer/grpc-errors.ts';
