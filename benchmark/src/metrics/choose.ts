import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { messageOf, ShoalError } from '@shoal/core';
import type { ParadigmName } from '../config/algorithm.ts';
import type { BenchmarkingJob } from '../config/benchmarking-job.ts';
import { suggestion } from '../config/nearest.ts';
import type { MetricChoice, TestEnv } from '../config/test-env.ts';
import { loadingFault } from '../plan/module-file.ts';
import { METRIC_ALIASES, METRICS } from './built-in.ts';
import { type Metric, UNITS, type UserMetric } from './metric.ts';

/** Ianvs's matrix is no figure; it is in every report. */
const MATRIX = 'matrix';

function builtIn(name: string): Metric | undefined {
  const lower = name.toLowerCase();
  return METRICS.find((m) => m.name === (METRIC_ALIASES[lower] ?? lower));
}

/** @throws ShoalError for what is neither a number nor undefined. */
function numberOf(value: unknown, name: string, url: string): number | undefined {
  if (value === undefined || typeof value === 'number') return value;
  throw new ShoalError(
    'invalid_argument',
    `metric "${name}": ${url}: compute returned ${JSON.stringify(value)}; return a number, or undefined where it says nothing`,
  );
}

async function userMetric(name: string, url: string): Promise<Metric> {
  if (!existsSync(url))
    throw new ShoalError('not_found', `metric "${name}": there is no file ${url}`);
  let exported: Readonly<Record<string, unknown>>;
  try {
    exported = (await import(pathToFileURL(url).href)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    const why = `metric "${name}" does not load: ${url}: ${messageOf(error)}`;
    throw new ShoalError('invalid_argument', why, { cause: error });
  }
  const found = (exported[name] ?? exported['default']) as Partial<UserMetric> | undefined;
  const { compute, direction, unit = 'value' } = found ?? {};
  if (typeof compute !== 'function' || (direction !== 'higher' && direction !== 'lower'))
    throw new ShoalError(
      'invalid_argument',
      `metric "${name}": ${url} must export {direction: 'higher' or 'lower', compute(observations)}`,
    );
  if (!UNITS.includes(unit))
    throw new ShoalError(
      'invalid_argument',
      `metric "${name}": ${url}: there is no unit "${String(unit)}"${suggestion(String(unit), UNITS)}; there are ${UNITS.join(', ')}`,
    );
  return { name, unit, direction, compute: (o) => numberOf(compute(o), name, url) };
}

function unknownMetric(where: string, name: string, known: readonly string[]): never {
  throw new ShoalError(
    'invalid_argument',
    `${where}: there is no metric "${name}"${suggestion(name, known)}`,
  );
}

/** The metrics of a test environment. @throws ShoalError for a name that is not known. */
export async function chooseMetrics(
  choices: readonly MetricChoice[],
): Promise<(Metric & { readonly target?: number })[]> {
  const chosen: (Metric & { readonly target?: number })[] = [];
  for (const { name, url, target } of choices) {
    if (name.toLowerCase() === MATRIX) continue;
    if (url !== undefined && builtIn(name))
      throw new ShoalError(
        'invalid_argument',
        `metrics: "${name}" is the name of a metric of the suite; call yours something else`,
      );
    const metric = url === undefined ? builtIn(name) : await userMetric(name, url);
    if (!metric)
      unknownMetric(
        'metrics',
        name,
        METRICS.map((m) => m.name),
      );
    if (metric.needsTarget && target === undefined)
      throw new ShoalError(
        'invalid_argument',
        `metrics: ${metric.name} needs target, the score that is to be reached`,
      );
    if (chosen.some((c) => c.name === metric.name))
      throw new ShoalError('invalid_argument', `metrics: ${metric.name} is given twice`);
    chosen.push(target === undefined ? metric : { ...metric, target });
  }
  return chosen;
}

/** Files of metrics may be anything: they are tried in a process of their own first. */
async function requireLoadable(choices: readonly MetricChoice[]): Promise<void> {
  for (const { name, url } of choices) {
    const fault = url !== undefined && existsSync(url) ? await loadingFault(url) : undefined;
    if (fault !== undefined)
      throw new ShoalError('invalid_argument', `metric "${name}" does not load: ${url}: ${fault}`);
  }
}

/**
 * Whether the metrics fit the paradigm, and the ranking fits the metrics.
 *
 * @returns Files of the user's metrics.
 */
export async function checkMetrics(
  testEnv: TestEnv,
  paradigm: ParadigmName,
  job: BenchmarkingJob,
): Promise<string[]> {
  await requireLoadable(testEnv.metrics);
  const metrics = await chooseMetrics(testEnv.metrics);
  const names = metrics.map((m) => m.name);
  const stranger = metrics.find((m) => m.paradigms && !m.paradigms.includes(paradigm));
  if (stranger)
    throw new ShoalError(
      'invalid_argument',
      `${job.testenv}: metric ${stranger.name} says nothing about ${paradigm}; it is for ${stranger.paradigms?.join(', ')}`,
    );
  for (const name of job.rank.sortBy) {
    const metric = metrics.find((m) => m.name === (builtIn(name)?.name ?? name));
    if (!metric) unknownMetric(`${job.file}: rank.sort_by`, name, names);
    const claimed = job.rank.claimed[name];
    const best = metric.direction === 'higher' ? 'descend' : 'ascend';
    if (claimed !== undefined && claimed !== best)
      throw new ShoalError(
        'invalid_argument',
        `${job.file}: rank.sort_by: ${name} is better when ${metric.direction}; ${claimed} would put the worst first. Write ${name}: ${best}`,
      );
  }
  for (const name of job.rank.metrics)
    if (
      name !== 'all' &&
      name.toLowerCase() !== MATRIX &&
      !names.includes(builtIn(name)?.name ?? name)
    )
      unknownMetric(`${job.file}: rank.selected_dataitem.metrics`, name, names);
  return testEnv.metrics.flatMap((m) => m.url ?? []);
}

/** The name under which a metric's figures are kept. */
export function metricName(name: string): string {
  return builtIn(name)?.name ?? name;
}
