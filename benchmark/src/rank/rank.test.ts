import { describe, expect, it } from 'vitest';
import type { PlannedCase } from '../plan/planned-case.ts';
import type { CaseRecord } from '../runs/store.ts';
import { compareAlgorithms } from './compare.ts';
import { leaderboards } from './leaderboard.ts';
import { bootstrapMean, pairedDifference, tTestP } from './statistics.ts';

function bySeed(values: readonly number[]): Map<number, number> {
  return new Map(values.map((v, i) => [i + 1, v]));
}

function records(
  name: string,
  values: readonly (number | undefined)[],
  more: {
    baseline?: boolean;
    environment?: string;
    metric?: string;
    direction?: 'higher' | 'lower';
  } = {},
): CaseRecord[] {
  const { baseline = false, environment = 'e', metric = 'accuracy', direction = 'higher' } = more;
  return values.map((value, i) => ({
    id: `${name}${environment}${i}`,
    state: value === undefined ? 'failed' : 'done',
    seconds: 1,
    place: 'process',
    code: '',
    planned: {
      id: `${name}${i}`,
      group: `${name}${environment}`,
      environment,
      algorithm: { name, paradigm: 'singletasklearning', baseline },
      hyperparameters: {},
      conditions: { env: environment },
      seed: i + 1,
    } as unknown as PlannedCase,
    ...(value === undefined
      ? {}
      : {
          outcome: {
            metrics: { [metric]: value },
            measured: {},
            units: { [metric]: 'share' as const },
            directions: { [metric]: direction },
            curve: [],
            participants: [],
            extra: {},
            samples: { train: 1, test: 1 },
            measurements: { wallSeconds: 1, cpuSeconds: 1, peakMemoryBytes: 1 },
          },
        }),
  }));
}

const OPTIONS = { sortBy: ['accuracy'], claimed: {}, metrics: ['all'], hyperparameters: ['all'] };

function ranks(
  list: readonly CaseRecord[],
  options = OPTIONS,
): (readonly [string, number | undefined, boolean])[] {
  return leaderboards(list, options).flatMap((b) =>
    b.rows.map((r) => [r.algorithm, r.rank, r.tied] as const),
  );
}

describe('statistics', () => {
  it.each([
    [12.706, 1],
    [2.776, 4],
    [2.228, 10],
  ])('knows that t = %d with %d degrees of freedom is the 5 %% point', (t, freedom) => {
    expect(tTestP(t, freedom)).toBeCloseTo(0.05, 4);
  });

  it('has an interval of a paired difference as the tables give it', () => {
    const d = pairedDifference(bySeed([3, 4, 5]), bySeed([1, 3, 2]));
    // Differences 2, 1, 3: mean 2, s = 1, t(2) = 4.303.
    expect(d.mean).toBe(2);
    expect(d.high - d.mean).toBeCloseTo(4.303 / Math.sqrt(3), 3);
    expect(d.p).toBeCloseTo(0.0742, 3);
  });

  it('finds a small steady gain under large common noise, by pairing', () => {
    const noise = [0.5, 0.9, 0.2, 0.7, 0.4];
    const gain = pairedDifference(bySeed(noise.map((v, i) => v + 0.01 + i * 1e-4)), bySeed(noise));
    expect(gain.p).toBeLessThan(0.001);
  });

  it('bootstraps the same interval every time, around the mean', () => {
    const values = [0.7, 0.8, 0.75, 0.9, 0.65];
    const first = bootstrapMean(values);
    expect(bootstrapMean(values)).toEqual(first);
    expect(first.low).toBeLessThan(first.mean);
    expect(first.high).toBeGreaterThan(first.mean);
    expect(first.low).toBeGreaterThanOrEqual(0.65);
  });

  it('claims no interval from one value', () => {
    expect(bootstrapMean([0.5])).toMatchObject({ mean: 0.5, low: Number.NaN });
    expect(pairedDifference(bySeed([1]), bySeed([0])).p).toBe(1);
  });
});

