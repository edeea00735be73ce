import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { digitData } from '@shoal/datasets';
import { dirichletPartition, OnnxEstimator, type Samples, select, toImageLine } from '@shoal/lib';
import { conv2d, dense, flatten, maxPool2d, relu, sequential } from '@shoal/training';
import { parseAllDocuments } from 'yaml';
import type { Example, ExampleContext, ExampleResult, ResultRow } from '../../src/example.ts';
import { accuracies, type FederatedStatus, followRounds } from '../../src/federated-status.ts';
import { lineChartSvg } from '../../src/line-chart.ts';

const PARTICIPANTS = 10;
const ROUNDS = 8;
const MODEL = '/models/digits/federated.onnx';
const PLOT = '/output/digits/figures/federated.svg';
const LAYERS = [conv2d(8, 3), relu(), maxPool2d(2), flatten(), dense(32), relu(), dense(10)];
const LOCAL = { optimizer: { name: 'sgd', learningRate: 0.1 }, batchSize: 32 } as const;

function writeLines(samples: Samples, path: string): void {
  const pixels = samples.inputs.length / samples.size;
  const lines = Array.from({ length: samples.size }, (_, i) =>
    toImageLine(samples.inputs.subarray(i * pixels, (i + 1) * pixels), Number(samples.labels[i])),
  );
  writeFileSync(path, `${lines.join('\n')}\n`);
}

/** Accuracy on the held-out digits after training on some samples alone, as often as the federation does. */
async function trainedAlone(model: Uint8Array, train: Samples, test: Samples): Promise<number> {
  const estimator = new OnnxEstimator({ model, ...LOCAL, epochs: ROUNDS });
  await estimator.train(train);
  const { accuracy = 0 } = await estimator.evaluate(test);
  await estimator.close();
  return accuracy;
}

/** Puts the first model on every node and each participant's digits on its edge. */
function prepare(context: ExampleContext, model: Uint8Array, shares: readonly Samples[]): void {
  for (const node of ['cloud-1', 'edge-1', 'edge-2'])
    writeFileSync(context.nodePath(node, MODEL), model);
  for (const [i, share] of shares.entries())
    writeLines(share, context.nodePath(`edge-${(i % 2) + 1}`, `/data/digits/p${i}.jsonl`));
}

async function runJob(context: ExampleContext): Promise<FederatedStatus> {
  await context.remove('FederatedLearningJob', 'digits'); // one of an earlier run is over already
  const manifest = readFileSync(join(import.meta.dirname, 'manifest.yaml'), 'utf8');
  await context.apply(parseAllDocuments(manifest).map((d) => d.toJS() as object));
  return await followRounds(context, { name: 'digits', rounds: ROUNDS });
}

interface Accuracies {
  readonly alone: readonly number[];
  readonly federated: number;
  readonly pooled: number;
}

function summary(
  { alone, federated, pooled }: Accuracies,
  { rounds = [] }: FederatedStatus,
): ResultRow[] {
  const mean = (values: readonly number[]): number =>
    values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);
  const trained = rounds.slice(0, ROUNDS);
  const best = `best ${(Math.max(...alone) * 100).toFixed(1)} %`;
  return [
    {
      measure: 'accuracy, one participant alone',
      value: mean(alone),
      unit: 'share',
      note: `mean of ${PARTICIPANTS}; ${best}`,
    },
    {
      measure: 'accuracy, federated',
      value: federated,
      unit: 'share',
      note: `${ROUNDS} rounds of FedAvg`,
    },
    { measure: 'accuracy, all data in one place', value: pooled, unit: 'share' },
    {
      measure: 'time of a round',
      value: mean(trained.map((r) => Number(r['durationMs'] ?? 0))),
      unit: 'ms',
      note: `${PARTICIPANTS} processes on this machine`,
    },
    {
      measure: 'bytes up per participant',
      value: Number(trained[0]?.['bytesUp'] ?? 0) / PARTICIPANTS,
      unit: 'count',
      note: 'per round, uncompressed',
    },
  ];
}

/** Ten participants with skewed labels; the federation beside each alone and all data in one place. */
async function run(context: ExampleContext): Promise<ExampleResult> {
  const { train, test } = await digitData(context.data, { train: 4_000, test: 1_000 });
  const random = seededRandom(1);
  const parts = dirichletPartition(train.labels, PARTICIPANTS, { alpha: 0.3, random, least: 20 });
  const shares = parts.map((part) => select(train, part));
  const model = sequential({ input: [1, 28, 28], layers: LAYERS, random });
  context.stage(
    `sharing ${train.size} digits out among ${PARTICIPANTS} participants, Dirichlet(0.3)`,
  );
  prepare(context, model, shares);
  context.stage(`training ${ROUNDS} rounds on the cluster`);
  const status = await runJob(context);
  const trained = new OnnxEstimator({ model: readFileSync(context.nodePath('cloud-1', MODEL)) });
  const { accuracy: federated = 0 } = await trained.evaluate(test);
  await trained.close();
  context.stage('for comparison: each participant alone, and all data in one place');
  const alone: number[] = [];
  for (const share of shares) alone.push(await trainedAlone(model, share, test));
  const pooled = await trainedAlone(model, train, test);
  const rows = summary({ alone, federated, pooled }, status);
  const plot = context.nodePath('cloud-1', PLOT);
  mkdirSync(dirname(plot), { recursive: true });
  writeFileSync(
    plot,
    lineChartSvg('Digits: mean accuracy of ten participants with different digits', [
      { name: 'federated', values: accuracies(status, 'accuracy') },
      { name: 'all in one place', values: [pooled] },
      { name: 'alone', values: [alone.reduce((a, b) => a + b, 0) / alone.length] },
    ]),
  );
  return { example: 'federated-learning/digits', data: context.data, rows, files: [plot] };
}

export const federatedLearningDigits: Example = {
  name: 'federated-learning/digits',
  title: 'Federated learning: data stays, weights travel',
  data: ['generated', 'mnist'],
  run,
};
