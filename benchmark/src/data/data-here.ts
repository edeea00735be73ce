import type { JsonMap } from '../config/config-node.ts';
import { loadModule } from '../plan/module-file.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import { fromEnvironment } from '../plan/secrets.ts';
import { type BenchmarkData, type DataModule, loadData } from './benchmark-data.ts';

/** The data of a case, made here as it is made everywhere. */
export async function dataHere({ testEnv, seed }: PlannedCase): Promise<BenchmarkData> {
  const { dataset } = testEnv;
  const create =
    dataset.kind === 'module' ? (await loadModule(dataset.url, 'dataset')).create : undefined;
  const known =
    dataset.kind === 'module'
      ? {
          ...dataset,
          hyperparameters: fromEnvironment(dataset.hyperparameters, process.env) as JsonMap,
        }
      : dataset;
  return await loadData(known, create as unknown as DataModule | undefined, seed);
}
