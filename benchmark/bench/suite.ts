import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { type PlannedCase, planJob, runCase, runJob } from '../src/index.ts';
import { trivialJob } from '../test/trivial-job.ts';

/**
 * `npm run bench:suite`: what running a case in a process of its own costs over the bare library call, a
 * hundred cases that do next to nothing, and what the second core gives. Writes .cache/bench/suite.json.
 */
const REPEATS = 3;

const signal = new AbortController().signal;
const made: string[] = [];

function hundred(busyMs: number, count: number, withoutFiles = true): string {
  const noise = `[${Array.from({ length: count }, (_, i) => i).join(', ')}]`;
  const hyperparameters = busyMs > 0 ? { noise, busy: `[${busyMs}]` } : { noise };
  const { folder, job } = trivialJob({ seeds: [1], hyperparameters, withoutFiles });
  made.push(folder);
  return job;
}

async function bare(cases: readonly PlannedCase[]): Promise<number> {
  const options = { signal, environment: process.env, progress: () => undefined };
  const [first] = cases;
  if (first) await runCase(first, options);
  const startedAt = performance.now();
  for (const c of cases) await runCase(c, options);
  return (performance.now() - startedAt) / 1000 / cases.length;
}

async function whole(job: string, parallel: number): Promise<number> {
  const folder = join(job, '..', `results-${made.length}-${Math.random()}`);
  const { seconds, failed } = await runJob(await planJob(job), { folder, signal, parallel });
  const [broken] = failed;
  if (broken) throw new Error(broken.error);
  return seconds;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

const trivial = hundred(0, 100);
const few = hundred(0, 20);
const reading = hundred(0, 20, false);
const busy = hundred(1_500, 8);
await whole(few, 1); // fills the cache of compiled code
await whole(reading, 1);
const figures = {
  overhead: [] as number[],
  reading: [] as number[],
  hundred: [] as number[],
  speedUp: [] as number[],
};
for (let i = 0; i < REPEATS; i++) {
  const alone = await bare((await planJob(few)).cases);
  figures.overhead.push((await whole(few, 1)) / 20 - alone);
  figures.reading.push(
    (await whole(reading, 1)) / 20 - (await bare((await planJob(reading)).cases)),
  );
  figures.hundred.push(await whole(trivial, availableParallelism()));
  figures.speedUp.push((await whole(busy, 1)) / (await whole(busy, 2)));
}
const rows = [
  ['overhead of a case over the bare library call, s', figures.overhead, '≤ 0.5'],
  ['the same where the case loads @shoal/lib, s', figures.reading, '≤ 0.5'],
  [`100 trivial cases on ${availableParallelism()} cores, s`, figures.hundred, '≤ 30'],
  ['speed-up by the second core, cases of 1.5 s', figures.speedUp, '≥ 1.7'],
] as const;
for (const [name, values, target] of rows)
  console.log(
    `${name.padEnd(52)} median ${median(values).toFixed(2)}  min ${Math.min(...values).toFixed(2)}  target ${target}`,
  );
for (const folder of made) rmSync(folder, { recursive: true, force: true });
const out = join(import.meta.dirname, '../../.cache/bench');
mkdirSync(out, { recursive: true });
writeFileSync(join(out, 'suite.json'), JSON.stringify(figures, null, 2));
