import { type DescMessage, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf';
import {
  BlobChunkSchema,
  CloudFrameSchema,
  EdgeFrameSchema,
  GetBlobRequestSchema,
  PutBlobResultSchema,
  StatBlobRequestSchema,
  StatBlobResultSchema,
} from './edge-link_pb.ts';

/** The name the global manager's certificate carries, wherever it runs. */
export const MANAGER_NAME = 'shoal-global-manager';

/** One gRPC method, with its messages as bytes: what a gRPC library needs to call or serve it. */
export interface EdgeLinkMethod<Request, Response> {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestSerialize: (value: Request) => Buffer;
  readonly requestDeserialize: (bytes: Buffer) => Request;
  readonly responseSerialize: (value: Response) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Response;
}

function codec<T extends DescMessage>(
  schema: T,
): { write: (value: MessageShape<T>) => Buffer; read: (bytes: Buffer) => MessageShape<T> } {
  return {
    write: (value) => Buffer.from(toBinary(schema, value)),
    read: (bytes) => fromBinary(schema, bytes),
  };
}

function method<Q extends DescMessage, S extends DescMessage>(
  name: string,
  types: { request: Q; response: S },
  streams: { request: boolean; response: boolean },
): EdgeLinkMethod<MessageShape<Q>, MessageShape<S>> {
  const request = codec(types.request);
  const response = codec(types.response);
  return {
    path: `/shoal.edgelink.v1.EdgeLink/${name}`,
    requestStream: streams.request,
    responseStream: streams.response,
    requestSerialize: request.write,
    requestDeserialize: request.read,
    responseSerialize: response.write,
    responseDeserialize: response.read,
  };
}

export interface EdgeLinkMethods {
  readonly connect: EdgeLinkMethod<
    MessageShape<typeof EdgeFrameSchema>,
    MessageShape<typeof CloudFrameSchema>
  >;
  readonly getBlob: EdgeLinkMethod<
    MessageShape<typeof GetBlobRequestSchema>,
    MessageShape<typeof BlobChunkSchema>
  >;
  readonly putBlob: EdgeLinkMethod<
    MessageShape<typeof BlobChunkSchema>,
    MessageShape<typeof PutBlobResultSchema>
  >;
  readonly statBlob: EdgeLinkMethod<
    MessageShape<typeof StatBlobRequestSchema>,
    MessageShape<typeof StatBlobResultSchema>
  >;
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
    { request: false, response: true },
  ),
  putBlob: method(
    'PutBlob',
    { request: BlobChunkSchema, response: PutBlobResultSchema },
    { request: true, response: false },
  ),
  statBlob: method(
    'StatBlob',
    { request: StatBlobRequestSchema, response: StatBlobResultSchema },
    { request: false, response: false },
  ),
};