describe('a leaderboard', () => {
  it('ties what the seeds do not tell apart, and counts on behind a tie', () => {
    const list = [
      ...records('best', [0.9, 0.91, 0.92]),
      ...records('same', [0.91, 0.9, 0.91]),
      ...records('worse', [0.5, 0.51, 0.52]),
    ];
    expect(ranks(list)).toEqual([
      ['best', 1, true],
      ['same', 1, true],
      ['worse', 3, false],
    ]);
  });

  it('tells nothing apart by one seed', () => {
    const list = [...records('a', [0.9]), ...records('b', [0.8]), ...records('c', [0.8])];
    expect(ranks(list)).toEqual([
      ['a', 1, true],
      ['b', 1, true],
      ['c', 1, true],
    ]);
  });

  it('puts a baseline where it belongs, without a rank', () => {
    const list = [
      ...records('bound', [0.99, 0.99], { baseline: true }),
      ...records('a', [0.5, 0.6]),
    ];
    expect(ranks(list)).toEqual([
      ['bound', undefined, false],
      ['a', 1, false],
    ]);
  });

  it('turns round for a metric that is better when lower', () => {
    const options = { ...OPTIONS, sortBy: ['mae'] };
    const lower = { metric: 'mae', direction: 'lower' } as const;
    const list = [
      ...records('big', [2, 2.1, 2.2], lower),
      ...records('little', [1, 1.1, 1.2], lower),
    ];
    expect(ranks(list, options)[0]?.[0]).toBe('little');
  });

  it('never mixes test environments', () => {
    const list = [
      ...records('a', [0.9], { environment: 'x' }),
      ...records('b', [0.1], { environment: 'y' }),
    ];
    expect(leaderboards(list, OPTIONS).map((b) => b.rows.map((r) => r.algorithm))).toEqual([
      ['a'],
      ['b'],
    ]);
    expect(ranks(list).map(([, rank]) => rank)).toEqual([1, 1]);
  });

  it('keeps identical results of different algorithms apart', () => {
    expect(ranks([...records('a', [0.5, 0.6]), ...records('b', [0.5, 0.6])])).toHaveLength(2);
  });

  it('puts what never finished last, without a rank', () => {
    const list = [...records('broken', [undefined, undefined]), ...records('a', [0.1, 0.2])];
    expect(ranks(list)).toEqual([
      ['a', 1, false],
      ['broken', undefined, false],
    ]);
  });

  it('puts what reached a score with one seed behind what reached it with all', () => {
    const options = { ...OPTIONS, sortBy: ['time_to_accuracy'] };
    const time = { metric: 'time_to_accuracy', direction: 'lower' } as const;
    const lucky = records('lucky', [10, 10, 10], time).map((r, i) =>
      i === 0 || !r.outcome
        ? r
        : { ...r, outcome: { ...r.outcome, metrics: { time_to_accuracy: null } } },
    );
    const list = [...lucky, ...records('steady', [20, 21, 22], time)];
    expect(ranks(list, options)).toEqual([
      ['steady', 1, false],
      ['lucky', 2, false],
    ]);
  });

  it('does not let a crash help: what has fewer seeds is behind', () => {
    const list = [
      ...records('crashing', [0.99, undefined, undefined]),
      ...records('a', [0.5, 0.5, 0.6]),
    ];
    expect(ranks(list).map(([name]) => name)).toEqual(['a', 'crashing']);
  });

  it('compares two algorithms and says when nothing can be told', () => {
    const list = [
      ...records('a', [0.9, 0.91, 0.92]),
      ...records('b', [0.5, 0.52, 0.51]),
      ...records('c', [0.89, 0.93, 0.9]),
    ];
    const boards = leaderboards(list, OPTIONS);
    expect(compareAlgorithms(boards, 'a', 'b')[0]?.metrics[0]?.better).toBe('a');
    expect(compareAlgorithms(boards, 'b', 'a')[0]?.metrics[0]?.better).toBe('b');
    const apart = leaderboards(
      [...records('a', [0.9], { environment: 'x' }), ...records('b', [0.1], { environment: 'y' })],
      OPTIONS,
    );
    expect(() => compareAlgorithms(apart, 'a', 'b')).toThrow(/on no leaderboard together/);
    expect(compareAlgorithms(boards, 'a', 'c')[0]?.metrics[0]?.better).toBeUndefined();
    expect(() => compareAlgorithms(boards, 'a', 'd')).toThrow(/no algorithm "d"/);
  });
});
