import { appendFileSync, writeFileSync } from 'node:fs';
import { type JsonObject, seededRandom } from '@shoal/core';
import { toImageLine } from '@shoal/lib';
import { dense, flatten, sequential } from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture, type Live, template } from './cluster-fixture.ts';

let c: ClusterFixture;
beforeAll(async () => {
  c = await ClusterFixture.start(1);
});
afterAll(async () => await c.stop());

const sedna = (kind: string, name: string, spec: JsonObject): JsonObject => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind,
  metadata: { name },
  spec,
});
const sleeper = ['node', '-e', 'setInterval(() => {}, 1000)'];

function incremental(name: string, over: JsonObject = {}): JsonObject {
  return sedna('IncrementalLearningJob', name, {
    dataset: { name: `${name}-data`, trainProb: 0.5 },
    initialModel: { name: `${name}-model` },
    outputDir: `/output/${name}`,
    trainSpec: {
      template: template('cloud-1', ['node', '-e', 'process.exit(3)']),
      trigger: {
        checkPeriodSeconds: 1,
        condition: { operator: '>', threshold: 1, metric: 'num_of_samples' },
      },
    },
    evalSpec: { template: template('cloud-1', sleeper) },
    deploySpec: {
      model: { name: `${name}-model` },
      trigger: { condition: { operator: '>', threshold: 0, metric: 'accuracy_delta' } },
      hardExampleMining: { name: 'CrossEntropy' },
      template: template('cloud-1', sleeper),
    },
    ...over,
  });
}

test('an unknown field is refused by its path', async () => {
  const job = incremental('typo') as { spec: JsonObject };
  await expect(c.apply({ ...job, spec: { ...job.spec, datset: {} } })).rejects.toThrow(
    /strict decoding error: unknown field "spec.datset"/,
  );
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'p' },
    spec: { containers: [{ name: 'c', image: 'i', comand: [] }] },
  };
  await expect(c.apply(pod)).rejects.toThrow(/unknown field "spec.containers\[0\].comand"/);
});

test('a wrong type, a missing field and an unknown word are refused by name', async () => {
  await expect(c.apply(sedna('Dataset', 'd', { url: 7, format: 'txt' }))).rejects.toThrow(
    /spec\.url.*must be of type string: "integer"/,
  );
  await expect(c.apply(sedna('Dataset', 'd', { url: '/x' }))).rejects.toThrow(
    /spec\.format: Required value/,
  );
  const trigger = { condition: { operator: 'above', threshold: 1, metric: 'x' } };
  await expect(
    c.apply(incremental('bad', { trainSpec: { template: template('cloud-1', sleeper), trigger } })),
  ).rejects.toThrow(/Unsupported value: "above"/);
});

test('a missing Model is named in a condition, and the service starts once it exists', async () => {
  writeFileSync(c.path('edge-1', '/models/ji.onnx'), 'x');
  writeFileSync(c.path('cloud-1', '/models/ji.onnx'), 'x');
  await c.apply(
    sedna('JointInferenceService', 'ji', {
      edgeWorker: {
        model: { name: 'ji-little' },
        hardExampleMining: { name: 'IBT' },
        template: template('edge-1', sleeper),
      },
      cloudWorker: { model: { name: 'ji-big' }, template: template('cloud-1', sleeper) },
    }),
  );
  const failed = await c.until('a condition', async () => await c.condition('ji', 'ji'));
  expect(failed).toMatchObject({
    type: 'Failed',
    reason: 'ReferenceNotFound',
    message:
      'spec.cloudWorker.model.name: Model "ji-big" does not exist in namespace default; create it, or correct the name',
  });
  await c.apply(
    sedna('Model', 'ji-big', { url: '/models/ji.onnx', format: 'onnx' }),
    sedna('Model', 'ji-little', { url: '/models/ji.onnx', format: 'onnx' }),
  );
  await c.until('both workers', async () => (await c.condition('ji', 'ji'))?.type === 'Running');
  const deployment = (await c.get('Deployment', 'ji-deployment-edge')) as Live;
  const env =
    (
      deployment.spec as {
        template: { spec: { containers: { env: { name: string; value?: string }[] }[] } };
      }
    ).template.spec.containers[0]?.env ?? [];
  const values = Object.fromEntries(env.map((e) => [e.name, e.value]));
  expect(values).toMatchObject({
    NAMESPACE: 'default',
    SERVICE_NAME: 'ji',
    JOB_NAME: 'ji',
    BIG_MODEL_IP: 'ji-cloud.default',
    BIG_MODEL_PORT: '5000',
    HEM_NAME: 'IBT',
    HEM_PARAMETERS: 'null',
    MODEL_URL: '/home/data/models/ji.onnx',
    LC_SERVER: 'http://$(HOST_IP):9100',
  });
  expect(values['WORKER_NAME']).toMatch(/^edgeworker-[a-z0-9]{5}$/);
  const service = (await c.get('Service', 'ji-cloud')) as Live;
  expect(service.spec).toMatchObject({ ports: [{ name: 'tcp-0', port: 5000, targetPort: 5000 }] });
});

