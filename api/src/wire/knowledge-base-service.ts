import { type MethodBetween, methodsOf } from './grpc-method.ts';
import {
  CommitReplySchema,
  CommitRequestSchema,
  GetModelRequestSchema,
  JobsReplySchema,
  JobsRequestSchema,
  ModelChunkSchema,
  NearestReplySchema,
  NearestRequestSchema,
  PutModelReplySchema,
  SampleRecordSchema,
  SamplesRequestSchema,
  SnapshotReplySchema,
  SnapshotRequestSchema,
  StatModelReplySchema,
  StatModelRequestSchema,
} from './knowledge-base_pb.ts';

/** The name the knowledge base's certificate carries, wherever it runs. */
export const KNOWLEDGE_BASE_NAME = 'shoal-knowledge-base';

const method = methodsOf('shoal.knowledge.v1.KnowledgeBase');

export interface KnowledgeBaseMethods {
  readonly snapshot: MethodBetween<typeof SnapshotRequestSchema, typeof SnapshotReplySchema>;
  readonly commit: MethodBetween<typeof CommitRequestSchema, typeof CommitReplySchema>;
  readonly statModel: MethodBetween<typeof StatModelRequestSchema, typeof StatModelReplySchema>;
  readonly putModel: MethodBetween<typeof ModelChunkSchema, typeof PutModelReplySchema>;
  readonly getModel: MethodBetween<typeof GetModelRequestSchema, typeof ModelChunkSchema>;
  readonly samples: MethodBetween<typeof SamplesRequestSchema, typeof SampleRecordSchema>;
  readonly nearest: MethodBetween<typeof NearestRequestSchema, typeof NearestReplySchema>;
  readonly jobs: MethodBetween<typeof JobsRequestSchema, typeof JobsReplySchema>;
}

/** The methods of `api/proto/knowledge-base.proto`. */
export const KNOWLEDGE_BASE_METHODS: KnowledgeBaseMethods = {
  snapshot: method('Snapshot', { request: SnapshotRequestSchema, response: SnapshotReplySchema }),
  commit: method('Commit', { request: CommitRequestSchema, response: CommitReplySchema }),
  statModel: method('StatModel', {
    request: StatModelRequestSchema,
    response: StatModelReplySchema,
  }),
  putModel: method(
    'PutModel',
    { request: ModelChunkSchema, response: PutModelReplySchema },
    { request: true },
  ),
  getModel: method(
    'GetModel',
    { request: GetModelRequestSchema, response: ModelChunkSchema },
    { response: true },
  ),
  samples: method(
    'Samples',
    { request: SamplesRequestSchema, response: SampleRecordSchema },
    { response: true },
  ),
  nearest: method('Nearest', { request: NearestRequestSchema, response: NearestReplySchema }),
  jobs: method('Jobs', { request: JobsRequestSchema, response: JobsReplySchema }),
};
