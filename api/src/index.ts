export { appendCondition, bounded } from './conditions.ts';
export {
  allCrds,
  type CustomResourceDefinition,
  objectSchema,
  toCrd,
  toStructural,
} from './crd.ts';
export { API_VERSION, GROUP, KINDS, VERSION } from './kinds/catalogue.ts';
export type {
  Condition,
  Dataset,
  FederatedLearningJob,
  HardExampleMining,
  IncrementalLearningJob,
  JointInferenceService,
  KindMap,
  LifelongLearningJob,
  Model,
  Parameter,
  StageCondition,
  Trigger,
} from './kinds/types-generated.ts';
export type { Field, KindDefinition, PrinterColumn } from './schema/fields.ts';
export type { KubernetesObject, ObjectMeta, OwnerReference } from './schema/metadata.ts';
export type {
  Container,
  EnvVar,
  PodSpec,
  PodTemplate,
  Volume,
  VolumeMount,
} from './schema/pod-template.ts';
export { MAX_CONDITIONS, OPERATORS, STAGE_CONDITIONS, STAGES } from './schema/shared.ts';
export {
  type BlobChunk,
  BlobChunkSchema,
  type CloudFrame,
  CloudFrameSchema,
  type EdgeFrame,
  EdgeFrameSchema,
  GetBlobRequestSchema,
  PutBlobResultSchema,
  StatBlobRequestSchema,
  StatBlobResultSchema,
} from './wire/edge-link_pb.ts';
export { EDGE_LINK_METHODS, MANAGER_NAME } from './wire/edge-link-service.ts';
export {
  type AggregatorFrame,
  AggregatorFrameSchema,
  type ParticipantFrame,
  ParticipantFrameSchema,
} from './wire/federated_pb.ts';
export { FEDERATION_METHODS } from './wire/federated-service.ts';
export type { GrpcMethod, MethodBetween } from './wire/grpc-method.ts';
export {
  type CommitReply,
  CommitReplySchema,
  type CommitRequest,
  CommitRequestSchema,
  type GetModelRequest,
  GetModelRequestSchema,
  type JobsReply,
  JobsReplySchema,
  type JobsRequest,
  JobsRequestSchema,
  type KnowledgeChange,
  KnowledgeChangeSchema,
  type ModelChunk,
  ModelChunkSchema,
  type NearestReply,
  NearestReplySchema,
  type NearestRequest,
  NearestRequestSchema,
  type PutModelReply,
  PutModelReplySchema,
  type SampleRecord,
  SampleRecordSchema,
  type SamplesRequest,
  SamplesRequestSchema,
  type SnapshotReply,
  SnapshotReplySchema,
  type SnapshotRequest,
  SnapshotRequestSchema,
  type StatModelReply,
  StatModelReplySchema,
  type StatModelRequest,
  StatModelRequestSchema,
  type TaskRecord,
  TaskRecordSchema,
} from './wire/knowledge-base_pb.ts';
export { KNOWLEDGE_BASE_METHODS, KNOWLEDGE_BASE_NAME } from './wire/knowledge-base-service.ts';
export { EVERY_JOB, knowledgeJob, knowledgeToken } from './wire/knowledge-token.ts';
export {
  type DatasetAssignment,
  type DatasetReport,
  hotUpdateFolder,
  type Identity,
  recordKey,
  type ServiceReport,
  type Stage,
  type StageAssignment,
  type StageData,
  type StageModel,
  type StageReport,
  type StageState,
  stageName,
} from './wire/messages.ts';
