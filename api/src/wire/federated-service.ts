import type { MessageShape } from '@bufbuild/protobuf';
import { AggregatorFrameSchema, ParticipantFrameSchema } from './federated_pb.ts';
import { type MethodBetween, methodsOf } from './grpc-method.ts';

const method = methodsOf('shoal.federated.v1.Federation');

type ParticipantFrame = MessageShape<typeof ParticipantFrameSchema>;
type AggregatorFrame = MessageShape<typeof AggregatorFrameSchema>;
interface Chunk {
  readonly digest: string;
  readonly offset: bigint;
  readonly data: Uint8Array;
}

const participate: MethodBetween<typeof ParticipantFrameSchema, typeof AggregatorFrameSchema> =
  method(
    'Participate',
    { request: ParticipantFrameSchema, response: AggregatorFrameSchema },
    { request: true, response: true },
  );

/** Numbers of the field `chunk` in both frames, see `api/proto/federated.proto`. */
const CHUNK_IN_PARTICIPANT_FRAME = 4;
const CHUNK_IN_AGGREGATOR_FRAME = 3;
const LENGTH_DELIMITED = 2;

function varintLength(value: number): number {
  let length = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) length++;
  return length;
}

function writeVarint(bytes: Buffer, at: number, value: number): number {
  let rest = value;
  let end = at;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes[end++] = (rest % 0x80) | 0x80;
  bytes[end++] = rest;
  return end;
}

/**
 * A frame with a chunk, as protobuf writes it. Models are almost all that travels: the general writer
 * copies a chunk several times while its buffer grows, this copies it once.
 */
function chunkFrame(field: number, { digest, offset, data }: Chunk): Buffer {
  const at = Number(offset);
  const name = Buffer.byteLength(digest);
  const inner =
    (name > 0 ? 1 + varintLength(name) + name : 0) +
    (at > 0 ? 1 + varintLength(at) : 0) +
    (data.length > 0 ? 1 + varintLength(data.length) + data.length : 0);
  const bytes = Buffer.allocUnsafe(1 + varintLength(inner) + inner);
  let end = writeVarint(bytes, 0, (field << 3) | LENGTH_DELIMITED);
  end = writeVarint(bytes, end, inner);
  if (name > 0) {
    end = writeVarint(bytes, end, (1 << 3) | LENGTH_DELIMITED);
    end = writeVarint(bytes, end, name);
    end += bytes.write(digest, end);
  }
  if (at > 0) {
    end = writeVarint(bytes, end, 2 << 3);
    end = writeVarint(bytes, end, at);
  }
  if (data.length > 0) {
    end = writeVarint(bytes, end, (3 << 3) | LENGTH_DELIMITED);
    end = writeVarint(bytes, end, data.length);
    bytes.set(data, end);
  }
  return bytes;
}

/** The one method of `api/proto/federated.proto`. */
export const FEDERATION_METHODS: { readonly participate: typeof participate } = {
  participate: {
    ...participate,
    requestSerialize: (value: ParticipantFrame) =>
      value.frame.case === 'chunk'
        ? chunkFrame(CHUNK_IN_PARTICIPANT_FRAME, value.frame.value)
        : participate.requestSerialize(value),
    responseSerialize: (value: AggregatorFrame) =>
      value.frame.case === 'chunk'
        ? chunkFrame(CHUNK_IN_AGGREGATOR_FRAME, value.frame.value)
        : participate.responseSerialize(value),
  },
};
