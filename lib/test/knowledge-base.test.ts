import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { knowledgeToken } from '@shoal/api';
import { createAuthority, issueCertificate, seededRandom } from '@shoal/core';
import { afterEach, expect, test } from 'vitest';
import { type Change, KnowledgeClient, KnowledgeServer, KnowledgeStore } from '../src/index.ts';

const KEY = 'a key that only the manager and the base know';
const cleanups: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

function folder(): string {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-kb-'));
  cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

function clientOf(address: string, job: string, more: object = {}): KnowledgeClient {
  const client = new KnowledgeClient({ address, job, token: knowledgeToken(KEY, job), ...more });
  cleanups.push(() => client.close());
  return client;
}

async function serve(options: { maxModelBytes?: number; tls?: boolean } = {}): Promise<{
  address: string;
  authority: string;
  store: KnowledgeStore;
}> {
  const store = new KnowledgeStore({ dir: folder() });
  const at = { nowMs: Date.now(), validForMs: 3_600_000 };
  const authority = await createAuthority('test', at);
  const tls = await issueCertificate(authority, {
    commonName: 'shoal-knowledge-base',
    dnsNames: ['shoal-knowledge-base'],
    usages: ['server'],
    ...at,
  });
  const server = new KnowledgeServer({
    store,
    key: KEY,
    ...(options.tls ? { tls } : {}),
    ...(options.maxModelBytes ? { maxModelBytes: options.maxModelBytes } : {}),
  });
  const address = await server.start();
  cleanups.push(() => {
    server.close();
    store.close();
  });
  return { address, authority: authority.certificate, store };
}

function sampleOf(id: string, values: readonly number[]): Change {
  const sample = {
    id,
    edge: 'edge-1',
    task: 'a',
    attributes: { city: 'athens' },
    shape: [values.length],
    inputs: Float32Array.from(values),
    recordedAtMs: 5,
  };
  return { kind: 'sample', sample };
}

test('tasks, models, samples, labels and neighbours travel over TLS as they are', async () => {
  const { address, authority } = await serve({ tls: true });
  const client = clientOf(address, 'default/comfort/1', { authority });
  const random = seededRandom(1);
  const model = Uint8Array.from({ length: 3_000_000 }, () => random.int(256));
  const digest = await client.putModel(model);
  expect(await client.putModel(model)).toBe(digest);
  expect(Buffer.compare(await client.getModel(digest), model)).toBe(0);
  await client.commit([
    {
      kind: 'task',
      task: {
        name: 'athens',
        revision: 1,
        attributes: { city: 'athens' },
        model: digest,
        modelBytes: model.length,
        samples: 7,
        metrics: { accuracy: 0.75 },
        classes: ['cooler', 'warmer'],
        knowledge: { centroid: [1, 2] },
      },
    },
    { kind: 'verdict', task: 'athens', revision: 1, model: digest, state: 'admitted' },
    { kind: 'shared', shared: { name: 'extractor', revision: 1, value: { mean: [0.5] } } },
    {
      kind: 'relation',
      relation: { from: 'athens', to: 'athens', kind: 'transfer', revision: 1, value: 1 },
    },
    { kind: 'usage', edge: 'edge-1', counters: { inferences: 12 } },
    sampleOf('edge-1/1', [1, Number.NaN, 3]),
    { kind: 'label', sample: 'edge-1/1', label: 2, by: 'a person', atMs: 9 },
  ]);
  const snapshot = await client.snapshot();
  expect(snapshot.tasks[0]).toMatchObject({
    name: 'athens',
    state: 'admitted',
    classes: ['cooler', 'warmer'],
    knowledge: { centroid: [1, 2] },
    metrics: { accuracy: 0.75 },
  });
  expect(snapshot.shared).toEqual([{ name: 'extractor', revision: 1, value: { mean: [0.5] } }]);
  expect(snapshot.usage).toEqual([{ edge: 'edge-1', counters: { inferences: 12 } }]);
  expect([snapshot.unseenSamples, snapshot.labelledSamples]).toEqual([1, 1]);
  const [sample] = await client.samples({ labelled: true });
  expect([sample?.label, ...(sample?.inputs ?? [])]).toEqual([2, 1, Number.NaN, 3]);
  expect(await client.samples({ labelled: false })).toEqual([]);
  expect(await client.nearest(Float32Array.of(1, 1), 5)).toEqual([{ task: 'athens', distance: 1 }]);
});

test('a token opens one job; the operator’s opens all and lists them', async () => {
  const { address } = await serve();
  await clientOf(address, 'default/a/1').commit([sampleOf('x', [1])]);
  const thief = clientOf(address, 'default/a/1', { token: knowledgeToken(KEY, 'default/b/2') });
  await expect(thief.snapshot()).rejects.toMatchObject({ code: 'permission_denied' });
  await expect(thief.putModel(new Uint8Array(4))).rejects.toMatchObject({
    code: 'permission_denied',
  });
  await expect(thief.samples()).rejects.toMatchObject({ code: 'permission_denied' });
  const nobody = clientOf(address, 'default/a/1', { token: '' });
  await expect(nobody.commit([])).rejects.toMatchObject({ code: 'unauthenticated' });
  const operator = clientOf(address, 'default/a/1', { token: knowledgeToken(KEY, '*') });
  expect((await operator.jobs()).map((j) => [j.job, j.samples])).toEqual([['default/a/1', 1]]);
  await expect(thief.jobs()).rejects.toMatchObject({ code: 'permission_denied' });
});

test('bad input is refused with its reason, and changes nothing', async () => {
  const { address } = await serve({ maxModelBytes: 1000 });
  const client = clientOf(address, 'j');
  await expect(client.putModel(new Uint8Array(1001))).rejects.toThrow(/1001 bytes were announced/);
  await expect(client.getModel('sha256:short')).rejects.toMatchObject({ code: 'invalid_argument' });
  await expect(client.getModel(`sha256:${'0'.repeat(64)}`)).rejects.toMatchObject({
    code: 'not_found',
  });
  const wrong = sampleOf('s', [1, 2]) as Extract<Change, { kind: 'sample' }>;
  const shape = { ...wrong, sample: { ...wrong.sample, shape: [3] } };
  await expect(client.commit([sampleOf('good', [1]), shape])).rejects.toThrow(
    /sample s has 2 values, its shape is \[3\]/,
  );
  expect((await client.snapshot()).version).toBe(0);
  await expect(client.snapshot(9)).rejects.toMatchObject({ code: 'out_of_range' });
});

test('an unreachable base is unavailable, soon', async () => {
  const client = clientOf('127.0.0.1:1', 'j', { timeoutMs: 1_000 });
  await expect(client.snapshot()).rejects.toMatchObject({ retry: 'backoff' });
});

test('several edges at once: nothing is lost, nothing is doubled', async () => {
  const { address } = await serve();
  const edges = Array.from({ length: 6 }, () => clientOf(address, 'j'));
  await Promise.all(
    edges.map(async (edge, e) => {
      for (let n = 0; n < 20; n++) {
        const change = sampleOf(`edge-${e}/${n}`, [e, n]);
        await edge.commit([change]);
        if (n % 3 === 0) await edge.commit([change]); // a retry whose first answer got lost
      }
    }),
  );
  const snapshot = await edges[0]?.snapshot();
  expect(snapshot?.unseenSamples).toBe(120);
  expect(snapshot?.version).toBe(120);
});

const PROCESS = `
import { KnowledgeServer, KnowledgeStore } from '@shoal/lib';
const store = new KnowledgeStore({ dir: process.argv[1] });
const server = new KnowledgeServer({ store, key: process.argv[2], port: Number(process.argv[3]) });
process.stdout.write((await server.start()) + '\\n');
`;

async function startProcess(
  dir: string,
  port: string,
): Promise<{ child: ChildProcess; address: string }> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', PROCESS, dir, KEY, port], {
    cwd: join(import.meta.dirname, '..'),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  cleanups.push(() => void child.kill('SIGKILL'));
  const address = await new Promise<string>((resolve) =>
    child.stdout?.once('data', (data: Buffer) => resolve(data.toString().trim())),
  );
  return { child, address };
}

