import { createHmac } from 'node:crypto';
import { type MethodBetween, methodsOf } from './grpc-method.ts';
import {
  HardSampleSchema,
  LabelReplySchema,
  LabelRequestSchema,
  ListSamplesRequestSchema,
  SampleJobsReplySchema,
  SampleJobsRequestSchema,
  UploadChunkSchema,
  UploadReplySchema,
} from './samples_pb.ts';

const method = methodsOf('shoal.samples.v1.Samples');

export interface SampleMethods {
  readonly jobs: MethodBetween<typeof SampleJobsRequestSchema, typeof SampleJobsReplySchema>;
  readonly list: MethodBetween<typeof ListSamplesRequestSchema, typeof HardSampleSchema>;
  readonly label: MethodBetween<typeof LabelRequestSchema, typeof LabelReplySchema>;
  readonly upload: MethodBetween<typeof UploadChunkSchema, typeof UploadReplySchema>;
}

/** The methods of `api/proto/samples.proto`. */
export const SAMPLE_METHODS: SampleMethods = {
  jobs: method('Jobs', { request: SampleJobsRequestSchema, response: SampleJobsReplySchema }),
  list: method(
    'List',
    { request: ListSamplesRequestSchema, response: HardSampleSchema },
    { response: true },
  ),
  label: method('Label', { request: LabelRequestSchema, response: LabelReplySchema }),
  upload: method(
    'Upload',
    { request: UploadChunkSchema, response: UploadReplySchema },
    { request: true },
  ),
};

/** The token that opens one job's hard examples: HMAC-SHA256 of the job's name under the manager's key. */
export function sampleToken(key: string, job: string): string {
  return createHmac('sha256', key).update(`shoal hard examples\n${job}`).digest('base64url');
}
