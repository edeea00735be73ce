import { fork } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { PLANTED_BUGS, plant } from './planted-bugs.ts';
import type { RunFigures } from './world.ts';

const HELP = `Deterministic simulation of EdgeLink: both ends as they run in production, under a virtual clock,
network and disk, with seeded faults. A promise that is broken names its seed.

  npm run simulate -- --seeds 2000           many seeds
  npm run simulate -- --seed 1234            one seed again, with everything that happened
  npm run simulate -- --seeds 300 --plant "a gap in the feed is passed over"
  npm run simulate -- --bugs                 the bugs that can be planted

  --from N       first seed (1)
  --workers N    processes (one per core)
  --json FILE    figures as JSON
`;

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '500' },
    from: { type: 'string', default: '1' },
    workers: { type: 'string', default: String(Math.min(8, availableParallelism())) },
    plant: { type: 'string' },
    bugs: { type: 'boolean', default: false },
    json: { type: 'string' },
    quiet: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
    worker: { type: 'string' },
  },
});

interface Summary {
  seeds: number;
  events: number;
  frames: number;
  virtualHours: number;
  faults: Record<string, number>;
  violations: { seed: number; violation: string }[];
}

function emptySummary(): Summary {
  return { seeds: 0, events: 0, frames: 0, virtualHours: 0, faults: {}, violations: [] };
}

function add(summary: Summary, run: RunFigures): void {
  summary.seeds++;
  summary.events += run.events;
  summary.frames += run.frames;
  summary.virtualHours += run.virtualMs / 3_600_000;
  for (const [fault, n] of Object.entries(run.faults))
    summary.faults[fault] = (summary.faults[fault] ?? 0) + n;
  if (run.violation !== undefined)
    summary.violations.push({ seed: run.seed, violation: run.violation });
}

/** Seeds of one worker process; stops at the first violation when a bug was planted. */
async function work(from: number, count: number, step: number): Promise<Summary> {
  const { World } = await import('./world.ts');
  const summary = emptySummary();
  for (let i = 0; i < count; i += step) {
    add(summary, await new World(from + i).run());
    process.send?.({ done: summary.seeds });
    if (values.plant !== undefined && summary.violations.length > 0) break;
  }
  return summary;
}

/** Runs seeds in several processes. */
async function spread(from: number, count: number, workers: number): Promise<Summary> {
  const total = emptySummary();
  const done = Array.from({ length: workers }, () => 0);
  const startedAt = performance.now();
  let shownAt = 0;
  await Promise.all(
    done.map(
      (_n, worker) =>
        new Promise<void>((resolve, reject) => {
          const args = [
            '--worker',
            JSON.stringify({ from: from + worker, count: count - worker, step: workers }),
          ];
          const child = fork(
            import.meta.filename,
            values.plant === undefined ? args : [...args, '--plant', values.plant],
          );
          child.on('message', (message: { done?: number; summary?: Summary }) => {
            if (message.done !== undefined) done[worker] = message.done;
            if (message.summary) merge(total, message.summary);
            const now = performance.now();
            if (values.quiet || now - shownAt < 2_000 || !process.stderr.isTTY) return;
            shownAt = now;
            const seeds = done.reduce((a, b) => a + b, 0);
            process.stderr.write(
              `\r${seeds} of ${count} seeds, ${Math.round((seeds / (now - startedAt)) * 60_000)} a minute `,
            );
          });
          child.on('exit', (code) => {
            if (code === 0) resolve();
            else reject(new Error(`a worker ended with ${code}`));
          });
        }),
    ),
  );
  if (process.stderr.isTTY && !values.quiet) process.stderr.write('\n');
  return total;
}

function merge(total: Summary, part: Summary): void {
  total.seeds += part.seeds;
  total.events += part.events;
  total.frames += part.frames;
  total.virtualHours += part.virtualHours;
  for (const [fault, n] of Object.entries(part.faults))
    total.faults[fault] = (total.faults[fault] ?? 0) + n;
  total.violations.push(...part.violations);
}

function report(summary: Summary, seconds: number): void {
  for (const { seed, violation } of summary.violations
    .toSorted((a, b) => a.seed - b.seed)
    .slice(0, 10))
    console.log(`seed ${seed}: ${violation}\n  again: npm run simulate -- --seed ${seed}`);
  if (!values.quiet)
    for (const [fault, n] of Object.entries(summary.faults).toSorted(([, a], [, b]) => b - a))
      console.log(`${String(n).padStart(8)}  ${fault}`);
  console.log(
    `${summary.seeds} seeds, ${summary.violations.length} violations; ${summary.virtualHours.toFixed(0)} virtual hours, ${summary.frames} frames, ${summary.events} events in ${seconds.toFixed(1)} s: ${Math.round((summary.seeds / seconds) * 60)} seeds a minute`,
  );
}

if (values.worker !== undefined) {
  if (values.plant !== undefined) plant(values.plant);
  const { from, count, step } = JSON.parse(values.worker) as Record<
    'from' | 'count' | 'step',
    number
  >;
  process.send?.({ summary: await work(from, count, step) });
  process.disconnect();
} else if (values.help) console.log(HELP);
else if (values.bugs) console.log(Object.keys(PLANTED_BUGS).join('\n'));
else {
  if (values.plant !== undefined) plant(values.plant);
  if (values.seed !== undefined) process.env['SIMULATE_TRACE'] = '1';
  const startedAt = performance.now();
  const count = Number(values.seeds);
  const summary =
    values.seed === undefined
      ? await spread(Number(values.from), count, Math.min(count, Number(values.workers)))
      : await work(Number(values.seed), 1, 1);
  const seconds = (performance.now() - startedAt) / 1_000;
  report(summary, seconds);
  if (values.json !== undefined) {
    mkdirSync(dirname(values.json), { recursive: true });
    writeFileSync(
      values.json,
      JSON.stringify(
        { ...summary, seconds, seedsPerMinute: (summary.seeds / seconds) * 60 },
        null,
        2,
      ),
    );
  }
  process.exitCode = summary.violations.length > 0 ? 1 : 0;
}
