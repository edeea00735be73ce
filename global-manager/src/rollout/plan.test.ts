import type { RolloutStatus } from '@shoal/api';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  beginRollout,
  lookAgainMs,
  type NodeStanding,
  nextRollout,
  type RolloutInputs,
  rolloutPolicy,
  toldOf,
} from './plan.ts';

const MODEL = { digest: 'sha256:b', previous: 'sha256:a', round: 3 };

function nodes(...states: [string, string, NodeStanding['state']][]): NodeStanding[] {
  return states.map(([node, group, state]) => ({ node, group, state }));
}

function inputs(
  of: readonly NodeStanding[],
  more: { nowMs?: number; groups?: string[]; policy?: Parameters<typeof rolloutPolicy>[0] } = {},
): RolloutInputs {
  const { nowMs = 0, groups = ['north', 'south'], policy = {} } = more;
  return { nodes: of, nowMs, groups, policy: rolloutPolicy(policy) };
}

describe('a rollout', () => {
  test('fetches everywhere first, then goes group by group', () => {
    let at = beginRollout(MODEL, inputs(nodes(['a', 'north', 'none'], ['b', 'south', 'none'])));
    expect(at).toMatchObject({ phase: 'Pulling', group: 0, ...MODEL });
    at = nextRollout(at, inputs(nodes(['a', 'north', 'pulled'], ['b', 'south', 'none'])));
    expect(at).toMatchObject({ phase: 'Pulling', message: 'waiting until b have the model' });
    at = nextRollout(at, inputs(nodes(['a', 'north', 'pulled'], ['b', 'south', 'pulled'])));
    expect(at).toMatchObject({ phase: 'Updating', group: 0 });
    expect(at.message).toBeUndefined();
    at = nextRollout(at, inputs(nodes(['a', 'north', 'updated'], ['b', 'south', 'pulled'])));
    expect(at).toMatchObject({ phase: 'Updating', group: 1 });
    at = nextRollout(at, inputs(nodes(['a', 'north', 'updated'], ['b', 'south', 'updated'])));
    expect(at.phase).toBe('Completed');
    expect(at.groups).toEqual([
      { name: 'north', nodes: 1, pulled: 1, held: 0, updated: 1, failed: 0 },
      { name: 'south', nodes: 1, pulled: 1, held: 0, updated: 1, failed: 0 },
    ]);
  });

  test('goes back when more fail than are tolerated, and says who and why', () => {
    const failed: NodeStanding = { node: 'a', group: 'north', state: 'failed', reason: 'no room' };
    const of = [failed, ...nodes(['b', 'north', 'pulled'], ['c', 'north', 'updated'])];
    const policy = { prePull: 'group' as const };
    const strict = inputs(of, { policy });
    const at = nextRollout(beginRollout(MODEL, strict), strict);
    expect(at).toMatchObject({
      phase: 'RolledBack',
      message: '1 of 3 nodes of group north failed: a: no room',
    });
    const lenient = inputs(of, { policy: { ...policy, tolerance: 0.4 } });
    expect(nextRollout(beginRollout(MODEL, lenient), lenient).phase).toBe('Updating');
  });

  test('a late node has failed; one that is held has not, and gets its time again when released', () => {
    const policy = { deadlineSeconds: 10, hold: 'edge' as const, prePull: 'group' as const };
    const of = (state: NodeStanding['state'], nowMs: number): RolloutInputs =>
      inputs(nodes(['a', 'north', state]), { nowMs, policy, groups: ['north'] });
    let at = beginRollout(MODEL, of('none', 0));
    at = nextRollout(at, of('held', 60_000));
    expect(at).toMatchObject({
      phase: 'Updating',
      message: expect.stringMatching(/held at the edge: a/),
    });
    at = nextRollout(at, of('pulled', 61_000));
    expect(at).toMatchObject({ phase: 'Updating', since: '1970-01-01T00:01:01Z' });
    expect(nextRollout(at, of('pulled', 70_000)).phase).toBe('Updating');
    expect(nextRollout(at, of('pulled', 71_000))).toMatchObject({
      phase: 'RolledBack',
      message: '1 of 1 nodes of group north failed: a: too late',
    });
  });

  test('a manager that was away, a node that joins, and a list that changes start no rollback', () => {
    const policy = { deadlineSeconds: 10, prePull: 'group' as const };
    const of = nodes(['a', 'north', 'pulled']);
    const begun = beginRollout(MODEL, inputs(of, { policy }));
    const later = { ...inputs(of, { policy, nowMs: 700_000 }), listeningSinceMs: 699_000 };
    expect(nextRollout(begun, later).phase).toBe('Updating');
    expect(lookAgainMs(begun, rolloutPolicy(policy), later)).toBe(9_050);
    expect(nextRollout(begun, { ...later, nowMs: 709_000 }).phase).toBe('RolledBack');
    const more = nodes(['a', 'north', 'held'], ['b', 'north', 'none']);
    const joined = nextRollout(begun, inputs(more, { policy, nowMs: 900_000 }));
    expect(joined).toMatchObject({ phase: 'Updating', since: '1970-01-01T00:15:00Z' });
    // The group that is due is gone: begin at the first of those that are left, not at the end.
    const second = { ...begun, group: 1 };
    const changed = inputs(nodes(['a', 'north', 'pulled']), { policy, groups: ['north'] });
    expect(nextRollout(second, changed)).toMatchObject({ phase: 'Updating', group: 0 });
  });

  test('shares are counts, and a group in which nobody serves has not got the model', () => {
    const failing = (failed: number, tolerance: number): string | undefined => {
      const of = Array.from({ length: 100 }, (_, i): NodeStanding => {
        return { node: `n${i}`, group: 'g', state: i < failed ? 'failed' : 'updated' };
      });
      const at = inputs(of, { groups: ['g'], policy: { tolerance, prePull: 'group' } });
      return nextRollout(beginRollout(MODEL, at), at).phase;
    };
    expect([failing(29, 0.29), failing(30, 0.29), failing(100, 1)]).toEqual([
      'Completed',
      'RolledBack',
      'RolledBack',
    ]);
  });

  test('pauses between groups', () => {
    const policy = { pauseSeconds: 30, prePull: 'group' as const };
    const of = nodes(['a', 'north', 'updated'], ['b', 'south', 'none']);
    let at = beginRollout(MODEL, inputs(of, { policy }));
    at = nextRollout(at, inputs(of, { policy }));
    expect(at).toMatchObject({ phase: 'Pausing', group: 0 });
    expect(lookAgainMs(at, rolloutPolicy(policy), { nowMs: 1_000 })).toBe(29_050);
    expect(nextRollout(at, inputs(of, { policy, nowMs: 29_000 }))).toBe(at);
    expect(nextRollout(at, inputs(of, { policy, nowMs: 30_000 }))).toMatchObject({
      phase: 'Updating',
      group: 1,
    });
  });

  test('ends whatever nodes do, in their order, and never has more failures than are tolerated', () => {
    const STATES = ['none', 'pulled', 'held', 'updated', 'failed'] as const;
    const run = fc.array(
      fc.record({ node: fc.integer({ min: 0, max: 5 }), state: fc.constantFrom(...STATES) }),
      { maxLength: 40 },
    );
    fc.assert(
      fc.property(
        run,
        fc.constantFrom(0, 0.34, 0.5),
        fc.constantFrom('all', 'group'),
        (steps, tolerance, prePull) => {
          const policy = { tolerance, prePull, deadlineSeconds: 60 } as const;
          const standing = nodes(
            ...[0, 1, 2, 3, 4, 5].map((n): [string, string, 'none'] => [
              `n${n}`,
              n < 3 ? 'north' : 'south',
              'none',
            ]),
          );
          let nowMs = 0;
          const now = (): RolloutInputs => inputs(standing, { nowMs, policy });
          let at: RolloutStatus = beginRollout(MODEL, now());
          const advance = (): void => {
            const before = at;
            at = nextRollout(at, now());
            expect((at.group ?? 0) - (before.group ?? 0)).toBeLessThanOrEqual(1);
            const isOver = before.phase === 'Completed' || before.phase === 'RolledBack';
            expect(at.phase).toBe(isOver ? before.phase : at.phase);
            // Nobody of the second group is told to serve before the first one has settled.
            const isFirst = at.phase === 'Pulling' || (at.phase === 'Updating' && at.group === 0);
            expect(isFirst && toldOf(at, rolloutPolicy(policy), 1) === 'serve').toBe(false);
          };
          for (const { node, state } of steps) {
            nowMs += 1_000;
            standing[node] = { ...(standing[node] as NodeStanding), state };
            advance();
          }
          // Held nodes are released; then time passes.
          for (const [i, n] of standing.entries())
            if (n.state === 'held') standing[i] = { ...n, state: 'pulled' };
          for (let i = 0; i < 12; i++) {
            nowMs += 61_000;
            advance();
          }
          expect(['Completed', 'RolledBack']).toContain(at.phase);
        },
      ),
      { numRuns: 300 },
    );
  });
});
