import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { type CloudFrame, EdgeFrameSchema, type NodeObject, type NodeRecord } from '@shoal/api';
import { type JsonObject, systemClock } from '@shoal/core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { EdgeLinkCore } from '../local-controller/src/link/edge-link-core.ts';
import { KubeClient } from '../local-controller/src/link/kubernetes/kube-client.ts';
import { KubeTransport } from '../local-controller/src/link/kubernetes/kube-transport.ts';
import { EdgeDatabase } from '../local-controller/src/store/database.ts';
import { ClusterFixture } from './cluster-fixture.ts';

/** A node whose only link is the Kubernetes API server, with the rights of its own namespace and no more. */
let c: ClusterFixture;
const NODE = 'kube-1';
const NAMESPACE = `shoal-node-${NODE}`;
const ENTRY = join(import.meta.dirname, '../local-controller/src/operator/main.ts');
const children: ChildProcess[] = [];

beforeAll(async () => {
  process.env['SHOAL_GM_KUBE_LINK'] = 'true';
  c = await ClusterFixture.start(1);
  const labels = { 'shoal.dev/link': 'kubernetes' };
  await c.client.request('POST', '/api/v1/nodes', { metadata: { name: NODE, labels } });
});
afterAll(async () => {
  delete process.env['SHOAL_GM_KUBE_LINK'];
  for (const child of children) child.kill('SIGKILL');
  await c.stop();
});

const file = (name: string): string => join(c.folder, NODE, 'rootfs/data', name);

/** The objects that let a node use its namespace: what docs/guides/edges.md shows. */
async function letIn(): Promise<string> {
  const rbac = 'rbac.authorization.k8s.io';
  const rule = (group: string, resources: string[], verbs: string[]): JsonObject => ({
    apiGroups: [group],
    resources,
    verbs,
  });
  const objects: JsonObject[] = [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE } },
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'node', namespace: NAMESPACE } },
    {
      apiVersion: `${rbac}/v1`,
      kind: 'Role',
      metadata: { name: 'node', namespace: NAMESPACE },
      rules: [
        rule('sedna.io', ['nodeobjects'], ['list', 'watch']),
        rule('sedna.io', ['noderecords'], ['get', 'create', 'update']),
        rule('coordination.k8s.io', ['leases'], ['get', 'create', 'update']),
      ],
    },
    {
      apiVersion: `${rbac}/v1`,
      kind: 'RoleBinding',
      metadata: { name: 'node', namespace: NAMESPACE },
      roleRef: { apiGroup: rbac, kind: 'Role', name: 'node' },
      subjects: [{ kind: 'ServiceAccount', name: 'node', namespace: NAMESPACE }],
    },
  ];
  for (const object of objects) await c.resources.apply(object, NAMESPACE);
  const path = `/api/v1/namespaces/${NAMESPACE}/serviceaccounts/node/token`;
  const answer = (await c.client.request('POST', path, {
    apiVersion: 'authentication.k8s.io/v1',
    kind: 'TokenRequest',
    spec: {},
  })) as { status: { token: string } };
  const { server, authority } = c.cluster.state;
  const kubeconfig = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'edge',
    clusters: [
      {
        name: 'cloud',
        cluster: {
          server,
          'certificate-authority-data': Buffer.from(authority).toString('base64'),
        },
      },
    ],
    users: [{ name: 'node', user: { token: answer.status.token } }],
    contexts: [{ name: 'edge', context: { cluster: 'cloud', user: 'node' } }],
  };
  const path2 = join(c.folder, 'kubeconfig.json');
  writeFileSync(path2, JSON.stringify(kubeconfig));
  return path2;
}

let kubeconfig = '';

