import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { seededRandom } from '@shoal/core';
import { dense, reshape, sequential } from '@shoal/training';
import { describe, expect, test } from 'vitest';
import {
  type Box,
  boxAgreement,
  type Detector,
  intersectionOverUnion,
  suppress,
} from '../estimator/detection.ts';
import type { Estimator } from '../estimator/estimator.ts';
import { OnnxDetector } from '../estimator/onnx-detector.ts';
import { createMiner } from '../hard-example/miners.ts';
import { BigModelService } from './big-model-service.ts';
import { withBreaker } from './circuit-breaker.ts';
import { createCloudClient } from './cloud-client.ts';
import { JointInference } from './joint-inference.ts';

const nothing = (): Promise<never> => Promise.reject(new Error('unused'));
const idle: Estimator = {
  load: nothing,
  save: nothing,
  train: nothing,
  evaluate: nothing,
  predict: nothing,
  close: () => Promise.resolve(),
};
/** A detector that finds what the sample says: boxes one after another. */
const finder = (move = 0): Estimator & Detector => ({
  ...idle,
  detect: (inputs, size) => {
    const width = inputs.length / size;
    const boxes = Array.from({ length: size }, (_, i) => {
      const values = Array.from(inputs.subarray(i * width, (i + 1) * width), (v) =>
        Number(v.toFixed(3)),
      );
      return Array.from({ length: width / 6 }, (_b, k) => values.slice(6 * k, 6 * k + 6))
        .filter((b) => (b[4] ?? 0) > 0)
        .map((b) => b.map((v, j) => (j < 4 ? v + move : v)));
    });
    return Promise.resolve(boxes);
  },
});
const SURE = [0, 0, 10, 10, 0.9, 3];
const UNSURE = [20, 20, 30, 30, 0.3, 5];
const EMPTY = [0, 0, 0, 0, 0, 0];
const sample = (...boxes: number[][]): Float32Array => Float32Array.from(boxes.flat());

test('overlap, suppression and agreement of boxes, by hand', () => {
  const a: Box = [0, 0, 10, 10, 0.9, 1];
  expect(intersectionOverUnion(a, [5, 0, 15, 10, 1, 1])).toBeCloseTo(50 / 150, 12);
  expect(intersectionOverUnion(a, [20, 20, 30, 30, 1, 1])).toBe(0);
  expect(intersectionOverUnion([0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1])).toBe(0);
  const close: Box = [1, 0, 11, 10, 0.95, 1];
  expect(suppress([a, close, [1, 0, 11, 10, 0.5, 2]], 0.5)).toEqual([
    close,
    [1, 0, 11, 10, 0.5, 2],
  ]);
  expect(boxAgreement([a], [close])).toBe(1);
  expect(boxAgreement([a, [50, 50, 60, 60, 1, 1]], [close])).toBeCloseTo(2 / 3, 12);
  expect(boxAgreement([], [])).toBe(1);
});

