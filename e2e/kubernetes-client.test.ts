import { createServer } from 'node:net';
import { PassThrough, Readable } from 'node:stream';
import {
  AppsV1Api,
  CoreV1Api,
  CustomObjectsApi,
  Exec,
  KubeConfig,
  Log,
  makeInformer,
  PatchStrategy,
  PortForward,
  setHeaderOptions,
  type V1Deployment,
  type V1Status,
} from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture } from './cluster-fixture.ts';

/** The kubectl session of `test:real`, with the client library: what runs without kubectl. */
let cluster: ClusterFixture;
let core: CoreV1Api;
let apps: AppsV1Api;
let custom: CustomObjectsApi;
const config = new KubeConfig();
const namespace = 'default';
const group = 'sedna.io';
const version = 'v1alpha1';
const datasets = { group, version, namespace, plural: 'datasets' };

beforeAll(async () => {
  cluster = await ClusterFixture.start(1);
  config.loadFromFile(`${cluster.layout.root}/kubeconfig`);
  core = config.makeApiClient(CoreV1Api);
  apps = config.makeApiClient(AppsV1Api);
  custom = config.makeApiClient(CustomObjectsApi);
});
afterAll(async () => await cluster.stop());

const SERVER =
  "console.log('up'); require('http').createServer((q, s) => s.end('hello ' + q.url)).listen(8080, process.env.POD_IP)";

const web: V1Deployment = {
  metadata: { name: 'web' },
  spec: {
    replicas: 2,
    selector: { matchLabels: { app: 'web' } },
    template: {
      metadata: { labels: { app: 'web' } },
      spec: {
        containers: [
          {
            name: 'web',
            image: 'any',
            command: ['node', '-e', SERVER],
            env: [{ name: 'POD_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } }],
            readinessProbe: { httpGet: { path: '/', port: 8080 }, periodSeconds: 1 },
          },
        ],
      },
    },
  },
};

/** What a refused call says: its HTTP code, and reason and message of its Status. */
async function refusal(call: Promise<unknown>): Promise<{
  code: number;
  reason: string;
  message: string;
}> {
  const error: unknown = await call.then(
    () => {
      throw new Error('it was not refused');
    },
    (failure: unknown) => failure,
  );
  const { code, body } = error as { code: number; body: string | undefined };
  // The client hands out no body of a 401.
  const status = body === undefined ? { reason: '', message: '' } : (JSON.parse(body) as object);
  return { code, reason: '', message: '', ...status };
}

test('objects: create, read, every kind of patch, replace, select, delete', async () => {
  const body = { metadata: { name: 'conf', labels: { a: '1' } }, data: { x: '1' } };
  const made = await core.createNamespacedConfigMap({ namespace, body });
  expect(made.metadata?.uid).toBeTruthy();
  expect(await refusal(core.createNamespacedConfigMap({ namespace, body }))).toMatchObject({
    code: 409,
    reason: 'AlreadyExists',
    message: 'configmaps "conf" already exists',
  });
  const at = { name: 'conf', namespace };
  await core.patchNamespacedConfigMap({
    ...at,
    body: [{ op: 'add', path: '/data/y', value: '2' }],
  });
  const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);
  await core.patchNamespacedConfigMap({ ...at, body: { data: { x: null } } }, merge);
  const strategic = setHeaderOptions('Content-Type', PatchStrategy.StrategicMergePatch);
  const patched = await core.patchNamespacedConfigMap(
    { ...at, body: { metadata: { labels: { b: '2' } } } },
    strategic,
  );
  expect(patched).toMatchObject({ data: { y: '2' }, metadata: { labels: { a: '1', b: '2' } } });
  expect(patched.data).not.toHaveProperty('x');
  const stale = core.replaceNamespacedConfigMap({ ...at, body: made });
  expect(await refusal(stale)).toMatchObject({ code: 409, reason: 'Conflict' });
  const found = await core.listNamespacedConfigMap({ namespace, labelSelector: 'a=1,b' });
  expect(found.items.map((o) => o.metadata?.name)).toEqual(['conf']);
  await core.deleteNamespacedConfigMap(at);
  expect(await refusal(core.readNamespacedConfigMap(at))).toMatchObject({
    code: 404,
    reason: 'NotFound',
    message: 'configmaps "conf" not found',
  });
});

test('server-side apply: owners, a conflict, taking over, and what is no longer stated goes', async () => {
  const apply = setHeaderOptions('Content-Type', PatchStrategy.ServerSideApply);
  const state = (fieldManager: string, data: Record<string, string>, force = false) =>
    core.patchNamespacedConfigMap(
      {
        name: 'shared',
        namespace,
        fieldManager,
        ...(force ? { force } : {}),
        body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'shared' }, data },
      },
      apply,
    );
  await state('ann', { a: '1', b: '1' });
  await state('bob', { c: '1' });
  expect(await refusal(state('bob', { b: '2', c: '1' }))).toMatchObject({
    code: 409,
    reason: 'Conflict',
    message: 'Apply failed with 1 conflict: conflict with "ann": .data.b',
  });
  expect((await state('bob', { b: '2', c: '1' }, true)).data).toEqual({ a: '1', b: '2', c: '1' });
  const last = await state('ann', {});
  expect(last.data).toEqual({ b: '2', c: '1' });
  const owners = last.metadata?.managedFields?.map((f) => [f.manager, f.fieldsV1]);
  expect(owners).toEqual([
    ['ann', { 'f:data': {} }],
    ['bob', { 'f:data': { 'f:b': {}, 'f:c': {} } }],
  ]);
});

