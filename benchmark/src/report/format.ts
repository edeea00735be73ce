import type { MetricUnit } from '../metrics/metric.ts';
import { conditionsText, type Leaderboard, type MetricColumn } from '../rank/leaderboard.ts';
import type { Estimate } from '../rank/statistics.ts';

const BYTES = ['B', 'kB', 'MB', 'GB', 'TB'];

function bytesText(value: number): string {
  let [scaled, step] = [value, 0];
  while (scaled >= 1000 && step < BYTES.length - 1) [scaled, step] = [scaled / 1000, step + 1];
  return `${scaled < 10 && step > 0 ? scaled.toFixed(2) : scaled.toFixed(step > 0 ? 1 : 0)} ${BYTES[step]}`;
}

/** A figure for people. */
export function figureText(value: number, unit: MetricUnit): string {
  switch (unit) {
    case 'share':
      return `${(value * 100).toFixed(1)} %`;
    case 'points':
      return value.toFixed(2);
    case 'bytes':
      return bytesText(value);
    case 'seconds':
      return value >= 100 ? `${value.toFixed(0)} s` : `${value.toFixed(2)} s`;
    case 'milliseconds':
      return `${value.toFixed(2)} ms`;
    case 'joules':
      return `${value.toFixed(1)} J`;
    case 'per second':
      return `${value.toFixed(1)}/s`;
    case 'count':
      return Number.isInteger(value) ? String(value) : value.toFixed(1);
    case 'value':
      return value.toPrecision(4);
  }
}

/** `92.1 % ± 0.4`: a mean and half its interval, in the same unit. */
export function estimateText(estimate: Estimate | undefined, unit: MetricUnit): string {
  if (!estimate) return '–';
  const text = figureText(estimate.mean, unit);
  if (Number.isNaN(estimate.low)) return text;
  const half = (estimate.high - estimate.low) / 2;
  if (half === 0) return text;
  return `${text} ± ${unit === 'share' ? (half * 100).toFixed(1) : figureText(half, unit)}`;
}

/** `accuracy ↑`: the better way of a metric. */
export function headText({ name, direction }: MetricColumn): string {
  return `${name} ${direction === 'higher' ? '↑' : '↓'}`;
}

/** A leaderboard as rows of texts, the head first. */
export function tableOf(board: Leaderboard): string[][] {
  const head = [
    'rank',
    'algorithm',
    ...board.hyperparameters,
    ...board.metrics.map(headText),
    'seeds',
  ];
  const rows = board.rows.map((row) => {
    const done = row.records.length - row.failed;
    return [
      row.isBaseline ? 'bound' : row.rank === undefined ? '–' : `${row.rank}${row.tied ? '=' : ''}`,
      row.algorithm,
      ...board.hyperparameters.map((name) => {
        const value = row.hyperparameters[name];
        return value === undefined ? '' : typeof value === 'string' ? value : JSON.stringify(value);
      }),
      ...board.metrics.map((m) => estimateText(row.estimates[m.name], m.unit)),
      row.failed > 0 ? `${done} of ${row.records.length}` : String(done),
    ];
  });
  return [head, ...rows];
}

/** What stands above a leaderboard. */
export function titleOf(job: string, board: Leaderboard): string {
  const conditions = conditionsText(board.conditions);
  return conditions === '' ? job : `${job}, ${conditions}`;
}

/** What the signs in a leaderboard mean. */
export const LEGEND =
  'Mean over seeds ± half the 95 % bootstrap interval. = shares its rank: a paired t-test over the seeds does not tell it from the best of that rank (5 %). bound: a baseline, not ranked.';
