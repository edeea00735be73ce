import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { seededRandom } from '@shoal/core';
import {
  augmented,
  DIGIT_SHAPE,
  type Drift,
  digitData,
  driftPixels,
  generateDigits,
} from '@shoal/datasets';
import {
  concatenate,
  OnnxEstimator,
  RehearsalBuffer,
  type Samples,
  slice,
  toImageLine,
} from '@shoal/lib';
import { conv2d, dense, flatten, type Layer, maxPool2d, relu, sequential } from '@shoal/training';
import { parseAllDocuments } from 'yaml';
import type { DataKind, Example, ExampleContext, ExampleResult } from '../../src/example.ts';
import { followStages, untilServed } from '../../src/follow-job.ts';
import { accuracyOf, predictOverHttp } from '../../src/predict-over-http.ts';
import { waitFor } from '../../src/wait.ts';

/** The scanner was moved and its lamp is old: digits turn, fade and blur. */
const DRIFT: Drift = { rotation: 28, fading: 0.35, blur: 1 };

/** Digits the edge reads, one after the other: some as ever, then drifted ones. */
const AS_EVER = 500;
const DRIFTED = 2_000;

interface StreamData {
  readonly initial: Samples;
  /** Labels of these are known to nobody but this measurement. */
  readonly stream: readonly [Samples, Samples];
  readonly guarded: Samples;
  /** Held out, to measure with. */
  readonly original: Samples;
  readonly drifted: Samples;
}

async function prepareData(kind: DataKind): Promise<StreamData> {
  const { train, test } = await digitData(kind, { train: 7_000, test: 1_500 });
  const drifted = (count: number, from: Samples, seed: number): Samples =>
    kind === 'generated'
      ? generateDigits({ count, seed, drift: DRIFT })
      : driftPixels(from, DRIFT, seed);
  return {
    initial: slice(train, 0, 4_000),
    stream: [
      slice(train, 4_000, 4_000 + AS_EVER),
      drifted(DRIFTED, slice(train, 4_500, 4_500 + DRIFTED), 3),
    ],
    guarded: slice(test, 1_000, 1_500),
    original: slice(test, 0, 500),
    drifted: drifted(500, slice(test, 500, 1_000), 4),
  };
}

async function trained(
  model: { readonly layers: readonly Layer[]; readonly epochs: number; readonly samples: Samples },
  context: ExampleContext,
): Promise<OnnxEstimator> {
  const { layers, epochs, samples } = model;
  const bytes = sequential({ input: DIGIT_SHAPE, layers, random: seededRandom(2) });
  const estimator = new OnnxEstimator({ model: bytes, epochs });
  await estimator.train(samples, {
    signal: context.signal,
    onProgress: (p) =>
      context.progress((p.epoch - 1 + p.step / p.steps) / p.epochs, `loss ${p.loss.toFixed(3)}`),
  });
  return estimator;
}

const SMALL: readonly Layer[] = [
  conv2d(8, 3),
  relu(),
  maxPool2d(2),
  conv2d(16, 3),
  relu(),
  maxPool2d(2),
  flatten(),
  dense(10),
];
const LARGE: readonly Layer[] = [
  conv2d(16, 3),
  relu(),
  maxPool2d(2),
  conv2d(32, 3),
  relu(),
  maxPool2d(2),
  flatten(),
  dense(64),
  relu(),
  dense(10),
];

/** The model that is served, with some of what it learned kept beside it; and the one that labels. */
async function trainModels(data: StreamData, context: ExampleContext): Promise<OnnxEstimator> {
  context.stage('training the model that is served');
  const small = await trained({ layers: SMALL, epochs: 3, samples: data.initial }, context);
  const initial = context.nodePath('cloud-1', '/models/digits/initial.onnx');
  await small.save(initial);
  await small.save(context.nodePath('edge-2', '/models/digits/deployed.onnx'));
  const kept = RehearsalBuffer.empty({ capacity: 1_000 });
  kept.offer(data.initial);
  kept.write(dirname(initial));
  context.stage('training the model that labels, on digits turned, faded and blurred by chance');
  const samples = concatenate([augmented(data.initial, 9), augmented(data.initial, 10)]);
  const large = await trained({ layers: LARGE, epochs: 4, samples }, context);
  await large.save(context.nodePath('cloud-1', '/models/digits/labeller.onnx'));
  await large.close();
  return small;
}

function lines(samples: Samples): string {
  const length = samples.inputs.length / samples.size;
  return Array.from(
    { length: samples.size },
    (_, i) =>
      `${toImageLine(samples.inputs.subarray(i * length, (i + 1) * length), Number(samples.labels[i]))}\n`,
  ).join('');
}

