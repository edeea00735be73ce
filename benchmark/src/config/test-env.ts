import { dirname } from 'node:path';
import { type LinkOptions, PROFILE_NAMES } from '../network/profiles.ts';
import type { ConfigNode, JsonMap } from './config-node.ts';

/** Where samples come from: files, or a module that makes them. */
export type DatasetSource =
  | {
      readonly kind: 'files';
      readonly train: string | undefined;
      readonly test: string;
      readonly target?: string;
      readonly shape?: readonly number[];
      readonly attributes: readonly string[];
    }
  | { readonly kind: 'module'; readonly url: string; readonly hyperparameters: JsonMap };

export interface MetricChoice {
  readonly name: string;
  /** File of a metric of the user's own. */
  readonly url?: string;
  /** A score that counts as reached, for `time_to_accuracy` and its like. */
  readonly target?: number;
}

export const OPERATORS = ['>', '<', '=', '>=', '<='] as const;
export type Operator = (typeof OPERATORS)[number];

export interface ModelEval {
  readonly metric: string;
  readonly threshold: number;
  readonly operator: Operator;
}

export const SPLIT_METHODS = ['ordered', 'shuffled', 'stratified', 'by', 'classes'] as const;
export const PARTITION_METHODS = [
  'iid',
  'dirichlet',
  'shards',
  'quantity',
  'classes',
  'natural',
] as const;

/** How samples become the parts of a sequence. */
export interface SplitOptions {
  readonly method: (typeof SPLIT_METHODS)[number];
  /** For `by`: the attribute whose values are the parts. */
  readonly attribute: string;
  /** Share of a part that is learned from; the rest is held out. */
  readonly trainRatio: number;
}

/** How samples are shared out among participants. */
export interface PartitionOptions {
  readonly method: (typeof PARTITION_METHODS)[number];
  /** Dirichlet α, for `dirichlet` and `quantity`. */
  readonly alpha: number;
  readonly shardsEach: number;
  /** Share of the classes one participant has, for `classes`. */
  readonly classRatio: number;
  /** For `natural`: the attribute whose values are the participants. */
  readonly attribute: string;
}

export interface NetworkOptions {
  /** Names of profiles, or links of the user's own; participants take them in turn. */
  readonly links: readonly (string | LinkOptions)[];
}

export interface DeviceOptions {
  /** Speed relative to the reference machine, taken in turn. */
  readonly computeFactors: readonly number[];
  /** Virtual milliseconds the reference machine needs for one sample. */
  readonly trainMsPerSample: number;
  readonly inferMsPerSample: number;
  /** Intervals in virtual seconds in which a device can be reached, by device in turn. */
  readonly traces: readonly (readonly (readonly [number, number])[])[];
  /** Or drawn at random: share of the time it can be reached, and how long it stays. */
  readonly onShare: number;
  readonly periodSeconds: number;
  /** Virtual seconds after which a round goes on without those that are late; 0 waits for all. */
  readonly deadlineSeconds: number;
}

/** `testenv`: data, metrics, and the world the algorithms meet. */
export interface TestEnv {
  readonly dataset: DatasetSource;
  readonly metrics: readonly MetricChoice[];
  readonly modelEval: ModelEval;
  readonly incrementalRounds: number;
  readonly rounds: number;
  readonly clients: number;
  readonly split: SplitOptions;
  readonly partition: PartitionOptions;
  readonly network: NetworkOptions;
  readonly devices: DeviceOptions;
  readonly miningMode: 'inference-then-mining' | 'mining-then-inference';
}

const RENAMED: Readonly<Record<string, string>> = {
  train_url: 'train_index (a .txt index) or train_data (samples)',
  test_url: 'test_index (a .txt index) or test_data (samples)',
  train_data_info: 'train_data',
  test_data_info: 'test_data',
};
const DATASET_KEYS = [
  'train_index',
  'train_data',
  'test_index',
  'test_data',
  'label',
  'shape',
  'attributes',
  'url',
  'hyperparameters',
] as const;

/** Keys that say how files are read. */
const OF_FILES = DATASET_KEYS.filter((key) => key !== 'url' && key !== 'hyperparameters');

