import { seededRandom } from '@shoal/core';
import { dense, sequential } from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BigModelService, createCloudClient, OnnxEstimator } from '../src/index.ts';

const model = sequential({ input: [3], layers: [dense(2)], random: seededRandom(1) });
let service: BigModelService;
let url = '';

beforeAll(async () => {
  const estimator = new OnnxEstimator({ model, threads: 1 });
  service = new BigModelService({ estimator, serviceName: 'demo', host: '127.0.0.1', port: 0 });
  url = await service.start();
});
afterAll(async () => await service.close());

test('the cloud client gets what the model says, over a real socket', async () => {
  const direct = await new OnnxEstimator({ model, threads: 1 }).predict(
    Float32Array.of(1, 2, 3),
    1,
  );
  const row = await createCloudClient({ url, serviceName: 'demo' }).infer(Float32Array.of(1, 2, 3));
  expect(row).toEqual(Array.from(direct.probabilities));
});

test('Sedna’s wire: GET /<name>, POST /<name>/predict with nested arrays', async () => {
  expect(await (await fetch(`${url}/demo`)).json()).toMatchObject({
    infos: [{ path: '/demo/predict' }],
  });
  const response = await fetch(`${url}/demo/predict`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      data: [
        [[1], [2], [3]],
        [1, 2, 3],
      ],
      post_process: null,
    }),
  });
  const { result } = (await response.json()) as { result: number[][] };
  expect(result).toHaveLength(2);
  expect(result[0]).toEqual(result[1]);
});

test.each([
  ['{}', 400, /the body must be/],
  ['{"data": [["a"]]}', 400, /data\[0\] must be an array of numbers/],
  ['{"data": [[1, 2]]}', 400, /2 input values given/],
  ['nonsense', 400, /JSON/i],
])('bad body %s', async (body, code, message) => {
  const response = await fetch(`${url}/demo/predict`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body,
  });
  expect(response.status).toBe(code);
  expect(await response.text()).toMatch(message);
});

test('a cloud that is not there, or slow, is an error with a code within the deadline', async () => {
  const nowhere = createCloudClient({ url: 'http://127.0.0.1:1', serviceName: 'demo' });
  await expect(nowhere.infer(Float32Array.of(1))).rejects.toMatchObject({ code: 'unavailable' });
});