function startController(dataDir = join(c.folder, NODE)): ChildProcess {
  mkdirSync(dataDir, { recursive: true });
  const child = spawn(process.execPath, [ENTRY], {
    env: {
      ...process.env,
      NODENAME: NODE,
      SHOAL_LC_TRANSPORT: 'kubernetes',
      SHOAL_LC_KUBECONFIG: kubeconfig,
      ROOTFS_MOUNT_DIR: join(c.folder, NODE, 'rootfs'),
      BIND_ADDRESS: '127.0.0.1',
      BIND_PORT: '0',
      SHOAL_LC_DATA_DIR: dataDir,
      SHOAL_LC_POLL_MS: '200',
      SHOAL_LC_FIGURES_SECONDS: '1',
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  children.push(child);
  return child;
}

async function endOf(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  const gone = once(child, 'exit');
  child.kill(signal);
  await gone;
}

function dataset(name: string): JsonObject {
  return {
    apiVersion: 'sedna.io/v1alpha1',
    kind: 'Dataset',
    metadata: { name },
    spec: { url: `/data/${name}.txt`, format: 'txt', nodeName: NODE },
  };
}

async function write(name: string, lines: number): Promise<void> {
  mkdirSync(join(c.folder, NODE, 'rootfs/data'), { recursive: true });
  appendFileSync(file(`${name}.txt`), 'x\n'.repeat(lines));
  await Promise.resolve();
}

async function untilCounted(name: string, samples: number): Promise<void> {
  await c.until(`${name}: ${samples} samples`, async () => {
    const live = await c.get('dataset', name);
    return live?.status?.numberOfSamples === samples;
  });
}

async function mail<T>(plural: string): Promise<T[]> {
  const path = `/apis/sedna.io/v1alpha1/namespaces/${NAMESPACE}/${plural}`;
  return ((await c.client.request('GET', path)) as { items: T[] }).items;
}

/** Changes that the node has refused and has not got a newer version of. */
async function refused(): Promise<number> {
  const links = JSON.parse((await c.shoal('link status --json')).output) as JsonObject[];
  return Number(links.find((l) => l['node'] === NODE)?.['refused']);
}

let controller: ChildProcess;

test('objects come and records go through the API server; kill -9 of both ends loses nothing', async () => {
  // The namespace is missing at first: nothing is lost by that.
  await c.apply(dataset('one'), dataset('two'));
  kubeconfig = await letIn();
  await write('one', 3);
  await write('two', 4);
  controller = startController();
  await untilCounted('one', 3);
  await untilCounted('two', 4);
  await endOf(controller, 'SIGKILL');
  // While it is away one grows, one goes and one comes; then the manager is killed as well.
  await write('one', 2);
  await c.client.request('DELETE', '/apis/sedna.io/v1alpha1/namespaces/default/datasets/two');
  await c.apply(dataset('three'));
  await write('three', 1);
  process.kill(c.pidOf('global-manager'), 'SIGKILL');
  controller = startController();
  await untilCounted('one', 5);
  await untilCounted('three', 1);
  await c.until('what is told', async () => (await mail('nodeobjects')).length === 2);
  process.kill(c.pidOf('api-server'), 'SIGKILL');
  await write('one', 1);
  await untilCounted('one', 6);
  // What is told changes: the same object with another body.
  await write('another', 2);
  await c.client.request(
    'PATCH',
    '/apis/sedna.io/v1alpha1/namespaces/default/datasets/one',
    { spec: { url: '/data/another.txt' } },
    { contentType: 'application/merge-patch+json' },
  );
  await untilCounted('one', 2);
});

test('logs take effect once, and are taken away; state stays as one record for each key', async () => {
  await write('three', 5);
  await untilCounted('three', 6);
  const seen = await c.until('the history', async () => {
    const { output } = await c.shoal(`node figures ${NODE} --json`);
    const history = JSON.parse(output) as { figures: Record<string, JsonObject> }[];
    const last = history.findLast((h) => h.figures['Dataset/default/three']);
    return last?.figures['Dataset/default/three']?.['numberOfSamples'] === 6 ? history : undefined;
  });
  expect(new Set(seen.map((h) => JSON.stringify(h))).size).toBe(seen.length);
  await c.until('the logs to be taken away', async () =>
    (await mail<NodeRecord>('noderecords')).every((r) => r.spec.stream === 'state'),
  );
  const keys = (await mail<NodeRecord>('noderecords')).map((r) => r.spec.key);
  expect(new Set(keys).size).toBe(keys.length);
  expect(keys).toContain('Dataset/default/one');
});

test('the node’s account reaches its own namespace only, and a second device is refused', async () => {
  const api = new KubeClient(kubeconfig);
  const code = async (path: string): Promise<string> =>
    await api.list(path).then(
      () => 'allowed',
      (error: { code: string }) => error.code,
    );
  const own = `/apis/sedna.io/v1alpha1/namespaces/${NAMESPACE}`;
  expect(await code(`${own}/nodeobjects`)).toBe('allowed');
  expect(await code(`${own}/noderecords`)).toBe('permission_denied');
  expect(await code('/apis/sedna.io/v1alpha1/namespaces/default/datasets')).toBe(
    'permission_denied',
  );
  expect(await code('/api/v1/namespaces/default/secrets')).toBe('permission_denied');
  const second = startController(join(c.folder, 'second'));
  let said = '';
  second.stderr?.on('data', (chunk: Buffer) => (said += chunk.toString()));
  await c.until('the second to be refused', () =>
    Promise.resolve(/connected from another device/.test(said)),
  );
  await endOf(second, 'SIGKILL');
});

test('what somebody changed on its way is put right, and refused by the node until then', async () => {
  const [object] = (await mail<NodeObject>('nodeobjects')).filter((o) => o.spec.name === 'one');
  const path = `/apis/sedna.io/v1alpha1/namespaces/${NAMESPACE}/nodeobjects/${object?.metadata.name}`;
  await c.client.request(
    'PATCH',
    path,
    { spec: { body: '{"spec":{"url":"/etc/passwd"}}' } },
    { contentType: 'application/merge-patch+json' },
  );
  await c.until('it to be as it was', async () => {
    const now = (await c.client.request('GET', path)) as NodeObject;
    return now.spec.body === object?.spec.body;
  });
  await write('another', 1);
  await untilCounted('one', 3);
  expect(await refused()).toBe(0);
});

test('a session compares digests: what the edge has is not sent again', async () => {
  await endOf(controller, 'SIGTERM');
  const db = new EdgeDatabase(join(c.folder, NODE, 'edge.db'));
  const ops: string[] = [];
  const core = new EdgeLinkCore(db, 'boot');
  const transport = new KubeTransport({
    api: new KubeClient(kubeconfig),
    node: NODE,
    clock: systemClock,
  });
  await c.apply(dataset('four'));
  await c.until('it to be told', async () => (await mail('nodeobjects')).length === 3);
  // As if it were of a kind that this edge does not know.
  const refuse = (rev: bigint): void => {
    const value = { cursor: 0n, nacks: [{ rev, error: 'no such kind here' }], page: 0n };
    connection.send(create(EdgeFrameSchema, { frame: { case: 'ack', value } }));
  };
  const connection = transport.connect((frame: CloudFrame) => {
    if (frame.frame.case === 'batch') {
      ops.push(...frame.frame.value.items.map((i) => `${i.op} ${i.name}`));
      const [four] = frame.frame.value.items.filter((i) => i.name === 'four' && i.op === 'put');
      if (four) refuse(four.rev);
    }
    for (const reply of core.receive(frame).send) connection.send(reply);
  });
  connection.send(core.hello());
  await c.until('the reconcile', () => Promise.resolve(ops.length === 3));
  expect(ops.toSorted()).toEqual(['keep one', 'keep three', 'put four']);
  await c.until('the refusal to be known', async () => (await refused()) === 1);
  await c.client.request('DELETE', '/apis/sedna.io/v1alpha1/namespaces/default/datasets/four');
  await c.until('the deletion', () => Promise.resolve(ops.includes('delete four')));
  await c.until('nothing to be refused', async () => (await refused()) === 0);
  expect(
    db
      .held()
      .map((h) => h.name)
      .toSorted(),
  ).toEqual(['one', 'three']);
  connection.close();
  expect(await connection.closed).toBeUndefined();
  await expect(transport.statBlob(`sha256:${'0'.repeat(64)}`)).rejects.toThrow(/set GM_ADDRESS/);
  db.close();
  expect(existsSync(file('one.txt'))).toBe(true);
});
