import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { SequenceTask } from '@shoal/benchmark';
import { seededRandom } from '@shoal/core';
import { DIGIT_MOUNTINGS, digitData, mountedDigits } from '@shoal/datasets';
import {
  type ComponentChoices,
  type ContinualStrategy,
  type CreateEstimator,
  OnnxEstimator,
  type Samples,
} from '@shoal/lib';
import { dense, relu, sequential } from '@shoal/training';
import type { DataKind, Example, ExampleContext, ExampleResult } from '../../src/example.ts';
import { heatMapSvg } from '../../src/heat-map.ts';
import { type StudyResult, studyRows, studyTasks } from '../../src/lifelong-study.ts';

const SEEDS = [1, 2, 3, 4, 5];
const PIXELS = 28 * 28;
const TRAIN = 700;
const TEST = 60;
const EPOCHS = 14;
const OPTIMIZER = { name: 'sgd', learningRate: 0.2 } as const;

/** What is told about a digit is only its pixels: the task has to be found. */
const COMPONENTS: ComponentChoices = {
  taskDefinition: { method: 'TaskDefinitionByDataAttr', param: { attribute: ['mounting'] } },
  taskAllocation: { method: 'TaskAllocationByDetector' },
  unseenSampleRecognition: { method: 'SampleRecognitionByMahalanobis' },
};
const BY_ENERGY: ComponentChoices = {
  ...COMPONENTS,
  taskAllocation: { method: 'TaskAllocationByCentroid' },
  unseenSampleRecognition: { method: 'SampleRecognitionByEnergy' },
};

const STRATEGIES: readonly ContinualStrategy[] = [
  { name: 'fine-tune' },
  { name: 'rehearsal', memory: 200 },
  { name: 'der++', memory: 200, alpha: 0.3, beta: 1 },
];

function digitModel(seed: number): Uint8Array {
  const layers = [dense(40), relu(), dense(10)];
  return sequential({ input: [PIXELS], layers, random: seededRandom(seed) });
}

const create: CreateEstimator = () =>
  new OnnxEstimator({ model: digitModel(1), epochs: EPOCHS, threads: 1, optimizer: OPTIMIZER });

function part(digits: Samples, from: number, size: number): Samples {
  return {
    inputs: digits.inputs.subarray(from * PIXELS, (from + size) * PIXELS),
    labels: digits.labels.subarray(from, from + size),
    shape: digits.shape,
    size,
  };
}

/** Five tasks of a seed; every task has digits of its own. */
async function tasksOf(kind: DataKind, seed: number): Promise<SequenceTask[]> {
  const count = DIGIT_MOUNTINGS.length;
  const sizes = { train: count * TRAIN, test: count * TEST };
  const { train, test } = await digitData(kind, sizes, seed);
  return DIGIT_MOUNTINGS.map((mounting, t) => ({
    name: mounting.name,
    train: mountedDigits(mounting, part(train, t * TRAIN, TRAIN)),
    test: mountedDigits(mounting, part(test, t * TEST, TEST)),
  }));
}

async function run(context: ExampleContext): Promise<ExampleResult> {
  const results: StudyResult[] = [];
  const byEnergy: StudyResult[] = [];
  const seeds = context.isShort ? SEEDS.slice(0, 3) : SEEDS;
  for (const [i, seed] of seeds.entries()) {
    context.stage(`five mountings one after another, seed ${seed} of ${seeds.length}`);
    context.progress(i / seeds.length);
    const options = {
      tasks: await tasksOf(context.data, seed),
      model: digitModel(seed),
      optimizer: OPTIMIZER,
      epochs: EPOCHS,
      create,
      seed,
    };
    results.push(await studyTasks({ ...options, components: COMPONENTS, strategies: STRATEGIES }));
    byEnergy.push(await studyTasks({ ...options, components: BY_ENERGY, strategies: [] }));
  }
  const names = DIGIT_MOUNTINGS.map((m) => m.name);
  const matrices: Record<string, readonly (readonly number[])[]> = {};
  const files: string[] = [];
  for (const way of ['knowledge base', 'fine-tune']) {
    const matrix = results[0]?.ways[way]?.matrix ?? [];
    const file = context.nodePath(
      'cloud-1',
      `/output/drifting-digits/${way.replace(' ', '-')}.svg`,
    );
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, heatMapSvg(way, names, matrix));
    matrices[way] = matrix;
    files.push(file);
  }
  const mean = (pick: (r: StudyResult) => number): number =>
    byEnergy.reduce((sum, r) => sum + pick(r), 0) / byEnergy.length;
  return {
    example: 'lifelong-learning/drifting-digits',
    data: context.data,
    rows: [
      ...studyRows(results),
      {
        measure: 'unseen tasks, recall by plain energy',
        value: mean((r) => r.unseenRecall),
        unit: 'share',
        note: `at ${(mean((r) => r.falseAlarms) * 100).toFixed(1)} % of known samples`,
      },
    ],
    matrices,
    files,
  };
}

export const lifelongLearningDriftingDigits: Example = {
  name: 'lifelong-learning/drifting-digits',
  title: 'Lifelong learning: a scanner is mounted anew, and nobody says how',
  data: ['generated', 'mnist'],
  run,
};
