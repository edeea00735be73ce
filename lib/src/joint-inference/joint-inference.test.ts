import { ShoalError } from '@shoal/core';
import { expect, test } from 'vitest';
import type { Estimator } from '../estimator/estimator.ts';
import { createMiner } from '../hard-example/miners.ts';
import { JointInference } from './joint-inference.ts';

/** An edge model that answers with the sample itself as probabilities. */
const echo: Estimator = {
  load: () => Promise.resolve(),
  save: () => Promise.resolve(),
  train: () => Promise.resolve({}),
  evaluate: () => Promise.resolve({}),
  predict: (inputs, size) =>
    Promise.resolve({ probabilities: inputs, classes: inputs.length / size, size }),
  close: () => Promise.resolve(),
};
const miner = createMiner('CrossEntropy', { threshold_cross_entropy: 0.5 });
const EASY = Float32Array.of(0.99, 0.01);
const HARD = Float32Array.of(0.55, 0.45);

test('easy samples stay at the edge, hard ones are answered by the cloud, each counts once', async () => {
  const asked: number[] = [];
  const cloud = {
    infer: (sample: Float32Array): Promise<number[]> => {
      asked.push(sample[0] ?? 0);
      return Promise.resolve([0.1, 0.9]);
    },
  };
  const joint = new JointInference({ estimator: echo, miner, cloud });
  expect(await joint.inference(EASY)).toMatchObject({
    label: 0,
    source: 'edge',
    hard: false,
    threshold: 0.5,
  });
  expect(await joint.inference(HARD)).toMatchObject({
    label: 1,
    edgeLabel: 0,
    source: 'cloud',
    hard: true,
  });
  expect(asked).toHaveLength(1);
  expect(joint.metrics).toEqual({
    inferenceNumber: 2,
    hardExampleNumber: 1,
    uploadNumber: 1,
    uploadCloudRatio: 0.5,
    fallbackNumber: 0,
    agreement: 0,
  });
  await joint.close();
});

test('when the cloud is away the edge answers and says why; fallback "error" throws', async () => {
  const cloud = {
    infer: (): Promise<number[]> => Promise.reject(new ShoalError('unavailable', 'no answer')),
  };
  const joint = new JointInference({ estimator: echo, miner, cloud });
  expect(await joint.inference(HARD)).toMatchObject({
    label: 0,
    source: 'edge',
    hard: true,
    fallback: 'no answer',
  });
  expect(joint.metrics).toMatchObject({ uploadNumber: 0, fallbackNumber: 1, uploadCloudRatio: 0 });
  const strict = new JointInference({ estimator: echo, miner, cloud, fallback: 'error' });
  await expect(strict.inference(HARD)).rejects.toThrow('no answer');
});

test('without a cluster it works at the edge alone', async () => {
  const joint = JointInference.fromEnvironment(echo, {});
  expect(await joint.inference(HARD)).toMatchObject({ source: 'edge', hard: true });
  await joint.close();
});
