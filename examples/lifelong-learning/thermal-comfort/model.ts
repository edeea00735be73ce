import { readFileSync } from 'node:fs';
import { seededRandom } from '@shoal/core';
import { PREFERENCES, preparedVotes } from '@shoal/datasets';
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

/** Votes of a file: conditions, city, season and preference. */
export function readVotes(path: string): TaskSamples {
  const [head = ''] = readFileSync(path, 'utf8').split('\n', 1);
  const columns = head.split(',').slice(0, -3);
  const votes = readTaskSamples(path, {
    attributes: ['city', 'season'],
    target: 'preference',
    classes: PREFERENCES,
  });
  return preparedVotes(votes, columns);
}
