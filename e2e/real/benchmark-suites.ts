import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suiteNames } from '@shoal/benchmark';
import { type Browser, chromium } from 'playwright-core';
import { findChromium } from './chromium.ts';
import { has, type Outcome, type Run, run } from './outcome.ts';

const MAIN = join(import.meta.dirname, '../../cli/src/main.ts');
const SUITES = join(import.meta.dirname, '../../benchmark/suites');
const SUITE_MS = 240_000;

interface Row {
  readonly algorithm: string;
  readonly hyperparameters: Readonly<Record<string, unknown>>;
  readonly cases: readonly {
    readonly state: string;
    readonly seed: number;
    readonly metrics?: Readonly<Record<string, number | null>>;
  }[];
}

interface Results {
  readonly leaderboards: readonly { readonly rows: readonly Row[] }[];
}

function shoal(folder: string, ...args: string[]): Run {
  return run(process.execPath, [MAIN, '--folder', folder, 'bench', ...args], {
    timeoutMs: SUITE_MS,
  });
}

function resultsOf(folder: string, job: string, ...more: string[]): Row[] {
  const out = join(folder, 'out');
  shoal(folder, 'report', job, ...more, '--format', 'json', '--out', out);
  const results = JSON.parse(readFileSync(join(out, 'results.json'), 'utf8')) as Results;
  return results.leaderboards.flatMap((b) => b.rows);
}

function mean(rows: readonly Row[], algorithm: string, metric: string): number {
  const values = rows
    .filter((r) => r.algorithm === algorithm)
    .flatMap((r) => r.cases.flatMap((c) => c.metrics?.[metric] ?? []));
  return values.reduce((a, b) => a + b, 0) / values.length;
}

/** What must hold of a suite however small it is run: [better, worse, metric]. */
const BRACKETS: Readonly<Record<string, readonly (readonly [string, string, string])[]>> = {
  'joint-inference/digits': [
    ['cloud only', 'edge only', 'accuracy'],
    ['oracle', 'edge only', 'accuracy'],
  ],
  'incremental/drifting-digits': [['all labelled', 'never updated', 'accuracy']],
  'federated/heart-disease': [['pooled data', 'each alone', 'accuracy']],
  'federated/digits': [['pooled data', 'each alone', 'accuracy']],
  'lifelong/digits': [['knowledge base', 'fine-tuning', 'acc']],
  'lifelong/thermal-comfort': [['knowledge base', 'fine-tuning', 'acc']],
  'multi-edge/pipeline': [['pipeline', 'one box', 'throughput']],
};

function suite(folder: string, name: string): Outcome {
  const title = `suite ${name} in its small form`;
  const { code, stderr } = shoal(folder, 'run', name, '--small');
  if (code !== 0) return { name: title, result: 'failed', detail: stderr.slice(-1_000) };
  const rows = resultsOf(folder, name, '--small');
  const broken = (BRACKETS[name] ?? []).filter(
    ([better, worse, metric]) => !(mean(rows, better, metric) > mean(rows, worse, metric)),
  );
  const detail = broken.map(
    ([better, worse, metric]) =>
      `${metric}: ${better} ${mean(rows, better, metric)} is not above ${worse} ${mean(rows, worse, metric)}`,
  );
  return {
    name: title,
    result: broken.length > 0 ? 'failed' : 'passed',
    detail: detail.join('; '),
  };
}

/** The report as a reader meets it: it sorts, it has its plots, and it asks nobody for anything. */
async function page(browser: Browser, folder: string, job: string): Promise<Outcome> {
  const name = `the report of ${job} in Chromium`;
  const out = join(folder, 'page');
  shoal(folder, 'report', job, '--small', '--format', 'html', '--out', out);
  const tab = await browser.newPage();
  const complaints: string[] = [];
  tab.on('console', (m) => {
    if (m.type() === 'error') complaints.push(m.text());
  });
  tab.on('pageerror', (e) => complaints.push(String(e)));
  tab.on('request', (r) => {
    if (!r.url().startsWith('file:')) complaints.push(`it asks for ${r.url()}`);
  });
  await tab.goto(`file://${join(out, 'leaderboard.html')}`);
  const column = 'table.sortable tbody tr td:nth-child(3)';
  const values = async (): Promise<number[]> =>
    (await tab
      .locator(column)
      .evaluateAll((cells) =>
        cells.map((c) => Number((c as unknown as { dataset: { value: string } }).dataset.value)),
      )) as number[];
  const head = tab.locator('table.sortable th button').nth(2);
  await head.click();
  const up = await values();
  await head.click();
  const down = await values();
  const sorted = up.toSorted((a, b) => a - b);
  if (JSON.stringify(up) !== JSON.stringify(sorted)) complaints.push(`not sorted: ${up.join(' ')}`);
  if (JSON.stringify(down) !== JSON.stringify(sorted.toReversed()))
    complaints.push(`not turned round: ${down.join(' ')}`);
  const plots = await tab.locator('figure svg').count();
  if (plots < 2) complaints.push(`${plots} plots`);
  const visible = await tab.locator('figure svg').first().boundingBox();
  if (!visible || visible.width < 200) complaints.push('the first plot cannot be seen');
  await tab.close();
  return {
    name,
    result: complaints.length > 0 ? 'failed' : 'passed',
    detail: complaints.join('; ') || `${up.length} rows, ${plots} plots`,
  };
}

