import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { JsonObject } from '@shoal/core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture, template } from './cluster-fixture.ts';

/** What the manager seldom does; its account may do just that (deploy/rbac), and no more. */
let c: ClusterFixture;
beforeAll(async () => {
  c = await ClusterFixture.start(1);
  for (const node of ['edge-1', 'cloud-1']) writeFileSync(c.path(node, '/models/m.onnx'), 'x');
  appendFileSync(c.path('edge-1', '/data/d.txt'), 'a\nb\n');
  await c.apply(
    sedna('Model', 'model', { url: '/models/m.onnx', format: 'onnx' }),
    sedna('Dataset', 'data', { url: '/data/d.txt', format: 'txt', nodeName: 'edge-1' }),
  );
});
afterAll(async () => await c.stop());

const sedna = (kind: string, name: string, spec: JsonObject): JsonObject => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind,
  metadata: { name },
  spec,
});
const sleeper = ['node', '-e', 'setInterval(() => {}, 1000)'];
const model = { name: 'model' };
const JSON_PATCH = { contentType: 'application/json-patch+json' };

async function change(plural: string, name: string, ...patch: object[]): Promise<void> {
  const path = `/apis/sedna.io/v1alpha1/namespaces/default/${plural}/${name}`;
  await c.client.request('PATCH', path, patch, JSON_PATCH);
}

async function secretOf(name: string): Promise<JsonObject | undefined> {
  return (await c.get('Secret', name)) as JsonObject | undefined;
}

test('a service’s autoscaler comes, changes and goes; its workers follow their template', async () => {
  await c.apply(
    sedna('JointInferenceService', 'ji', {
      edgeWorker: {
        model,
        hardExampleMining: { name: 'IBT' },
        template: template('edge-1', sleeper),
      },
      cloudWorker: {
        model,
        template: template('cloud-1', sleeper),
        hpa: { maxReplicas: 2 },
      },
    }),
  );
  const name = 'hpa-ji-deployment-cloud';
  await c.until('an autoscaler', async () => await c.get('hpa', name));
  await change(
    'jointinferenceservices',
    'ji',
    { op: 'replace', path: '/spec/cloudWorker/hpa/maxReplicas', value: 3 },
    {
      op: 'add',
      path: '/spec/edgeWorker/template/spec/containers/0/env',
      value: [{ name: 'NEW', value: '1' }],
    },
  );
  await c.until(
    'it to change',
    async () => (await c.get('hpa', name))?.spec?.['maxReplicas'] === 3,
  );
  await c.until('the worker to change', async () =>
    JSON.stringify((await c.get('Deployment', 'ji-deployment-edge'))?.spec).includes('"NEW"'),
  );
  await change('jointinferenceservices', 'ji', { op: 'remove', path: '/spec/cloudWorker/hpa' });
  await c.until('it to go', async () => (await c.get('hpa', name)) === undefined);
});

test('the secret of a job that is gone is replaced, one without a certificate completed', async () => {
  const name = 'fl-federation';
  const token = Buffer.from('old').toString('base64');
  await c.apply({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name },
    type: 'Opaque',
    data: { token },
  });
  const worker = (node: string): JsonObject => ({
    dataset: { name: 'data' },
    template: template(node, sleeper),
  });
  await c.apply(
    sedna('FederatedLearningJob', 'fl', {
      aggregationWorker: { model, template: template('cloud-1', sleeper) },
      trainingWorkers: [worker('edge-1')],
    }),
  );
  const made = await c.until('a secret of its own', async () => {
    const found = await secretOf(name);
    return (found?.['data'] as JsonObject | undefined)?.['certificate'] ? found : undefined;
  });
  expect((made['data'] as JsonObject)['token']).not.toBe(token);
  const path = `/api/v1/namespaces/default/secrets/${name}`;
  await c.client.request('PATCH', path, [{ op: 'remove', path: '/data/certificate' }], JSON_PATCH);
  await change('federatedlearningjobs', 'fl', {
    op: 'add',
    path: '/metadata/labels',
    value: { look: 'again' },
  });
  await c.until('the certificate to be back', async () => {
    const found = await secretOf(name);
    return ((found?.['data'] as JsonObject | undefined)?.['certificate'] ?? '') !== '';
  });
});

test('a labelling model comes, changes and goes', async () => {
  const trigger = { condition: { operator: '>', threshold: 99, metric: 'num_of_samples' } };
  await c.apply(
    sedna('IncrementalLearningJob', 'il', {
      dataset: { name: 'data', trainProb: 0.5 },
      initialModel: model,
      outputDir: '/output/il',
      trainSpec: { template: template('cloud-1', sleeper), trigger },
      evalSpec: { template: template('cloud-1', sleeper) },
      deploySpec: {
        model,
        trigger: { condition: { operator: '>', threshold: 0, metric: 'accuracy_delta' } },
        hardExampleMining: { name: 'CrossEntropy' },
        template: template('edge-1', sleeper),
      },
      hardExamples: {
        labels: { model: { name: 'model', template: template('cloud-1', sleeper) } },
      },
    }),
  );
  const name = 'il-deployment-label';
  await c.until('the labeller', async () => await c.get('Deployment', name));
  const labels = '/spec/hardExamples/labels';
  await change('incrementallearningjobs', 'il', {
    op: 'add',
    path: `${labels}/model/minConfidence`,
    value: 0.5,
  });
  await c.until('it to change', async () =>
    JSON.stringify((await c.get('Deployment', name))?.spec).includes('"0.5"'),
  );
  await change('incrementallearningjobs', 'il', { op: 'remove', path: `${labels}/model` });
  await c.until('it to go', async () => (await c.get('Deployment', name)) === undefined);
});

test('nothing of it was forbidden, and other things are', async () => {
  const log = readFileSync(join(c.layout.logDir, 'global-manager.log'), 'utf8');
  expect(log).not.toContain('is forbidden');
  const kubeconfig = readFileSync(c.layout.managerKubeconfig, 'utf8');
  const token = /token: (\S+)/.exec(kubeconfig)?.[1] ?? '';
  const client = c.clientAs(token);
  await expect(client.request('DELETE', '/api/v1/nodes/edge-1')).rejects.toThrow(
    'nodes "edge-1" is forbidden: User "system:serviceaccount:shoal-system:global-manager" cannot delete resource "nodes" in API group "" at the cluster scope',
  );
  await expect(client.request('GET', '/api/v1/secrets')).rejects.toThrow('cannot list');
  client.close();
});
