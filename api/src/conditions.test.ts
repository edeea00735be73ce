import { expect, test } from 'vitest';
import { appendCondition } from './conditions.ts';

const ready = { type: 'Ready', status: 'True' as const, reason: 'Ok', message: 'fine' };

test('the same claim twice is written once', () => {
  const once = appendCondition([], ready, 1_000);
  expect(appendCondition(once, ready, 2_000)).toEqual(once);
  expect(once[0]).toMatchObject({ ...ready, lastTransitionTime: '1970-01-01T00:00:01Z' });
});

test('only the newest fifty are kept', () => {
  let list = appendCondition<typeof ready>([], ready, 0);
  for (let i = 0; i < 200; i++)
    list = appendCondition(list, { ...ready, message: String(i) }, i * 1_000);
  expect(list).toHaveLength(50);
  expect(list.at(-1)?.message).toBe('199');
});
