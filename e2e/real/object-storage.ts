import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type JsonObject, seededRandom } from '@shoal/core';
import { imageData } from '@shoal/lib';
import { dense, flatten, sequential } from '@shoal/training';
import { Client } from 'minio';
import { ClusterFixture, template } from '../cluster-fixture.ts';
import { type Outcome, run } from './outcome.ts';
import { type findMinio, type S3Server, startMinio, startMoto } from './s3-servers.ts';

const BUCKET = 'shoal-test';
const object = (kind: string, name: string, spec: JsonObject): JsonObject => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind,
  metadata: { name },
  spec,
});

function clientOf({ endpoint, accessKey, secretKey }: S3Server): Client {
  return new Client({
    endPoint: endpoint.hostname,
    port: Number(endpoint.port),
    useSSL: false,
    accessKey,
    secretKey,
  });
}

/** Runs a check; what it throws is its failure. */
async function checked(name: string, body: () => Promise<string>): Promise<Outcome> {
  try {
    return { name, result: 'passed', detail: await body() };
  } catch (error) {
    return { name, result: 'failed', detail: String(error) };
  }
}

function expectTrue(condition: boolean, why: string): void {
  if (!condition) throw new Error(why);
}

/** The storage initializer as a pod's init container runs it. */
async function initializer(server: S3Server): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-s3-'));
  try {
    const bytes = randomBytes(7_000_001);
    await clientOf(server).putObject(BUCKET, 'models/a b.onnx', bytes);
    const env = {
      S3_ENDPOINT_URL: server.endpoint.origin,
      ACCESS_KEY_ID: server.accessKey,
      SECRET_ACCESS_KEY: server.secretKey,
    };
    const fetchFrom = (source: string, over: Record<string, string> = {}): ReturnType<typeof run> =>
      run(process.execPath, ['workers/src/storage-initializer.ts', source, dir], {
        env: { ...env, ...over },
      });
    const url = `s3://${BUCKET}/models/a%20b.onnx`;
    const good = fetchFrom(url);
    expectTrue(good.code === 0, good.stderr);
    expectTrue(readFileSync(join(dir, 'a%20b.onnx')).equals(bytes), 'other bytes');
    // The rest of what was broken off, by the ETag it came from.
    const { etag } = await clientOf(server).statObject(BUCKET, 'models/a b.onnx');
    writeFileSync(join(dir, 'a%20b.onnx.part'), bytes.subarray(0, 5_000_000));
    writeFileSync(join(dir, 'a%20b.onnx.part.json'), JSON.stringify({ version: etag }));
    rmSync(join(dir, 'a%20b.onnx'));
    expectTrue(fetchFrom(url).code === 0, 'not resumed');
    expectTrue(readFileSync(join(dir, 'a%20b.onnx')).equals(bytes), 'other bytes after resuming');
    const hex = createHash('sha256').update(bytes).digest('hex');
    expectTrue(fetchFrom(`${url}#sha256=${hex}`).code === 0, 'a right digest is refused');
    const wrong = fetchFrom(`${url}#sha256=${'0'.repeat(64)}`);
    expectTrue(/announced was sha256:0000/.test(wrong.stderr), wrong.stderr);
    const large = fetchFrom(url, { STORAGE_MAX_BYTES: '1000' });
    expectTrue(/has 7000001 bytes, at most 1000/.test(large.stderr), large.stderr);
    const missing = fetchFrom(`s3://${BUCKET}/models/none.onnx`);
    expectTrue(missing.code !== 0 && missing.stderr.includes('models/none.onnx'), missing.stderr);
    const said = [good, wrong, large, missing].map((r) => r.stdout + r.stderr).join('');
    expectTrue(!said.includes(server.secretKey), 'the secret key was printed');
    return `${bytes.length} bytes, resumed at 5,000,000, digests and limits kept`;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function pictures(count: number): string {
  const random = seededRandom(1);
  return Array.from({ length: count }, (_, i) => {
    const pixels = Float32Array.from({ length: 4 }, (_p, p) =>
      p === i % 4 ? 1 : random.next() / 3,
    );
    return `${JSON.stringify({ ...imageData(pixels), label: i % 4 })}\n`;
  }).join('');
}

function job(): JsonObject {
  const env = [
    { name: 'INPUT_SHAPE', value: '1,2,2' },
    { name: 'EPOCHS', value: '5' },
  ];
  const worker = (kind: string): string[] => ['node', 'workers/src/main.ts', kind];
  const trigger = { condition: { operator: '>', threshold: 10, metric: 'num_of_samples' } };
  return object('IncrementalLearningJob', 'far', {
    dataset: { name: 'far', trainProb: 0.8 },
    initialModel: { name: 'far' },
    credentialName: 'far',
    outputDir: `s3://${BUCKET}/out/`,
    trainSpec: {
      template: template('cloud-1', worker('train'), { env }),
      trigger: { checkPeriodSeconds: 1, ...trigger },
    },
    evalSpec: { template: template('cloud-1', worker('evaluate'), { env }) },
    deploySpec: {
      model: { name: 'far', hotUpdateEnabled: true, pollPeriodSeconds: 1 },
      trigger: { condition: { operator: '>', threshold: -1, metric: 'accuracy_delta' } },
      hardExampleMining: { name: 'IBT' },
      template: template('edge-1', worker('infer'), {
        env: [...env, { name: 'INFERENCE_PORT', value: '8131' }],
      }),
    },
  });
}

/** Every text a cluster has written below a folder. */
function textsBelow(folder: string): string {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((f) => join(folder, f))
    .filter((f) => statSync(f).isFile() && statSync(f).size < 5e6)
    .map((f) => readFileSync(f, 'latin1'))
    .join('\n');
}

/** A job whose dataset, models and output are all in S3, on a cluster. */
async function wholeJob(server: S3Server): Promise<string> {
  const client = clientOf(server);
  const layers = [flatten(), dense(4)];
  const model = sequential({ input: [1, 2, 2], layers, random: seededRandom(1) });
  await client.putObject(BUCKET, 'first.onnx', Buffer.from(model));
  await client.putObject(BUCKET, 'data.jsonl', pictures(5));
  const c = await ClusterFixture.start(1);
  try {
    const data = (text: string): string => Buffer.from(text).toString('base64');
    await c.apply({
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: {
        name: 'far',
        annotations: { 's3-endpoint': server.endpoint.host, 's3-usehttps': '0' },
      },
      data: { ACCESS_KEY_ID: data(server.accessKey), SECRET_ACCESS_KEY: data(server.secretKey) },
    });
    const at = (file: string): string => `s3://${BUCKET}/${file}`;
    await c.apply(
      object('Dataset', 'far', {
        url: at('data.jsonl'),
        format: 'jsonl',
        nodeName: 'cloud-1',
        credentialName: 'far',
      }),
      object('Model', 'far', { url: at('first.onnx'), format: 'onnx', credentialName: 'far' }),
      job(),
    );
    const counted = async (n: number): Promise<unknown> =>
      await c.until(
        `${n} samples`,
        async () => (await c.get('ds', 'far'))?.status?.numberOfSamples === n,
      );
    await counted(5);
    await client.putObject(BUCKET, 'data.jsonl', pictures(60));
    await counted(60);
    const done = await c.until(
      'a model to be deployed',
      async () => {
        const found = await c.get('il', 'far');
        return found?.status?.deployedModel ? found : undefined;
      },
      90_000,
    );
    const { size } = await client.statObject(BUCKET, 'out/train/1/model.onnx');
    expectTrue(size > 100, 'the trained model is not in S3');
    const texts = `${textsBelow(c.layout.logDir)}${textsBelow(c.layout.controllerDir('cloud-1'))}`;
    expectTrue(!texts.includes(server.secretKey), 'the secret key is in a log or at an edge');
    const pods = JSON.stringify(await c.pods('far-'));
    expectTrue(!pods.includes(server.secretKey), 'the secret key is in a pod');
    return `dataset of 5, then 60 samples, ${size} bytes in out/train/1/model.onnx, served ${done.status?.deployedModel?.slice(0, 19)}`;
  } finally {
    await c.stop();
  }
}

async function exercised(server: S3Server): Promise<Outcome[]> {
  try {
    await clientOf(server).makeBucket(BUCKET, 'us-east-1');
    return [
      await checked(`${server.name}: the storage initializer fetches, resumes, checks`, () =>
        initializer(server),
      ),
      await checked(`${server.name}: a job with dataset, models and output in S3`, () =>
        wholeJob(server),
      ),
    ];
  } catch (error) {
    return [{ name: server.name, result: 'failed', detail: String(error) }];
  } finally {
    server.stop();
  }
}

/** Object storage against two servers of others: moto, and MinIO where Go can build it. */
export async function objectStorage(minio: ReturnType<typeof findMinio>): Promise<Outcome[]> {
  const moto = await startMoto();
  const skipped = (name: string, detail: string): Outcome[] => [
    { name, result: 'skipped', detail },
  ];
  const program = await minio;
  return [
    ...(moto ? await exercised(moto) : skipped('S3 with moto', 'pip install moto[server]')),
    ...(program === undefined
      ? skipped('S3 with MinIO', 'neither minio nor a Go that can build it is here')
      : await exercised(await startMinio(program))),
  ];
}

export { findMinio } from './s3-servers.ts';
