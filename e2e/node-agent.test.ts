import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { ApiClient, ApiObject } from '@shoal/cluster';
import { issueCertificate, type KeyPair } from '@shoal/core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ApiServerProcess } from './api-server-process.ts';
import { alive } from './cluster-fixture.ts';

/** The API server and one node agent, each a process that can be taken away. */
const MAIN = join(import.meta.dirname, '../cli/src/process/node-agent.ts');
const PODS = '/api/v1/namespaces/default/pods';
let server: ApiServerProcess;
let client: ApiClient;
let agent: ChildProcess;

async function startAgent(): Promise<void> {
  const authority = JSON.parse(readFileSync(join(server.folder, 'ca.json'), 'utf8')) as KeyPair;
  const tls = await issueCertificate(authority, {
    commonName: 'system:node:n1',
    organization: 'system:nodes',
    ipAddresses: ['127.0.0.1'],
    usages: ['server', 'client'],
    nowMs: Date.now(),
    validForMs: 3_600_000,
  });
  const dataDir = join(server.folder, 'n1');
  mkdirSync(dataDir, { recursive: true });
  const options = {
    identity: { name: 'n1', ip: '127.0.0.1', labels: {} },
    dataDir,
    podSubnet: 250,
    images: [],
    authority: authority.certificate,
    server: server.url,
    tls,
  };
  agent = spawn(process.execPath, [MAIN], {
    env: { ...process.env, SHOAL_PROCESS_OPTIONS: JSON.stringify(options) },
    stdio: 'ignore',
  });
}

async function killAgent(): Promise<void> {
  agent.kill('SIGKILL');
  if (agent.exitCode === null && agent.signalCode === null) await once(agent, 'exit');
}

beforeAll(async () => {
  server = await ApiServerProcess.start();
  client = server.client();
  await startAgent();
});
afterAll(async () => {
  agent.kill('SIGTERM');
  if (agent.exitCode === null && agent.signalCode === null) await once(agent, 'exit');
  client.close();
  await server.close();
});

async function until<T>(
  what: string,
  check: () => Promise<T | undefined> | T | undefined,
): Promise<T> {
  const end = Date.now() + 30_000;
  for (;;) {
    const found = await Promise.resolve(check()).catch(() => undefined);
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => {
      setTimeout(resolve, 50);
    });
  }
}

interface Pod extends ApiObject {
  readonly status: {
    readonly phase: string;
    readonly containerStatuses?: readonly {
      readonly restartCount: number;
      readonly state: {
        readonly terminated?: { readonly reason: string; readonly exitCode: number };
      };
    }[];
  };
}

const pod = (name: string, container: object, labels: object = {}): object => ({
  metadata: { name, labels },
  spec: {
    restartPolicy: 'Never',
    terminationGracePeriodSeconds: 1,
    containers: [{ name: 'main', image: 'any', ...container }],
  },
});

test('a container that takes more memory than its limit is ended: OOMKilled', async () => {
  const greedy = 'const all = []; setInterval(() => all.push(Buffer.alloc(2e7, 1)), 20)';
  const resources = { limits: { memory: '150Mi' } };
  await client.request('POST', PODS, pod('greedy', { command: ['node', '-e', greedy], resources }));
  const ended = await until('its end', async () => {
    const found = (await client.request('GET', `${PODS}/greedy`)) as Pod;
    return found.status.containerStatuses?.[0]?.state.terminated;
  });
  expect(ended).toMatchObject({ reason: 'OOMKilled', exitCode: 137 });
});

test('what a container says last is kept, and what it started ends with it', async () => {
  const script = 'sleep 987 & echo $!; seq 1 60000; printf last';
  await client.request('POST', PODS, pod('brief', { command: ['sh', '-c', script] }));
  await until(
    'its end',
    async () =>
      ((await client.request('GET', `${PODS}/brief`)) as Pod).status.phase === 'Succeeded',
  );
  let log = '';
  await client.stream(`${PODS}/brief/log`, (chunk) => {
    log += chunk.toString();
  });
  const lines = log.trim().split('\n');
  expect(lines).toHaveLength(60_002);
  expect(lines.at(-1)).toBe('last');
  await until('the sleeper to end', () => !alive(Number(lines[0])));
});

test('following the log of a pod that cannot start yet is refused, and the agent goes on', async () => {
  const waiting = {
    metadata: { name: 'waiting' },
    spec: {
      terminationGracePeriodSeconds: 1,
      volumes: [{ name: 'v', configMap: { name: 'missing' } }],
      containers: [{ name: 'main', image: 'any', command: ['true'] }],
    },
  };
  await client.request('POST', PODS, waiting);
  const refused = await until('the agent to know of it', async () => {
    const follow = client.stream(`${PODS}/waiting/log?follow=true`, () => undefined);
    const why = await follow.then(() => 'it was served', String);
    return /not scheduled|is not on this node/.test(why) ? undefined : why;
  });
  expect(refused).toMatch(
    /container "main" in pod "waiting" is waiting to start: ContainerCreating/,
  );
  expect(agent.exitCode).toBeNull();
  await client.request('DELETE', `${PODS}/waiting`);
  await until('it to go', async () => {
    const { items } = (await client.request('GET', PODS)) as { items: ApiObject[] };
    return items.every((o) => o.metadata.name !== 'waiting');
  });
});