test('deleting a job leaves nothing: no deployment, pod, service or process', async () => {
  await c.until(
    'the service of the test before',
    async () => (await c.condition('ji', 'ji'))?.type === 'Running',
  );
  await c.resources.remove('ji', 'default', 'ji');
  await c.until('everything to go', async () => {
    const left = [
      await c.get('Deployment', 'ji-deployment-edge'),
      await c.get('Deployment', 'ji-deployment-cloud'),
      await c.get('Service', 'ji-cloud'),
    ];
    return left.every((o) => o === undefined) && (await c.pods('ji-')).length === 0;
  });
});

test('a Dataset on a node that does not exist, and one that cannot be read, say so', async () => {
  await c.apply(
    sedna('Dataset', 'nowhere', { url: '/data/x.txt', format: 'txt', nodeName: 'edge-99' }),
  );
  const nowhere = await c.until('a condition', async () => await c.condition('Dataset', 'nowhere'));
  expect(nowhere).toMatchObject({
    status: 'False',
    reason: 'NodeNotFound',
    message: 'spec.nodeName: node "edge-99" does not exist',
  });
  await c.apply(
    sedna('Dataset', 'missing', { url: '/data/missing.txt', format: 'txt', nodeName: 'edge-1' }),
  );
  await c.until(
    'the fault',
    async () => (await c.condition('Dataset', 'missing'))?.reason === 'Unreadable',
  );
  writeFileSync(c.path('edge-1', '/data/missing.txt'), 'a\nb\n');
  await c.until(
    'two samples',
    async () => (await c.get('Dataset', 'missing'))?.status?.numberOfSamples === 2,
  );
  await c.apply(
    sedna('Dataset', 'odd', { url: '/data/missing.txt', format: 'xlsx', nodeName: 'edge-1' }),
  );
  const odd = await c.until('the fault', async () =>
    (await c.condition('Dataset', 'odd'))?.reason === 'Unreadable'
      ? await c.condition('Dataset', 'odd')
      : undefined,
  );
  expect(odd.message).toMatch(/"xlsx" cannot be watched; supported are txt, csv, jsonl/);
});

test('a worker that exits non-zero is seen in the pod, and its log is one command away', async () => {
  writeFileSync(c.path('cloud-1', '/models/il.onnx'), 'x');
  writeFileSync(c.path('cloud-1', '/data/il.txt'), '');
  await c.apply(
    sedna('Dataset', 'il-data', { url: '/data/il.txt', format: 'txt', nodeName: 'cloud-1' }),
    sedna('Model', 'il-model', { url: '/models/il.onnx', format: 'onnx' }),
    incremental('il', {
      trainSpec: {
        template: {
          spec: {
            ...(template('cloud-1', ['node', '-e', 'console.error("no luck"); process.exit(3)'])[
              'spec'
            ] as JsonObject),
            restartPolicy: 'Never',
          },
        },
        trigger: {
          checkPeriodSeconds: 1,
          condition: { operator: '>', threshold: 1, metric: 'num_of_samples' },
        },
      },
    }),
  );
  await c.until(
    'the job to wait for data',
    async () => (await c.condition('il', 'il'))?.type === 'Waiting',
  );
  appendFileSync(c.path('cloud-1', '/data/il.txt'), '1\n2\n3\n4\n5\n');
  const failed = await c.until('a failed stage', async () => {
    const job = await c.get('il', 'il');
    return job?.status?.conditions?.find((x) => x.type === 'Failed');
  });
  expect(failed).toMatchObject({ stage: 'Train', type: 'Failed' });
  expect(failed.message).toMatch(/ended with exit code 3; see: kubectl logs il-train-/);
  // The event is written after the status it is about.
  const failure = await c.until('its event', async () => {
    const events = (await c.client.request(
      'GET',
      '/api/v1/namespaces/default/events?fieldSelector=involvedObject.kind%3DIncrementalLearningJob',
    )) as { items: { reason: string; type: string; message: string }[] };
    return events.items.find((e) => e.reason === 'TrainFailed');
  });
  expect(failure).toMatchObject({
    type: 'Warning',
    message: expect.stringContaining('exit code 3') as string,
  });
  const again = await c.until('the next round', async () =>
    (await c.get('il', 'il'))?.status?.round === 2 ? await c.get('il', 'il') : undefined,
  );
  expect(again.status?.conditions?.length).toBeLessThanOrEqual(50);
  await c.resources.remove('il', 'default', 'il');
});

