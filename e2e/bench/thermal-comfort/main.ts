import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { byCity, loadRows } from './data.ts';
import { type Scores, sequenceOfCities, withSensationSign } from './sequence.ts';
import { interval, pairedGain, percent } from './statistics.ts';
import { allCities, newCity } from './trees.ts';

/**
 * `npm run bench:thermal-comfort [sequence] [all] [new] [kota]`: the protocol of
 * docs/benchmarks/lifelong.md on the ASHRAE database. One process per core works through the list of
 * experiments; every seed of each is one.
 */
type Experiment = 'sequence' | 'all' | 'new' | 'kota' | 'kota-sensation';

interface Task {
  readonly experiment: Experiment;
  readonly seed: number;
  readonly city: string;
}

type Outcome = Record<string, number | Scores>;

const SEEDS = [0, 1, 2, 3, 4];
const KOTA = 'kota kinabalu';
const LABELS = 300;

async function perform(task: Task, rows: ReturnType<typeof loadRows>): Promise<Outcome> {
  const { experiment, seed, city } = task;
  switch (experiment) {
    case 'sequence':
      return await sequenceOfCities(rows, seed);
    case 'all':
      return allCities(rows, seed);
    case 'new':
    case 'kota':
      return newCity(rows, city, { seed, labels: LABELS });
    case 'kota-sensation':
      return newCity(withSensationSign(rows), city, { seed, labels: LABELS });
  }
}

async function work(): Promise<void> {
  const rows = loadRows();
  process.on('message', (task: Task) => {
    void perform(task, rows).then((outcome) => process.send?.({ task, outcome }));
  });
  process.send?.('ready');
  await new Promise((resolve) => process.once('disconnect', resolve));
}

/** Runs tasks on all cores; the order of results is that of the tasks. */
async function spread(tasks: readonly Task[]): Promise<Outcome[]> {
  const results: Outcome[] = [];
  let next = 0;
  let done = 0;
  const startedAt = Date.now();
  const one = async (): Promise<void> => {
    const child = fork(import.meta.filename, ['--worker']);
    await new Promise<void>((resolve, reject) => {
      let current = -1;
      const more = (): void => {
        current = next++;
        const task = tasks[current];
        if (task) child.send(task);
        else {
          child.disconnect();
          resolve();
        }
      };
      child.on('error', reject);
      child.on('exit', (code) => code !== 0 && reject(new Error(`a worker ended with ${code}`)));
      child.on('message', (message: 'ready' | { outcome: Outcome }) => {
        if (message !== 'ready') {
          results[current] = message.outcome;
          done++;
          const minutes = (Date.now() - startedAt) / 60_000;
          process.stderr.write(`\r${done} of ${tasks.length}, ${minutes.toFixed(1)} min `);
        }
        more();
      });
    });
  };
  await Promise.all(Array.from({ length: Math.min(tasks.length, availableParallelism()) }, one));
  process.stderr.write('\n');
  return results;
}

/** Accuracy of each way, one value per seed. */
function accuracies(outcomes: readonly Outcome[]): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const outcome of outcomes) {
    for (const [name, value] of Object.entries(outcome)) {
      const accuracy = typeof value === 'number' ? value : value.accuracy;
      found.set(name, [...(found.get(name) ?? []), accuracy]);
    }
  }
  return found;
}

function report(title: string, ways: ReadonlyMap<string, readonly number[]>): object {
  console.log(`\n${title}`);
  const ours = ways.get('knowledge base') ?? [];
  const table: Record<string, object> = {};
  for (const [name, values] of ways) {
    const { mean, half } = interval(values);
    const gain = name === 'knowledge base' ? undefined : pairedGain(ours, values);
    const beside = gain ? `   knowledge base against it ${percent(gain)}` : '';
    console.log(`  ${name.padEnd(24)} ${mean.toFixed(4)} ± ${half.toFixed(4)}${beside}`);
    table[name] = { mean, half, values, ...(gain ? { gain } : {}) };
  }
  return table;
}

async function main(): Promise<void> {
  const asked = process.argv.slice(2);
  const wants = (name: string): boolean => asked.length === 0 || asked.includes(name);
  const rows = loadRows();
  const counts = [...byCity(rows, rows.cities.keys())].map(([c, p]) => [c, p.length] as const);
  const cities = counts
    .filter(([c, n]) => n >= 500 && c !== KOTA)
    .toSorted((a, b) => b[1] - a[1])
    .slice(0, 40)
    .map(([c]) => c);
  console.log(`${rows.size} rows, ${counts.length} cities, ${rows.names.length} features`);
  const written: Record<string, object> = {};
  const run = async (experiment: Experiment, title: string, seeds: number[]): Promise<void> => {
    const outcomes = await spread(seeds.map((seed) => ({ experiment, seed, city: KOTA })));
    written[experiment] = report(title, accuracies(outcomes));
  };
  if (wants('sequence'))
    await run('sequence', 'Cities one after another, network, accuracy on all cities', SEEDS);
  if (wants('all')) await run('all', 'All cities at once, trees', SEEDS);
  if (wants('new')) {
    const tasks = SEEDS.flatMap((seed) =>
      cities.map((city): Task => ({ experiment: 'new', seed, city })),
    );
    const outcomes = await spread(tasks);
    // Mean over cities within a seed; the interval is over seeds.
    const ways = new Map<string, number[]>();
    for (const [s] of SEEDS.entries()) {
      const own = accuracies(outcomes.slice(s * cities.length, (s + 1) * cities.length));
      for (const [name, values] of own)
        ways.set(name, [...(ways.get(name) ?? []), interval(values).mean]);
    }
    written['new'] = report(`${cities.length} new cities, ${LABELS} labels each, trees`, ways);
  }
  if (wants('kota')) {
    const ten = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    await run('kota', `Kota Kinabalu as a new city, preference, ${LABELS} labels`, ten);
    await run('kota-sensation', 'Kota Kinabalu, sign of the sensation vote', ten);
  }
  console.log(JSON.stringify(written));
}

if (process.argv.includes('--worker')) await work();
else await main();
