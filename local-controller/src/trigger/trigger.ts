import type { GuardedFigure, Trigger } from '@shoal/api';

/** Figures a trigger is held against: scalars and lists by name. */
export type TriggerFigures = Readonly<Record<string, number | readonly number[]>>;

export interface TriggerVerdict {
  readonly fires: boolean;
  /** Why, in one sentence. */
  readonly reason: string;
}

const EQUALITY_TOLERANCE = 1e-6;

const COMPARE: Readonly<Record<string, (a: number, b: number) => boolean>> = {
  gt: (a, b) => a > b,
  ge: (a, b) => a >= b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  eq: (a, b) => Math.abs(a - b) <= EQUALITY_TOLERANCE,
  ne: (a, b) => Math.abs(a - b) > EQUALITY_TOLERANCE,
};
const SYMBOLS: Readonly<Record<string, string>> = {
  '>': 'gt',
  '>=': 'ge',
  '<': 'lt',
  '<=': 'le',
  '=': 'eq',
  '==': 'eq',
  '!=': 'ne',
};

/** A figure by `name` or `name[index]`; a list without index means its first member. */
function figure(figures: TriggerFigures, metric: string): number | undefined {
  const match = /^([^[\]]+)(?:\[(\d+)\])?$/.exec(metric);
  const value = figures[match?.[1] ?? ''];
  if (value === undefined || typeof value === 'number')
    return match?.[2] === undefined || match[2] === '0' ? value : undefined;
  return value[Number(match?.[2] ?? 0)];
}

/** Whether a time of day (`HH:MM`) is in a window; one that begins after it ends wraps midnight. */
export function inWindow(now: string, window: { start: string; end: string }): boolean {
  const { start, end } = window;
  return start <= end ? now >= start && now <= end : now >= start || now <= end;
}

function localTime(nowMs: number): string {
  const date = new Date(nowMs);
  return `${String(date.getHours()).padStart(2, '0')}:${String(date.getMinutes()).padStart(2, '0')}`;
}

/** Whether one comparison holds, and what it compared. */
function compare(condition: Trigger['condition'], figures: TriggerFigures): TriggerVerdict {
  const { metric, operator, threshold } = condition;
  const value = figure(figures, metric);
  if (value === undefined) {
    const known = Object.keys(figures).join(', ') || 'none';
    return { fires: false, reason: `there is no figure "${metric}"; there are: ${known}` };
  }
  const name = SYMBOLS[operator] ?? operator;
  const fires = COMPARE[name]?.(value, threshold) ?? false;
  const reason = `${metric} = ${Number(value.toFixed(6))}, asked for ${operator} ${threshold}`;
  return { fires, reason };
}

/**
 * Decides a trigger: the condition must hold, with all of `all` and, where there are some, one of
 * `any`, inside the timer's window if there is one. The reason is that of the first that does not hold.
 */
export function decide(
  trigger: Pick<Trigger, 'condition' | 'all' | 'any' | 'timer'>,
  figures: TriggerFigures,
  nowMs: number,
): TriggerVerdict {
  const { condition, all = [], any = [], timer } = trigger;
  const needed = [condition, ...all].map((c) => compare(c, figures));
  const failed = needed.find((v) => !v.fires);
  if (failed) return failed;
  const choices = any.map((c) => compare(c, figures));
  const chosen = choices.find((v) => v.fires);
  const tell = (verdicts: readonly TriggerVerdict[]): string =>
    verdicts.map((v) => v.reason).join('; ');
  if (choices.length > 0 && !chosen) return { fires: false, reason: `none of: ${tell(choices)}` };
  const reason = tell(chosen ? [...needed, chosen] : needed);
  if (timer && !inWindow(localTime(nowMs), timer))
    return { fires: false, reason: `${reason}, but outside ${timer.start}–${timer.end}` };
  return { fires: true, reason };
}

/**
 * Figures of a deployment trigger from two evaluations on the same samples: every metric of the
 * new model, and `<metric>_delta` = new − old (lists member by member).
 */
export function deltaFigures(next: TriggerFigures, old: TriggerFigures): TriggerFigures {
  const figures: Record<string, number | number[]> = {};
  for (const [name, value] of Object.entries(next)) {
    const before = old[name];
    figures[name] = typeof value === 'number' ? value : [...value];
    if (typeof value === 'number' && typeof before === 'number')
      figures[`${name}_delta`] = value - before;
    if (typeof value !== 'number' && before !== undefined && typeof before !== 'number') {
      figures[`${name}_delta`] = value.map((v, i) => v - (before[i] ?? Number.NaN));
    }
  }
  return figures;
}

/** A verdict after the guards: a new model may not be worse on any guarded slice. */
export function guarded(
  verdict: TriggerVerdict,
  guards: readonly GuardedFigure[],
  figures: TriggerFigures,
): TriggerVerdict {
  if (!verdict.fires) return verdict;
  for (const { name, figure: metric, maxDrop } of guards) {
    const delta = figure(figures, `${metric}_delta`);
    if (delta === undefined)
      return {
        fires: false,
        reason: `guard "${name}" could not be held: the evaluation has no ${metric} of both models`,
      };
    if (delta < -maxDrop - EQUALITY_TOLERANCE)
      return {
        fires: false,
        reason: `guard "${name}": ${metric} falls by ${Number((-delta).toFixed(6))}, at most ${maxDrop} is allowed`,
      };
  }
  return verdict;
}
