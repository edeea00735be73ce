import { ShoalError } from '@shoal/core';
import {
  type DataKind,
  EXAMPLES,
  type Example,
  type ExampleContext,
  type ExampleResult,
  type ResultRow,
} from '@shoal/examples';
import { EmbeddedCluster } from '../embedded/embedded-cluster.ts';
import { type ClusterState, type Layout, layoutOf } from '../embedded/layout.ts';
import { runningState } from '../embedded/lock.ts';
import { ProgressView } from '../terminal/progress.ts';
import { styled } from '../terminal/style.ts';
import { renderTable } from '../terminal/table.ts';
import { untilInterrupted } from './cluster.ts';
import { localAccess } from './cluster-access.ts';
import { connectTo } from './context.ts';
import { Resources } from './resources.ts';

export interface RunOptions {
  readonly folder: string;
  readonly data: string;
  readonly json?: boolean;
}

/** Examples a name stands for; `all` is every one. @throws ShoalError `not_found` listing them. */
function chosen(name: string): readonly Example[] {
  if (name === 'all') return EXAMPLES.filter((e) => !e.isExtra);
  const found = EXAMPLES.filter((e) => e.name === name);
  if (found.length > 0) return found;
  throw new ShoalError(
    'not_found',
    `no example "${name}"; there are: all, ${EXAMPLES.map((e) => e.name).join(', ')}`,
  );
}

const DATA: readonly DataKind[] = ['generated', 'mnist', 'ashrae', 'heart-disease'];

/** Data for an example; of several, those that do not know it run on generated data. */
function dataChoice(data: string, example: Example, alone: boolean): DataKind {
  const kind = DATA.find((d) => d === data);
  if (kind && example.data.includes(kind)) return kind;
  if (kind && !alone) return 'generated';
  throw new ShoalError(
    'invalid_argument',
    `--data for ${example.name} must be one of ${example.data.join(', ')}, got "${data}"`,
  );
}

function contextFor(parts: {
  layout: Layout;
  state: ClusterState;
  resources: Resources;
  view: ProgressView;
  signal: AbortSignal;
  data: DataKind;
  readonly isShort: boolean;
}): ExampleContext {
  const { layout, state, resources, view, signal, data, isShort } = parts;
  return {
    ...localAccess(layout, state, resources),
    data,
    isShort,
    signal,
    stage: (text) => view.stage(text),
    progress: (share, text) => view.progress(share, text),
  };
}

function printed({ value, unit }: ResultRow): string {
  switch (unit) {
    case 'share':
      return `${(value * 100).toFixed(1)} %`;
    case 'ms':
      return `${value.toFixed(2)} ms`;
    case 'seconds':
      return `${value.toFixed(1)} s`;
    case 'points':
      return `${value >= 0 ? '+' : ''}${value.toFixed(1)} points`;
    case 'count':
      return String(value);
  }
}

function printResults(results: readonly ExampleResult[]): void {
  for (const result of results) {
    const title = EXAMPLES.find((e) => e.name === result.example)?.title ?? result.example;
    process.stdout.write(`\n${styled('bold', title)}  (${result.data} data)\n`);
    const rows = result.rows.map((r) => [r.measure, printed(r), r.note ?? '']);
    process.stdout.write(`${renderTable([['MEASURE', 'VALUE', ''], ...rows])}\n`);
    for (const [way, matrix] of Object.entries(result.matrices ?? {})) {
      const cells = matrix.map((r, i) => [
        `after task ${i + 1}`,
        ...r.map((v) => (v * 100).toFixed(0)),
      ]);
      const head = ['R[i][j] in %', ...matrix.map((_, j) => `task ${j + 1}`)];
      process.stdout.write(`\n${way}\n${renderTable([head, ...cells])}\n`);
    }
    for (const file of result.files ?? []) process.stdout.write(`picture: ${file}\n`);
  }
}

function secondsSince(startedAt: number): number {
  return Number(((performance.now() - startedAt) / 1000).toFixed(1));
}

/** Runs examples on the folder's cluster, or on one of its own that ends with them. */
export async function runCommand(name: string, options: RunOptions): Promise<void> {
  const examples = chosen(name);
  const alone = examples.length === 1;
  const chosenData = examples.map((e) => dataChoice(options.data, e, alone));
  const layout = layoutOf(options.folder);
  const { signal } = untilInterrupted();
  const view = new ProgressView();
  const running = runningState(layout);
  const own = running
    ? undefined
    : await EmbeddedCluster.start({
        layout,
        edges: 2,
        onStep: (t) => view.stage(t),
        signal,
      }).finally(() => view.finish());
  const state = running ?? own?.state;
  if (!state) throw new Error('no cluster');
  const client = connectTo(state);
  const results: (ExampleResult & { readonly seconds: number })[] = [];
  const startedAt = performance.now();
  try {
    for (const [i, example] of examples.entries()) {
      const data = chosenData[i] ?? 'generated';
      process.stderr.write(`\n${styled('bold', example.title, process.stderr)}\n`);
      const began = performance.now();
      const context = contextFor({
        layout,
        state,
        resources: new Resources(client),
        view,
        signal,
        data,
        isShort: !alone,
      });
      results.push({ ...(await example.run(context)), seconds: secondsSince(began) });
      view.finish();
    }
  } finally {
    view.finish();
    client.close();
    await own?.stop();
  }
  if (!options.json) printResults(results);
  const seconds = secondsSince(startedAt);
  process.stdout.write(`\n${JSON.stringify({ results, seconds })}\n`);
}
