import { AggregatorFrameSchema, ParticipantFrameSchema } from './federated_pb.ts';
import { type MethodBetween, methodsOf } from './grpc-method.ts';

const method = methodsOf('shoal.federated.v1.Federation');

/** The one method of `api/proto/federated.proto`. */
export const FEDERATION_METHODS: {
  readonly participate: MethodBetween<typeof ParticipantFrameSchema, typeof AggregatorFrameSchema>;
} = {
  participate: method(
    'Participate',
    { request: ParticipantFrameSchema, response: AggregatorFrameSchema },
    { request: true, response: true },
  ),
};
