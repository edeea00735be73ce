import { ShoalError } from '@shoal/core';
import { argMax, type Estimator, type Samples, slice } from '@shoal/lib';
import type { ModuleChoice, ModuleType } from '../config/algorithm.ts';
import type { BenchmarkData } from '../data/benchmark-data.ts';
import type { World } from '../network/world.ts';
import type { PlannedCase } from '../plan/planned-case.ts';
import type { TestResults } from './observations.ts';

/** What a paradigm gets to run a case. */
export interface CaseContext {
  readonly case: PlannedCase;
  readonly data: BenchmarkData;
  readonly world: World;
  /** A folder that goes when the case ends. */
  readonly folder: string;
  readonly signal: AbortSignal;
  /** What fills a slot; undefined when nothing does. */
  readonly choice: (type: ModuleType) => ModuleChoice | undefined;
  /** Calls the file that fills a slot. @throws ShoalError when the slot is filled by a name only. */
  readonly create: <T>(type: ModuleType) => Promise<T>;
  readonly progress: (share: number, text?: string) => void;
}

/** Bytes of one sample on the wire: float32 values. */
export function sampleBytes(samples: Samples): number {
  return samples.shape.reduce((n, d) => n * d, 1) * 4;
}

const BATCH = 256;

/** What an estimator says about samples. */
export async function testResults(estimator: Estimator, samples: Samples): Promise<TestResults> {
  const predicted = new Int32Array(samples.size);
  let scores = new Float32Array();
  let classes = 0;
  for (let at = 0; at < samples.size; at += BATCH) {
    const part = slice(samples, at, at + BATCH);
    const said = await estimator.predict(part.inputs, part.size);
    if (classes === 0) {
      ({ classes } = said);
      scores = new Float32Array(samples.size * classes);
    }
    scores.set(said.probabilities, at * classes);
    for (let i = 0; i < part.size; i++)
      predicted[at + i] = argMax(said.probabilities, i * classes, classes);
  }
  return { labels: Int32Array.from(samples.labels, Number), predicted, scores, classes };
}

/** The score of a model by name, as the estimator reports it. @throws ShoalError when it has none. */
export async function scoreOf(
  estimator: Estimator,
  samples: Samples,
  metric: string,
): Promise<number> {
  const scores = await estimator.evaluate(samples);
  const value = scores[metric];
  if (value !== undefined) return value;
  throw new ShoalError(
    'invalid_argument',
    `model_eval: the model reports no ${metric}; it reports ${Object.keys(scores).join(', ')}`,
  );
}