test('a corrupt model file: the worker says which file and why, and the service says which worker', async () => {
  writeFileSync(c.path('edge-1', '/models/broken.onnx'), 'this is not a model');
  writeFileSync(c.path('cloud-1', '/models/broken.onnx'), 'this is not a model');
  await c.apply(
    sedna('Model', 'broken', { url: '/models/broken.onnx', format: 'onnx' }),
    sedna('JointInferenceService', 'broken', {
      edgeWorker: {
        model: { name: 'broken' },
        hardExampleMining: { name: 'CrossEntropy' },
        template: template('edge-1', ['node', 'examples/joint-inference/digits/edge.ts']),
      },
      cloudWorker: { model: { name: 'broken' }, template: template('cloud-1', sleeper) },
    }),
  );
  const condition = await c.until('the failure', async () => {
    const found = await c.condition('ji', 'broken');
    return found?.type === 'Failed' ? found : undefined;
  });
  expect(condition).toMatchObject({ reason: 'workerFailed' });
  expect(condition.message).toMatch(/CrashLoopBackOff|exit code 65/);
  const [pod] = await c.pods('broken-deployment-edge');
  let log = '';
  await c.client.stream(
    `/api/v1/namespaces/default/pods/${pod?.metadata.name}/log?previous=${(pod?.status?.containerStatuses?.[0]?.restartCount ?? 0) > 0}`,
    (chunk) => {
      log += chunk.toString();
    },
  );
  expect(log).toMatch(/broken\.onnx is not a model that ONNX Runtime can run/);
  await c.resources.remove('ji', 'default', 'broken');
});

function federated(name: string, over: JsonObject = {}): JsonObject {
  const worker = (kind: string, node: string): JsonObject =>
    template(node, ['node', 'workers/src/main.ts', kind]);
  return sedna('FederatedLearningJob', name, {
    aggregationWorker: {
      model: { name: `${name}-model` },
      template: worker('aggregate', 'cloud-1'),
    },
    trainingWorkers: [
      { dataset: { name: `${name}-data` }, template: worker('participate', 'edge-1') },
    ],
    ...over,
  });
}

