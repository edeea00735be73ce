import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ModuleChoice, ModuleType, ParadigmName } from '../config/algorithm.ts';
import type { JsonMap } from '../config/config-node.ts';
import type { BenchmarkData } from '../data/benchmark-data.ts';
import { dataHere } from '../data/data-here.ts';
import { chooseMetrics } from '../metrics/choose.ts';
import { World } from '../network/world.ts';
import type { CaseContext } from '../paradigms/case-context.ts';
import type { Observations } from '../paradigms/observations.ts';
import { expectUnchanged } from '../plan/case-digests.ts';
import { moduleOf } from '../plan/module-file.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import { fromEnvironment } from '../plan/secrets.ts';
import type { CaseOutcome } from './outcome.ts';
import { measure } from './resources.ts';

type Paradigm = (context: CaseContext) => Promise<Observations>;

/** Loaded when it is needed: a case that needs no training engine does not wait for one. */
const PARADIGMS: Readonly<Record<ParadigmName, () => Promise<Paradigm>>> = {
  singletasklearning: async () => (await import('../paradigms/single-task.ts')).singleTask,
  jointinference: async () => (await import('../paradigms/joint-inference.ts')).jointInference,
  incrementallearning: async () => (await import('../paradigms/incremental.ts')).incremental,
  federatedlearning: async () => (await import('../paradigms/federated.ts')).federated,
  federatedclassincrementallearning: async () =>
    (await import('../paradigms/class-incremental.ts')).classIncremental,
  lifelonglearning: async () => (await import('../paradigms/lifelong.ts')).lifelong,
  multiedgeinference: async () => (await import('../paradigms/multi-edge.ts')).multiEdge,
};

export interface RunCaseOptions {
  readonly signal: AbortSignal;
  readonly progress: (share: number, text?: string) => void;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Runs the case in another way than here: on a cluster. */
  readonly paradigm?: Paradigm;
}

/** Samples as a module of the algorithm wants them. */
async function processed(context: CaseContext): Promise<BenchmarkData> {
  if (!context.choice('dataset_processor')) return context.data;
  const process = await context.create<(data: BenchmarkData) => BenchmarkData>('dataset_processor');
  return process(context.data);
}

function contextOf(
  c: PlannedCase,
  data: BenchmarkData,
  options: RunCaseOptions & { readonly folder: string },
): CaseContext {
  const { folder, signal, progress, environment } = options;
  const choice = (type: ModuleType): ModuleChoice | undefined => {
    const found = c.algorithm.modules.find((m) => m.type === type);
    if (!found) return undefined;
    const hyperparameters = fromEnvironment(found.hyperparameters, environment) as JsonMap;
    return { ...found, hyperparameters };
  };
  return {
    case: c,
    data,
    world: new World(c.testEnv, c.seed),
    folder,
    signal,
    progress,
    choice,
    create: async <T>(type: ModuleType): Promise<T> => {
      const at = { folder, signal, inputShape: data.test.shape, environment };
      return await moduleOf<T>(c, type, at);
    },
  };
}

/** Runs one case here and now: the library call that everything around it exists for. */
export async function runCase(c: PlannedCase, options: RunCaseOptions): Promise<CaseOutcome> {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-case-'));
  try {
    const metrics = await chooseMetrics(c.testEnv.metrics);
    const paradigm = options.paradigm ?? (await PARADIGMS[c.algorithm.paradigm]());
    const raw = contextOf(c, await dataHere(c), { ...options, folder });
    const context = { ...raw, data: await processed(raw) };
    const measured = measure();
    const observations = await paradigm(context);
    const measurements = measured();
    await expectUnchanged(c);
    return outcomeOf(context.data, { metrics, observations, measurements });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

type Chosen = Awaited<ReturnType<typeof chooseMetrics>>;

function outcomeOf(
  data: BenchmarkData,
  found: {
    readonly metrics: Chosen;
    readonly observations: Observations;
    readonly measurements: CaseOutcome['measurements'];
  },
): CaseOutcome {
  const { metrics, observations, measurements } = found;
  const figure = (m: Chosen[number]): number | null => {
    const value = m.compute(observations, measurements, m);
    return value === undefined || Number.isNaN(value) ? null : value;
  };
  const figures = (isMeasured: boolean): Record<string, number | null> =>
    Object.fromEntries(
      metrics.filter((m) => (m.isMeasured ?? false) === isMeasured).map((m) => [m.name, figure(m)]),
    );
  const { matrix, taskNames } = observations;
  return {
    metrics: figures(false),
    measured: figures(true),
    units: Object.fromEntries(metrics.map((m) => [m.name, m.unit])),
    directions: Object.fromEntries(metrics.map((m) => [m.name, m.direction])),
    curve: observations.curve ?? [],
    participants: observations.participants ?? [],
    extra: observations.extra ?? {},
    samples: { train: data.train.size, test: data.test.size },
    measurements,
    ...(matrix
      ? { matrix: matrix.map((row) => row.map((v) => (Number.isNaN(v) ? null : v))) }
      : {}),
    ...(taskNames ? { taskNames } : {}),
  };
}
