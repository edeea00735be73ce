export type { CaseOutcome } from './case-process/outcome.ts';
export { runCase } from './case-process/run-case.ts';
export { readBenchmarkingJob } from './config/benchmarking-job.ts';
export type {
  BenchmarkData,
  BenchmarkSamples,
  DataModule,
  DataPart,
} from './data/benchmark-data.ts';
export { METRICS } from './metrics/built-in.ts';
export type { UserMetric } from './metrics/metric.ts';
export { linkOf, PROFILE_NAMES, transferSeconds } from './network/profiles.ts';
export type { ClusterAccess } from './on-cluster/access.ts';
export { clusterPlace } from './on-cluster/place.ts';
export type { FederatedBase } from './paradigms/federated.ts';
export type { LifelongBase } from './paradigms/lifelong.ts';
export type { Observations } from './paradigms/observations.ts';
export {
  learnContinually,
  learnTogether,
  learnWithKnowledgeBase,
  type SequenceOptions,
  type SequenceResult,
  type SequenceTask,
  type UnseenDetection,
  untrainedScores,
} from './paradigms/task-sequence.ts';
export { codeOfFolders } from './plan/fingerprint.ts';
export type { ModuleContext } from './plan/module-file.ts';
export { type Plan, planJob } from './plan/plan.ts';
export { caseName, type PlannedCase } from './plan/planned-case.ts';
export {
  type Comparison,
  compareAlgorithms,
  compareResults,
} from './rank/compare.ts';
export {
  conditionsText,
  type Leaderboard,
  type LeaderboardRow,
  leaderboards,
} from './rank/leaderboard.ts';
export { figureText, LEGEND, tableOf, titleOf } from './report/format.ts';
export {
  type JobResults,
  REPORT_FORMATS,
  type ReportFormat,
  readResults,
  writeReports,
} from './report/write-report.ts';
export {
  type CaseEvent,
  type PlaceRunner,
  PROCESS,
  type RunSummary,
  runJob,
} from './runs/run-job.ts';
export { type CaseRecord, RunStore } from './runs/store.ts';
export { jobFile, suiteNames } from './suites.ts';
