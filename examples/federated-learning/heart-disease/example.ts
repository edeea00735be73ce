import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { seededRandom } from '@shoal/core';
import {
  generateHospitals,
  HEART_FEATURES,
  type HeartRow,
  heartRows,
  pullDataset,
  readHeartDisease,
} from '@shoal/datasets';
import { concatenate, OnnxEstimator, type Samples } from '@shoal/lib';
import { dense, sequential } from '@shoal/training';
import { parseAllDocuments } from 'yaml';
import type { DataKind, Example, ExampleContext, ExampleResult } from '../../src/example.ts';
import { accuracies, type FederatedStatus, followRounds } from '../../src/federated-status.ts';
import { lineChartSvg } from '../../src/line-chart.ts';

const ROUNDS = 15;
const MODEL = '/models/heart/federated.onnx';
const PLOT = '/output/heart/figures/accuracy.svg';
const TRAIN_SHARE = 2 / 3;
const LOCAL = { optimizer: { name: 'sgd', learningRate: 0.01 }, batchSize: 8 } as const;

interface Split {
  readonly name: string;
  readonly node: string;
  readonly train: Samples;
  readonly test: Samples;
}

function samplesOf(rows: readonly HeartRow[]): Samples {
  return {
    inputs: Float32Array.from(rows.flatMap((r) => r.features)),
    labels: BigInt64Array.from(rows, (r) => BigInt(r.label)),
    shape: [HEART_FEATURES.length],
    size: rows.length,
  };
}

/** Centred and scaled by what the hospital knows: its own training rows. */
function normalized(rows: readonly HeartRow[], by: readonly HeartRow[]): HeartRow[] {
  const mean = HEART_FEATURES.map(
    (_, c) => by.reduce((sum, r) => sum + (r.features[c] ?? 0), 0) / by.length,
  );
  const deviation = mean.map((m, c) =>
    Math.sqrt(by.reduce((sum, r) => sum + ((r.features[c] ?? 0) - m) ** 2, 0) / by.length),
  );
  return rows.map(({ features, label }) => ({
    label,
    features: features.map((v, c) => (v - (mean[c] ?? 0)) / Math.max(1e-6, deviation[c] ?? 1)),
  }));
}

async function splits(data: DataKind): Promise<Split[]> {
  const hospitals =
    data === 'generated'
      ? generateHospitals(1)
      : readHeartDisease((await pullDataset('heart-disease')).folder);
  return hospitals.map((hospital, i) => {
    const rows = heartRows(hospital);
    const order = [...seededRandom(1).fork(hospital.name).permutation(rows.length)];
    const shuffled = order.flatMap((k) => rows[k] ?? []);
    const cut = Math.round(rows.length * TRAIN_SHARE);
    const train = shuffled.slice(0, cut);
    return {
      name: hospital.name,
      node: `edge-${(i % 2) + 1}`,
      train: samplesOf(normalized(train, train)),
      test: samplesOf(normalized(shuffled.slice(cut), train)),
    };
  });
}

function writeCsv(samples: Samples, path: string): void {
  const width = HEART_FEATURES.length;
  const lines = Array.from({ length: samples.size }, (_, i) =>
    [...samples.inputs.subarray(i * width, (i + 1) * width), samples.labels[i]].join(','),
  );
  writeFileSync(path, `${[...HEART_FEATURES, 'label'].join(',')}\n${lines.join('\n')}\n`);
}

async function trainedAlone(model: Uint8Array, train: Samples, test: Samples): Promise<number> {
  const estimator = new OnnxEstimator({ model, ...LOCAL, epochs: ROUNDS * 2 });
  await estimator.train(train);
  const { accuracy = 0 } = await estimator.evaluate(test);
  await estimator.close();
  return accuracy;
}

async function onTheCluster(
  context: ExampleContext,
  model: Uint8Array,
  hospitals: readonly Split[],
): Promise<FederatedStatus> {
  for (const node of ['cloud-1', 'edge-1', 'edge-2'])
    writeFileSync(context.nodePath(node, MODEL), model);
  for (const { name, node, train } of hospitals)
    writeCsv(train, context.nodePath(node, `/data/heart/${name}.csv`));
  const heldOut = concatenate(hospitals.map((h) => h.test));
  writeCsv(heldOut, context.nodePath('cloud-1', '/data/heart/held-out.csv'));
  await context.remove('FederatedLearningJob', 'heart-disease'); // one of an earlier run is over already
  const manifest = readFileSync(join(import.meta.dirname, 'manifest.yaml'), 'utf8');
  await context.apply(parseAllDocuments(manifest).map((d) => d.toJS() as object));
  return await followRounds(context, { name: 'heart-disease', rounds: ROUNDS });
}

/** Four hospitals that keep their patients: each alone, together by federation, all rows in one place. */
async function run(context: ExampleContext): Promise<ExampleResult> {
  const hospitals = await splits(context.data);
  const random = seededRandom(1);
  const input = [HEART_FEATURES.length];
  const model = sequential({ input, layers: [dense(2)], random });
  const test = concatenate(hospitals.map((h) => h.test));
  const rowsOf = hospitals.map((h) => `${h.name} ${h.train.size}`).join(', ');
  context.stage(`${ROUNDS} rounds, changes only added up masked: ${rowsOf} patients`);
  const status = await onTheCluster(context, model, hospitals);
  const trained = new OnnxEstimator({ model: readFileSync(context.nodePath('cloud-1', MODEL)) });
  const { accuracy: federated = 0 } = await trained.evaluate(test);
  await trained.close();
  context.stage('for comparison: each hospital alone, and all patients in one place');
  const alone: number[] = [];
  for (const { train } of hospitals) alone.push(await trainedAlone(model, train, test));
  const all = concatenate(hospitals.map((h) => h.train));
  const pooled = await trainedAlone(model, all, test);
  const mean = alone.reduce((a, b) => a + b, 0) / alone.length;
  const plot = context.nodePath('cloud-1', PLOT);
  mkdirSync(dirname(plot), { recursive: true });
  writeFileSync(
    plot,
    lineChartSvg('Heart disease: accuracy on patients of all hospitals', [
      { name: 'federated', values: accuracies(status, 'validationAccuracy') },
      { name: 'all in one place', values: [pooled] },
      { name: 'alone', values: [mean] },
    ]),
  );
  const each = hospitals.map((h, i) => `${h.name} ${((alone[i] ?? 0) * 100).toFixed(0)}`);
  return {
    example: 'federated-learning/heart-disease',
    data: context.data,
    rows: [
      {
        measure: 'accuracy, one hospital alone',
        value: mean,
        unit: 'share',
        note: `mean of ${each.join(', ')}`,
      },
      {
        measure: 'accuracy, federated',
        value: federated,
        unit: 'share',
        note: `round ${status.bestRound} of ${ROUNDS}, secure aggregation`,
      },
      { measure: 'accuracy, all patients in one place', value: pooled, unit: 'share' },
    ],
    files: [plot],
  };
}

export const federatedLearningHeartDisease: Example = {
  name: 'federated-learning/heart-disease',
  title: 'Federated learning: four hospitals, no patient leaves',
  data: ['generated', 'heart-disease'],
  isExtra: true,
  run,
};
