import { dirname } from 'node:path';
import { canonicalJson, digestOf, ShoalError } from '@shoal/core';
import { type Algorithm, axisName, readAlgorithm } from '../config/algorithm.ts';
import { type BenchmarkingJob, readBenchmarkingJob } from '../config/benchmarking-job.ts';
import { ConfigFile, ConfigNode, type Json } from '../config/config-node.ts';
import { suggestion } from '../config/nearest.ts';
import { type Combination, combinations } from '../config/sweep.ts';
import { readTestEnv, type TestEnv } from '../config/test-env.ts';
import { checkMetrics } from '../metrics/choose.ts';
import { checkAlgorithm } from '../paradigms/slots.ts';
import { digestOfData, digestOfModules } from './case-digests.ts';
import { codeDigest, dataDigest, frameworkDigest } from './fingerprint.ts';
import type { PlannedCase } from './planned-case.ts';
import { redacted, referencesIn, sealed } from './secrets.ts';

export interface Plan {
  readonly job: BenchmarkingJob;
  readonly cases: readonly PlannedCase[];
}

function short(value: unknown): string {
  return digestOf(canonicalJson(value)).slice('sha256:'.length, 'sha256:'.length + 16);
}

function columns(file: ConfigFile, { chosen }: Combination): Record<string, Json> {
  return Object.fromEntries(chosen.map(({ path, value }) => [axisName(file, path), value]));
}

/** Where files are does not matter; what is in them is hashed apart. */
function placeless({ dataset, metrics, ...rest }: TestEnv): unknown {
  const source =
    dataset.kind === 'files' ? { ...dataset, train: '', test: '' } : { ...dataset, url: '' };
  return { ...rest, dataset: source, metrics: metrics.map((m) => ({ ...m, url: '' })) };
}

/** An algorithm without its name and without paths. */
function essence({ modules, ...rest }: Algorithm): unknown {
  const { name: _name, initialModel: _path, ...more } = rest;
  return { ...more, modules: modules.map((m) => ({ ...m, url: '' })) };
}

interface Environment {
  readonly testEnv: TestEnv;
  readonly conditions: Readonly<Record<string, Json>>;
  readonly data: string;
  readonly id: string;
}

async function environmentsOf(job: BenchmarkingJob): Promise<Environment[]> {
  const file = ConfigFile.read(job.testenv);
  const found: Environment[] = [];
  for (const combination of combinations(file)) {
    const root = new ConfigNode(file, combination.value);
    const testEnv = readTestEnv(root);
    expectVariables(testEnv.dataset, root.at('testenv').at('dataset'));
    const data = await digestOfData(testEnv);
    const id = short([sealed(placeless(testEnv), process.env), data]);
    found.push({ testEnv, conditions: redacted(columns(file, combination)), data, id });
  }
  return found;
}

/**
 * Every case of a job: each algorithm with each combination of its hyper-parameters, in each test
 * environment, with each seed. Modules are loaded and paths looked at here, before anything runs; what
 * is wrong with a module is noted on its cases, the others can run.
 *
 * @throws ShoalError naming file, line and key of what is wrong.
 */
export async function planJob(path: string, small = false): Promise<Plan> {
  const job = readBenchmarkingJob(path, small);
  const environments = await environmentsOf(job);
  const cases: PlannedCase[] = [];
  for (const { name, file: algorithmFile } of job.algorithms) {
    const file = ConfigFile.read(algorithmFile);
    for (const combination of combinations(file)) {
      const root = new ConfigNode(file, combination.value);
      const algorithm = readAlgorithm(root, name);
      expectVariables(algorithm.modules, root.at('algorithm').at('modules'));
      const problem = await checkAlgorithm(algorithm, root.at('algorithm'));
      expectRoute(algorithm, environments, root.at('algorithm'));
      expectSelected(algorithm, environments, root.at('algorithm'));
      const hyperparameters = redacted(columns(file, combination));
      const chosen = { algorithm, hyperparameters, ...(problem === undefined ? {} : { problem }) };
      cases.push(...(await casesOf(job, chosen, environments)));
    }
  }
  expectColumns(job, cases);
  expectDifferent(cases, dirname(job.file));
  return { job, cases };
}