test('killed with -9 at any moment, what was acknowledged is there', async () => {
  const dir = folder();
  let { child, address } = await startProcess(dir, '0');
  const port = address.split(':')[1] ?? '0';
  const client = clientOf(address, 'j');
  const acknowledged = new Map<string, number>();
  const models: string[] = [];
  const random = seededRandom(7);
  for (let kill = 0; kill < 6; kill++) {
    const writing = (async () => {
      for (let n = 0; ; n++) {
        const id = `${kill}/${n}`;
        const model = await client.putModel(Buffer.from(`model ${id}`));
        models.push(model);
        acknowledged.set(id, await client.commit([sampleOf(id, [kill, n])]));
      }
    })().catch((error: unknown) => error);
    const exited = new Promise((resolve) => child.once('exit', resolve));
    setTimeout(() => child.kill('SIGKILL'), 40 + random.int(120));
    await exited;
    expect(await writing).toMatchObject({ code: 'unavailable' });
    ({ child, address } = await startProcess(dir, port));
    const samples = new Set((await client.samples()).map((s) => s.id));
    expect([...acknowledged.keys()].filter((id) => !samples.has(id))).toEqual([]);
  }
  expect(acknowledged.size).toBeGreaterThan(6);
  for (const model of models) expect((await client.getModel(model)).length).toBeGreaterThan(6);
  const { version } = await client.snapshot();
  expect(version).toBeGreaterThanOrEqual(Math.max(...acknowledged.values()));
});
