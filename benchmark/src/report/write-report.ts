import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fromNode, ShoalError } from '@shoal/core';
import { readBenchmarkingJob } from '../config/benchmarking-job.ts';
import { type Leaderboard, leaderboards } from '../rank/leaderboard.ts';
import { jobDigest, type Provenance } from '../runs/provenance.ts';
import { PROCESS } from '../runs/run-job.ts';
import { type CaseRecord, RunStore } from '../runs/store.ts';
import { toHtml } from './html.ts';
import { writeMlflow } from './mlflow.ts';
import { toCsv, toMarkdown, toMeasurementsJson, toResultsJson } from './text-files.ts';

/** Results of a job's newest run. */
export interface JobResults {
  readonly job: string;
  readonly boards: readonly Leaderboard[];
  readonly records: readonly CaseRecord[];
  readonly provenance: Provenance;
  /** Cases of the run that have not ended yet. */
  readonly missing: number;
}

/**
 * Reads what the newest run of a job left behind.
 *
 * @param folder Folder of the job's results.
 * @throws ShoalError `not_found` before the first run.
 */
export function readResults(
  jobFile: string,
  folder: string,
  options: { readonly small?: boolean; readonly place?: string } = {},
): JobResults {
  const { small = false, place = PROCESS } = options;
  const job = readBenchmarkingJob(jobFile, small);
  const store = RunStore.open(folder);
  try {
    const run = store.latest(place);
    if (!run)
      throw new ShoalError(
        'not_found',
        `${job.name} has not run yet; run it with: shoal bench run ${jobFile}`,
      );
    if (run.provenance.job !== jobDigest(jobFile))
      throw new ShoalError(
        'failed_precondition',
        `${folder} holds results of another file with a job called "${job.name}"; run this one first, in another --workspace`,
      );
    const records = run.cases.flatMap((id) => store.get(id, place) ?? []);
    return {
      job: job.name,
      boards: leaderboards(records, job.rank),
      records,
      provenance: run.provenance,
      missing: run.cases.length - records.length,
    };
  } finally {
    store.close();
  }
}

export const REPORT_FORMATS = ['html', 'csv', 'markdown', 'json', 'mlflow'] as const;
export type ReportFormat = (typeof REPORT_FORMATS)[number];

function put(path: string, text: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(`${path}.tmp`, text);
    renameSync(`${path}.tmp`, path);
  } catch (error) {
    throw fromNode(error, `writing ${path}`);
  }
}

/** Writes reports into a folder. @returns The files, or folders. */
export function writeReports(
  results: JobResults,
  folder: string,
  formats: readonly ReportFormat[],
): string[] {
  const { job, boards, records, provenance, missing } = results;
  const written: string[] = [];
  const file = (name: string, text: string): void => {
    put(join(folder, name), text);
    written.push(join(folder, name));
  };
  for (const format of formats) {
    switch (format) {
      case 'html':
        file('leaderboard.html', toHtml(job, boards, provenance, missing));
        break;
      case 'csv':
        file('leaderboard.csv', toCsv(boards));
        break;
      case 'markdown':
        file('leaderboard.md', toMarkdown(job, boards, missing));
        break;
      case 'json':
        file('results.json', toResultsJson(job, boards, missing));
        file('measurements.json', toMeasurementsJson(records, provenance));
        break;
      case 'mlflow':
        writeMlflow(join(folder, 'mlruns'), job, records, provenance);
        written.push(join(folder, 'mlruns'));
        break;
    }
  }
  return written;
}
