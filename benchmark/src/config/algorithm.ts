import { dirname, resolve } from 'node:path';
import {
  ConfigFile,
  ConfigNode,
  type Json,
  type JsonMap,
  type Path,
  textOf,
} from './config-node.ts';
import { type PartitionOptions, partitionOf, type SplitOptions, splitOf } from './test-env.ts';

export const PARADIGMS = [
  'singletasklearning',
  'jointinference',
  'incrementallearning',
  'federatedlearning',
  'federatedclassincrementallearning',
  'lifelonglearning',
  'multiedgeinference',
] as const;
export type ParadigmName = (typeof PARADIGMS)[number];

export const MODULE_TYPES = [
  'basemodel',
  'edgemodel',
  'cloudmodel',
  'hard_example_mining',
  'dataset_processor',
  'aggregation',
  'learner',
  'task_definition',
  'task_relationship_discovery',
  'task_allocation',
  'task_remodeling',
  'inference_integrate',
  'task_update_decision',
  'unseen_task_allocation',
  'unseen_sample_recognition',
  'unseen_task_detection',
] as const;
export type ModuleType = (typeof MODULE_TYPES)[number];

/** A slot of a paradigm and what fills it: something built in, or a file of the user's. */
export interface ModuleChoice {
  readonly type: ModuleType;
  readonly name: string;
  /** Absolute path of a TypeScript file. */
  readonly url?: string;
  readonly hyperparameters: JsonMap;
}

export interface FederationChoice {
  readonly localEpochs: number;
  readonly batchSize: number;
  readonly learningRate: number;
  /** Participants asked per round; 0 for all. */
  readonly selected: number;
  readonly compression: { readonly name: string; readonly share?: number };
  /** Samples of each class a participant keeps from earlier tasks (class-incremental). */
  readonly memoryPerClass: number;
}

/** Where a model is cut for several edges: into so many parts, or behind the named values. */
export interface PipelineChoice {
  readonly stages: number;
  readonly points: readonly string[];
}

/** `algorithm`: one paradigm, its slots filled, every hyper-parameter with one value. */
export interface Algorithm {
  readonly name: string;
  readonly paradigm: ParadigmName;
  /** A bound to hold others against (cloud only, pooled data, joint training), not a competitor. */
  readonly baseline: boolean;
  readonly initialModel?: string;
  readonly modules: readonly ModuleChoice[];
  readonly federation: FederationChoice;
  readonly pipeline: PipelineChoice;
  /** What the algorithm says about data in place of the test environment (Ianvs has it here). */
  readonly split?: SplitOptions;
  readonly partition?: PartitionOptions;
  /** Share of the samples that are learned from with their labels. */
  readonly labelRatio: number;
}

const SPLITTING: Readonly<Record<string, SplitOptions['method']>> = {
  default: 'ordered',
  ordered: 'ordered',
  shuffled: 'shuffled',
  stratified: 'stratified',
};

/** Ianvs's `*_learning_data_setting`: a ratio and the name of a way to split. */
function dataSetting(node: ConfigNode): SplitOptions | undefined {
  if (node.isAbsent) return undefined;
  node.map(['train_ratio', 'splitting_method']);
  const method = node.at('splitting_method').choice(Object.keys(SPLITTING), 'default');
  return {
    method: SPLITTING[method] ?? 'ordered',
    attribute: '',
    trainRatio: node.at('train_ratio').number({ min: 0.01, max: 0.99 }, 0.8),
  };
}

