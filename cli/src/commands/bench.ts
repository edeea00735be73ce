import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import {
  type CaseEvent,
  type Comparison,
  caseName,
  compareAlgorithms,
  compareResults,
  conditionsText,
  figureText,
  type JobResults,
  jobFile,
  LEGEND,
  type Plan,
  PROCESS,
  planJob,
  REPORT_FORMATS,
  type ReportFormat,
  RunStore,
  readBenchmarkingJob,
  readResults,
  runJob,
  suiteNames,
  tableOf,
  titleOf,
  writeReports,
} from '@shoal/benchmark';
import { ShoalError } from '@shoal/core';
import { styled } from '../terminal/style.ts';
import { renderTable } from '../terminal/table.ts';
import { untilInterrupted } from './cluster.ts';

interface BenchOptions {
  readonly folder: string;
  readonly small?: boolean;
  readonly workspace?: string;
  readonly json?: boolean;
  readonly parallel?: string;
  readonly timeLimit?: string;
  readonly fresh?: boolean;
  readonly on?: string;
  readonly format?: string;
  readonly out?: string;
  readonly job?: string;
}

const PLACES = [PROCESS, 'cluster'];
const MAX_PARALLEL = 1_024;

function placeOf({ on = PROCESS }: BenchOptions): string {
  if (PLACES.includes(on)) return on;
  throw new ShoalError('invalid_argument', `--on must be process or cluster, got "${on}"`);
}

function positive(text: string | undefined, name: string, most: number): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (value > 0 && value <= most) return value;
  throw new ShoalError(
    'invalid_argument',
    `${name} must be a number in (0, ${most}], got "${text}"`,
  );
}

