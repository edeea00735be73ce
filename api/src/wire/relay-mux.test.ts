import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { type RelayFrame, RelayFrameSchema } from './edge-link_pb.ts';
import { RELAY_WINDOW_BYTES, RelayMux, type RelayStream } from './relay-mux.ts';

/** Two ends joined by a wire that keeps frames until `move` is called. */
function pair(): {
  edge: RelayMux;
  cloud: RelayMux;
  opened: RelayStream[];
  move: () => void;
  frames: () => number;
} {
  const queue: (() => void)[] = [];
  const opened: RelayStream[] = [];
  let frames = 0;
  const carry = (to: () => RelayMux) => (frame: RelayFrame) => {
    frames++;
    const bytes = toBinary(RelayFrameSchema, frame);
    queue.push(() => to().receive(fromBinary(RelayFrameSchema, bytes)));
  };
  const edge: RelayMux = new RelayMux(
    'edge',
    carry(() => cloud),
    (s) => opened.push(s),
  );
  const cloud: RelayMux = new RelayMux(
    'cloud',
    carry(() => edge),
    (s) => opened.push(s),
  );
  const move = (): void => {
    for (let next = queue.shift(); next; next = queue.shift()) next();
  };
  return { edge, cloud, opened, move, frames: () => frames };
}

test('bytes arrive in order, both ways, and the end after them', () => {
  const { cloud, opened, move } = pair();
  const stream = cloud.open('worker-api');
  move();
  const [far] = opened;
  const got: Buffer[] = [];
  const back: Buffer[] = [];
  let ended = 0;
  far?.onData((bytes, pass) => {
    got.push(Buffer.from(bytes));
    pass();
  });
  far?.onEnd((error) => {
    expect(error).toBeUndefined();
    ended++;
  });
  stream.onData((bytes, pass) => {
    back.push(Buffer.from(bytes));
    pass();
  });
  const sent = Buffer.alloc(2_000_000, 'abcdefg');
  stream.send(sent);
  stream.end();
  far?.send(Buffer.from('answer'));
  move();
  expect(Buffer.concat(got).equals(sent)).toBe(true);
  expect(Buffer.concat(back).toString()).toBe('answer');
  expect(ended).toBe(1);
  expect(cloud.size).toBe(0);
});

test('a reader that does not pass bytes on stops its sender, and nobody else', () => {
  const { edge, opened, move } = pair();
  const slow = edge.open('svc://a/slow:1');
  const fast = edge.open('svc://a/fast:1');
  move();
  let stuck = 0;
  let fine = 0;
  opened[0]?.onData((bytes) => {
    stuck += bytes.length;
  });
  opened[1]?.onData((bytes, pass) => {
    fine += bytes.length;
    pass();
  });
  slow.send(new Uint8Array(3 * RELAY_WINDOW_BYTES));
  fast.send(new Uint8Array(3 * RELAY_WINDOW_BYTES));
  move();
  expect(stuck).toBe(RELAY_WINDOW_BYTES);
  expect(slow.credit).toBe(0);
  expect(fine).toBe(3 * RELAY_WINDOW_BYTES);
});

test('who sends without credit, or too many streams, is cut off', () => {
  const { cloud, opened, move } = pair();
  cloud.receive({
    $typeName: 'shoal.edgelink.v1.RelayFrame',
    stream: 1,
    frame: { case: 'open', value: { $typeName: 'shoal.edgelink.v1.RelayOpen', target: 't' } },
  });
  let why: string | undefined;
  opened[0]?.onData(() => undefined);
  opened[0]?.onEnd((error) => {
    why = error;
  });
  for (let i = 0; i < 3; i++)
    cloud.receive({
      $typeName: 'shoal.edgelink.v1.RelayFrame',
      stream: 1,
      frame: { case: 'data', value: new Uint8Array(RELAY_WINDOW_BYTES / 2 + 1) },
    });
  expect(why).toMatch(/more came than there was credit for/);
  for (let i = 0; i < 256; i++) cloud.open('x');
  expect(() => cloud.open('x')).toThrow(/256 streams/);
  move();
});

test('a connection that goes ends every stream with an error', () => {
  const { edge, move } = pair();
  const stream = edge.open('svc://a/b:1');
  move();
  let why: string | undefined;
  stream.onEnd((error) => {
    why = error;
  });
  edge.close();
  expect(why).toMatch(/connection between cloud and edge is gone/);
});
