import { fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  type AggregatorFrame,
  AggregatorFrameSchema,
  type ParticipantFrame,
  ParticipantFrameSchema,
} from './federated_pb.ts';

/** The one method of `api/proto/federated.proto`, as a gRPC library wants it. */
export interface FederationMethod {
  readonly path: string;
  readonly requestStream: true;
  readonly responseStream: true;
  readonly requestSerialize: (value: ParticipantFrame) => Buffer;
  readonly requestDeserialize: (bytes: Buffer) => ParticipantFrame;
  readonly responseSerialize: (value: AggregatorFrame) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => AggregatorFrame;
}

/** A view, not a copy: gRPC frames the bytes anyway. */
function view(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export const FEDERATION_METHODS: { readonly participate: FederationMethod } = {
  participate: {
    path: '/shoal.federated.v1.Federation/Participate',
    requestStream: true,
    responseStream: true,
    requestSerialize: (value) => view(toBinary(ParticipantFrameSchema, value)),
    requestDeserialize: (bytes) => fromBinary(ParticipantFrameSchema, bytes),
    responseSerialize: (value) => view(toBinary(AggregatorFrameSchema, value)),
    responseDeserialize: (bytes) => fromBinary(AggregatorFrameSchema, bytes),
  },
};
