import { ShoalError } from '@shoal/core';
import type { Estimator, Samples } from '@shoal/lib';
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

/** Index of the largest of some values, from 0. */
function best(values: Float32Array): number {
  let at = 0;
  for (let k = 1; k < values.length; k++) if ((values[k] ?? 0) > (values[at] ?? 0)) at = k;
  return at;
}

/** What an estimator says about samples. */
export async function testResults(estimator: Estimator, samples: Samples): Promise<TestResults> {
  const { inputs, size } = samples;
  const length = inputs.length / Math.max(1, size);
  const predicted = new Int32Array(size);
  let scores = new Float32Array();
  let classes = 0;
  for (let at = 0; at < size; at += BATCH) {
    const end = Math.min(size, at + BATCH);
    const said = await estimator.predict(inputs.subarray(at * length, end * length), end - at);
    if (classes === 0) {
      ({ classes } = said);
      scores = new Float32Array(size * classes);
    }
    scores.set(said.probabilities, at * classes);
    for (let i = at; i < end; i++)
      predicted[i] = best(scores.subarray(i * classes, (i + 1) * classes));
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
