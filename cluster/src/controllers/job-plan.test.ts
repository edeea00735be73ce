import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type JobSpec, type JobState, planJob, podBackoffMs } from './job-plan.ts';

const spec: JobSpec = {
  parallelism: 1,
  completions: 1,
  backoffLimit: 6,
  activeDeadlineSeconds: undefined,
  suspend: false,
};
const fresh: JobState = {
  active: 0,
  succeeded: 0,
  failed: 0,
  restarts: 0,
  startedMs: 0,
  lastFailureMs: undefined,
};

describe('a job', () => {
  it('starts as many pods as may run at once, and no more than are needed', () => {
    expect(planJob({ ...spec, parallelism: 3, completions: 5 }, fresh, 0).create).toBe(3);
    const almost = { ...fresh, succeeded: 4 };
    expect(planJob({ ...spec, parallelism: 3, completions: 5 }, almost, 0).create).toBe(1);
  });

  it('is complete when enough have succeeded', () => {
    expect(planJob(spec, { ...fresh, succeeded: 1 }, 0).end).toEqual({ type: 'Complete' });
  });

  it('without completions is complete when one has succeeded and the others have ended', () => {
    const queue = { ...spec, completions: undefined, parallelism: 3 };
    expect(planJob(queue, { ...fresh, active: 2, succeeded: 1 }, 0)).toEqual({
      create: 0,
      remove: 0,
    });
    expect(planJob(queue, { ...fresh, succeeded: 1 }, 0).end).toEqual({ type: 'Complete' });
  });

  it('waits longer after every failure: 10 s, 20 s, … six minutes', () => {
    expect([0, 1, 2, 3, 10].map(podBackoffMs)).toEqual([0, 10_000, 20_000, 40_000, 360_000]);
    const failed = { ...fresh, failed: 2, lastFailureMs: 1_000 };
    expect(planJob(spec, failed, 5_000)).toEqual({ create: 0, remove: 0, againMs: 16_000 });
    expect(planJob(spec, failed, 21_000).create).toBe(1);
  });

  it('fails beyond its limit of failures, or of restarts in place', () => {
    const limited = { ...spec, backoffLimit: 1 };
    expect(planJob(limited, { ...fresh, failed: 1 }, 1e9).end).toBeUndefined();
    expect(planJob(limited, { ...fresh, failed: 2 }, 1e9).end).toMatchObject({
      reason: 'BackoffLimitExceeded',
    });
    expect(planJob(limited, { ...fresh, active: 1, restarts: 1 }, 0)).toMatchObject({
      remove: 1,
      end: { type: 'Failed' },
    });
  });

  it('fails at its deadline, and looks again then', () => {
    const limited = { ...spec, activeDeadlineSeconds: 30 };
    const running = { ...fresh, active: 1, startedMs: 1_000 };
    expect(planJob(limited, running, 11_000)).toEqual({ create: 0, remove: 0, againMs: 20_000 });
    expect(planJob(limited, running, 31_000).end).toMatchObject({ reason: 'DeadlineExceeded' });
  });

  it('has no pods while it is suspended', () => {
    expect(planJob({ ...spec, suspend: true }, { ...fresh, active: 1 }, 0)).toEqual({
      create: 0,
      remove: 1,
    });
  });

  it('never runs more than it may, whatever happened', () => {
    const counts = fc.record({
      active: fc.nat(6),
      succeeded: fc.nat(6),
      failed: fc.nat(6),
      restarts: fc.constant(0),
      startedMs: fc.constant(0),
      lastFailureMs: fc.constant(0),
    });
    fc.assert(
      fc.property(
        counts,
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 6 }),
        (state, parallelism, completions) => {
          const plan = planJob({ ...spec, parallelism, completions }, state, 1e9);
          const after = state.active + plan.create - plan.remove;
          expect(after).toBeLessThanOrEqual(parallelism);
          const needed = plan.end ? 0 : completions - state.succeeded;
          expect(after).toBeLessThanOrEqual(Math.max(0, needed));
        },
      ),
    );
  });
});