describe('joint inference with detectors, over the wire', () => {
  test.each(['json', 'tensor'] as const)(
    '%s: a sure picture stays, an unsure one and one in which nothing was found go up',
    async (wire) => {
      const service = new BigModelService({
        estimator: finder(1),
        serviceName: 'cars',
        host: '127.0.0.1',
        port: 0,
      });
      const url = await service.start();
      const joint = new JointInference({
        estimator: finder(),
        miner: createMiner('IBT'),
        cloud: withBreaker(createCloudClient({ url, serviceName: 'cars', wire })),
      });
      expect(await joint.inference(sample(SURE))).toMatchObject({
        source: 'edge',
        label: 3,
        boxes: [SURE],
        hard: false,
        probabilities: [],
      });
      expect(await joint.inference(sample(UNSURE))).toMatchObject({
        source: 'cloud',
        label: 5,
        hard: true,
        boxes: [[21, 21, 31, 31, 0.3, 5]],
      });
      expect(await joint.inference(sample(EMPTY))).toMatchObject({
        source: 'cloud',
        label: -1,
        boxes: [],
      });
      expect(joint.metrics).toMatchObject({ inferenceNumber: 3, uploadNumber: 2, agreement: 1 });
      await joint.close();
      await service.close();
    },
  );

  test('a cloud that answers rubbish leaves the answer to the edge, and says why', async () => {
    const answers = ['{"result": [[[1, 2, 3]]]}', 'not json', '{"result": [[[0,0,1,1,7,1]]]}'];
    const server = createServer((_request, response) => {
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(answers.shift());
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const joint = new JointInference({
      estimator: finder(),
      miner: createMiner('IBT'),
      cloud: createCloudClient({ url, serviceName: 'cars' }),
    });
    for (const why of [/expected boxes/, /answered no JSON/, /expected boxes/]) {
      const { source, fallback, boxes } = await joint.inference(sample(UNSURE));
      expect([source, boxes]).toEqual(['edge', [UNSURE]]);
      expect(fallback).toMatch(why);
    }
    await joint.close();
    server.close();
  });

  test('a cloud that only classifies is refused by name', async () => {
    const cloud = { infer: () => Promise.resolve([1]) };
    const joint = new JointInference({ estimator: finder(), miner: createMiner('IBT'), cloud });
    expect((await joint.inference(sample(UNSURE))).fallback).toMatch(
      /the cloud model finds no boxes/,
    );
    await joint.close();
  });
});

test('an ONNX detector: output [size, n, 6], boxes below the score left out', async () => {
  const layers = [dense(12), reshape(2, 6)];
  const model = sequential({ input: [3], layers, random: seededRandom(1) });
  const detector = new OnnxDetector({ model, minScore: -100, maxOverlap: 1 });
  const found = await detector.detect(Float32Array.of(1, 2, 3, 4, 5, 6), 2);
  expect(found).toHaveLength(2);
  expect(found.every((boxes) => boxes.length === 2 && boxes.every((b) => b.length === 6))).toBe(
    true,
  );
  const [a = 0, b = 0] = (found[0] ?? []).map((box) => box[4] ?? 0);
  expect(a).toBeGreaterThanOrEqual(b);
  const strict = new OnnxDetector({ model, minScore: 1e9 });
  expect(await strict.detect(Float32Array.of(1, 2, 3), 1)).toEqual([[]]);
  await expect(detector.detect(Float32Array.of(1), 1)).rejects.toThrow('need 3');
  const flat = sequential({ input: [3], layers: [dense(5)], random: seededRandom(1) });
  await expect(
    new OnnxDetector({ model: flat }).detect(Float32Array.of(1, 2, 3), 1),
  ).rejects.toThrow(/a detector has one of \[size, n, 6\], or boxes, scores and labels/);
  await detector.close();
  await strict.close();
});

describe('probabilities that are none', () => {
  const says = (...p: number[]): Estimator => ({
    ...idle,
    predict: (_inputs, size) =>
      Promise.resolve({ probabilities: Float32Array.from(p), classes: p.length, size }),
  });
  const ask = async (edge: number[], cloud: number[]): Promise<string | undefined> => {
    const joint = new JointInference({
      estimator: says(...edge),
      miner: createMiner('CloudOnly'),
      cloud: { infer: () => Promise.resolve(cloud) },
    });
    return (await joint.inference(Float32Array.of(0))).fallback;
  };

  test('of the cloud: the edge answers and says why', async () => {
    expect(await ask([0.6, 0.4], [0.9, 0.9])).toMatch(/sum to 1\.8, not to one/);
    expect(await ask([0.6, 0.4], [1.2, -0.2])).toMatch(/not to one/);
    expect(await ask([0.6, 0.4], [0.2, 0.3, 0.5])).toMatch(/has 3 classes, the edge model 2/);
    expect(await ask([0.6, 0.4], [0.1, 0.9])).toBeUndefined();
  });

  test('of the edge: an error that names them', async () => {
    await expect(ask([0.6, 0.6], [1, 0])).rejects.toThrow(
      'the edge model answered probabilities that sum to 1.2',
    );
    await expect(ask([Number.NaN, 1], [1, 0])).rejects.toThrow('sum to NaN');
  });
});
