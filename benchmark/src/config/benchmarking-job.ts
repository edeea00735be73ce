import { dirname, resolve } from 'node:path';
import { ConfigFile, ConfigNode } from './config-node.ts';

/** What the leaderboard is sorted by and shows. */
export interface RankOptions {
  /** Metrics, the most important first; each sorts in the direction it declares. */
  readonly sortBy: readonly string[];
  /** Direction somebody wrote beside a metric, to be held against the metric's own. */
  readonly claimed: Readonly<Record<string, 'ascend' | 'descend'>>;
  /** Names, or `all`. */
  readonly metrics: readonly string[];
  readonly hyperparameters: readonly string[];
}

export interface AlgorithmChoice {
  readonly name: string;
  readonly file: string;
}

/** `benchmarkingjob`: what is compared, where, how often. Paths are absolute. */
export interface BenchmarkingJob {
  readonly name: string;
  readonly file: string;
  /** Folder for results; undefined: the caller's. */
  readonly workspace: string | undefined;
  readonly testenv: string;
  readonly algorithms: readonly AlgorithmChoice[];
  /** Every case runs once with each of these. */
  readonly seeds: readonly number[];
  readonly rank: RankOptions;
  readonly timeLimitSeconds: number;
}

const KEYS = [
  'name',
  'workspace',
  'testenv',
  'test_object',
  'rank',
  'seeds',
  'repeats',
  'time_limit_seconds',
  'small',
  'simulation',
] as const;
const MAX_SEED = 2 ** 31 - 1;
const DEFAULT_SEEDS = [1, 2, 3];
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9][A-Za-z0-9._-]*)?$/;

function seedsOf(node: ConfigNode): number[] | undefined {
  const [seeds, repeats] = [node.at('seeds'), node.at('repeats')];
  if (!seeds.isAbsent && !repeats.isAbsent)
    seeds.fail('seeds and repeats say the same thing; keep one of them');
  if (!repeats.isAbsent) {
    const count = repeats.number({ min: 1, max: 1_000, whole: true });
    return Array.from({ length: count }, (_, i) => i + 1);
  }
  if (seeds.isAbsent) return undefined;
  const list = seeds.list().map((s) => s.number({ min: 0, max: MAX_SEED, whole: true }));
  if (list.length === 0) seeds.fail('is empty: a result needs at least one seed, better three');
  if (new Set(list).size < list.length) seeds.fail('a seed twice gives the same result twice');
  return list;
}

function names(node: ConfigNode): string[] {
  return node.isAbsent ? ['all'] : node.list().map((n) => n.text());
}

function rankOf(node: ConfigNode): RankOptions {
  const claimed: Record<string, 'ascend' | 'descend'> = {};
  if (!node.isAbsent) node.map(['sort_by', 'visualization', 'selected_dataitem', 'save_mode']);
  const sortBy = node
    .at('sort_by')
    .list([])
    .map((entry) => {
      if (typeof entry.value === 'string') return entry.text();
      const [name, ...others] = Object.keys(entry.anyMap());
      if (name === undefined || others.length > 0)
        return entry.fail('expected one metric: - accuracy, or - accuracy: descend');
      claimed[name] = entry.at(name).choice(['ascend', 'descend']);
      return name;
    });
  const shown = node.at('visualization');
  if (!shown.isAbsent) {
    shown.map(['mode', 'method']);
    shown.at('mode').choice(['selected_only'], 'selected_only');
    shown.at('method').choice(['print_table'], 'print_table');
  }
  node
    .at('save_mode')
    .choice(
      ['selected_and_all', 'selected_only', 'selected_and_all_and_picture'],
      'selected_and_all',
    );
  const selected = node.at('selected_dataitem');
  if (!selected.isAbsent) selected.map(['paradigms', 'modules', 'hyperparameters', 'metrics']);
  for (const key of ['paradigms', 'modules'])
    if (names(selected.at(key)).some((name) => name !== 'all'))
      selected.at(key).fail('only "all" is known: a leaderboard shows every algorithm of its job');
  return {
    sortBy,
    claimed,
    metrics: names(selected.at('metrics')),
    hyperparameters: names(selected.at('hyperparameters')),
  };
}

function algorithmsOf(node: ConfigNode, folder: string): AlgorithmChoice[] {
  node.map(['type', 'algorithms']);
  node.at('type').choice(['algorithms']);
  const algorithms = node
    .at('algorithms')
    .list()
    .map((a) => {
      a.map(['name', 'url']);
      return { name: a.at('name').text(), file: a.at('url').filePath(folder) };
    });
  if (algorithms.length === 0) node.at('algorithms').fail('is empty: nothing would be compared');
  const twice = algorithms.findIndex((a, i) =>
    algorithms.some((b, j) => j < i && b.name === a.name),
  );
  if (twice >= 0)
    node.at('algorithms').at(twice).fail(`the name "${algorithms[twice]?.name}" is taken`);
  return algorithms;
}

/**
 * Reads a `benchmarkingjob` file.
 *
 * @param small Whether the job's `small` form is meant: fewer seeds, a smaller test environment.
 * @throws ShoalError `invalid_argument` naming file, line and key.
 */
export function readBenchmarkingJob(path: string, small = false): BenchmarkingJob {
  const file = ConfigFile.read(resolve(path));
  const root = new ConfigNode(file);
  root.map(['benchmarkingjob']);
  const node = root.at('benchmarkingjob');
  node.map(KEYS);
  if (!node.at('simulation').isAbsent)
    node
      .at('simulation')
      .fail('clusters are not simulated by a script here; run the cases on one with --on cluster');
  const folder = dirname(file.path);
  const name = node.at('name').text();
  if (!NAME.test(name))
    node.at('name').fail(`"${name}" is no name: letters, digits, . _ -, and at most one /`);
  const form = node.at('small');
  if (!form.isAbsent) form.map(['testenv', 'seeds', 'repeats']);
  if (small && form.isAbsent)
    node.fail('there is no small form; give small: {testenv: …, seeds: […]} or leave --small out');
  const env = small && !form.at('testenv').isAbsent ? form.at('testenv') : node.at('testenv');
  const workspace = node.at('workspace');
  return {
    name: small ? `${name}-small` : name,
    file: file.path,
    workspace: workspace.isAbsent ? undefined : workspace.filePath(folder),
    testenv: env.filePath(folder),
    algorithms: algorithmsOf(node.at('test_object'), folder),
    seeds: (small ? seedsOf(form) : undefined) ?? seedsOf(node) ?? DEFAULT_SEEDS,
    rank: rankOf(node.at('rank')),
    timeLimitSeconds: node.at('time_limit_seconds').number({ min: 1, max: 604_800 }, 600),
  };
}
