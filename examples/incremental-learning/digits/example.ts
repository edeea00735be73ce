import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { type Drift, generateDigits } from '@shoal/datasets';
import { concatenate, OnnxEstimator, type Samples, select, slice, toImageLine } from '@shoal/lib';
import { conv2d, dense, flatten, maxPool2d, relu, sequential } from '@shoal/training';
import { parseAllDocuments } from 'yaml';
import { digitData, driftPixels } from '../../src/digits-data.ts';
import type { DataKind, Example, ExampleContext, ExampleResult } from '../../src/example.ts';
import { followStages, untilServed } from '../../src/follow-job.ts';
import { accuracyOf, predictOverHttp } from '../../src/predict-over-http.ts';

/** The scanner was moved and its lamp is old: digits turn, fade and blur. */
const DRIFT: Drift = { rotation: 28, fading: 0.35, blur: 1 };

interface StreamData {
  readonly initial: Samples;
  /** Labelled digits from after the change, and a share from before against forgetting. */
  readonly arriving: Samples;
  readonly original: Samples;
  readonly drifted: Samples;
}

async function prepareData(kind: DataKind): Promise<StreamData> {
  const { train, test } = await digitData(kind, { train: 6_000, test: 1_000 });
  const initial = slice(train, 0, 4_000);
  const original = slice(test, 0, 500);
  const rehearsal = slice(initial, 0, 500);
  const fresh =
    kind === 'generated'
      ? generateDigits({ count: 1_200, seed: 3, drift: DRIFT })
      : driftPixels(slice(train, 4_000, 5_200), DRIFT, 3);
  const drifted =
    kind === 'generated'
      ? generateDigits({ count: 500, seed: 4, drift: DRIFT })
      : driftPixels(slice(test, 500, 1_000), DRIFT, 4);
  const mixed = concatenate([fresh, rehearsal]);
  return {
    initial,
    original,
    drifted,
    arriving: select(mixed, seededRandom(5).permutation(mixed.size)),
  };
}

async function trainInitial(samples: Samples, context: ExampleContext): Promise<void> {
  const layers = [
    conv2d(8, 3),
    relu(),
    maxPool2d(2),
    conv2d(16, 3),
    relu(),
    maxPool2d(2),
    flatten(),
    dense(10),
  ];
  const estimator = new OnnxEstimator({
    model: sequential({ input: [1, 28, 28], layers, random: seededRandom(2) }),
    epochs: 3,
  });
  await estimator.train(samples, {
    signal: context.signal,
    onProgress: (p) =>
      context.progress((p.epoch - 1 + p.step / p.steps) / p.epochs, `loss ${p.loss.toFixed(3)}`),
  });
  await estimator.save(context.nodePath('cloud-1', '/models/digits/initial.onnx'));
  await estimator.save(context.nodePath('edge-2', '/models/digits/deployed.onnx'));
  await estimator.close();
}

function lines(samples: Samples): string {
  const length = samples.inputs.length / samples.size;
  return Array.from(
    { length: samples.size },
    (_, i) =>
      `${toImageLine(samples.inputs.subarray(i * length, (i + 1) * length), Number(samples.labels[i]))}\n`,
  ).join('');
}

async function measure(samples: Samples, context: ExampleContext): Promise<number> {
  const service = await context.get('Service', 'digits-inference');
  const url = `http://${String((service?.spec as { clusterIP?: string } | undefined)?.clusterIP)}/predict`;
  const answers = await predictOverHttp<{ label: number }>(samples, {
    url,
    batch: 20,
    signal: context.signal,
    onProgress: context.progress,
  });
  return accuracyOf(
    answers.map((a) => a.label),
    samples.labels,
  );
}

/** A served model meets a changed world, learns from labelled samples, and is replaced while serving. */
async function run(context: ExampleContext): Promise<ExampleResult> {
  const data = await prepareData(context.data);
  context.stage('training the first model');
  await trainInitial(data.initial, context);
  const stream = context.nodePath('cloud-1', '/data/digits/stream.jsonl');
  writeFileSync(stream, '');
  await context.remove('IncrementalLearningJob', 'digits');

  context.stage('starting the job');
  const manifest = readFileSync(join(import.meta.dirname, 'manifest.yaml'), 'utf8');
  await context.apply(parseAllDocuments(manifest).map((d) => d.toJS() as object));
  await untilServed(context, 'digits-inference');

  context.stage('measuring the served model');
  const before = {
    original: await measure(data.original, context),
    drifted: await measure(data.drifted, context),
  };
  context.stage(`${data.arriving.size} labelled digits arrive`);
  const startedAt = performance.now();
  appendFileSync(stream, lines(data.arriving));
  await followStages(context, { kind: 'IncrementalLearningJob', name: 'digits' });
  const seconds = (performance.now() - startedAt) / 1000;
  context.stage('measuring the served model again');
  const after = {
    original: await measure(data.original, context),
    drifted: await measure(data.drifted, context),
  };
  return {
    example: 'incremental-learning/digits',
    data: context.data,
    rows: [
      { measure: 'accuracy on drifted digits, before', value: before.drifted, unit: 'percent' },
      { measure: 'accuracy on drifted digits, after', value: after.drifted, unit: 'percent' },
      { measure: 'accuracy on original digits, before', value: before.original, unit: 'percent' },
      { measure: 'accuracy on original digits, after', value: after.original, unit: 'percent' },
      {
        measure: 'gain on drifted digits',
        value: (after.drifted - before.drifted) * 100,
        unit: 'points',
      },
      {
        measure: 'samples arrived → new model served',
        value: seconds,
        unit: 'seconds',
        note: 'train, evaluate, deploy, hot update',
      },
    ],
  };
}

export const incrementalLearningDigits: Example = {
  name: 'incremental-learning/digits',
  title: 'Incremental learning: a model that follows a changing world',
  data: ['generated', 'mnist'],
  run,
};
