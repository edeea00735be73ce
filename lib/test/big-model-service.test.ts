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

test('tensors for tensors: the same answer as JSON, in fewer bytes; a wrong shape is refused', async () => {
  const sample = Float32Array.of(0.25, -1, 2);
  const ask = async (wire: 'json' | 'tensor'): Promise<readonly number[]> =>
    await createCloudClient({ url, serviceName: 'demo', wire }).infer(sample);
  expect(await ask('tensor')).toEqual(await ask('json'));
  const response = await fetch(`${url}/demo/predict`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/octet-stream', 'x-shoal-shape': '2,3' },
    body: new Uint8Array(12),
  });
  expect(response.status).toBe(400);
  expect(await response.text()).toMatch(/has 24 bytes, the body has 12/);
});

test('many requests share runs of the model; what is too much or too late is told apart', async () => {
  const estimator = new OnnxEstimator({ model, threads: 1 });
  const busy = new BigModelService({
    estimator,
    serviceName: 'busy',
    host: '127.0.0.1',
    port: 0,
    batching: { maxQueue: 40, maxBatch: 16, maxDelayMs: 20 },
  });
  const at = await busy.start();
  const client = createCloudClient({ url: at, serviceName: 'busy' });
  const rows = await Promise.all(
    Array.from({ length: 30 }, async (_, i) => await client.infer(Float32Array.of(i, 0, 0))),
  );
  const direct = await estimator.predict(Float32Array.of(7, 0, 0), 1);
  expect(rows[7]?.[0]).toBeCloseTo(direct.probabilities[0] ?? 0, 6);
  expect(busy.figures.samples).toBe(30);
  expect(busy.figures.batches).toBeLessThan(30);
  const many = await fetch(`${at}/busy/predict`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ data: Array.from({ length: 41 }, () => [1, 2, 3]) }),
  });
  expect([many.status, many.headers.get('retry-after')]).toEqual([503, '1']);
  expect(await (await fetch(`${at}/metrics`)).text()).toMatch(/shoal_big_model_refused 1/);
  await busy.close();
});

test('a cloud that is not there, or slow, is an error with a code within the deadline', async () => {
  const nowhere = createCloudClient({ url: 'http://127.0.0.1:1', serviceName: 'demo' });
  await expect(nowhere.infer(Float32Array.of(1))).rejects.toMatchObject({ code: 'unavailable' });
});
