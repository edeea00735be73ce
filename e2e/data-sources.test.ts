import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { JsonObject } from '@shoal/core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture } from './cluster-fixture.ts';
import { MqttBroker, mosquitto } from './mqtt-broker.ts';

/** Samples that are pushed into datasets of an edge, while its local controller is killed. */
let c: ClusterFixture;
let broker: MqttBroker;
beforeAll(async () => {
  broker = await MqttBroker.start(mosquitto ? { path: mosquitto } : {});
  c = await ClusterFixture.start(1);
});
afterAll(async () => {
  await c.stop();
  await broker.stop();
});

function dataset(name: string, source: JsonObject, more: JsonObject = {}): JsonObject {
  const spec = { url: `/data/${name}.jsonl`, format: 'jsonl', nodeName: 'edge-1', source, ...more };
  return { apiVersion: 'sedna.io/v1alpha1', kind: 'Dataset', metadata: { name }, spec };
}

interface Source {
  readonly state: string;
  readonly message?: string;
  readonly received: number;
  readonly rejected: number;
  readonly lastRejection?: string;
}

async function untilSource(name: string, fits: (source: Source) => boolean): Promise<Source> {
  return await c.until(
    `the source of ${name}`,
    async () => {
      const status = (await c.get('dataset', name))?.status as { source?: Source } | undefined;
      return status?.source && fits(status.source) ? status.source : undefined;
    },
    30_000,
  );
}

function lines(name: string): string[] {
  return readFileSync(c.path('edge-1', `/data/${name}.jsonl`), 'utf8')
    .split('\n')
    .filter((l) => l !== '');
}

async function kill(): Promise<void> {
  const name = 'local-controller-edge-1';
  const before = c.pidOf(name);
  process.kill(before, 'SIGKILL');
  await c.until('it to return', async () => {
    const now = c.cluster.processes.find((p) => p.name === name)?.pid;
    return await Promise.resolve(now !== undefined && now !== before);
  });
}

async function secret(name: string, stringData: Record<string, string>): Promise<void> {
  const body = { metadata: { name }, stringData };
  await c.client.request('POST', '/api/v1/namespaces/default/secrets', body);
}

test('MQTT: every message is in the dataset once, through kill -9 of the node and cuts of the broker', async () => {
  const mqtt = { address: broker.address, topics: ['plant/#'], credentialName: 'plant' };
  await c.apply(dataset('poor', { mqtt: { ...mqtt, credentialName: 'none' } }));
  await secret('plant', { username: 'node', password: 'secret' });
  await c.apply(dataset('plant', { mqtt }));
  await untilSource('plant', (s) => s.state === 'Running');
  const sent: string[] = [];
  for (let n = 0; n < 600; n++) {
    const sample = JSON.stringify({ n, value: n % 7 });
    sent.push(sample);
    await broker.publish(`plant/${n % 3}`, sample);
    if (n === 150 || n === 400) await kill();
    if (n % 97 === 96) broker.cut();
  }
  await broker.publish('plant/0', 'no sample');
  const status = await untilSource('plant', (s) => s.received >= 600 && s.rejected >= 1);
  expect(status.lastRejection).toMatch(/not JSON/);
  await c.until('the file', () => Promise.resolve(lines('plant').length >= 600));
  const got = lines('plant');
  expect([...new Set(got)].toSorted()).toEqual(sent.toSorted());
  // Only a broker that says when it repeats itself can be held to exactly once.
  expect(got.length - 600).toBeLessThanOrEqual(mosquitto ? 0 : 8);
  await c.until('the count', async () => {
    const live = await c.get('dataset', 'plant');
    return live?.status?.numberOfSamples === got.length;
  });
  expect((await c.condition('dataset', 'poor'))?.message).toMatch(/Secret "none" does not exist/);
});

test('HTTP: a device posts with its token; a repeated request counts once, also over kill -9', async () => {
  await secret('door', { token: 'open' });
  await c.apply(dataset('door', { http: { credentialName: 'door' } }));
  await untilSource('door', (s) => s.state === 'Running');
  const node = await c.get('node', 'edge-1');
  const { addresses } = (node?.status ?? {}) as { addresses?: { address: string }[] };
  const url = `http://${addresses?.[0]?.address}:9100/shoal/datasets/default/door/samples`;
  const post = async (key: string, token: string): Promise<[number, JsonObject]> => {
    const response = await fetch(url, {
      method: 'POST',
      headers: { Authorization: `Bearer ${token}`, 'Idempotency-Key': key },
      body: `{"key":"${key}"}`,
    });
    return [response.status, (await response.json()) as JsonObject];
  };
  expect(await post('a', 'open')).toEqual([200, { taken: 1, refused: [] }]);
  expect((await post('a', 'wrong'))[0]).toBe(401);
  await kill();
  await c.until('it to listen again', async () => (await post('b', 'open'))[0] === 200);
  expect(await post('a', 'open')).toEqual([200, { taken: 0, refused: [] }]);
  await c.until('the file', () => Promise.resolve(lines('door').length === 2));
  expect(lines('door')).toEqual(['{"key":"a"}', '{"key":"b"}']);
  expect((await fetch(url.replace('door', 'plant'), { method: 'POST', body: '{}' })).status).toBe(
    404,
  );
});

test('a folder: files that were put there are samples; nonsense in the spec is refused', async () => {
  await c.apply(
    dataset('drops', { directory: { path: '/var/drops', after: 'delete' } }),
    dataset('both', { http: {}, directory: { path: '/var/drops' } }),
    dataset('idx', { http: {} }, { format: 'idx' }),
  );
  const folder = c.path('edge-1', '/var/drops/x').slice(0, -2);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'a.tmp'), '{"n":1}\n{"n":2}\n');
  renameSync(join(folder, 'a.tmp'), join(folder, 'a.jsonl'));
  await untilSource('drops', (s) => s.received === 2 && s.state === 'Running');
  const message = async (name: string): Promise<string> =>
    (await c.condition('dataset', name))?.message ?? '';
  await c.until('both to be refused', async () => /exactly one of/.test(await message('both')));
  await c.until('idx to be refused', async () =>
    /cannot grow line by line/.test(await message('idx')),
  );
});
