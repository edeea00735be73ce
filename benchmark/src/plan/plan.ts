import { dirname } from 'node:path';
import { canonicalJson, digestOf, ShoalError } from '@shoal/core';
import { axisName, readAlgorithm } from '../config/algorithm.ts';
import { type BenchmarkingJob, readBenchmarkingJob } from '../config/benchmarking-job.ts';
import { ConfigFile, ConfigNode, type Json } from '../config/config-node.ts';
import { type Combination, combinations } from '../config/sweep.ts';
import { readTestEnv, type TestEnv } from '../config/test-env.ts';
import { checkMetrics } from '../metrics/choose.ts';
import { checkAlgorithm } from '../paradigms/slots.ts';
import { codeDigest, dataDigest, frameworkDigest } from './fingerprint.ts';
import { checkModule } from './module-file.ts';
import type { PlannedCase } from './planned-case.ts';
import { redacted } from './secrets.ts';

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

/** Paths in a configuration are where files are, not what they are: their content counts. */
function withoutPaths(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutPaths);
  if (typeof value !== 'object' || value === null)
    return typeof value === 'string' && value.startsWith('/') ? '' : value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, withoutPaths(v)]));
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
    const testEnv = readTestEnv(new ConfigNode(file, combination.value));
    const data = await dataOf(testEnv);
    const id = short([withoutPaths(redacted(testEnv)), data]);
    found.push({ testEnv, conditions: columns(file, combination), data, id });
  }
  return found;
}

/** Hash of the samples: of their files, or of the code that makes them and the files it reads. */
async function dataOf({ dataset }: TestEnv): Promise<string> {
  if (dataset.kind === 'files')
    return dataDigest(dataset.train === undefined ? [dataset.test] : [dataset.train, dataset.test]);
  const { sources } = await checkModule(dataset.url, 'dataset');
  return short([codeDigest([dataset.url]), dataDigest(sources(dataset.hyperparameters))]);
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
      const problem = await checkAlgorithm(algorithm, root.at('algorithm'));
      const hyperparameters = columns(file, combination);
      const chosen = { algorithm, hyperparameters, ...(problem === undefined ? {} : { problem }) };
      cases.push(...(await casesOf(job, chosen, environments)));
    }
  }
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
  const files = algorithm.modules.flatMap((m) => m.url ?? []);
  const own = problem ?? codeDigest(files);
  const code = short([own, frameworkDigest()]);
  const cases: PlannedCase[] = [];
  for (const { testEnv, conditions, data, id: environment } of environments) {
    const metrics = await checkMetrics(testEnv, algorithm.paradigm, job);
    const nameless = withoutPaths(redacted({ ...algorithm, name: '' }));
    const configuration = short([nameless, environment, codeDigest(metrics)]);
    const group = short([configuration, code, data]);
    const digests = { configuration, code, data };
    const shared = { ...chosen, group, environment, testEnv, conditions, digests };
    for (const seed of job.seeds) cases.push({ id: short([group, seed]), seed, ...shared });
  }
  return cases;
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
