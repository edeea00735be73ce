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
  expect(joint.metrics).toMatchObject({
    inferenceNumber: 2,
    hardExampleNumber: 1,
    uploadNumber: 1,
    uploadCloudRatio: 0.5,
    fallbackNumber: 0,
    agreement: 0,
    bytesSaved: 8,
  });
  expect(joint.metrics.edgeLatencyMs).toBeGreaterThan(0);
  expect(joint.metrics.cloudLatencyMs).toBeGreaterThan(0);
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

test('a queue keeps what the cloud missed, asks it again, and gives the oldest up when it is full', async () => {
  let away = true;
  const cloud = {
    infer: (): Promise<number[]> =>
      away
        ? Promise.reject(new ShoalError('unavailable', 'no answer'))
        : Promise.resolve([0.1, 0.9]),
  };
  const late: number[] = [];
  const joint = new JointInference({
    estimator: echo,
    miner,
    cloud,
    fallback: 'queue',
    queueSize: 2,
    onLate: ({ sample, edgeLabel, probabilities }) =>
      late.push(sample[0] ?? 0, edgeLabel, probabilities[1] ?? 0),
  });
  const buffer = HARD.slice();
  for (const p of [0.5, 0.53, 0.56]) {
    buffer.set([p, 1 - p]);
    expect((await joint.inference(buffer)).source).toBe('edge');
  }
  expect(joint.metrics).toMatchObject({ queuedNumber: 2, droppedNumber: 1, fallbackNumber: 3 });
  await joint.drain();
  expect(late).toEqual([]);
  away = false;
  await joint.drain();
  expect(late.map((v) => Number(v.toFixed(2)))).toEqual([0.53, 0, 0.9, 0.56, 0, 0.9]);
  expect(joint.metrics).toMatchObject({ queuedNumber: 0, uploadNumber: 2, agreement: 0 });
  await joint.close();
});

test('mining-then-inference: what is routed up never costs the edge a run, unless the cloud has no answer', async () => {
  let runs = 0;
  const counted: Estimator = {
    ...echo,
    predict: async (inputs, size) => {
      runs++;
      return await echo.predict(inputs, size);
    },
  };
  let away = false;
  const cloud = {
    infer: (): Promise<number[]> =>
      away ? Promise.reject(new Error('away')) : Promise.resolve([0.1, 0.9]),
  };
  const route = (sample: Float32Array) => ({
    hard: (sample[0] ?? 0) < 0.6,
    score: sample[0] ?? 0,
    threshold: 0.6,
  });
  const joint = new JointInference({
    estimator: counted,
    miner,
    cloud,
    mode: 'mining-then-inference',
    route,
  });
  expect((await joint.inference(HARD)).source).toBe('cloud');
  expect(runs).toBe(0);
  expect((await joint.inference(EASY)).source).toBe('edge');
  away = true;
  expect(await joint.inference(HARD)).toMatchObject({
    source: 'edge',
    fallback: 'away',
    score: HARD[0],
  });
  expect(runs).toBe(2);
  await joint.close();
  expect(
    () => new JointInference({ estimator: echo, miner, mode: 'mining-then-inference' }),
  ).toThrow(/needs route/);
});

test('a cascade asks larger models at the edge before the cloud', async () => {
  const sure: Estimator = {
    ...echo,
    predict: (inputs, size) => {
      const p = (inputs[0] ?? 0) > 0.52 ? 0.98 : 0.5;
      return Promise.resolve({ probabilities: Float32Array.of(1 - p, p), classes: 2, size });
    },
  };
  const cloud = { infer: (): Promise<number[]> => Promise.resolve([0, 1]) };
  const cascade = [{ estimator: sure, miner }];
  const joint = new JointInference({ estimator: echo, miner, cloud, cascade });
  expect(await joint.inference(EASY)).toMatchObject({ tier: 0, source: 'edge', label: 0 });
  expect(await joint.inference(HARD)).toMatchObject({ tier: 1, source: 'edge', label: 1 });
  const hardest = Float32Array.of(0.51, 0.49);
  expect(await joint.inference(hardest)).toMatchObject({ tier: 1, source: 'cloud' });
  await joint.close();
});

test('a queued sample the cloud can never answer makes way for those behind it', async () => {
  let away = true;
  const cloud = {
    infer: (sample: Float32Array): Promise<number[]> => {
      if (away) return Promise.reject(new ShoalError('unavailable', 'no answer'));
      if (Number(sample[0]?.toFixed(2)) === 0.51)
        return Promise.reject(new ShoalError('invalid_argument', 'HTTP 400'));
      return Promise.resolve([0.1, 0.9]);
    },
  };
  const options = { estimator: echo, miner, cloud, fallback: 'queue' } as const;
  const joint = new JointInference(options);
  for (const p of [0.51, 0.53]) await joint.inference(Float32Array.of(p, 1 - p));
  away = false;
  await joint.drain();
  expect(joint.metrics).toMatchObject({ queuedNumber: 0, droppedNumber: 1, uploadNumber: 1 });
  await joint.close();
});
