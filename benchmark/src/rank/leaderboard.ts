import { canonicalJson, ShoalError } from '@shoal/core';
import type { RankOptions } from '../config/benchmarking-job.ts';
import type { Json } from '../config/config-node.ts';
import { metricName } from '../metrics/choose.ts';
import type { MetricUnit } from '../metrics/metric.ts';
import type { CaseRecord } from '../runs/store.ts';
import { bootstrapMean, type Estimate, pairedDifference } from './statistics.ts';

export interface MetricColumn {
  readonly name: string;
  readonly unit: MetricUnit;
  readonly direction: 'higher' | 'lower';
  readonly isMeasured: boolean;
}

/** One algorithm with one choice of hyper-parameters, over all its seeds. */
export interface LeaderboardRow {
  /** Undefined for a baseline, and for what never finished. */
  readonly rank: number | undefined;
  /** Whether others have the same rank: the seeds do not tell them apart. */
  readonly tied: boolean;
  readonly algorithm: string;
  readonly paradigm: string;
  readonly isBaseline: boolean;
  readonly hyperparameters: Readonly<Record<string, Json>>;
  readonly group: string;
  readonly estimates: Readonly<Record<string, Estimate>>;
  /** Figures by metric and seed. */
  readonly values: Readonly<Record<string, ReadonlyMap<number, number>>>;
  readonly records: readonly CaseRecord[];
  readonly failed: number;
}

/** Algorithms held against each other in one test environment. */
export interface Leaderboard {
  readonly conditions: Readonly<Record<string, Json>>;
  readonly metrics: readonly MetricColumn[];
  readonly hyperparameters: readonly string[];
  readonly sortedBy: readonly string[];
  readonly rows: readonly LeaderboardRow[];
}

/** Two algorithms are told apart at this level. */
export const SIGNIFICANCE = 0.05;

