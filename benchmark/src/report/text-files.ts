import { canonicalJson } from '@shoal/core';
import type { Leaderboard, LeaderboardRow } from '../rank/leaderboard.ts';
import type { CaseRecord } from '../runs/store.ts';
import { LEGEND, tableOf, titleOf } from './format.ts';

function cell(value: string | number | undefined): string {
  const text = value === undefined ? '' : String(value);
  // A leading sign would be a formula to a spreadsheet.
  const isFormula =
    typeof value === 'string' && /^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text));
  const safe = isFormula ? `'${text}` : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Every case a line: numbers as they are, for spreadsheets and scripts. */
export function toCsv(boards: readonly Leaderboard[]): string {
  const conditions = [...new Set(boards.flatMap((b) => Object.keys(b.conditions)))];
  const hyper = [...new Set(boards.flatMap((b) => b.hyperparameters))];
  const metrics = [...new Set(boards.flatMap((b) => b.metrics.map((m) => m.name)))];
  const text = (value: unknown): string =>
    value === undefined ? '' : typeof value === 'string' ? value : JSON.stringify(value);
  const head = ['rank', 'tied', 'algorithm', 'paradigm', 'bound', ...conditions, ...hyper];
  const rows = boards.flatMap((board) =>
    board.rows.flatMap((row) =>
      row.records.map((record) => [
        row.rank,
        row.tied ? 1 : 0,
        row.algorithm,
        row.paradigm,
        row.isBaseline ? 1 : 0,
        ...conditions.map((c) => text(board.conditions[c])),
        ...hyper.map((h) => text(row.hyperparameters[h])),
        record.planned.seed,
        record.state,
        ...metrics.map((m) => row.values[m]?.get(record.planned.seed)),
        record.id,
      ]),
    ),
  );
  return [[...head, 'seed', 'state', ...metrics, 'case'], ...rows]
    .map((r) => `${r.map(cell).join(',')}\n`)
    .join('');
}

function escaped(text: string): string {
  return text.replaceAll('|', '\\|');
}

/** What a report of a run that is not over says first; empty of a whole one. */
export function unfinished(missing: number): string {
  return missing === 0 ? '' : `${missing} cases of this run have not run: its ranks will change.`;
}

export function toMarkdown(job: string, boards: readonly Leaderboard[], missing = 0): string {
  const parts = boards.map((board) => {
    const [head = [], ...rows] = tableOf(board);
    const line = (cells: readonly string[]): string => `| ${cells.map(escaped).join(' | ')} |\n`;
    return `### ${titleOf(job, board)}\n\n${line(head)}${line(head.map(() => '---'))}${rows.map(line).join('')}`;
  });
  const warning = missing === 0 ? '' : `> ${unfinished(missing)}\n\n`;
  return `${warning}${parts.join('\n')}\n${LEGEND}\n`;
}

/**
 * What repeats with the seeds, and nothing else: two runs of the same cases give the same bytes. Times,
 * memory and where they come from are in `measurements.json`.
 */
export function toResultsJson(job: string, boards: readonly Leaderboard[], missing = 0): string {
  const results = {
    format: 'shoal-benchmark/1',
    job,
    ...(missing === 0 ? {} : { missing }),
    leaderboards: boards.map((board) => ({
      conditions: board.conditions,
      sortedBy: board.sortedBy,
      metrics: board.metrics
        .filter((m) => !m.isMeasured)
        .map(({ name, unit, direction }) => ({ name, unit, direction })),
      rows: repeatable(board).map((row) => ({
        ...(isMeasured(board) ? {} : { rank: row.rank ?? null, tied: row.tied }),
        algorithm: row.algorithm,
        paradigm: row.paradigm,
        baseline: row.isBaseline,
        hyperparameters: row.hyperparameters,
        cases: row.records.map(caseOf),
      })),
    })),
  };
  return `${JSON.stringify(JSON.parse(canonicalJson(results)), null, 1)}\n`;
}

/** Whether the machine and the hour decide the order. */
function isMeasured(board: Leaderboard): boolean {
  return board.sortedBy.some((n) =>
    board.rows.some((r) => r.records.some((c) => n in (c.outcome?.measured ?? {}))),
  );
}

/** Rows in an order that repeats. */
function repeatable(board: Leaderboard): readonly LeaderboardRow[] {
  if (!isMeasured(board)) return board.rows;
  return board.rows.toSorted((a, b) => (a.group < b.group ? -1 : 1));
}

function caseOf({ id, state, planned, outcome }: CaseRecord): object {
  return {
    id,
    state,
    seed: planned.seed,
    digests: planned.digests,
    metrics: outcome?.metrics,
    extra: outcome?.extra,
    samples: outcome?.samples,
    curve: outcome?.curve,
    matrix: outcome?.matrix,
    taskNames: outcome?.taskNames,
    participants: outcome?.participants,
  };
}

export function toMeasurementsJson(records: readonly CaseRecord[], provenance: object): string {
  const cases = records.map((r) => ({
    id: r.id,
    place: r.place,
    seconds: r.seconds,
    ...r.outcome?.measurements,
    error: r.error,
  }));
  return `${JSON.stringify({ provenance, cases }, null, 1)}\n`;
}