/** Asks the service at the edge. */
async function ask(samples: Samples, context: ExampleContext): Promise<number[]> {
  const service = await context.get('Service', 'digits-inference');
  const url = `http://${String((service?.spec as { clusterIP?: string } | undefined)?.clusterIP)}/predict`;
  const answers = await predictOverHttp<{ label: number }>(samples, {
    url,
    batch: 20,
    signal: context.signal,
    onProgress: context.progress,
  });
  return answers.map((a) => a.label);
}

async function accuracyOfFile(estimator: OnnxEstimator, samples: Samples): Promise<number> {
  return (await estimator.evaluate(samples))['accuracy'] ?? 0;
}

interface LoopStatus {
  readonly hardExamples?: Readonly<Record<string, number>>;
  readonly inference?: { readonly inferences: number; readonly driftAlarms: number };
}

async function loopStatus(context: ExampleContext): Promise<LoopStatus> {
  return ((await context.get('IncrementalLearningJob', 'digits'))?.status ?? {}) as LoopStatus;
}

/** What went up until every hard example of the stream has arrived. */
async function uploads(context: ExampleContext): Promise<{ share: number; labelled: number }> {
  const { status } = await waitFor(context, {
    kind: 'IncrementalLearningJob',
    name: 'digits',
    what: 'the hard digits to arrive in the cloud',
    timeoutMs: 30_000,
    until: ({ status: s }) => {
      const { hardExamples, inference } = (s ?? {}) as LoopStatus;
      return (inference?.inferences ?? 0) >= AS_EVER + DRIFTED && hardExamples?.['spooled'] === 0;
    },
  });
  const { hardExamples = {}, inference } = status as LoopStatus;
  const { waiting = 0, labelled = 0, delivered = 0, rejected = 0 } = hardExamples;
  const arrived = waiting + labelled + delivered + rejected;
  return {
    share: arrived / (inference?.inferences ?? 1),
    labelled: (labelled + delivered) / Math.max(1, arrived),
  };
}

/** A served model meets a changed world, and learns from what it found hard, unattended. */
async function run(context: ExampleContext): Promise<ExampleResult> {
  const data = await prepareData(context.data);
  const served = await trainModels(data, context);
  const before = {
    original: await accuracyOfFile(served, data.original),
    drifted: await accuracyOfFile(served, data.drifted),
  };
  await served.close();
  writeFileSync(context.nodePath('cloud-1', '/data/digits/stream.jsonl'), '');
  writeFileSync(context.nodePath('cloud-1', '/data/digits/original.jsonl'), lines(data.guarded));
  await context.remove('IncrementalLearningJob', 'digits');

  context.stage('starting the job');
  const manifest = readFileSync(join(import.meta.dirname, 'manifest.yaml'), 'utf8');
  await context.apply(parseAllDocuments(manifest).map((d) => d.toJS() as object));
  await untilServed(context, 'digits-inference');

  const [asEver, drifted] = data.stream;
  context.stage(`the edge reads ${AS_EVER} digits as ever`);
  await ask(asEver, context);
  const startedAt = performance.now();
  context.stage(`and ${DRIFTED} that are turned, faded and blurred`);
  await ask(drifted, context);
  const { share, labelled } = await uploads(context);
  await followStages(context, { kind: 'IncrementalLearningJob', name: 'digits' });
  const seconds = (performance.now() - startedAt) / 1000;
  const { inference } = await loopStatus(context);
  context.stage('measuring the served model');
  const after = {
    drifted: accuracyOf(await ask(data.drifted, context), data.drifted.labels),
    original: accuracyOf(await ask(data.original, context), data.original.labels),
  };
  const points = (value: number) => ({ value: value * 100, unit: 'points' }) as const;
  return {
    example: 'incremental-learning/digits',
    data: context.data,
    rows: [
      { measure: 'accuracy on drifted digits, before', value: before.drifted, unit: 'share' },
      { measure: 'accuracy on drifted digits, after', value: after.drifted, unit: 'share' },
      { measure: 'accuracy on original digits, before', value: before.original, unit: 'share' },
      { measure: 'accuracy on original digits, after', value: after.original, unit: 'share' },
      { measure: 'gain on drifted digits', ...points(after.drifted - before.drifted) },
      { measure: 'change on original digits', ...points(after.original - before.original) },
      { measure: 'digits that went up', value: share, unit: 'share' },
      { measure: 'of them labelled by the model in the cloud', value: labelled, unit: 'share' },
      { measure: 'drift alarms', value: inference?.driftAlarms ?? 0, unit: 'count' },
      {
        measure: 'drift began → better model served',
        value: seconds,
        unit: 'seconds',
        note: 'read, upload, label, train, evaluate, deploy, hot update',
      },
    ],
  };
}

export const incrementalLearningDigits: Example = {
  name: 'incremental-learning/digits',
  title: 'Incremental learning: a model that follows a changing world by itself',
  data: ['generated', 'mnist'],
  run,
};
