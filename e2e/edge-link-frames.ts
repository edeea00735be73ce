import { create } from '@bufbuild/protobuf';
import { type EdgeFrame, EdgeFrameSchema } from '@shoal/api';
import fc from 'fast-check';

const number = fc.oneof(fc.bigInt(0n, 20n), fc.bigInt(0n, 2n ** 64n - 1n));
const text = fc.oneof(
  fc.constantFrom('', 'state', 'log/events', 'a', 'Job/n/a', 'Dataset/n/a', '../x'),
  fc.string({ maxLength: 700 }),
);
const body = fc.oneof(
  fc.constant(Buffer.from('{"v":2}')),
  fc.uint8Array({ maxLength: 300 }),
  fc.constant(new Uint8Array(300_000)),
);

const arbitraries: fc.Arbitrary<object>[] = [
  fc.record({
    case: fc.constant('hello'),
    value: fc.record({
      bootId: text,
      storeId: text,
      cursor: number,
      edgeStoreId: text,
      capabilities: fc.array(fc.constantFrom('reconcile', 'log', 'x')),
      epoch: number,
    }),
  }),
  fc.record({
    case: fc.constant('ack'),
    value: fc.record({
      cursor: number,
      page: number,
      nacks: fc.array(fc.record({ rev: number, error: text }), { maxLength: 4 }),
    }),
  }),
  fc.record({
    case: fc.constant('record'),
    value: fc.record({
      stream: text,
      seq: number,
      key: text,
      body,
      idempotencyKey: text,
      first: number,
      previous: number,
    }),
  }),
  fc.record({ case: fc.constant('resync'), value: fc.record({ cursor: number }) }),
  fc.record({
    case: fc.constant('inventory'),
    value: fc.record({
      items: fc.array(
        fc.record({ kind: text, namespace: text, name: text, uid: text, digest: text }),
        { maxLength: 5 },
      ),
      last: fc.boolean(),
    }),
  }),
  fc.record({ case: fc.constant('ping'), value: fc.record({ nonce: number }) }),
];

/** Frames an edge might send, well-meant or not. */
export function edgeFrames(): fc.Arbitrary<EdgeFrame> {
  return fc
    .oneof(...arbitraries)
    .map((frame) => create(EdgeFrameSchema, { frame: frame as unknown as EdgeFrame['frame'] }));
}