async function pages(folder: string): Promise<Outcome[]> {
  const executablePath = findChromium();
  const jobs = ['federated/heart-disease', 'lifelong/digits'];
  if (executablePath === undefined)
    return jobs.map((job) => ({
      name: `the report of ${job} in Chromium`,
      result: 'skipped',
      detail: 'no Chromium is here, and none can be installed',
    }));
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  try {
    const outcomes: Outcome[] = [];
    for (const job of jobs) outcomes.push(await page(browser, folder, job));
    return outcomes;
  } finally {
    await browser.close();
  }
}

const READ_MLFLOW = `
import sys, json
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri="file://" + sys.argv[1])
[experiment] = client.search_experiments(filter_string="name = '" + sys.argv[2] + "'")
runs = client.search_runs([experiment.experiment_id], max_results=1000)
print(json.dumps([[r.data.params["algorithm"], r.data.params["seed"], r.data.metrics["accuracy"],
  len(client.get_metric_history(r.info.run_id, "course")), r.info.status] for r in runs]))`;

/** What MLflow itself reads of the export. */
function mlflow(folder: string): Outcome {
  const name = 'MLflow reads the export: every case, its parameters, metrics and course';
  const job = 'federated/heart-disease';
  if (!has('python3', '--version')) return { name, result: 'skipped', detail: 'no python3' };
  const site = join(folder, 'site');
  if (!has('python3', '-c', 'import mlflow'))
    run('python3', ['-m', 'pip', 'install', '-q', '--target', site, 'mlflow-skinny'], {
      timeoutMs: 240_000,
    });
  const env = { PYTHONPATH: site, MLFLOW_ALLOW_FILE_STORE: 'true' };
  if (run('python3', ['-c', 'import mlflow'], { env }).code !== 0)
    return {
      name,
      result: 'skipped',
      detail: 'the Python package mlflow-skinny cannot be installed',
    };
  const out = join(folder, 'mlflow');
  shoal(folder, 'report', job, '--small', '--format', 'mlflow', '--out', out);
  const { code, stdout, stderr } = run(
    'python3',
    ['-c', READ_MLFLOW, join(out, 'mlruns'), `${job}-small`],
    { env, timeoutMs: 120_000 },
  );
  if (code !== 0) return { name, result: 'failed', detail: stderr.slice(-1_000) };
  const read = JSON.parse(stdout) as [string, string, number, number, string][];
  const rows = resultsOf(folder, job, '--small');
  const wrong = rows.flatMap((row) =>
    row.cases.filter((c) => {
      const twin = read.find(([a, s]) => a === row.algorithm && s === String(c.seed));
      return !twin || Math.abs(twin[2] - (c.metrics?.['accuracy'] ?? 0)) > 1e-12;
    }),
  );
  const courses = read.filter(([a, , , points]) => a === 'FedAvg' && points === 5).length;
  const ok = wrong.length === 0 && courses === 2;
  return { name, result: ok ? 'passed' : 'failed', detail: `${read.length} runs` };
}

interface Twin {
  readonly name: string;
  /** Files of a suite, or texts. */
  readonly environment: string;
  readonly algorithm: string;
  /** Metrics that must be the same, at least. */
  readonly figures: number;
}

const DIGITS = `
  dataset:
    url: ${join(SUITES, 'shared/digits.ts')}
    hyperparameters: { source: generated, train: 400, test: 100 }`;

