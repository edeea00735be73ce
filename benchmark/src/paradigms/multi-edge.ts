import { ShoalError } from '@shoal/core';
import { argMax, type Estimator, OnnxEstimator, type Samples, slice } from '@shoal/lib';
import { type ModelStage, splitModel } from '@shoal/training';
import * as ort from 'onnxruntime-node';
import { accuracyOf } from '../metrics/classification.ts';
import { type CaseContext, sampleBytes, testResults } from './case-context.ts';
import type { Observations, TestResults } from './observations.ts';
import { PipelineStage, type Values } from './pipeline-stage.ts';

/** One sample as the first value of a pipeline. */
export function asked(input: string, samples: Samples, at: number): Values {
  const one = slice(samples, at, at + 1);
  return new Map([[input, new ort.Tensor('float32', one.inputs.slice(), [1, ...one.shape])]]);
}

function hasBytes(model: Estimator): model is OnnxEstimator {
  return model instanceof OnnxEstimator || 'bytes' in model;
}

/** Virtual seconds of each stage: its share of the work, on its device; and of each hop. */
function timesOf(
  stages: readonly ModelStage[],
  { world }: CaseContext,
): { compute: number[]; hops: number[] } {
  const whole = Math.max(
    1,
    stages.reduce((n, s) => n + s.work, 0),
  );
  const compute = stages.map((s, i) => world.inferSeconds(i) * (s.work / whole));
  const hops = stages.slice(0, -1).map((s, i) => world.upSeconds(i, s.bytesOn));
  return { compute, hops };
}

interface Cut {
  readonly model: OnnxEstimator;
  readonly stages: readonly ModelStage[];
}

/** The model of a case, trained, and the stages it is cut into. */
export async function trainedAndCut(context: CaseContext): Promise<Cut> {
  const { data, signal } = context;
  const model = await context.create<Estimator>('basemodel');
  if (data.train.size > 0)
    await model.train(data.train, {
      signal,
      onProgress: (p) => context.progress(((p.epoch - 1 + p.step / p.steps) / p.epochs) * 0.8),
    });
  if (!hasBytes(model))
    throw new ShoalError(
      'unsupported',
      'only an OnnxEstimator can be cut: its model is an ONNX graph',
    );
  const { pipeline } = context.case.algorithm;
  return { model, stages: await splitModel({ model: model.bytes, ...pipeline }) };
}

/** What a pipeline answered, beside what the whole model says. */
export async function observedOf(
  { data }: CaseContext,
  { model, stages }: Cut,
  answers: { readonly predicted: Int32Array; readonly classes: number; readonly bytesUp: number },
): Promise<Observations> {
  const { predicted, classes, bytesUp } = answers;
  const whole = await testResults(model, data.test);
  const labels = Int32Array.from(data.test.labels, Number);
  const test: TestResults = { labels, predicted, classes };
  const agreement = accuracyOf({ ...test, labels: whole.predicted });
  return {
    test,
    inferences: data.test.size,
    bytesUp,
    bytesDown: 0,
    extra: {
      stages: stages.length,
      agreementWithWhole: agreement ?? 0,
      largestStageParameterBytes: Math.max(...stages.map((s) => s.parameterBytes)),
      inputBytes: sampleBytes(data.test),
    },
  };
}

/**
 * A model cut into stages, one for each edge: device i has stage i and sends on over its own link.
 * Throughput is that of the slowest part of the pipeline, latency the way through all of it.
 */
export async function multiEdge(context: CaseContext): Promise<Observations> {
  const { data, signal, world } = context;
  const { model, stages } = await trainedAndCut(context);
  const opened = await Promise.all(stages.map(async (stage) => await PipelineStage.open(stage)));
  const predicted = new Int32Array(data.test.size);
  const [first, last] = [stages[0]?.inputs[0] ?? '', stages.at(-1)?.outputs[0] ?? ''];
  let classes = 0;
  for (let i = 0; i < data.test.size; i++) {
    signal.throwIfAborted();
    let values = asked(first, data.test, i);
    for (const stage of opened) values = await stage.run(values);
    const logits = values.get(last)?.data as Float32Array;
    classes = logits.length;
    predicted[i] = argMax(logits, 0, classes);
    if (i % 100 === 0) context.progress(0.8 + (0.2 * i) / data.test.size, 'asking');
  }
  const { compute, hops } = timesOf(stages, context);
  // A link is busy for as long as the bytes take; while they are under way the next can follow.
  const busy = hops.map((seconds, i) => seconds - world.upSeconds(i, 0));
  const slowest = Math.max(...compute, ...busy);
  const latency = [...compute, ...hops].reduce((a, b) => a + b, 0);
  await Promise.all(opened.map(async (stage) => await stage.close()));
  const hopBytes = stages.slice(0, -1).reduce((n, s) => n + s.bytesOn, 0);
  const answers = { predicted, classes, bytesUp: hopBytes * data.test.size };
  const observed = await observedOf(context, { model, stages }, answers);
  await model.close();
  return {
    ...observed,
    latenciesMs: Array.from(predicted, () => latency * 1000),
    virtualSeconds: latency + slowest * Math.max(0, data.test.size - 1),
    throughput: slowest > 0 ? 1 / slowest : 0,
  };
}
