import {
  BlobChunkSchema,
  CloudFrameSchema,
  EdgeFrameSchema,
  GetBlobRequestSchema,
  PutBlobResultSchema,
  PutSamplesRequestSchema,
  PutSamplesResultSchema,
  RelayFrameSchema,
  RenewRequestSchema,
  RenewResultSchema,
  StatBlobRequestSchema,
  StatBlobResultSchema,
} from './edge-link_pb.ts';
import { type MethodBetween, methodsOf } from './grpc-method.ts';

/** The name the global manager's certificate carries, wherever it runs. */
export const MANAGER_NAME = 'shoal-global-manager';

const method = methodsOf('shoal.edgelink.v1.EdgeLink');

export interface EdgeLinkMethods {
  readonly connect: MethodBetween<typeof EdgeFrameSchema, typeof CloudFrameSchema>;
  readonly getBlob: MethodBetween<typeof GetBlobRequestSchema, typeof BlobChunkSchema>;
  readonly putBlob: MethodBetween<typeof BlobChunkSchema, typeof PutBlobResultSchema>;
  readonly statBlob: MethodBetween<typeof StatBlobRequestSchema, typeof StatBlobResultSchema>;
  readonly putSamples: MethodBetween<typeof PutSamplesRequestSchema, typeof PutSamplesResultSchema>;
  readonly renew: MethodBetween<typeof RenewRequestSchema, typeof RenewResultSchema>;
  readonly relay: MethodBetween<typeof RelayFrameSchema, typeof RelayFrameSchema>;
}

/** The methods of `api/proto/edge-link.proto`. */
export const EDGE_LINK_METHODS: EdgeLinkMethods = {
  connect: method(
    'Connect',
    { request: EdgeFrameSchema, response: CloudFrameSchema },
    { request: true, response: true },
  ),
  getBlob: method(
    'GetBlob',
    { request: GetBlobRequestSchema, response: BlobChunkSchema },
    { response: true },
  ),
  putBlob: method(
    'PutBlob',
    { request: BlobChunkSchema, response: PutBlobResultSchema },
    { request: true },
  ),
  statBlob: method('StatBlob', { request: StatBlobRequestSchema, response: StatBlobResultSchema }),
  putSamples: method('PutSamples', {
    request: PutSamplesRequestSchema,
    response: PutSamplesResultSchema,
  }),
  renew: method('Renew', { request: RenewRequestSchema, response: RenewResultSchema }),
  relay: method(
    'Relay',
    { request: RelayFrameSchema, response: RelayFrameSchema },
    { request: true, response: true },
  ),
};
