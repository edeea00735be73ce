import { readFileSync } from 'node:fs';
import { seededRandom } from '@shoal/core';
import { PREFERENCES } from '@shoal/datasets';
import {
  type ComponentChoices,
  type CreateEstimator,
  OnnxEstimator,
  readTaskSamples,
  type TaskSamples,
} from '@shoal/lib';
import { dense, dropout, relu, sequential } from '@shoal/training';

/** Every city is a task; what lies far from a city's votes is unseen. */
export const COMPONENTS: ComponentChoices = {
  taskDefinition: { method: 'TaskDefinitionByDataAttr', param: { attribute: ['city'] } },
  taskAllocation: { method: 'TaskAllocationByDataAttr', param: { attribute: ['city'] } },
  unseenSampleRecognition: { method: 'SampleRecognitionByMahalanobis' },
};

/** An untrained network: conditions in a room to what someone would like changed. */
export function comfortModel(width: number, seed: number): Uint8Array {
  const layers = [dense(32), relu(), dropout(0.1), dense(32), relu(), dense(3)];
  return sequential({ input: [width], layers, random: seededRandom(seed) });
}

export const OPTIMIZER = { name: 'adam', learningRate: 3e-3 } as const;
export const EPOCHS = 30;

/** Estimators of samples so wide. */
export function createComfort(width: number): CreateEstimator {
  return () =>
    new OnnxEstimator({
      model: comfortModel(width, 1),
      epochs: EPOCHS,
      batchSize: 64,
      threads: 1,
      optimizer: OPTIMIZER,
      proximal: 0.01,
    });
}

/** Usual values and their spread by column; other columns are shares and stay as they are. */
const RANGES: Readonly<Record<string, readonly [number, number]>> = {
  ta: [25, 4],
  tr: [25, 4],
  radiant: [25, 4],
  vel: [0.2, 0.2],
  rh: [50, 20],
  met: [1.15, 0.15],
  clo: [0.7, 0.35],
  tout: [20, 10],
  outdoor: [20, 10],
  'running mean outdoor': [20, 10],
  age: [35, 12],
};

/**
 * Values scaled to the ranges of rooms, so that a network may start from any city; a missing value
 * becomes 0 and is marked in a second block of columns, when the data misses some.
 */
export function prepared(votes: TaskSamples, columns: readonly string[]): TaskSamples {
  const width = columns.length;
  const marked = columns.length > 7;
  const out = marked ? width * 2 : width;
  const inputs = new Float32Array(votes.size * out);
  for (let i = 0; i < votes.inputs.length; i++) {
    const f = i % width;
    const at = Math.floor(i / width) * out + f;
    const value = votes.inputs[i] ?? Number.NaN;
    const [centre, spread] = RANGES[columns[f] ?? ''] ?? [0, 1];
    inputs[at] = Number.isNaN(value) ? 0 : (value - centre) / spread;
    if (marked) inputs[at + width] = Number.isNaN(value) ? 1 : 0;
  }
  return { ...votes, inputs, shape: [out] };
}

/** Votes of a file: conditions, city, season and preference. */
export function readVotes(path: string): TaskSamples {
  const [head = ''] = readFileSync(path, 'utf8').split('\n', 1);
  const columns = head.split(',').slice(0, -3);
  const votes = readTaskSamples(path, {
    attributes: ['city', 'season'],
    target: 'preference',
    classes: PREFERENCES,
  });
  return prepared(votes, columns);
}

/** Width of what {@link readVotes} gives. */
export function widthOf(columns: number): number {
  return columns > 7 ? columns * 2 : columns;
}
