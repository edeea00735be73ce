import { writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type JsonObject, seededRandom } from '@shoal/core';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture, template } from './cluster-fixture.ts';

/** Where models and data may be: in the cloud's blob store, behind http; what cannot be used is said. */
let c: ClusterFixture;
let server: Server;
let origin: string;
const files = new Map<string, Buffer>();
beforeAll(async () => {
  c = await ClusterFixture.start(1);
  server = createServer((request, response) => {
    const body = files.get(request.url ?? '');
    if (!body) return void response.writeHead(404).end();
    response.writeHead(200, { ETag: `"${body.length}"`, 'Content-Length': body.length }).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(async () => {
  server.close();
  await c.stop();
});

const object = (kind: string, name: string, spec: JsonObject): JsonObject => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind,
  metadata: { name },
  spec,
});

/** A worker that says which bytes it was given. */
const TELLS = `
  const fs = require('fs'), crypto = require('crypto');
  const bytes = fs.readFileSync(process.env.MODEL_URL);
  console.log('got ' + bytes.length + ' ' + crypto.createHash('sha256').update(bytes).digest('hex'));
  setInterval(() => {}, 1000)`;

function service(name: string, model: string): JsonObject {
  const worker = (node: string): JsonObject => ({
    model: { name: model },
    template: template(node, ['node', '-e', TELLS]),
  });
  return object('JointInferenceService', name, {
    cloudWorker: worker('cloud-1'),
    edgeWorker: { ...worker('edge-1'), hardExampleMining: { name: 'IBT' } },
  });
}

async function logOf(prefix: string): Promise<string> {
  const [pod] = await c.pods(prefix);
  let text = '';
  await c.client.stream(`/api/v1/namespaces/default/pods/${pod?.metadata.name}/log`, (chunk) => {
    text += chunk.toString();
  });
  return text;
}

test('a file pushed into the cloud is a Model on every node that needs it', async () => {
  const random = seededRandom(1);
  const bytes = Buffer.from(Array.from({ length: 3_000_000 }, () => random.int(256)));
  writeFileSync(join(c.folder, 'big.onnx'), bytes);
  const pushed = await c.shoal(`model push ${join(c.folder, 'big.onnx')} --json`);
  const { url } = JSON.parse(pushed.output) as { url: string };
  expect(url).toMatch(/^blob:sha256:[0-9a-f]{64}$/);
  await c.apply(object('Model', 'pushed', { url, format: 'onnx' }), service('blobs', 'pushed'));
  for (const worker of ['blobs-deployment-cloud', 'blobs-deployment-edge']) {
    const told = await c.until(`${worker} to tell`, async () => {
      const text = await logOf(worker);
      return text.includes('got') ? text : undefined;
    });
    expect(told).toContain(`got ${bytes.length} ${url.slice('blob:sha256:'.length)}`);
  }
  await c.resources.remove('ji', 'default', 'blobs');
});

test('a Model of a form nobody knows says so; a blob nobody has pushed keeps its worker waiting', async () => {
  const missing = `blob:sha256:${'1'.repeat(64)}`;
  await c.apply(
    object('Model', 'odd', { url: 'blob:md5:1', format: 'onnx' }),
    object('Model', 'missing', { url: missing, format: 'onnx' }),
    service('waits', 'missing'),
  );
  const odd = await c.until('the Model', async () => {
    const found = await c.condition('model', 'odd');
    return found?.status === 'False' ? found : undefined;
  });
  expect(odd.message).toMatch(/"blob:md5:1" is not supported; use a host path, s3:\/\//);
  const pod = await c.until('its pod', async () => (await c.pods('waits-deployment-edge'))[0]);
  const told = await c.until('the reason', async () => {
    let text = '';
    const path = `/api/v1/namespaces/default/pods/${pod.metadata.name}/log?container=storage-initializer`;
    await c.client.stream(path, (chunk) => {
      text += chunk.toString();
    });
    return /worker failed/.test(text) ? text : undefined;
  });
  expect(told).toContain(missing);
  await c.resources.remove('ji', 'default', 'waits');
});

test('a dataset behind http is fetched, counted, and fetched again when it has grown', async () => {
  files.set('/data.jsonl', Buffer.from('{"a":1}\n{"a":2}\n'));
  await c.apply(
    object('Dataset', 'far', { url: `${origin}/data.jsonl`, format: 'jsonl', nodeName: 'edge-1' }),
    object('Dataset', 'gone', { url: `${origin}/none.jsonl`, format: 'jsonl', nodeName: 'edge-1' }),
  );
  const count = async (n: number, ms = 30_000): Promise<unknown> =>
    await c.until(
      `${n} samples`,
      async () => (await c.get('ds', 'far'))?.status?.numberOfSamples === n,
      ms,
    );
  await count(2);
  files.set('/data.jsonl', Buffer.from('{"a":1}\n{"a":2}\n{"a":3}\n'));
  await count(3);
  const gone = await c.until('the reason', async () => {
    const found = await c.condition('ds', 'gone');
    return found?.reason === 'Unreadable' ? found : undefined;
  });
  expect(gone.message).toMatch(/none\.jsonl answers HTTP 404/);
});

test('Parquet and images are counted as a whole, and cannot be cut into rounds', async () => {
  const columnData: Parameters<typeof parquetWriteBuffer>[0]['columnData'] = [
    { name: 'a', data: [1, 2, 3], type: 'INT32' },
    { name: 'label', data: [0, 1, 1], type: 'INT32' },
  ];
  const bytes = Buffer.from(parquetWriteBuffer({ columnData }));
  writeFileSync(c.path('edge-1', '/data/t.parquet'), bytes);
  writeFileSync(c.path('edge-1', '/data/pictures/cats/1.png'), '');
  writeFileSync(c.path('edge-1', '/data/pictures/dogs/1.png'), '');
  writeFileSync(c.path('edge-1', '/data/torn.parquet'), bytes.subarray(0, 40));
  const dataset = (name: string, url: string, format: string): JsonObject =>
    object('Dataset', name, { url, format, nodeName: 'edge-1' });
  await c.apply(
    dataset('table', '/data/t.parquet', 'parquet'),
    dataset('pictures', '/data/pictures', 'images'),
    dataset('torn', '/data/torn.parquet', 'parquet'),
    object('Model', 'any', { url: '/models/any.onnx', format: 'onnx' }),
  );
  await c.until('counts', async () => {
    const [table, pictures] = [await c.get('ds', 'table'), await c.get('ds', 'pictures')];
    return table?.status?.numberOfSamples === 3 && pictures?.status?.numberOfSamples === 2;
  });
  const torn = await c.until('the fault', async () => {
    const found = await c.condition('ds', 'torn');
    return found?.reason === 'Unreadable' ? found : undefined;
  });
  expect(torn.message).toMatch(/torn\.parquet is not a Parquet file/);
  const sleeper = template('cloud-1', ['node', '-e', 'setInterval(() => {}, 1000)']);
  const trigger = { condition: { operator: '>', threshold: 1, metric: 'num_of_samples' } };
  const job = (name: string, over: JsonObject): JsonObject =>
    object('IncrementalLearningJob', name, {
      dataset: { name: 'table', trainProb: 0.5 },
      initialModel: { name: 'any' },
      outputDir: '/output/x',
      trainSpec: { template: sleeper, trigger },
      evalSpec: { template: sleeper },
      deploySpec: {
        model: { name: 'any' },
        trigger,
        hardExampleMining: { name: 'IBT' },
        template: sleeper,
      },
      ...over,
    });
  await c.apply(job('whole', {}), job('ftp', { outputDir: 'ftp://x/y' }));
  const told = async (name: string): Promise<string> =>
    await c.until('why', async () => (await c.get('il', name))?.status?.message);
  expect(await told('whole')).toMatch(/"table" is parquet, which cannot be cut into rounds/);
  expect(await told('ftp')).toMatch(
    /"ftp:\/\/x\/y" cannot be written to; use a host path or s3:\/\//,
  );
  for (const name of ['whole', 'ftp']) await c.resources.remove('il', 'default', name);
});