test('a federated job waits for what it names, refuses fields that do not fit, and says why its aggregator fails', async () => {
  await expect(c.apply(federated('fl', { rounds: 0 }))).rejects.toThrow(
    /spec\.rounds.*greater than or equal to 1/,
  );
  await expect(c.apply(federated('fl', { compression: { name: 'zip' } }))).rejects.toThrow(
    /spec\.compression\.name.*Unsupported value: "zip"/,
  );
  await c.apply(federated('fl', { strategy: { name: 'FedMagic' } }));
  const waits = await c.until('the missing Model', async () => await c.condition('fl', 'fl'));
  expect(waits).toMatchObject({ type: 'Pending', reason: 'ReferenceNotFound' });
  expect(waits.message).toMatch(
    /spec\.aggregationWorker\.model\.name: Model "fl-model" does not exist/,
  );
  const layers = [flatten(), dense(2)];
  const model = sequential({ input: [1, 28, 28], layers, random: seededRandom(1) });
  for (const node of ['cloud-1', 'edge-1']) writeFileSync(c.path(node, '/models/fl.onnx'), model);
  writeFileSync(c.path('edge-1', '/data/fl.jsonl'), `${toImageLine(new Float32Array(784), 1)}\n`);
  await c.apply(
    sedna('Model', 'fl-model', { url: '/models/fl.onnx', format: 'onnx' }),
    sedna('Dataset', 'fl-data', { url: '/data/fl.jsonl', format: 'jsonl', nodeName: 'edge-1' }),
  );
  const [pod] = await c.until('the aggregator', async () => {
    const found = await c.pods('fl-aggregation');
    return found[0]?.status?.containerStatuses?.[0]?.restartCount ? found : undefined;
  });
  let log = '';
  const path = `/api/v1/namespaces/default/pods/${pod?.metadata.name}/log?previous=true`;
  await c.client.stream(path, (chunk) => {
    log += chunk.toString();
  });
  expect(log).toMatch(/there is no strategy \\"FedMagic\\"; choose one of FedAvg/);
  // Mended, the job goes on: its workers are replaced, and it completes.
  await c.apply(federated('fl', { strategy: { name: 'FedAvg' }, rounds: 2 }));
  const done = await c.until(
    'the end',
    async () => {
      const job = await c.get('fl', 'fl');
      return job?.status?.phase === 'Succeeded' ? job : undefined;
    },
    60_000,
  );
  expect(done.status).toMatchObject({ currentRound: 3, phase: 'Succeeded' });
  await c.resources.remove('fl', 'default', 'fl');
  await c.until('nothing left', async () => (await c.pods('fl-')).length === 0);
});

test('a federated round that cannot go on says who is missing', async () => {
  const silent = {
    dataset: { name: 'fl-data' },
    template: template('edge-1', sleeper),
  };
  const job = federated('fl') as { spec: { trainingWorkers: JsonObject[] } & JsonObject };
  const trainingWorkers = [...job.spec.trainingWorkers, silent];
  const waiting = { ...job.spec, rounds: 1, deadlineSeconds: 1, trainingWorkers };
  await c.apply({ ...sedna('FederatedLearningJob', 'waits', waiting) });
  const condition = await c.until('the reason', async () => {
    const found = await c.condition('fl', 'waits');
    return found?.message?.includes('waits for participants') ? found : undefined;
  });
  expect(condition.message).toMatch(
    /^waits: round 1 waits for participants: 1 of 2 are connected \(trainworker-waits-train-0\), 2 are needed$/,
  );
  await c.resources.remove('fl', 'default', 'waits');
});

test('a participant whose work does not count says why, and the others go on', async () => {
  writeFileSync(c.path('edge-1', '/data/odd.jsonl'), `${toImageLine(new Float32Array(784), 7)}\n`);
  await c.apply(
    sedna('Dataset', 'odd', { url: '/data/odd.jsonl', format: 'jsonl', nodeName: 'edge-1' }),
  );
  const job = federated('fl') as { spec: { trainingWorkers: JsonObject[] } & JsonObject };
  const odd = { ...job.spec.trainingWorkers[0], dataset: { name: 'odd' } };
  const trainingWorkers = [...job.spec.trainingWorkers, odd];
  const spec = { ...job.spec, rounds: 2, quorum: 1, deadlineSeconds: 2, trainingWorkers };
  await c.apply({ ...sedna('FederatedLearningJob', 'odd', spec) });
  interface Told {
    readonly participants?: readonly { readonly name: string; readonly message?: string }[];
    readonly rounds?: readonly { readonly participants: number }[];
  }
  const told = await c.until(
    'the reason and a round',
    async () => {
      const status = (await c.get('fl', 'odd'))?.status as Told | undefined;
      return status?.participants?.some((p) => p.message) && status.rounds ? status : undefined;
    },
    60_000,
  );
  expect(told.rounds?.[0]?.participants).toBe(1);
  const messages = told.participants?.map((p) => p.message ?? '');
  expect(messages?.[0]).toBe('');
  expect(messages?.[1]).toMatch(/^round \d+: sample 0 of the batch has class 7/);
  await c.resources.remove('fl', 'default', 'odd');
});