test('without the API server an agent that was killed starts its pods again, secrets and all', async () => {
  const secret = {
    metadata: { name: 's' },
    data: { word: Buffer.from('geheim').toString('base64') },
  };
  await client.request('POST', '/api/v1/namespaces/default/secrets', secret);
  const file = join(server.folder, 'said');
  const script = `require('fs').appendFileSync(${JSON.stringify(file)}, process.pid + ' ' + process.env.WORD + '\\n'); setInterval(() => {}, 1000)`;
  const env = [{ name: 'WORD', valueFrom: { secretKeyRef: { name: 's', key: 'word' } } }];
  await client.request('POST', PODS, pod('keeper', { command: ['node', '-e', script], env }));
  const lines = (): string[] =>
    existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
  await until('the first run', () => lines().length === 1);
  await until(
    'it to be known',
    async () => ((await client.request('GET', `${PODS}/keeper`)) as Pod).status.phase === 'Running',
  );
  const database = join(server.folder, 'n1/agent.db');
  await server.kill();
  await killAgent();
  const first = Number(lines()[0]?.split(' ')[0]);
  await until('the first to end with its agent', () => !alive(first));
  for (const part of [database, `${database}-wal`])
    expect(existsSync(part) ? readFileSync(part).includes('geheim') : false).toBe(false);
  await startAgent();
  await until('the second run', () => lines().length === 2);
  expect(lines().map((line) => line.split(' ')[1])).toEqual(['geheim', 'geheim']);
  await server.run();
  const back = await until('the agent to be heard again', async () => {
    const found = (await client.request('GET', `${PODS}/keeper`)) as Pod;
    return found.status.containerStatuses?.[0]?.restartCount === 1 ? found : undefined;
  });
  expect(back.status.phase).toBe('Running');
  const second = Number(lines()[1]?.split(' ')[0]);
  await client.request('DELETE', `${PODS}/keeper`);
  await until('it to end', () => !alive(second));
  rmSync(file);
});

test('what a deployment left behind is adopted by one with the same selector; what it no longer selects is let go', async () => {
  const path = '/apis/apps/v1/namespaces/default/deployments';
  const sleeper = { command: ['node', '-e', 'setInterval(() => {}, 1000)'] };
  const labels = { app: 'heir' };
  const deployment = {
    metadata: { name: 'heir' },
    spec: {
      replicas: 1,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          terminationGracePeriodSeconds: 1,
          containers: [{ name: 'main', image: 'any', ...sleeper }],
        },
      },
    },
  };
  const pods = async (): Promise<ApiObject[]> => {
    const list = await client.request('GET', `${PODS}?labelSelector=app%3Dheir`);
    return (list as { items: ApiObject[] }).items;
  };
  await client.request('POST', path, deployment);
  const [left] = await until('its pod', async () => {
    const found = await pods();
    return found.length === 1 ? found : undefined;
  });
  const sets = '/apis/apps/v1/namespaces/default/replicasets';
  await client.request('DELETE', `${path}/heir`, { propagationPolicy: 'Orphan' });
  await until(
    'it to go',
    async () => ((await client.request('GET', path)) as { items: unknown[] }).items.length === 0,
  );
  const made = (await client.request('POST', path, deployment)) as ApiObject;
  const set = await until('the set to be adopted', async () => {
    const { items } = (await client.request('GET', sets)) as { items: ApiObject[] };
    return items.find((s) => s.metadata.ownerReferences?.[0]?.uid === made.metadata.uid);
  });
  expect((await pods()).map((p) => p.metadata.name)).toEqual([left?.metadata.name]);
  const merge = { contentType: 'application/merge-patch+json' };
  const free = { metadata: { labels: { 'pod-template-hash': null } } };
  await client.request('PATCH', `${PODS}/${left?.metadata.name}`, free, merge);
  await until('another in its place', async () => (await pods()).length === 2);
  const after = await pods();
  const old = after.find((p) => p.metadata.name === left?.metadata.name);
  expect(old?.metadata.ownerReferences ?? []).toEqual([]);
  const fresh = after.find((p) => p.metadata.name !== left?.metadata.name);
  expect(fresh?.metadata.ownerReferences?.[0]?.uid).toBe(set.metadata.uid);
  await client.request('DELETE', `${path}/heir`);
  await client.request('DELETE', `${PODS}/${left?.metadata.name}`);
});
