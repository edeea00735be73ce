import fc from 'fast-check';
import { expect, test } from 'vitest';
import { planRollout, type SetSize, strategyOf } from './rollout-plan.ts';

const set = (replicas: number, available = replicas): SetSize => ({
  replicas,
  pods: replicas,
  available,
});
const quarter = strategyOf({}, 4);

test('a first rollout starts everything at once', () => {
  expect(planRollout(4, quarter, { current: set(0), old: [] })).toEqual({ current: 4, old: [] });
});

test('a new template grows within the surge and keeps three of four serving', () => {
  expect(quarter).toEqual({ recreate: false, maxSurge: 1, maxUnavailable: 1 });
  expect(planRollout(4, quarter, { current: set(0), old: [set(4)] })).toEqual({
    current: 1,
    old: [3],
  });
  expect(planRollout(4, quarter, { current: set(1, 0), old: [set(3)] })).toEqual({
    current: 2,
    old: [3],
  });
  expect(planRollout(4, quarter, { current: set(2, 0), old: [set(3)] })).toEqual({
    current: 2,
    old: [3],
  });
  expect(planRollout(4, quarter, { current: set(2, 2), old: [set(3)] })).toEqual({
    current: 2,
    old: [1],
  });
});

test('status that lags behind a scale-down is not taken for spare pods', () => {
  const lagging: SetSize = { replicas: 3, pods: 4, available: 4 };
  expect(planRollout(4, quarter, { current: set(2, 0), old: [lagging] })).toEqual({
    current: 2,
    old: [3],
  });
});

test('Recreate waits until the old pods are gone', () => {
  const recreate = strategyOf({ spec: { strategy: { type: 'Recreate' } } }, 2);
  expect(planRollout(2, recreate, { current: set(0), old: [set(2)] })).toEqual({
    current: 0,
    old: [0],
  });
  expect(
    planRollout(2, recreate, { current: set(0), old: [{ replicas: 0, pods: 1, available: 1 }] }),
  ).toEqual({ current: 0, old: [0] });
  expect(planRollout(2, recreate, { current: set(0), old: [set(0)] })).toEqual({
    current: 2,
    old: [0],
  });
});

test('whatever becomes ready when, a broken template never takes the service below its minimum, a good one completes', () => {
  const size = fc.integer({ min: 1, max: 12 });
  const amount = fc.constantFrom('0%', '25%', '50%', '100%');
  fc.assert(
    fc.property(
      fc.record({ wanted: size, maxSurge: amount, maxUnavailable: amount }),
      fc.boolean(),
      fc.infiniteStream(fc.boolean()),
      ({ wanted, maxSurge, maxUnavailable }, good, ready) => {
        const strategy = strategyOf(
          { spec: { strategy: { rollingUpdate: { maxSurge, maxUnavailable } } } },
          wanted,
        );
        let current = set(0);
        let old = [set(wanted)];
        for (let i = 0; i < 400; i++) {
          const plan = planRollout(wanted, strategy, { current, old });
          const becomesReady = good && ready.next().value === true;
          const available = Math.min(plan.current, current.available + (becomesReady ? 1 : 0));
          current = { replicas: plan.current, pods: plan.current, available };
          old = plan.old.map((replicas) => set(replicas));
          const serving = current.available + old.reduce((n, s) => n + s.available, 0);
          expect(serving).toBeGreaterThanOrEqual(wanted - strategy.maxUnavailable);
          expect(current.replicas + old.reduce((n, s) => n + s.replicas, 0)).toBeLessThanOrEqual(
            wanted + strategy.maxSurge,
          );
        }
        const done =
          current.replicas === wanted &&
          current.available === wanted &&
          old.every((s) => s.replicas === 0);
        expect(done || !good).toBe(true);
      },
    ),
    { numRuns: 60 },
  );
});
