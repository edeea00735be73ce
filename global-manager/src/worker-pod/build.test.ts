import type { KubernetesObject } from '@shoal/api';
import { expect, test } from 'vitest';
import { buildPodTemplate, type WorkerOptions } from './build.ts';
import { injectStorage, volumeName } from './storage.ts';

test('host paths: the parent is mounted under /home/data, several URLs join with ;', () => {
  const storage = injectStorage([
    { env: 'MODEL_URLS', urls: ['/a/b/new.onnx', '/a/c/old.onnx'], download: true },
    { env: 'MODEL_URL', urls: ['/a/b/out'], download: false },
  ]);
  expect(storage.env).toEqual([
    { name: 'MODEL_URLS', value: '/home/data/a/b/new.onnx;/home/data/a/c/old.onnx' },
    { name: 'MODEL_URL', value: '/home/data/a/b/out' },
    { name: 'DATA_PATH_PREFIX', value: '/home/data' },
  ]);
  expect(storage.volumes).toEqual([
    { name: 'a-b', hostPath: { path: '/a/b', type: 'Directory' } },
    { name: 'a-c', hostPath: { path: '/a/c', type: 'Directory' } },
  ]);
  expect(storage.mounts.map((m) => m.mountPath)).toEqual(['/home/data/a/b', '/home/data/a/c']);
  expect(storage.downloads).toEqual([]);
});

test('remote content is fetched to /downloads, or passed on where the worker writes', () => {
  const read = injectStorage([
    { env: 'MODEL_URL', urls: ['s3://bucket/models/m.onnx'], download: true },
  ]);
  expect(read.env).toEqual([{ name: 'MODEL_URL', value: '/downloads/bucket/models/m.onnx' }]);
  expect(read.downloads).toEqual(['s3://bucket/models/m.onnx', '/downloads/bucket/models']);
  expect(read.mounts).toEqual([
    { name: 'sedna-storage-initializer', mountPath: '/downloads', readOnly: true },
  ]);
  const write = injectStorage([{ env: 'MODEL_URL', urls: ['s3://bucket/out'], download: false }]);
  expect(write).toMatchObject({
    env: [{ name: 'MODEL_URL', value: 's3://bucket/out' }],
    downloads: [],
    mounts: [],
  });
  expect(injectStorage([{ env: 'X', urls: ['obs://b/k'], download: true }]).env[0]?.value).toBe(
    'obs://b/k',
  );
});

test('volume names are valid, and two folders never share one', () => {
  expect(volumeName('/models/digits')).toBe('models-digits');
  const paths = [
    '/',
    '/a_b',
    '/a-b',
    '/a/b',
    '/A/b',
    `/${'x'.repeat(70)}/a`,
    `/${'x'.repeat(70)}/b`,
    '/a/b-',
    '/a/b/',
  ];
  const names = paths.map(volumeName);
  expect(new Set(names).size).toBe(paths.length);
  for (const name of names) expect(name).toMatch(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/);
});

const owner: KubernetesObject = {
  apiVersion: 'sedna.io/v1alpha1',
  kind: 'IncrementalLearningJob',
  metadata: { name: 'j', namespace: 'n', uid: 'u' },
};
const options = (over: Partial<WorkerOptions> = {}): WorkerOptions => ({
  owner,
  type: 'Eval',
  env: [{ name: 'JOB_NAME', value: 'j' }],
  secretEnv: [],
  initializer: { initializerImage: 'init', localControllerServer: 'http://$(HOST_IP):9100' },
  storage: injectStorage([]),
  template: {
    metadata: { labels: { mine: 'kept' }, annotations: { a: 'kept' } },
    spec: { containers: [{ name: 'c', image: 'i', env: [{ name: 'EPOCHS', value: '3' }] }] },
  },
  ...over,
});

test('the user’s template is kept, ours is added: labels, environment, addresses', () => {
  const { metadata, spec } = buildPodTemplate(options());
  expect(metadata).toEqual({
    labels: {
      mine: 'kept',
      'incrementallearningjob.sedna.io/name': 'j',
      'incrementallearningjob.sedna.io/uid': 'u',
      'incrementallearningjob.sedna.io/worker-type': 'eval',
    },
    annotations: { a: 'kept' },
  });
  expect(spec.containers[0]?.env?.map((e) => e.name)).toEqual([
    'POD_IP',
    'HOST_IP',
    'EPOCHS',
    'JOB_NAME',
  ]);
  expect(spec.restartPolicy).toBeUndefined();
});

test('restart policy and node are only filled in where the template says nothing', () => {
  const { spec } = buildPodTemplate(
    options({ restartPolicy: 'OnFailure', defaultNode: 'cloud-1', hostNetwork: true }),
  );
  expect(spec).toMatchObject({
    restartPolicy: 'OnFailure',
    nodeName: 'cloud-1',
    hostNetwork: true,
  });
  const placed = { spec: { containers: [], nodeSelector: { a: 'b' }, restartPolicy: 'Never' } };
  const kept = buildPodTemplate(
    options({ template: placed, restartPolicy: 'OnFailure', defaultNode: 'cloud-1' }),
  ).spec;
  expect(kept.restartPolicy).toBe('Never');
  expect(kept.nodeName).toBeUndefined();
});

test('keys of storage reach the initializer as references, never as values', () => {
  const secretEnv = [
    { name: 'ACCESS_KEY_ID', valueFrom: { secretKeyRef: { name: 's', key: 'ACCESS_KEY_ID' } } },
  ];
  const { spec } = buildPodTemplate(
    options({
      secretEnv,
      storage: injectStorage([{ env: 'M', urls: ['s3://b/m'], download: true }]),
    }),
  );
  expect(spec.initContainers).toMatchObject([
    {
      name: 'storage-initializer',
      image: 'init',
      args: ['s3://b/m', '/downloads/b'],
    },
  ]);
  const [init] = spec.initContainers ?? [];
  expect(init?.env).toEqual(expect.arrayContaining(secretEnv));
  expect(JSON.stringify(spec)).not.toContain('"value":"secret');
});