/** One algorithm with one choice of hyper-parameters, in every environment, with every seed. */
async function casesOf(
  job: BenchmarkingJob,
  chosen: Pick<PlannedCase, 'algorithm' | 'hyperparameters' | 'problem'>,
  environments: readonly Environment[],
): Promise<PlannedCase[]> {
  const { algorithm, problem } = chosen;
  const modules = problem ?? digestOfModules(algorithm);
  const initial = algorithm.initialModel === undefined ? '' : dataDigest([algorithm.initialModel]);
  const code = short([modules, frameworkDigest()]);
  const own = [algorithm.split, algorithm.partition].some((s) => s !== undefined)
    ? [algorithm.split ?? null, algorithm.partition ?? null]
    : [];
  const cases: PlannedCase[] = [];
  for (const { testEnv, conditions, data, id } of environments) {
    const metrics = await checkMetrics(testEnv, algorithm.paradigm, job);
    // An algorithm that shares data out in its own way is in an environment of its own.
    const environment = own.length > 0 ? short([id, own]) : id;
    const parts = [
      sealed(essence(algorithm), process.env),
      environment,
      codeDigest(metrics),
      initial,
    ];
    const configuration = short(parts);
    const group = short([configuration, code, data]);
    const digests = { configuration, code, modules, data };
    const shared = { ...chosen, group, environment, testEnv, conditions, digests };
    for (const seed of job.seeds) cases.push({ id: short([group, seed]), seed, ...shared });
  }
  return cases;
}

/** What `{env: NAME}` names must be there: a case without it would be another one. */
function expectVariables(value: unknown, node: ConfigNode): void {
  const missing = referencesIn(value).find((name) => process.env[name] === undefined);
  if (missing !== undefined)
    node.fail(`the variable ${missing} is not set in the environment; export ${missing}=…`);
}

/** More than there are cannot be asked. */
function expectSelected(
  { paradigm, federation }: Algorithm,
  environments: readonly Environment[],
  node: ConfigNode,
): void {
  const least = Math.min(...environments.map((e) => e.testEnv.clients));
  const isNatural = environments.some((e) => e.testEnv.partition.method === 'natural');
  if (paradigm.startsWith('federated') && !isNatural && federation.selected > least)
    node
      .at('federation')
      .at('selected')
      .fail(
        `${federation.selected} of ${least} participants cannot be asked (testenv: client_number)`,
      );
}

/** What comes before every model has to be code of the user's: no built-in miner looks at samples. */
function expectRoute(
  { paradigm, modules }: Algorithm,
  environments: readonly Environment[],
  node: ConfigNode,
): void {
  const routed = environments.some((e) => e.testEnv.miningMode === 'mining-then-inference');
  const miner = modules.find((m) => m.type === 'hard_example_mining');
  if (paradigm === 'jointinference' && routed && miner?.url === undefined)
    node
      .at('modules')
      .fail(
        `mining-then-inference judges samples before a model has seen them, which ${miner?.name} cannot; give a hard_example_mining of your own with route(sample), or use inference-then-mining`,
      );
}

/** Columns that are asked for must be there. */
function expectColumns({ rank, file }: BenchmarkingJob, cases: readonly PlannedCase[]): void {
  const known = [...new Set(cases.flatMap((c) => Object.keys(c.hyperparameters)))];
  const stranger = rank.hyperparameters.find((h) => h !== 'all' && !known.includes(h));
  if (stranger !== undefined)
    throw new ShoalError(
      'invalid_argument',
      `${file}: rank.selected_dataitem.hyperparameters: nothing sweeps "${stranger}"${suggestion(stranger, known)}`,
    );
}

/** Two algorithms that are the same would be one case with two names. */
function expectDifferent(cases: readonly PlannedCase[], folder: string): void {
  const seen = new Map<string, PlannedCase>();
  for (const c of cases) {
    const twin = seen.get(c.id);
    if (twin)
      throw new ShoalError(
        'invalid_argument',
        `${folder}: "${twin.algorithm.name}" and "${c.algorithm.name}" are the same case (${JSON.stringify(c.hyperparameters)}); a value may stand twice in a list`,
      );
    seen.set(c.id, c);
  }
}
