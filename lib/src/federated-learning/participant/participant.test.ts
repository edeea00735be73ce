import { create } from '@bufbuild/protobuf';
import { type AggregatorFrame, AggregatorFrameSchema, type ParticipantFrame } from '@shoal/api';
import { digestOf } from '@shoal/core';
import { expect, test } from 'vitest';
import type { FederatedModel } from '../federated-model.ts';
import type { FrameHandlers, FrameTransport } from './frame-stream.ts';
import { nodePlatform } from './grpc-transport.ts';
import { Participant } from './participant.ts';

const SIZE = 800_000;

function task(round: number, digest: string): AggregatorFrame {
  const instructions = {
    round,
    evaluateOnly: false,
    asynchronous: true,
    encoding: { name: 'none' },
    seed: 1,
  };
  const value = {
    round,
    attempt: 1,
    model: digest,
    modelBytes: BigInt(SIZE * 4),
    instructions: JSON.stringify(instructions),
    history: '[]',
  };
  return create(AggregatorFrameSchema, { frame: { case: 'task', value: value as never } });
}

test('on a new stream, updates nobody accepted go out again, one after the other', async () => {
  const zeros = new Float32Array(SIZE);
  const bytes = new Uint8Array(zeros.buffer);
  const digest = digestOf(bytes);
  const sent: string[] = [];
  let handlers: FrameHandlers | undefined;
  const tell = (frame: AggregatorFrame): void => handlers?.onFrame(frame);
  const transport: FrameTransport = {
    address: 'nowhere',
    open: (given) => {
      handlers = given;
      if (sent.length > 0) setImmediate(() => tell(task(3, digest)));
      return {
        write: ({ frame }: ParticipantFrame) => {
          if (frame.case === 'update') sent.push(`update ${frame.value.round}`);
          if (frame.case === 'chunk') sent.push('chunk');
          if (frame.case === 'want') {
            const chunk = { digest, offset: 0n, data: bytes };
            const answer = { frame: { case: 'chunk', value: chunk as never } } as const;
            setImmediate(() => tell(create(AggregatorFrameSchema, answer)));
          }
          return false;
        },
        drained: () => new Promise((resolve) => setTimeout(resolve, 5)),
        close: () => undefined,
      };
    },
  };
  const model: FederatedModel = {
    layout: [{ name: 'w', shape: [SIZE] }],
    size: SIZE,
    samples: 1,
    initial: () => zeros,
    train: (vector, { round }) =>
      Promise.resolve({ delta: vector.map(() => round), samples: 1, metrics: {} }),
    close: () => Promise.resolve(),
  };
  const stopping = new AbortController();
  const participant = new Participant(
    { transport, platform: nodePlatform, job: 'toy', participant: 'p' },
    model,
  );
  const done = participant.run(stopping.signal);
  const until = async (frames: number): Promise<void> => {
    const started = performance.now();
    while (sent.length < frames && performance.now() - started < 5_000)
      await new Promise((resolve) => setTimeout(resolve, 5));
  };
  tell(task(1, digest));
  await until(5);
  tell(task(2, digest));
  await until(10);
  handlers?.onEnd('lost');
  await until(25);
  stopping.abort(new Error('over'));
  await expect(done).rejects.toThrow('over');
  const one = ['chunk', 'chunk', 'chunk', 'chunk'];
  const [first, second] = [
    ['update 1', ...one],
    ['update 2', ...one],
  ];
  expect(sent).toEqual([...first, ...second, ...first, ...second, 'update 3', ...one]);
});