test('custom objects: strict validation, defaults, status apart, finalizers', async () => {
  const dataset = (spec: object): object => ({
    apiVersion: `${group}/${version}`,
    kind: 'Dataset',
    metadata: { name: 'd', finalizers: ['example.org/keep'] },
    spec,
  });
  const good = { url: '/data/d.txt', format: 'txt', nodeName: 'edge-1' };
  const bad = custom.createNamespacedCustomObject({
    ...datasets,
    body: dataset({ ...good, fromat: 'x' }),
    fieldValidation: 'Strict',
  });
  expect(await refusal(bad)).toMatchObject({ code: 400, reason: 'BadRequest' });
  await custom.createNamespacedCustomObject({ ...datasets, body: dataset(good) });
  const name = { ...datasets, name: 'd' };
  await custom.deleteNamespacedCustomObject(name);
  const held = (await custom.getNamespacedCustomObject(name)) as {
    metadata: { deletionTimestamp?: string };
  };
  expect(held.metadata.deletionTimestamp).toBeTruthy();
  await custom.patchNamespacedCustomObject({
    ...name,
    body: [{ op: 'remove', path: '/metadata/finalizers' }],
  });
  expect((await refusal(custom.getNamespacedCustomObject(name))).code).toBe(404);
});

test('a deployment: rolled out, watched, scaled, its pods’ logs, commands and ports, deleted with all of it', async () => {
  const seen: string[] = [];
  const informer = makeInformer(config, `/apis/apps/v1/namespaces/${namespace}/deployments`, () =>
    apps.listNamespacedDeployment({ namespace }),
  );
  informer.on('add', (o) => seen.push(`add ${o.metadata?.name}`));
  informer.on('delete', (o) => seen.push(`delete ${o.metadata?.name}`));
  await informer.start();
  await apps.createNamespacedDeployment({ namespace, body: web });
  const ready = async (count: number): Promise<unknown> =>
    await cluster.until(`${count} ready`, async () => {
      const { status } = await apps.readNamespacedDeployment({ name: 'web', namespace });
      return (status?.readyReplicas ?? 0) === count && status?.replicas === count;
    });
  await ready(2);
  const scale = await apps.readNamespacedDeploymentScale({ name: 'web', namespace });
  scale.spec = { replicas: 1 };
  await apps.replaceNamespacedDeploymentScale({ name: 'web', namespace, body: scale });
  await ready(1);
  const pods = await core.listNamespacedPod({ namespace, labelSelector: 'app=web' });
  const pod = pods.items.find((p) => !p.metadata?.deletionTimestamp)?.metadata?.name ?? '';
  await expectLog(pod);
  await expectCommands(pod);
  await expectPort(pod);
  await apps.deleteNamespacedDeployment({
    name: 'web',
    namespace,
    propagationPolicy: 'Foreground',
  });
  await cluster.until('all of it to go', async () => {
    const left = await core.listNamespacedPod({ namespace, labelSelector: 'app=web' });
    return left.items.length === 0 && seen.includes('delete web');
  });
  expect(seen).toEqual(['add web', 'delete web']);
  await informer.stop();
});

function collected(): { stream: PassThrough; text: () => string } {
  const stream = new PassThrough();
  let text = '';
  stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return { stream, text: () => text };
}

async function expectLog(pod: string): Promise<void> {
  const out = collected();
  await new Log(config).log(namespace, pod, 'web', out.stream, { tailLines: 5 });
  await cluster.until('the log', async () => await Promise.resolve(out.text() === 'up\n'));
}

async function expectCommands(pod: string): Promise<void> {
  const run = async (
    command: string[],
    stdin?: string,
  ): Promise<{ status: V1Status; out: string; err: string }> => {
    const [out, err] = [collected(), collected()];
    const input = stdin === undefined ? null : Readable.from([Buffer.from(stdin)]);
    const status = await new Promise<V1Status>((resolve, reject) => {
      const exec = new Exec(config);
      exec
        .exec(namespace, pod, 'web', command, out.stream, err.stream, input, false, resolve)
        .catch(reject);
    });
    return { status, out: out.text(), err: err.text() };
  };
  const said = await run(['sh', '-c', 'echo $POD_IP; echo no >&2; exit 3']);
  expect(said.out).toMatch(/^127\.97\.\d+\.\d+\n$/);
  expect(said.err).toBe('no\n');
  expect(said.status).toMatchObject({
    status: 'Failure',
    reason: 'NonZeroExitCode',
    details: { causes: [{ reason: 'ExitCode', message: '3' }] },
  });
  const echoed = await run(['head', '-c', '11'], 'hello world');
  expect([echoed.status.status, echoed.out]).toEqual(['Success', 'hello world']);
}

async function expectPort(pod: string): Promise<void> {
  const forward = new PortForward(config);
  const server = createServer((socket) => {
    void forward.portForward(namespace, pod, [8080], socket, null, socket);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve());
  });
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  const answer = await fetch(`http://127.0.0.1:${port}/there`);
  expect(await answer.text()).toBe('hello /there');
  server.close();
}

test('nobody without a token, nothing with a wrong one', async () => {
  for (const token of ['', 'wrong']) {
    const stranger = new KubeConfig();
    const server = config.getCurrentCluster();
    if (!server) throw new Error('no cluster');
    stranger.loadFromClusterAndUser(server, { name: 'nobody', token });
    const call = stranger.makeApiClient(CoreV1Api).listNamespacedPod({ namespace });
    expect((await refusal(call)).code).toBe(401);
  }
});
