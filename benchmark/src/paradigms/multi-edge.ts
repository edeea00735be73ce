import { ShoalError } from '@shoal/core';
import { argMax, type Estimator, OnnxEstimator, type Samples, slice } from '@shoal/lib';
import { type ModelStage, splitModel } from '@shoal/training';
import * as ort from 'onnxruntime-node';
import { accuracyOf } from '../metrics/classification.ts';
import { type CaseContext, sampleBytes, testResults } from './case-context.ts';
import type { Observations, TestResults } from './observations.ts';

interface Stage extends ModelStage {
  readonly session: ort.InferenceSession;
}

async function opened(stages: readonly ModelStage[]): Promise<Stage[]> {
  return await Promise.all(
    stages.map(async (stage) => ({
      ...stage,
      session: await ort.InferenceSession.create(stage.model, {
        intraOpNumThreads: 1,
        interOpNumThreads: 1,
        logSeverityLevel: 3,
      }),
    })),
  );
}

/** One sample through all stages: what a stage needs comes from those before it. */
async function answer(
  stages: readonly Stage[],
  samples: Samples,
  at: number,
): Promise<Float32Array> {
  const [first] = stages;
  const one = slice(samples, at, at + 1);
  const values = new Map<string, ort.Tensor>([
    [first?.inputs[0] ?? '', new ort.Tensor('float32', one.inputs.slice(), [1, ...one.shape])],
  ]);
  let last: Float32Array = new Float32Array();
  for (const { session, inputs, outputs } of stages) {
    const feeds = Object.fromEntries(
      inputs.flatMap((name) => {
        const value = values.get(name);
        return value ? [[name, value] as const] : [];
      }),
    );
    const results = await session.run(feeds);
    for (const name of outputs) {
      const value = results[name];
      if (value) values.set(name, value);
    }
    last = results[outputs[0] ?? '']?.data as Float32Array;
  }
  return last;
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

/**
 * A model cut into stages, one for each edge: device i has stage i and sends on over its own link.
 * Throughput is that of the slowest part of the pipeline, latency the way through all of it.
 */
export async function multiEdge(context: CaseContext): Promise<Observations> {
  const { data, signal, world } = context;
  const { pipeline } = context.case.algorithm;
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
  const stages = await opened(await splitModel({ model: model.bytes, ...pipeline }));
  const predicted = new Int32Array(data.test.size);
  let classes = 0;
  for (let i = 0; i < data.test.size; i++) {
    signal.throwIfAborted();
    const logits = await answer(stages, data.test, i);
    classes = logits.length;
    predicted[i] = argMax(logits, 0, classes);
    if (i % 100 === 0) context.progress(0.8 + (0.2 * i) / data.test.size, 'asking');
  }
  const whole = await testResults(model, data.test);
  const labels = Int32Array.from(data.test.labels, Number);
  const test: TestResults = { labels, predicted, classes };
  const { compute, hops } = timesOf(stages, context);
  // A link is busy for as long as the bytes take; while they are under way the next can follow.
  const busy = hops.map((seconds, i) => seconds - world.upSeconds(i, 0));
  const slowest = Math.max(...compute, ...busy);
  const latency = [...compute, ...hops].reduce((a, b) => a + b, 0);
  await Promise.all(stages.map(async (s) => await s.session.release()));
  await model.close();
  const hopBytes = stages.slice(0, -1).reduce((n, s) => n + s.bytesOn, 0);
  const agreement = accuracyOf({ ...test, labels: whole.predicted });
  return {
    test,
    inferences: data.test.size,
    bytesUp: hopBytes * data.test.size,
    bytesDown: 0,
    latenciesMs: Array.from(labels, () => latency * 1000),
    virtualSeconds: latency + slowest * Math.max(0, data.test.size - 1),
    throughput: slowest > 0 ? 1 / slowest : 0,
    extra: {
      stages: stages.length,
      agreementWithWhole: agreement ?? 0,
      largestStageParameterBytes: Math.max(...stages.map((s) => s.parameterBytes)),
      inputBytes: sampleBytes(data.test),
    },
  };
}
