import { FakeClock, seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import { WorkQueue } from './work-queue.ts';

function queue(): { q: WorkQueue; clock: FakeClock; signal: AbortSignal } {
  const clock = new FakeClock();
  return {
    clock,
    q: new WorkQueue({ clock, random: seededRandom(1), baseMs: 100, capMs: 1_000 }),
    signal: new AbortController().signal,
  };
}

test('a key waits once, and again if it was added while it ran', async () => {
  const { q, signal } = queue();
  q.add('a');
  q.add('a');
  q.add('b');
  expect(q.length).toBe(2);
  expect(await q.take(signal)).toBe('a');
  q.add('a');
  expect(q.length).toBe(1);
  q.done('a');
  expect([await q.take(signal), await q.take(signal)]).toEqual(['b', 'a']);
});

test('failed keys come back later, and a success starts the count anew', async () => {
  const { q, clock, signal } = queue();
  q.retry('a', signal);
  expect(q.length).toBe(0);
  await clock.advance(250);
  expect(q.length).toBe(1);
  q.succeeded('a');
});

test('take ends when the signal aborts', async () => {
  const { q } = queue();
  const stop = new AbortController();
  const taken = q.take(stop.signal);
  stop.abort();
  expect(await taken).toBeUndefined();
});