function datasetOf(node: ConfigNode, folder: string): DatasetSource {
  for (const [old, now] of Object.entries(RENAMED))
    if (old in node.anyMap()) node.at(old).fail(`is not read; use ${now}`);
  node.map(DATASET_KEYS);
  if (!node.at('url').isAbsent) {
    const hyperparameters = node.at('hyperparameters');
    for (const key of OF_FILES)
      if (!node.at(key).isAbsent)
        node.at(key).fail('belongs to samples in files; a module (url) makes its samples itself');
    return {
      kind: 'module',
      url: node.at('url').filePath(folder),
      hyperparameters: hyperparameters.isAbsent ? {} : hyperparameters.anyMap(),
    };
  }
  const either = (side: 'train' | 'test'): ConfigNode => {
    const [index, data] = [node.at(`${side}_index`), node.at(`${side}_data`)];
    if (!index.isAbsent && !data.isAbsent) index.fail(`there is ${side}_data too; keep one`);
    return index.isAbsent ? data : index;
  };
  const [train, test] = [either('train'), either('test')];
  if (test.isAbsent)
    node.fail('no samples to test on: give test_data or test_index, or url of a module');
  return {
    kind: 'files',
    train: train.isAbsent ? undefined : train.filePath(folder),
    test: test.filePath(folder),
    attributes: node
      .at('attributes')
      .list([])
      .map((a) => a.text()),
    ...(node.at('label').isAbsent ? {} : { target: node.at('label').text() }),
    ...(node.at('shape').isAbsent
      ? {}
      : {
          shape: node
            .at('shape')
            .list()
            .map((d) => d.number({ min: 1, max: 65_536, whole: true })),
        }),
  };
}

function metricsOf(node: ConfigNode, folder: string): MetricChoice[] {
  const metrics = node.list().map((m): MetricChoice => {
    if (typeof m.value === 'string') return { name: m.text() };
    m.map(['name', 'url', 'target']);
    return {
      name: m.at('name').text(),
      ...(m.at('url').isAbsent ? {} : { url: m.at('url').filePath(folder) }),
      ...(m.at('target').isAbsent
        ? {}
        : { target: m.at('target').number({ min: -1e9, max: 1e9 }) }),
    };
  });
  if (metrics.length === 0) node.fail('is empty: nothing would be measured');
  return metrics;
}

function modelEvalOf(node: ConfigNode): ModelEval {
  if (!node.isAbsent) node.map(['model_metric', 'threshold', 'operator']);
  const metric = node.at('model_metric');
  if (!metric.isAbsent) metric.map(['mode', 'name', 'url']);
  if (!metric.at('url').isAbsent)
    metric
      .at('url')
      .fail('new and old models are compared by the scores of the estimator; name one');
  return {
    metric: metric.at('name').text('accuracy'),
    threshold: node.at('threshold').number({ min: -1e9, max: 1e9 }, 0),
    operator: node.at('operator').choice(OPERATORS, '>='),
  };
}

export function splitOf(node: ConfigNode): SplitOptions {
  if (!node.isAbsent) node.map(['method', 'attribute', 'train_ratio']);
  const method = node.at('method').choice(SPLIT_METHODS, 'ordered');
  return {
    method,
    attribute: method === 'by' ? node.at('attribute').text() : '',
    trainRatio: node.at('train_ratio').number({ min: 0.01, max: 0.99 }, 0.8),
  };
}

export function partitionOf(node: ConfigNode): PartitionOptions {
  if (!node.isAbsent) node.map(['method', 'alpha', 'shards_each', 'class_ratio', 'attribute']);
  const method = node.at('method').choice(PARTITION_METHODS, 'iid');
  return {
    method,
    alpha: node.at('alpha').number({ min: 1e-3, max: 1e6 }, 0.3),
    shardsEach: node.at('shards_each').number({ min: 1, max: 1_000, whole: true }, 2),
    classRatio: node.at('class_ratio').number({ min: 1e-3, max: 1 }, 0.6),
    attribute: node.at('attribute').text('participant'),
  };
}

function profileOf(node: ConfigNode): string {
  return node.choice(PROFILE_NAMES);
}

