import { expect, test } from 'vitest';
import { explain, obstacle, requestsOf } from '../controllers/placement.ts';
import type { ApiObject } from '../object.ts';
import { parseQuantity } from '../quantity.ts';
import { containerEnvironment, type EnvironmentContext, expand, translate } from './environment.ts';
import { underRoot } from './volumes.ts';

const pod: ApiObject = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'p', namespace: 'ns', labels: { 'a.b/c': 'label' } },
  spec: { nodeName: 'edge-1', containers: [] },
};
const context: EnvironmentContext = {
  podIp: '127.97.0.1',
  hostIp: '127.98.0.1',
  rootfs: '/node',
  services: new Map([['digits-cloud.ns', '127.96.0.9']]),
  mounts: [
    { mountPath: '/home/data/models', realPath: '/node/models' },
    { mountPath: '/hot', realPath: '/node/hot' },
  ],
  hostPaths: new Map([['/home/data/models', '/models']]),
  readConfig: (kind, name) =>
    Promise.resolve(
      name === 'there'
        ? {
            apiVersion: 'v1',
            kind: 'X',
            metadata: { name },
            data: { key: kind === 'secrets' ? Buffer.from('s3cret').toString('base64') : 'plain' },
          }
        : undefined,
    ),
};
const env = (list: object[]): Promise<Record<string, string>> =>
  containerEnvironment(pod, { env: list }, context);

test('field references, dependent variables, config maps and secrets', async () => {
  const got = await env([
    { name: 'HOST_IP', valueFrom: { fieldRef: { fieldPath: 'status.hostIP' } } },
    { name: 'LC_SERVER', value: 'http://$(HOST_IP):9100' },
    { name: 'LABEL', valueFrom: { fieldRef: { fieldPath: "metadata.labels['a.b/c']" } } },
    { name: 'NODE', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
    { name: 'PLAIN', valueFrom: { configMapKeyRef: { name: 'there', key: 'key' } } },
    { name: 'SECRET', valueFrom: { secretKeyRef: { name: 'there', key: 'key' } } },
    { name: 'MAYBE', valueFrom: { secretKeyRef: { name: 'gone', key: 'key', optional: true } } },
  ]);
  expect(got).toMatchObject({
    LC_SERVER: 'http://127.98.0.1:9100',
    LABEL: 'label',
    NODE: 'edge-1',
    PLAIN: 'plain',
    SECRET: 's3cret',
    DIGITS_CLOUD_SERVICE_HOST: '127.96.0.9',
  });
  expect(got).not.toHaveProperty('MAYBE');
  await expect(
    env([{ name: 'X', valueFrom: { secretKeyRef: { name: 'gone', key: 'key' } } }]),
  ).rejects.toThrow(/secret "gone" has no key "key"/);
});

test('names of services become addresses, also inside URLs and lists; other text stays', async () => {
  const got = await env([
    { name: 'A', value: 'digits-cloud.ns' },
    { name: 'B', value: 'http://digits-cloud.ns.svc.cluster.local:5000/x' },
    { name: 'C', value: 'other.ns,digits-cloud.ns' },
    { name: 'D', value: 'file-digits-cloud.nsx' },
  ]);
  expect(got).toMatchObject({
    A: '127.96.0.9',
    B: 'http://127.96.0.9:5000/x',
    C: 'other.ns,127.96.0.9',
    D: 'file-digits-cloud.nsx',
  });
});

test('mount paths become real paths, part by part; the common prefix becomes the node’s root', () => {
  expect(translate('/home/data/models/a.onnx;/home/data/models/b.onnx', context)).toBe(
    '/node/models/a.onnx;/node/models/b.onnx',
  );
  expect(translate('/home/data', context)).toBe('/node');
  expect(translate('/home/data/modelsX', context)).toBe('/home/data/modelsX');
  expect(expand('$(A)-$$(A)-$(B)', { A: '1' })).toBe('1-$(A)-$(B)');
});

test('no host path leads out of the node’s root', () => {
  expect(underRoot('/node', '/../../etc/passwd')).toBe('/node/etc/passwd');
  expect(underRoot('/node', 'a/../../b')).toBe('/node/b');
});

test.each([
  ['500m', 0.5],
  ['2Gi', 2 * 1024 ** 3],
  ['1e3', 1000],
  [3, 3],
  ['100k', 1e5],
])('quantity %s', (text, value) => {
  expect(parseQuantity(text)).toBe(value);
});

const node = (name: string, over: object = {}): ApiObject => ({
  apiVersion: 'v1',
  kind: 'Node',
  metadata: { name, labels: { zone: 'a' } },
  spec: {},
  status: {
    allocatable: { cpu: '2', pods: '10' },
    conditions: [{ type: 'Ready', status: 'True' }],
  },
  ...over,
});
const asks = (spec: object): ApiObject => ({
  ...pod,
  spec: { containers: [{ name: 'c', resources: { requests: { cpu: '1500m' } } }], ...spec },
});

test('the scheduler’s reasons are Kubernetes’ own', () => {
  expect(requestsOf(asks({}))).toEqual({ pods: 1, cpu: 1.5 });
  expect(obstacle(asks({}), node('n'), {})).toBeUndefined();
  expect(obstacle(asks({}), node('n'), { cpu: 1 })).toBe('Insufficient cpu');
  expect(obstacle(asks({ nodeSelector: { zone: 'b' } }), node('n'), {})).toBe(
    "node(s) didn't match Pod's node affinity/selector",
  );
  expect(
    obstacle(asks({}), node('n', { spec: { taints: [{ key: 'k', effect: 'NoSchedule' }] } }), {}),
  ).toBe('node(s) had untolerated taint {k: }');
  expect(
    obstacle(
      asks({ tolerations: [{ key: 'k', operator: 'Exists' }] }),
      node('n', { spec: { taints: [{ key: 'k', effect: 'NoSchedule' }] } }),
      {},
    ),
  ).toBeUndefined();
  expect(explain(['Insufficient cpu', 'Insufficient cpu', 'Too many pods'])).toBe(
    '0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu.',
  );
});
