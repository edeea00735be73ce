import type { Estimator } from '@shoal/lib';
import type { BenchmarkSamples } from '../data/benchmark-data.ts';
import { type CaseContext, testResults } from './case-context.ts';
import type { Observations, TestResults } from './observations.ts';

/** A model that answers with values, for regression and survival. */
interface ValuePredictor {
  /** @returns `[size]`. */
  predictValues(inputs: Float32Array, size: number): Promise<Float32Array>;
}

function predictsValues(model: object): model is ValuePredictor {
  return 'predictValues' in model;
}

async function valueResults(model: ValuePredictor, test: BenchmarkSamples): Promise<TestResults> {
  const values = await model.predictValues(test.inputs, test.size);
  const { targets = Float32Array.from(test.labels, Number), targetWidth = 1 } = test;
  const none = new Int32Array();
  return { labels: none, predicted: none, classes: 0, values, targets, targetWidth };
}

/** What a model says of held-out samples: classes, or values where it gives those. */
export async function resultsOn(model: Estimator, test: BenchmarkSamples): Promise<TestResults> {
  return predictsValues(model) ? await valueResults(model, test) : await testResults(model, test);
}

/** One model, trained once, tested once. */
export async function singleTask(context: CaseContext): Promise<Observations> {
  const { data, signal } = context;
  const model = await context.create<Estimator>('basemodel');
  if (data.train.size > 0) {
    await model.train(data.train, {
      signal,
      onProgress: (p) => context.progress((p.epoch - 1 + p.step / p.steps) / p.epochs),
    });
  }
  const test = await resultsOn(model, data.test);
  await model.close();
  return { test };
}
