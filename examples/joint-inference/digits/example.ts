import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { digitData } from '@shoal/datasets';
import { type JointInferenceResult, OnnxEstimator, type Samples } from '@shoal/lib';
import { conv2d, dense, flatten, type Layer, maxPool2d, relu, sequential } from '@shoal/training';
import { parseAllDocuments } from 'yaml';
import type {
  ClusterObject,
  Example,
  ExampleContext,
  ExampleResult,
  ResultRow,
} from '../../src/example.ts';
import { accuracyOf, predictOverHttp } from '../../src/predict-over-http.ts';
import { waitFor } from '../../src/wait.ts';

const LITTLE: readonly Layer[] = [flatten(), dense(16), relu(), dense(10)];
const BIG: readonly Layer[] = [
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

/** One digit as float32. */
const SAMPLE_BYTES = 28 * 28 * 4;

async function trainTo(
  path: string,
  model: { layers: readonly Layer[]; epochs: number; train: Samples },
  context: ExampleContext,
): Promise<void> {
  const bytes = sequential({ input: [1, 28, 28], layers: model.layers, random: seededRandom(1) });
  const estimator = new OnnxEstimator({ model: bytes, epochs: model.epochs });
  await estimator.train(model.train, {
    signal: context.signal,
    onProgress: (p) =>
      context.progress((p.epoch - 1 + p.step / p.steps) / p.epochs, `loss ${p.loss.toFixed(3)}`),
  });
  await estimator.save(path);
  await estimator.close();
}

async function addressOf(context: ExampleContext, service: string): Promise<string> {
  const object = await context.get('Service', service);
  return String((object?.spec as { clusterIP?: string } | undefined)?.clusterIP);
}

async function startService(context: ExampleContext): Promise<void> {
  const manifest = readFileSync(join(import.meta.dirname, 'manifest.yaml'), 'utf8');
  await context.apply(parseAllDocuments(manifest).map((d) => d.toJS() as object));
  const lastCondition = (o: ClusterObject): string | undefined =>
    (o.status as { conditions?: { type: string }[] } | undefined)?.conditions?.at(-1)?.type;
  await waitFor(context, {
    kind: 'JointInferenceService',
    name: 'digits',
    what: 'Running',
    timeoutMs: 60_000,
    until: (o) => lastCondition(o) === 'Running',
  });
}

interface Answers {
  readonly joint: readonly JointInferenceResult[];
  /** Labels of the cloud model alone. */
  readonly cloud: readonly number[];
  readonly msPerSample: number;
}

async function ask(test: Samples, context: ExampleContext): Promise<Answers> {
  const { signal, progress: onProgress } = context;
  context.stage(`asking the edge about ${test.size} digits it has never seen`);
  const startedAt = performance.now();
  const edgeUrl = `http://${await addressOf(context, 'digits-edge')}/predict`;
  const joint = await predictOverHttp<JointInferenceResult>(test, {
    url: edgeUrl,
    batch: 10,
    signal,
    onProgress,
  });
  const msPerSample = (performance.now() - startedAt) / test.size;
  context.stage('asking the cloud alone about the same digits');
  const cloudUrl = `http://${await addressOf(context, 'digits-cloud')}:5000/digits/predict`;
  const rows = await predictOverHttp<number[]>(test, {
    url: cloudUrl,
    batch: 50,
    signal,
    onProgress,
  });
  return { joint, msPerSample, cloud: rows.map((row) => row.indexOf(Math.max(...row))) };
}

function summary({ joint, cloud, msPerSample }: Answers, labels: BigInt64Array): ResultRow[] {
  const edgeOnly = accuracyOf(
    joint.map((r) => r.edgeLabel),
    labels,
  );
  const together = accuracyOf(
    joint.map((r) => r.label),
    labels,
  );
  const uploads = joint.filter((r) => r.source === 'cloud').length / joint.length;
  const mean = (values: readonly number[]): number =>
    values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);
  const from = (source: 'edge' | 'cloud'): JointInferenceResult[] =>
    joint.filter((r) => r.source === source);
  const agreed = from('cloud').map((r) => Number(r.edgeLabel === r.label));
  return [
    { measure: 'accuracy, edge only', value: edgeOnly, unit: 'share' },
    { measure: 'accuracy, cloud only', value: accuracyOf(cloud, labels), unit: 'share' },
    { measure: 'accuracy, joint', value: together, unit: 'share' },
    { measure: 'hard ratio', value: mean(joint.map((r) => Number(r.hard))), unit: 'share' },
    { measure: 'upload ratio', value: uploads, unit: 'share', note: 'samples sent to the cloud' },
    {
      measure: 'kilobytes that stayed at the edge',
      value: Math.round((from('edge').length * SAMPLE_BYTES) / 1000),
      unit: 'count',
      note: `of ${Math.round((joint.length * SAMPLE_BYTES) / 1000)}`,
    },
    { measure: 'both models agree on what went up', value: mean(agreed), unit: 'share' },
    ...(['edge', 'cloud'] as const).map(
      (source): ResultRow => ({
        measure: `latency of answers from the ${source}`,
        value: mean(from(source).map((r) => r.latencyMs)),
        unit: 'ms',
      }),
    ),
    {
      measure: 'latency per sample',
      value: msPerSample,
      unit: 'ms',
      note: 'over HTTP, both models on this machine',
    },
  ];
}

/** Both models on a service of two workers, measured with the edge alone and the cloud alone beside. */
async function run(context: ExampleContext): Promise<ExampleResult> {
  const { train, test } = await digitData(context.data, { train: 6_000, test: 1_000 });
  const little = context.nodePath('edge-1', '/models/digits/little.onnx');
  const big = context.nodePath('cloud-1', '/models/digits/big.onnx');
  context.stage('training the small model for the edge');
  await trainTo(little, { layers: LITTLE, epochs: 3, train }, context);
  context.stage('training the big model for the cloud');
  await trainTo(big, { layers: BIG, epochs: 2, train }, context);
  context.stage('starting the service');
  await startService(context);
  const rows = summary(await ask(test, context), test.labels);
  return { example: 'joint-inference/digits', data: context.data, rows };
}

export const jointInferenceDigits: Example = {
  name: 'joint-inference/digits',
  title: 'Joint inference: a small model at the edge, a big one in the cloud',
  data: ['generated', 'mnist'],
  run,
};
