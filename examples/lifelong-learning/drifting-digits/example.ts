import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { seededRandom } from '@shoal/core';
import {
  type ComponentChoices,
  type ContinualStrategy,
  type CreateEstimator,
  OnnxEstimator,
  type Samples,
  type TaskSamples,
} from '@shoal/lib';
import { dense, relu, sequential } from '@shoal/training';
import { digitData } from '../../src/digits-data.ts';
import type { DataKind, Example, ExampleContext, ExampleResult } from '../../src/example.ts';
import { heatMapSvg } from '../../src/heat-map.ts';
import {
  type StudyResult,
  type StudyTask,
  studyRows,
  studyTasks,
} from '../../src/lifelong-study.ts';

const SEEDS = [1, 2, 3, 4, 5];
const SIDE = 28;
const PIXELS = SIDE * SIDE;
const TRAIN = 700;
const TEST = 60;
const EPOCHS = 14;
const OPTIMIZER = { name: 'sgd', learningRate: 0.2 } as const;

/** How a scanner was mounted: upright, on its side, or with its lines mixed up by a broken cable. */
const MOUNTINGS: readonly { readonly name: string; readonly order: Uint32Array }[] = [
  { name: 'upright', order: Uint32Array.from({ length: PIXELS }, (_, k) => k) },
  { name: 'cable A', order: seededRandom(11).permutation(PIXELS) },
  {
    name: 'on its side',
    order: Uint32Array.from(
      { length: PIXELS },
      (_, k) => (k % SIDE) * SIDE + SIDE - 1 - Math.floor(k / SIDE),
    ),
  },
  { name: 'cable B', order: seededRandom(12).permutation(PIXELS) },
  { name: 'cable C', order: seededRandom(13).permutation(PIXELS) },
];

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

/** Digits as a scanner mounted so sees them. */
function seenBy(mounting: (typeof MOUNTINGS)[number], digits: Samples): TaskSamples {
  const inputs = new Float32Array(digits.inputs.length);
  for (let i = 0; i < digits.size; i++)
    for (let k = 0; k < PIXELS; k++)
      inputs[i * PIXELS + k] = digits.inputs[i * PIXELS + (mounting.order[k] ?? 0)] ?? 0;
  const attributes = { mounting: Array.from({ length: digits.size }, () => mounting.name) };
  return { inputs, labels: digits.labels, shape: [PIXELS], size: digits.size, attributes };
}

function part(digits: Samples, from: number, size: number): Samples {
  return {
    inputs: digits.inputs.subarray(from * PIXELS, (from + size) * PIXELS),
    labels: digits.labels.subarray(from, from + size),
    shape: digits.shape,
    size,
  };
}

/** Five tasks of a seed; every task has digits of its own. */
async function tasksOf(kind: DataKind, seed: number): Promise<StudyTask[]> {
  const count = MOUNTINGS.length;
  const sizes = { train: count * TRAIN, test: count * TEST };
  const { train, test } = await digitData(kind, sizes, seed);
  return MOUNTINGS.map((mounting, t) => ({
    name: mounting.name,
    train: seenBy(mounting, part(train, t * TRAIN, TRAIN)),
    test: seenBy(mounting, part(test, t * TEST, TEST)),
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
  const names = MOUNTINGS.map((m) => m.name);
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
        unit: 'percent',
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
