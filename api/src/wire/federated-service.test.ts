import { create, toBinary } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { AggregatorFrameSchema, ParticipantFrameSchema } from './federated_pb.ts';
import { FEDERATION_METHODS } from './federated-service.ts';

const SIZES = [0, 1, 127, 128, 16_383, 16_384, 1_048_576];

test('frames with chunks are written as protobuf writes them', () => {
  const { requestSerialize, responseSerialize, requestDeserialize } =
    FEDERATION_METHODS.participate;
  for (const [i, size] of SIZES.entries()) {
    for (const offset of [0n, 1n, 127n, 128n, 2n ** 31n, 2n ** 40n]) {
      const data = Uint8Array.from({ length: size }, (_, k) => k * 7 + i);
      const digest = i % 2 ? `sha256:${'ab'.repeat(32)}` : '';
      const frame = { frame: { case: 'chunk', value: { digest, offset, data } } } as const;
      const up = create(ParticipantFrameSchema, frame as never);
      const down = create(AggregatorFrameSchema, frame as never);
      expect(requestSerialize(up).equals(toBinary(ParticipantFrameSchema, up))).toBe(true);
      expect(responseSerialize(down).equals(toBinary(AggregatorFrameSchema, down))).toBe(true);
      expect(requestDeserialize(requestSerialize(up)).frame.value).toMatchObject({
        digest,
        offset,
      });
    }
  }
});
