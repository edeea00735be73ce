import type { Algorithm } from '../config/algorithm.ts';
import type { Json } from '../config/config-node.ts';
import type { TestEnv } from '../config/test-env.ts';

/** One algorithm with one choice of every hyper-parameter, in one test environment, with one seed. */
export interface PlannedCase {
  /** Hash of configuration, code, data and seed: the same case has the same id. */
  readonly id: string;
  /** The same without the seed: cases that are repeats of one another. */
  readonly group: string;
  /** Hash of the test environment: only cases of one are held against each other. */
  readonly environment: string;
  readonly algorithm: Algorithm;
  readonly testEnv: TestEnv;
  /** Swept hyper-parameters of the algorithm, by the name of their column. */
  readonly hyperparameters: Readonly<Record<string, Json>>;
  /** Swept settings of the test environment. */
  readonly conditions: Readonly<Record<string, Json>>;
  readonly seed: number;
  readonly digests: CaseDigests;
  /** Why it cannot run: a module that is not there or does not load. */
  readonly problem?: string;
}

export interface CaseDigests {
  readonly configuration: string;
  /** Of the modules and of Shoal. */
  readonly code: string;
  /** Of the modules alone. */
  readonly modules: string;
  readonly data: string;
}

/** `fedavg (learning rate 0.1, seed 3)`, for people. */
export function caseName(c: PlannedCase): string {
  const swept = Object.entries({ ...c.conditions, ...c.hyperparameters }).map(
    ([k, v]) => `${k} ${typeof v === 'string' ? v : JSON.stringify(v)}`,
  );
  return `${c.algorithm.name} (${[...swept, `seed ${c.seed}`].join(', ')})`;
}
