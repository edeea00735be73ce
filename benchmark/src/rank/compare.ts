import { ShoalError } from '@shoal/core';
import { textOf } from '../config/config-node.ts';
import { suggestion } from '../config/nearest.ts';
import type { Leaderboard, LeaderboardRow, MetricColumn } from './leaderboard.ts';
import { type Difference, pairedDifference } from './statistics.ts';

export interface Comparison {
  readonly conditions: Leaderboard['conditions'];
  readonly a: string;
  readonly b: string;
  /** What differs beside the result: data or code the two were made from. */
  readonly differs: readonly string[];
  readonly metrics: readonly {
    readonly column: MetricColumn;
    readonly a: number;
    readonly b: number;
    readonly difference: Difference;
    /** Who is better, when the seeds tell; undefined for a tie. */
    readonly better: 'a' | 'b' | undefined;
  }[];
}

const LEVEL = 0.05;

/** `fedavg`, or `fedavg{"aggregation-mu":0.1}` where an algorithm has several rows. */
export function rowName(row: LeaderboardRow): string {
  const swept = Object.entries(row.hyperparameters).map(([k, v]) => `${k}=${textOf(v)}`);
  return swept.length === 0 ? row.algorithm : `${row.algorithm} (${swept.join(', ')})`;
}

function differencesOf(a: LeaderboardRow, b: LeaderboardRow): string[] {
  const [x, y] = [a.records[0]?.planned.digests, b.records[0]?.planned.digests];
  return [
    ...(x?.data === y?.data ? [] : ['the data']),
    ...(x?.code === y?.code ? [] : ['the code']),
    ...(x?.configuration === y?.configuration ? [] : ['the configuration']),
  ];
}

function found(board: Leaderboard, name: string): LeaderboardRow {
  const exact = board.rows.find((r) => rowName(r) === name);
  const best = exact ?? board.rows.find((r) => r.algorithm === name);
  if (best) return best;
  throw new ShoalError(
    'not_found',
    `no algorithm "${name}"${suggestion(name, board.rows.map(rowName))}`,
  );
}

function compared(
  a: LeaderboardRow,
  b: LeaderboardRow,
  columns: readonly MetricColumn[],
): Comparison['metrics'] {
  return columns.flatMap((column) => {
    const [x, y] = [a.values[column.name], b.values[column.name]];
    if (!x || !y) return [];
    const difference = pairedDifference(x, y);
    const aIsBetter = column.direction === 'higher' ? difference.mean > 0 : difference.mean < 0;
    const better = difference.p < LEVEL ? (aIsBetter ? 'a' : 'b') : undefined;
    return [
      {
        column,
        a: a.estimates[column.name]?.mean ?? Number.NaN,
        b: b.estimates[column.name]?.mean ?? Number.NaN,
        difference,
        better,
      },
    ];
  });
}

/**
 * Two algorithms of a leaderboard, metric by metric, paired by seed. Of an algorithm with several rows
 * the best one is meant, unless its hyper-parameters are written behind it as {@link rowName} does.
 */
export function compareAlgorithms(
  boards: readonly Leaderboard[],
  a: string,
  b: string,
): Comparison[] {
  // An algorithm that shares data out in its own way is on a board of its own.
  const has = (board: Leaderboard, name: string): boolean =>
    board.rows.some((r) => r.algorithm === name || rowName(r) === name);
  const both = boards.filter((board) => has(board, a) && has(board, b));
  const anywhere = [a, b].every((name) => boards.some((board) => has(board, name)));
  if (both.length === 0 && anywhere)
    throw new ShoalError(
      'invalid_argument',
      `"${a}" and "${b}" are on no leaderboard together: they share data out in different ways, so that their figures cannot be compared`,
    );
  return (both.length > 0 ? both : boards).map((board) => ({
    conditions: board.conditions,
    a,
    b,
    differs: [],
    metrics: compared(found(board, a), found(board, b), board.metrics),
  }));
}

/** Two results of the same job, algorithm by algorithm: did a change make anything better or worse? */
export function compareResults(
  before: readonly Leaderboard[],
  after: readonly Leaderboard[],
): Comparison[] {
  const key = (board: Leaderboard): string => JSON.stringify(board.conditions);
  return after.flatMap((board) => {
    const old = before.find((b) => key(b) === key(board));
    return board.rows.flatMap((row) => {
      const twin = old?.rows.find((r) => rowName(r) === rowName(row));
      if (!twin) return [];
      return [
        {
          conditions: board.conditions,
          a: `${rowName(row)}, after`,
          b: 'before',
          differs: differencesOf(row, twin),
          metrics: compared(row, twin, board.metrics),
        },
      ];
    });
  });
}
