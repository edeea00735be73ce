import { describe, expect, test } from 'vitest';
import { decide, deltaFigures, guarded, inWindow } from './trigger.ts';

const trigger = (
  operator: never,
  threshold: number,
  metric = 'm',
): { condition: { operator: never; threshold: number; metric: string } } => ({
  condition: { operator, threshold, metric },
});

test.each<[string, number, number, boolean]>([
  ['gt', 2, 1, true],
  ['>', 1, 1, false],
  ['ge', 1, 1, true],
  ['>=', 0, 1, false],
  ['lt', 0, 1, true],
  ['<', 1, 1, false],
  ['le', 1, 1, true],
  ['<=', 2, 1, false],
  ['eq', 1 + 1e-9, 1, true],
  ['=', 1.1, 1, false],
  ['==', 1, 1, true],
  ['ne', 1.1, 1, true],
  ['!=', 1, 1, false],
])('%s: %d against %d', (operator, value, threshold, fires) => {
  expect(decide(trigger(operator as never, threshold), { m: value }, 0).fires).toBe(fires);
});

test('scalars and lists both work: name, name[0], name[1]', () => {
  const figures = { list: [0.1, 0.9], scalar: 0.5 };
  const fires = (metric: string): boolean =>
    decide(trigger('>' as never, 0.4, metric), figures, 0).fires;
  expect([
    fires('list'),
    fires('list[0]'),
    fires('list[1]'),
    fires('scalar'),
    fires('scalar[0]'),
  ]).toEqual([false, false, true, true, true]);
  expect(decide(trigger('>' as never, 0, 'nothing'), figures, 0)).toEqual({
    fires: false,
    reason: 'there is no figure "nothing"; there are: list, scalar',
  });
});

test('deltas are new − old, for scalars and member by member', () => {
  expect(deltaFigures({ p: 0.75, l: [0.5, 1] }, { p: 0.5, l: [0.25, 0.5] })).toEqual({
    p: 0.75,
    p_delta: 0.25,
    l: [0.5, 1],
    l_delta: [0.25, 0.5],
  });
  expect(deltaFigures({ p: 1 }, {})).toEqual({ p: 1 });
});

test('windows, also over midnight', () => {
  expect(
    ['01:59', '02:00', '20:00', '20:01'].map((t) => inWindow(t, { start: '02:00', end: '20:00' })),
  ).toEqual([false, true, true, false]);
  expect(
    ['21:59', '22:00', '03:00', '06:01'].map((t) => inWindow(t, { start: '22:00', end: '06:00' })),
  ).toEqual([false, true, true, false]);
  const noon = new Date(2024, 0, 1, 12, 0).getTime();
  expect(
    decide(
      { ...trigger('>' as never, 0), timer: { start: '00:00', end: '01:00' } },
      { m: 1 },
      noon,
    ),
  ).toMatchObject({
    fires: false,
    reason: expect.stringContaining('outside 00:00–01:00') as string,
  });
});

test('guards: all of them must hold; of any, one is enough; the reason names what did not', () => {
  const condition = { metric: 'accuracy_delta', operator: '>' as const, threshold: 0 };
  const all = [{ metric: 'recall_delta', operator: '>=' as const, threshold: -0.02 }];
  const any = [
    { metric: 'precision_delta', operator: '>' as const, threshold: 0.1 },
    { metric: 'accuracy', operator: '>' as const, threshold: 0.9 },
  ];
  const good = { accuracy_delta: 0.01, recall_delta: -0.01, precision_delta: 0, accuracy: 0.95 };
  expect(decide({ condition, all, any }, good, 0)).toEqual({
    fires: true,
    reason:
      'accuracy_delta = 0.01, asked for > 0; recall_delta = -0.01, asked for >= -0.02; accuracy = 0.95, asked for > 0.9',
  });
  expect(decide({ condition, all, any }, { ...good, recall_delta: -0.1 }, 0)).toEqual({
    fires: false,
    reason: 'recall_delta = -0.1, asked for >= -0.02',
  });
  expect(decide({ condition, all, any }, { ...good, accuracy: 0.8 }, 0).reason).toMatch(
    /^none of: precision_delta = 0, .*; accuracy = 0.8/,
  );
});

describe('guards', () => {
  const yes = { fires: true, reason: 'better' };
  const guard = { name: 'night', figure: 'accuracy@night', maxDrop: 0.01 };

  test('hold back a model that is worse on a slice, and one that was not measured there', () => {
    const on = (delta: number) => guarded(yes, [guard], { 'accuracy@night_delta': delta });
    expect(on(-0.01)).toEqual(yes);
    expect(on(-0.02).reason).toBe(
      'guard "night": accuracy@night falls by 0.02, at most 0.01 is allowed',
    );
    expect(guarded(yes, [guard], {}).reason).toMatch(/could not be held/);
    const no = { fires: false, reason: 'not better' };
    expect(guarded(no, [guard], {})).toBe(no);
  });
});
