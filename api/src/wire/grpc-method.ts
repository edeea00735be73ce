import { type DescMessage, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf';

/** One gRPC method, with its messages as bytes: what a gRPC library needs to call or serve it. */
export interface GrpcMethod<Request, Response> {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestSerialize: (value: Request) => Buffer;
  readonly requestDeserialize: (bytes: Buffer) => Request;
  readonly responseSerialize: (value: Response) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Response;
}

/** The method between two message types. */
export type MethodBetween<Q extends DescMessage, S extends DescMessage> = GrpcMethod<
  MessageShape<Q>,
  MessageShape<S>
>;

function codec<T extends DescMessage>(
  schema: T,
): { write: (value: MessageShape<T>) => Buffer; read: (bytes: Buffer) => MessageShape<T> } {
  return {
    // A view, not a copy: gRPC frames the bytes anyway.
    write: (value) => {
      const bytes = toBinary(schema, value);
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    },
    read: (bytes) => fromBinary(schema, bytes),
  };
}

/** Describes methods of one service, given by its full name. */
export function methodsOf(
  service: string,
): <Q extends DescMessage, S extends DescMessage>(
  name: string,
  types: { request: Q; response: S },
  streams?: { request?: boolean; response?: boolean },
) => MethodBetween<Q, S> {
  return (name, types, streams = {}) => {
    const request = codec(types.request);
    const response = codec(types.response);
    return {
      path: `/${service}/${name}`,
      requestStream: streams.request ?? false,
      responseStream: streams.response ?? false,
      requestSerialize: request.write,
      requestDeserialize: request.read,
      responseSerialize: response.write,
      responseDeserialize: response.read,
    };
  };
}
