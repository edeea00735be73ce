import { expect, test } from 'vitest';
import { FakeClock } from './clock.ts';
import { silentLogger } from './logger.ts';
import { seededRandom } from './random.ts';
import { superviseLoop } from './supervise.ts';

test('a loop outlives its errors and stops when told to', async () => {
  const clock = new FakeClock();
  const stop = new AbortController();
  let runs = 0;
  const body = (): Promise<void> => {
    runs++;
    if (runs === 4) stop.abort();
    return Promise.reject(new Error('again'));
  };
  const ports = { clock, random: seededRandom(1), logger: silentLogger };
  const done = superviseLoop('test', body, ports, {
    baseMs: 100,
    capMs: 1_000,
    signal: stop.signal,
  });
  for (let i = 0; i < 10 && runs < 4; i++) await clock.advance(1_000);
  await done;
  expect(runs).toBe(4);
});