function federatedSetting(node: ConfigNode): Pick<Algorithm, 'partition' | 'labelRatio'> {
  if (node.isAbsent) return { labelRatio: 1 };
  const KNOWN = ['train_ratio', 'splitting_method', 'data_partition', 'non_iid_ratio'];
  node.map([...KNOWN, 'label_data_ratio']);
  if (node.at('train_ratio').number({ min: 0, max: 1 }, 1) !== 1)
    node.at('train_ratio').fail('all samples for training are used; hold some out as test_data');
  node.at('splitting_method').choice(['default'], 'default');
  const labelRatio = node.at('label_data_ratio').number({ min: 0.001, max: 1 }, 1);
  if (node.at('data_partition').isAbsent) return { labelRatio };
  const kind = node.at('data_partition').choice(['iid', 'non-iid']);
  const base = partitionOf(new ConfigNode(node.file, null, node.path));
  const classRatio = node.at('non_iid_ratio').number({ min: 0.001, max: 1 }, 0.6);
  const method = kind === 'iid' ? 'iid' : 'classes';
  return { labelRatio, partition: { ...base, method, classRatio } };
}

/** Values of a file named by `other_hyperparameters`; they yield to those written beside it. */
function fromFile(node: ConfigNode, folder: string): JsonMap {
  const file = ConfigFile.read(resolve(folder, node.text()));
  return new ConfigNode(file).anyMap();
}

function hyperparametersOf(node: ConfigNode, folder: string): JsonMap {
  if (node.isAbsent) return {};
  // Ianvs writes a list of maps; a plain map says the same.
  const parts = Array.isArray(node.value) ? node.list() : [node];
  const own: Record<string, Json> = {};
  let base: JsonMap = {};
  for (const part of parts) {
    for (const [key, value] of Object.entries(part.anyMap())) {
      if (key in own) part.at(key).fail(`hyper-parameter "${key}" is given twice`);
      if (key === 'other_hyperparameters') base = { ...base, ...fromFile(part.at(key), folder) };
      else own[key] = value;
    }
  }
  return { ...base, ...own };
}

function modulesOf(node: ConfigNode, folder: string): ModuleChoice[] {
  const modules = node.list([]).map((m): ModuleChoice => {
    m.map(['type', 'name', 'url', 'hyperparameters']);
    return {
      type: m.at('type').choice(MODULE_TYPES),
      name: m.at('name').text(),
      ...(m.at('url').isAbsent ? {} : { url: m.at('url').filePath(folder) }),
      hyperparameters: hyperparametersOf(m.at('hyperparameters'), folder),
    };
  });
  const twice = modules.findIndex((m, i) => modules.some((n, j) => j < i && n.type === m.type));
  if (twice >= 0)
    node
      .at(twice)
      .fail(
        `there are two modules of type ${modules[twice]?.type}; to compare them, sweep the name (name: {values: […]}) or write two algorithms`,
      );
  return modules;
}

function federationOf(node: ConfigNode): FederationChoice {
  if (!node.isAbsent)
    node.map([
      'local_epochs',
      'batch_size',
      'learning_rate',
      'selected',
      'compression',
      'memory_per_class',
    ]);
  const whole = { min: 1, max: 1e6, whole: true };
  const compression = node.at('compression');
  if (!compression.isAbsent && typeof compression.value !== 'string')
    compression.map(['name', 'share']);
  const name =
    typeof compression.value === 'string'
      ? compression.choice(COMPRESSIONS)
      : compression.at('name').choice(COMPRESSIONS, 'none');
  return {
    localEpochs: node.at('local_epochs').number(whole, 1),
    batchSize: node.at('batch_size').number(whole, 32),
    learningRate: node.at('learning_rate').number({ min: 1e-12, max: 1e6 }, 0.05),
    selected: node.at('selected').number({ ...whole, min: 0 }, 0),
    compression: {
      name,
      ...(compression.at('share').isAbsent
        ? {}
        : { share: compression.at('share').number({ min: 1e-6, max: 1 }) }),
    },
    memoryPerClass: node.at('memory_per_class').number({ ...whole, min: 0 }, 0),
  };
}

function stagesOf(pipeline: ConfigNode, points: number): number {
  const stages = pipeline.at('stages').number({ min: 1, max: 64, whole: true }, points + 1);
  if (points > 0 && stages !== points + 1)
    pipeline.at('stages').fail(`${points} points make ${points + 1} stages, not ${stages}`);
  return stages;
}

const COMPRESSIONS = ['none', 'fp16', 'int8', 'top-k'];