function groupedBy<T>(items: readonly T[], key: (item: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return [...groups.values()];
}

function columnsOf(records: readonly CaseRecord[], wanted: readonly string[]): MetricColumn[] {
  const found = new Map<string, MetricColumn>();
  for (const { outcome } of records) {
    if (!outcome) continue;
    for (const name of [...Object.keys(outcome.metrics), ...Object.keys(outcome.measured)])
      found.set(name, {
        name,
        unit: outcome.units[name] ?? 'value',
        direction: outcome.directions[name] ?? 'higher',
        isMeasured: name in outcome.measured,
      });
  }
  const all = [...found.values()];
  if (wanted.includes('all')) return all;
  return wanted.flatMap((w) => all.filter((m) => m.name === metricName(w)));
}

function rowOf(records: readonly CaseRecord[]): LeaderboardRow | undefined {
  const [first] = records;
  if (!first) return undefined;
  const values: Record<string, Map<number, number>> = {};
  for (const { planned, outcome } of records)
    for (const [name, value] of Object.entries({ ...outcome?.metrics, ...outcome?.measured }))
      if (value !== null) (values[name] ??= new Map()).set(planned.seed, value);
  const { algorithm, hyperparameters, group } = first.planned;
  return {
    rank: undefined,
    tied: false,
    algorithm: algorithm.name,
    paradigm: algorithm.paradigm,
    isBaseline: algorithm.baseline,
    hyperparameters,
    group,
    values,
    estimates: Object.fromEntries(
      Object.entries(values).map(([name, bySeed]) => [name, bootstrapMean([...bySeed.values()])]),
    ),
    records,
    failed: records.filter((r) => r.state !== 'done').length,
  };
}

/** Seeds without a figure. */
function missingOf(row: LeaderboardRow, metric: string): number {
  return row.records.length - (row.values[metric]?.size ?? 0);
}

/** Below 0 when a is better than b by the first metric in which they differ. */
function order(columns: readonly MetricColumn[]): (a: LeaderboardRow, b: LeaderboardRow) => number {
  return (a, b) => {
    for (const { name, direction } of columns) {
      // What was not reached with every seed is behind what was: the seeds that are missing were the bad ones.
      const missing = missingOf(a, name) - missingOf(b, name);
      if (missing !== 0) return missing;
      const [x, y] = [a.estimates[name]?.mean, b.estimates[name]?.mean];
      // What was never reached is behind whatever was.
      if (x === undefined || y === undefined) {
        if (x === y) continue;
        return x === undefined ? 1 : -1;
      }
      if (x !== y) return (direction === 'higher' ? y - x : x - y) || 0;
    }
    return a.algorithm < b.algorithm ? -1 : 1;
  };
}

/** Whether two rows cannot be told apart by the metric that decides. */
function isTie(a: LeaderboardRow, b: LeaderboardRow, metric: string): boolean {
  const [x, y] = [a.values[metric], b.values[metric]];
  if (!x || !y || missingOf(a, metric) !== missingOf(b, metric)) return false;
  const { p, count } = pairedDifference(x, y);
  // One seed tells nothing apart.
  return count < 2 || p >= SIGNIFICANCE;
}

/**
 * Ranks with ties: who cannot be told from the best of a rank (paired t-test over seeds, 5 %) shares it.
 * Baselines stand where they belong without a rank.
 */
function ranked(
  rows: readonly LeaderboardRow[],
  columns: readonly MetricColumn[],
): LeaderboardRow[] {
  const sorted = rows.toSorted(order(columns));
  const metric = columns[0]?.name ?? '';
  const competing = sorted.filter((r) => !r.isBaseline && r.estimates[metric] !== undefined);
  const ranks = new Map<string, number>();
  let [leader, rank]: [LeaderboardRow | undefined, number] = [undefined, 0];
  for (const [i, row] of competing.entries()) {
    if (!leader || !isTie(leader, row, metric)) [leader, rank] = [row, i + 1];
    ranks.set(row.group, rank);
  }
  const counts = new Map<number, number>();
  for (const r of ranks.values()) counts.set(r, (counts.get(r) ?? 0) + 1);
  return sorted.map((row) => {
    const own = ranks.get(row.group);
    return { ...row, rank: own, tied: own !== undefined && (counts.get(own) ?? 0) > 1 };
  });
}

/** The leaderboards of a run: one for each test environment, in the order they were planned. */
export function leaderboards(records: readonly CaseRecord[], options: RankOptions): Leaderboard[] {
  return groupedBy(records, (r) => r.planned.environment).map((own) => {
    const all = columnsOf(own, ['all']);
    const wanted = options.sortBy.map(metricName);
    const stranger = wanted.find((name) => all.length > 0 && !all.some((m) => m.name === name));
    if (stranger !== undefined)
      throw new ShoalError(
        'invalid_argument',
        `rank.sort_by: the cases that ran have no metric "${stranger}"; they have ${all.map((m) => m.name).join(', ')}`,
      );
    const deciding = wanted.flatMap((name) => all.filter((m) => m.name === name));
    const columns = deciding.length > 0 ? deciding : all.slice(0, 1);
    const rows = groupedBy(own, (r) => r.planned.group).flatMap((g) => rowOf(g) ?? []);
    const names = new Set(own.flatMap((r) => Object.keys(r.planned.hyperparameters)));
    const shown = options.hyperparameters;
    return {
      conditions: own[0]?.planned.conditions ?? {},
      metrics: columnsOf(own, options.metrics),
      hyperparameters: [...names].filter((n) => shown.includes('all') || shown.includes(n)),
      sortedBy: columns.map((c) => c.name),
      rows: ranked(rows, columns),
    };
  });
}

/** `partition.alpha 0.3`, for headings; empty when nothing of the environment is swept. */
export function conditionsText(conditions: Readonly<Record<string, Json>>): string {
  return Object.entries(conditions)
    .map(([k, v]) => `${k} ${typeof v === 'string' ? v : canonicalJson(v)}`)
    .join(', ');
}