/** Folder of a job's results: of `--workspace`, of the job's own, or `.shoal/bench`. */
function folderOf(file: string, options: BenchOptions): string {
  const { name, workspace } = readBenchmarkingJob(file, options.small);
  const given = options.workspace === undefined ? undefined : resolve(options.workspace);
  return join(given ?? workspace ?? join(options.folder, '.shoal', 'bench'), name);
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Suites, with what the newest run of each came to. */
export function benchListCommand(options: BenchOptions): void {
  const rows = suiteNames().map((name) => {
    const file = jobFile(name);
    return [name, stateOf(file, options), stateOf(file, { ...options, small: true })];
  });
  print(renderTable([['SUITE', 'FULL', 'SMALL'], ...rows]));
  print('\nRun one with: shoal bench run <suite> [--small]');
}

function stateOf(file: string, options: BenchOptions): string {
  const folder = folderOf(file, options);
  if (!existsSync(folder)) return 'not run';
  try {
    const { records, missing } = readResults(file, folder, { small: options.small ?? false });
    const failed = records.filter((r) => r.state !== 'done').length;
    const rest = [failed > 0 ? `${failed} failed` : '', missing > 0 ? `${missing} to run` : ''];
    return [`${records.length - failed} done`, ...rest.filter((t) => t !== '')].join(', ');
  } catch {
    return 'not run';
  }
}

function duration(seconds: number): string {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  return seconds < 5_400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3_600).toFixed(1)} h`;
}

/** What is left to run and about how long it takes, by what cases of the same algorithm took. */
function costOf(plan: Plan, folder: string): { left: number; seconds: number | undefined } {
  const store = RunStore.open(folder);
  try {
    const waiting = plan.cases.filter((c) => store.get(c.id, PROCESS)?.state !== 'done');
    const means = waiting.map((c) => {
      const known = store.secondsOf(c.algorithm.name);
      return known.length === 0 ? undefined : known.reduce((a, b) => a + b, 0) / known.length;
    });
    const known = means.filter((m) => m !== undefined);
    if (known.length === 0) return { left: waiting.length, seconds: undefined };
    const average = known.reduce((a, b) => a + b, 0) / known.length;
    const total = means.reduce<number>((sum, m) => sum + (m ?? average), 0);
    return {
      left: waiting.length,
      seconds: total / Math.min(waiting.length, availableParallelism()),
    };
  } finally {
    store.close();
  }
}

export async function benchPlanCommand(job: string, options: BenchOptions): Promise<void> {
  const file = jobFile(job);
  const plan = await planJob(file, options.small);
  const { left, seconds } = costOf(plan, folderOf(file, options));
  if (options.json) {
    const cases = plan.cases.map((c) => ({
      id: c.id,
      algorithm: c.algorithm.name,
      paradigm: c.algorithm.paradigm,
      ...c.conditions,
      ...c.hyperparameters,
      seed: c.seed,
    }));
    print(JSON.stringify({ job: plan.job.name, cases, left, seconds }, null, 1));
    return;
  }
  const groups = new Map<string, string[]>();
  for (const c of plan.cases) {
    const name = caseName({ ...c, seed: 0 })
      .replace(/,? ?seed 0\)$/, ')')
      .replace(' ()', '');
    groups.set(name, [...(groups.get(name) ?? []), String(c.seed)]);
  }
  print(renderTable([['CASE', 'SEEDS'], ...[...groups].map(([n, s]) => [n, s.join(' ')])]));
  const estimate =
    seconds === undefined
      ? `no case has run yet, at most ${duration(plan.job.timeLimitSeconds)} each`
      : `about ${duration(seconds)} on ${availableParallelism()} cores, by what such cases took before`;
  print(
    `\n${plan.cases.length} cases, ${left} to run: ${left === 0 ? 'nothing left to do' : estimate}`,
  );
  const problems = new Set(plan.cases.flatMap((c) => c.problem ?? []));
  for (const problem of problems) print(`✗ ${problem}`);
  if (problems.size > 0) process.exitCode = 1;
  if (plan.job.seeds.length < 3)
    print('With fewer than three seeds almost everything is a tie: add some.');
}

/** Progress: on a terminal one line that changes, elsewhere a line for each case that ends. */
class CaseProgress {
  readonly #running = new Map<string, CaseEvent>();
  readonly #stream = process.stderr;

  take(event: CaseEvent): void {
    if (event.kind === 'ended') this.#running.delete(event.id);
    else this.#running.set(event.id, event);
    if (event.kind === 'ended') this.#ended(event);
    if (this.#stream.isTTY) this.#draw(event);
  }

  #ended({ name, end, done, total }: CaseEvent): void {
    const ok = end?.state === 'done';
    const mark = styled(ok ? 'green' : 'red', ok ? '✔' : '✗', this.#stream);
    const why = ok ? '' : `: ${end?.error ?? ''}`;
    const clear = this.#stream.isTTY ? '\r\x1b[2K' : '';
    this.#stream.write(
      `${clear}${mark} ${done} of ${total}  ${name}  ${(end?.seconds ?? 0).toFixed(1)} s${why}\n`,
    );
  }

  #draw({ done, total }: CaseEvent): void {
    const width = 24;
    const partly = [...this.#running.values()].reduce((sum, e) => sum + e.share, 0);
    const share = total === 0 ? 1 : (done + partly) / total;
    const filled = Math.round(share * width);
    const names = [...this.#running.values()].map((e) => e.name).join(' · ');
    const line = `${'█'.repeat(filled)}${'░'.repeat(width - filled)} ${Math.round(share * 100)} %  ${names}`;
    this.#stream.write(`\r\x1b[2K${line.slice(0, Math.max(20, (this.#stream.columns ?? 80) - 1))}`);
  }

  finish(): void {
    if (this.#stream.isTTY) this.#stream.write('\r\x1b[2K');
  }
}

export async function benchRunCommand(job: string, options: BenchOptions): Promise<void> {
  const file = jobFile(job);
  const place = placeOf(options);
  const plan = await planJob(file, options.small);
  const folder = folderOf(file, options);
  const { signal } = untilInterrupted();
  const progress = new CaseProgress();
  const parallel = positive(options.parallel, '--parallel', MAX_PARALLEL);
  if (parallel !== undefined && !Number.isInteger(parallel))
    throw new ShoalError('invalid_argument', `--parallel must be a whole number, got ${parallel}`);
  const timeLimitSeconds = positive(options.timeLimit, '--time-limit', 604_800);
  const cluster =
    place === PROCESS
      ? undefined
      : await (await import('./bench-cluster.ts')).openClusterPlace(options.folder, signal);
  try {
    const summary = await runJob(plan, {
      folder,
      signal,
      fresh: options.fresh ?? false,
      onCase: (event) => progress.take(event),
      ...(parallel === undefined ? {} : { parallel }),
      ...(timeLimitSeconds === undefined ? {} : { timeLimitSeconds }),
      ...(cluster ? { place: { name: place, run: cluster.run, code: cluster.code } } : {}),
    });
    progress.finish();
    if (signal.aborted) {
      print(`stopped after ${summary.ran} cases; the same command goes on where this stopped`);
      process.exitCode = 130;
      return;
    }
    const results = readResults(file, folder, { small: options.small ?? false, place });
    printBoards(results);
    const took = `${summary.ran} run in ${duration(summary.seconds)}, ${summary.kept} kept from before`;
    print(`\n${took}. ${folder}`);
    for (const { name, error, log } of summary.failed)
      print(`✗ ${name}: ${error}${log === '' ? '' : `\n  ${log}`}`);
    print(`See it with plots: shoal bench report ${job}${options.small ? ' --small' : ''}`);
    if (summary.failed.length > 0) process.exitCode = 1;
  } finally {
    await cluster?.close();
  }
}

function printBoards(results: JobResults): void {
  for (const board of results.boards) {
    print(`\n${styled('bold', titleOf(results.job, board))}`);
    print(renderTable(tableOf(board)));
  }
  print(`\n${LEGEND}`);
}

function resultsOf(job: string, options: BenchOptions): { results: JobResults; folder: string } {
  const file = jobFile(job);
  const folder = folderOf(file, options);
  const place = placeOf(options);
  return { results: readResults(file, folder, { small: options.small ?? false, place }), folder };
}

export function benchRankCommand(job: string, options: BenchOptions): void {
  const { results } = resultsOf(job, options);
  printBoards(results);
  if (results.missing > 0) print(`${results.missing} cases have not run: shoal bench run ${job}`);
}

export function benchReportCommand(job: string, options: BenchOptions): void {
  const { results, folder } = resultsOf(job, options);
  const formats = (options.format ?? 'html').split(',').map((f): ReportFormat => {
    const found = REPORT_FORMATS.find((r) => r === f.trim());
    if (found) return found;
    throw new ShoalError(
      'invalid_argument',
      `--format: there is no "${f}"; there are ${REPORT_FORMATS.join(', ')}`,
    );
  });
  const out = options.out === undefined ? folder : resolve(options.out);
  for (const path of writeReports(results, out, formats)) print(path);
  if (results.missing > 0)
    print(`${results.missing} cases have not run, and are in none of it: shoal bench run ${job}`);
}

function printComparison({ conditions, a, b, metrics, differs }: Comparison): void {
  const where = conditionsText(conditions);
  print(`\n${styled('bold', `${a} against ${b}${where === '' ? '' : `, ${where}`}`)}`);
  if (differs.length > 0) print(`not the same: ${differs.join(', ')}`);
  const rows = metrics.map(({ column, difference, better, ...m }) => [
    column.name,
    figureText(m.a, column.unit),
    figureText(m.b, column.unit),
    figureText(difference.mean, column.unit),
    Number.isNaN(difference.low)
      ? 'one seed'
      : `${figureText(difference.low, column.unit)} … ${figureText(difference.high, column.unit)}`,
    difference.p.toFixed(3),
    better === undefined ? 'tie' : better === 'a' ? a : b,
  ]);
  print(renderTable([['METRIC', a, b, 'DIFFERENCE', '95 % INTERVAL', 'P', 'BETTER'], ...rows]));
}

/** Two algorithms of one job; or, when both are folders of results, the job before and after. */
export function benchCompareCommand(a: string, b: string, options: BenchOptions): void {
  const job = options.job ?? '';
  const file = jobFile(job);
  const areFolders = [a, b].every((f) => existsSync(join(f, 'results.db')));
  if (areFolders) {
    const read = (folder: string): JobResults =>
      readResults(file, folder, { small: options.small ?? false, place: placeOf(options) });
    for (const c of compareResults(read(a).boards, read(b).boards)) printComparison(c);
  } else {
    for (const c of compareAlgorithms(resultsOf(job, options).results.boards, a, b))
      printComparison(c);
  }
  print('\nPaired t-test over the seeds both have; a tie is p ≥ 0.05.');
}