const KEYS = [
  'name',
  'paradigm_type',
  'baseline',
  'initial_model_url',
  'modules',
  'federation',
  'pipeline',
  'incremental_learning_data_setting',
  'lifelong_learning_data_setting',
  'fl_data_setting',
  'split',
  'partition',
  'mode',
  'third_party_packages',
] as const;

/**
 * Reads an `algorithm` in which every axis has a value.
 *
 * @param name The name the job gives it.
 */
export function readAlgorithm(root: ConfigNode, name: string): Algorithm {
  root.map(['algorithm']);
  const node = root.at('algorithm');
  node.map(KEYS);
  const folder = dirname(node.file.path);
  for (const key of ['mode', 'third_party_packages'])
    if (!node.at(key).isAbsent && node.at(key).value !== '')
      node
        .at(key)
        .fail('means Python packages in Ianvs; a module here imports what it needs itself');
  expectOwnSettings(node);
  const pipeline = node.at('pipeline');
  if (!pipeline.isAbsent) pipeline.map(['stages', 'points']);
  const points = pipeline
    .at('points')
    .list([])
    .map((p) => p.text());
  const split = node.at('split').isAbsent
    ? (dataSetting(node.at('incremental_learning_data_setting')) ??
      dataSetting(node.at('lifelong_learning_data_setting')))
    : splitOf(node.at('split'));
  const federated = federatedSetting(node.at('fl_data_setting'));
  const partition = node.at('partition').isAbsent
    ? federated.partition
    : partitionOf(node.at('partition'));
  return {
    name,
    paradigm: node.at('paradigm_type').choice(PARADIGMS),
    baseline: node.at('baseline').flag(false),
    modules: modulesOf(node.at('modules'), folder),
    federation: federationOf(node.at('federation')),
    pipeline: {
      stages: stagesOf(pipeline, points.length),
      points,
    },
    labelRatio: federated.labelRatio,
    ...(split ? { split } : {}),
    ...(partition ? { partition } : {}),
    ...(node.at('initial_model_url').isAbsent
      ? {}
      : { initialModel: node.at('initial_model_url').filePath(folder) }),
  };
}

/** `network.profiles[0]`: entries of a list are axes of their own. */
function textOfPath(path: Path): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`;
    return text === '' ? part : `${text}.${part}`;
  }, '');
}

/** Settings, and the paradigms they mean something to. */
const SETTINGS: Readonly<Record<string, RegExp>> = {
  pipeline: /^multiedgeinference$/,
  federation: /^federated/,
  fl_data_setting: /^federated/,
  incremental_learning_data_setting: /^(incrementallearning|singletasklearning|jointinference)$/,
  lifelong_learning_data_setting: /^lifelonglearning$/,
};

/** What is written down and means nothing would be taken for what was measured. */
function expectOwnSettings(node: ConfigNode): void {
  const paradigm = node.at('paradigm_type').choice(PARADIGMS);
  for (const [key, paradigms] of Object.entries(SETTINGS))
    if (!node.at(key).isAbsent && !paradigms.test(paradigm))
      node.at(key).fail(`means nothing to ${paradigm}`);
  const federated = node.at('fl_data_setting');
  if (!node.at('partition').isAbsent && !federated.isAbsent)
    if (!federated.at('data_partition').isAbsent)
      federated.at('data_partition').fail('there is a partition too; keep one');
}

/** How a swept value is called in the leaderboard: `basemodel-learning_rate`, `partition.alpha`. */
export function axisName(file: ConfigFile, path: Path): string {
  const [, ...inner] = path;
  if (inner[0] !== 'modules' || typeof inner[1] !== 'number') return textOfPath(inner) || 'value';
  const type = new ConfigNode(file).at('algorithm').at('modules').at(inner[1]).at('type').value;
  const last = inner.filter((p) => typeof p === 'string').slice(1);
  const [field, ...rest] = last;
  const key = field === 'hyperparameters' ? rest.join('.') : last.join('.');
  return key === 'name' ? textOf(type) : `${textOf(type)}-${key}`;
}