const TWINS: readonly Twin[] = [
  {
    name: 'federated/heart-disease/scaffold',
    environment: join(SUITES, 'federated/heart-disease/testenv-small.yaml'),
    algorithm: join(SUITES, 'federated/heart-disease/scaffold.yaml'),
    figures: 4,
  },
  {
    name: 'incremental/drifting-digits/forgetful',
    environment: join(SUITES, 'incremental/drifting-digits/testenv-small.yaml'),
    algorithm: join(SUITES, 'incremental/drifting-digits/forgetful.yaml'),
    figures: 4,
  },
  {
    name: 'multi-edge/pipeline',
    environment: join(SUITES, 'multi-edge/pipeline/testenv-small.yaml'),
    algorithm: join(SUITES, 'multi-edge/pipeline/pipeline.yaml'),
    figures: 4,
  },
  {
    name: 'single task',
    environment: `testenv:${DIGITS}
  metrics: [accuracy, f1_macro, f1_micro, wall_time]`,
    algorithm: `algorithm:
  paradigm_type: singletasklearning
  modules:
    - type: basemodel
      name: digitClassifier
      url: ${join(SUITES, 'shared/networks.ts')}
      hyperparameters: { size: big, epochs: 2 }`,
    figures: 3,
  },
  {
    name: 'federated class-incremental',
    environment: `testenv:${DIGITS}
  client_number: 3
  round: 3
  incremental_rounds: 2
  metrics: [accuracy, acc, bwt, forgetting, bytes_up, bytes_down]`,
    algorithm: `algorithm:
  paradigm_type: federatedclassincrementallearning
  federation: { local_epochs: 1, batch_size: 16, learning_rate: 0.1, memory_per_class: 10 }
  fl_data_setting: { label_data_ratio: 0.5 }
  modules:
    - { type: basemodel, name: federatedDigits, url: ${join(SUITES, 'shared/federated-digits.ts')} }
    - { type: aggregation, name: FedAvg }`,
    figures: 6,
  },
];

/** A file of a suite, or one with the text. */
function fileOf(folder: string, name: string, text: string): string {
  if (!text.includes('\n')) return text;
  const file = join(folder, name);
  writeFileSync(file, `${text}\n`);
  return file;
}

/** Figures of a job with one algorithm, as a list: `accuracy 0.9`. */
function figuresOf(folder: string, job: string, place: string): Map<string, number> {
  const figures = new Map<string, number>();
  // Virtual times are only known to a process.
  for (const { hyperparameters, cases } of resultsOf(folder, job, '--on', place))
    for (const [metric, value] of Object.entries(cases[0]?.metrics ?? {}))
      if (value !== null) figures.set(`${metric} ${JSON.stringify(hyperparameters)}`, value);
  return figures;
}

/** The same cases in processes and as real jobs on the embedded cluster. */
function twins(folder: string): Outcome[] {
  return TWINS.map((twin, i): Outcome => {
    const name = `${twin.name}: real jobs on the cluster reach what a process reaches`;
    const environment = fileOf(folder, `environment-${i}.yaml`, twin.environment);
    const algorithm = fileOf(folder, `algorithm-${i}.yaml`, twin.algorithm);
    const job = join(folder, `twins-${i}.yaml`);
    writeFileSync(
      job,
      `benchmarkingjob:
  name: twins-${i}
  testenv: ${environment}
  seeds: [1]
  test_object:
    type: algorithms
    algorithms: [{ name: twin, url: ${algorithm} }]
`,
    );
    for (const place of ['process', 'cluster']) {
      const { code, stderr } = shoal(folder, 'run', job, '--on', place);
      if (code !== 0) return { name, result: 'failed', detail: stderr.slice(-1_000) };
    }
    const here = figuresOf(folder, job, 'process');
    const there = [...figuresOf(folder, job, 'cluster')];
    const apart = there.filter(
      ([metric, value]) =>
        Math.abs(value - (here.get(metric) ?? Number.NaN)) > 0.01 * Math.max(1, Math.abs(value)),
    );
    const detail = apart.map(([metric, value]) => `${metric}: ${here.get(metric)} and ${value}`);
    const ok = apart.length === 0 && there.length >= twin.figures;
    return {
      name,
      result: ok ? 'passed' : 'failed',
      detail: detail.join('; ') || `${there.length} figures`,
    };
  });
}

/** Every shipped suite in its small form, its report in a browser and in MLflow, and on the cluster. */
export async function benchmarkSuites(): Promise<Outcome[]> {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-suites-'));
  try {
    return [
      ...suiteNames().map((name) => suite(folder, name)),
      ...(await pages(folder)),
      mlflow(folder),
      ...twins(folder),
    ];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