function networkOf(node: ConfigNode): NetworkOptions {
  if (node.isAbsent) return { links: ['unlimited'] };
  const own = ['up_mbps', 'down_mbps', 'latency_ms', 'loss'];
  node.map(['profile', 'profiles', ...own]);
  const [one, many] = [node.at('profile'), node.at('profiles')];
  const others = [...(one.isAbsent ? [] : ['profiles']), ...own].find((k) => !node.at(k).isAbsent);
  if (!(one.isAbsent && many.isAbsent) && others !== undefined && others !== 'profiles')
    node.at(others).fail('a profile says this already; give one or the other');
  if (!one.isAbsent && !many.isAbsent) many.fail('there is profile too; keep one');
  if (!many.isAbsent) return { links: many.list().map(profileOf) };
  if (!one.isAbsent) return { links: [profileOf(one)] };
  return {
    links: [
      {
        upMbps: node.at('up_mbps').number({ min: 1e-6, max: 1e6 }),
        downMbps: node.at('down_mbps').number({ min: 1e-6, max: 1e6 }),
        latencyMs: node.at('latency_ms').number({ min: 0, max: 1e6 }, 0),
        loss: node.at('loss').number({ min: 0, max: 0.5 }, 0),
      },
    ],
  };
}

/** Intervals in the order of time; those that touch are one. */
function traceOf(node: ConfigNode): (readonly [number, number])[] {
  const trace: (readonly [number, number])[] = [];
  for (const interval of node.list()) {
    const [from, to] = interval.list().map((t) => t.number({ min: 0, max: 1e12 }));
    const last = trace.at(-1);
    if (from === undefined || to === undefined || to <= from || from < (last?.[1] ?? 0))
      return interval.fail('expected [from, to] in seconds, one after the other');
    if (last?.[1] === from) trace[trace.length - 1] = [last[0], to];
    else trace.push([from, to]);
  }
  return trace;
}

function devicesOf(node: ConfigNode): DeviceOptions {
  if (!node.isAbsent)
    node.map([
      'compute_factors',
      'train_ms_per_sample',
      'infer_ms_per_sample',
      'availability',
      'traces',
      'deadline_seconds',
    ]);
  const availability = node.at('availability');
  if (!availability.isAbsent) availability.map(['on_share', 'period_seconds']);
  const factors = node
    .at('compute_factors')
    .list([])
    .map((f) => f.number({ min: 1e-6, max: 1e6 }));
  const positive = { min: 0, max: 1e9 };
  return {
    computeFactors: factors.length > 0 ? factors : [1],
    trainMsPerSample: node.at('train_ms_per_sample').number(positive, 1),
    inferMsPerSample: node.at('infer_ms_per_sample').number(positive, 0.3),
    traces: node.at('traces').list([]).map(traceOf),
    onShare: availability.at('on_share').number({ min: 0.01, max: 1 }, 1),
    periodSeconds: availability.at('period_seconds').number({ min: 1e-3, max: 1e9 }, 3_600),
    deadlineSeconds: node.at('deadline_seconds').number(positive, 0),
  };
}

const KEYS = [
  'dataset',
  'metrics',
  'model_eval',
  'incremental_rounds',
  'round',
  'client_number',
  'split',
  'partition',
  'network',
  'devices',
  'hard_example_mining_mode',
  'use_gpu',
] as const;

/** Reads a `testenv` in which every axis has a value. */
export function readTestEnv(root: ConfigNode): TestEnv {
  root.map(['testenv']);
  const node = root.at('testenv');
  node.map(KEYS);
  const folder = dirname(node.file.path);
  const count = (key: string, fallback: number): number =>
    node.at(key).number({ min: 1, max: 1e6, whole: true }, fallback);
  if (node.at('use_gpu').flag(false))
    node.at('use_gpu').fail('cases run on the processor, one thread each, so that they repeat');
  return {
    dataset: datasetOf(node.at('dataset'), folder),
    metrics: metricsOf(node.at('metrics'), folder),
    modelEval: modelEvalOf(node.at('model_eval')),
    incrementalRounds: count('incremental_rounds', 2),
    rounds: count('round', 1),
    clients: count('client_number', 1),
    split: splitOf(node.at('split')),
    partition: partitionOf(node.at('partition')),
    network: networkOf(node.at('network')),
    devices: devicesOf(node.at('devices')),
    miningMode: node
      .at('hard_example_mining_mode')
      .choice(['inference-then-mining', 'mining-then-inference'], 'inference-then-mining'),
  };
}
