import { writeFileSync } from 'node:fs';
import { type JsonObject, seededRandom } from '@shoal/core';
import { generateDigits } from '@shoal/datasets';
import { select, toImageLine } from '@shoal/lib';
import { dense, flatten, relu, sequential } from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture, type Live, template } from './cluster-fixture.ts';

let c: ClusterFixture;
const PARTICIPANTS = 4;

function sedna(kind: string, name: string, spec: JsonObject): JsonObject {
  return { apiVersion: 'sedna.io/v1alpha1', kind, metadata: { name }, spec };
}

const nodeOf = (i: number): string => `edge-${(i % 2) + 1}`;

beforeAll(async () => {
  c = await ClusterFixture.start(2);
  const random = seededRandom(7);
  const model = sequential({
    input: [1, 28, 28],
    layers: [flatten(), dense(16), relu(), dense(10)],
    random,
  });
  for (const node of ['cloud-1', 'edge-1', 'edge-2'])
    writeFileSync(c.path(node, '/models/modes.onnx'), model);
  const digits = generateDigits({ count: 700, seed: 7 });
  const lines = (from: number, to: number): string => {
    const part = select(
      digits,
      Uint32Array.from({ length: to - from }, (_, i) => from + i),
    );
    return Array.from({ length: part.size }, (_, i) =>
      toImageLine(part.inputs.subarray(i * 784, (i + 1) * 784), Number(part.labels[i])),
    ).join('\n');
  };
  for (let i = 0; i < PARTICIPANTS; i++)
    writeFileSync(
      c.path(nodeOf(i), `/data/modes-${i}.jsonl`),
      `${lines(i * 120, (i + 1) * 120)}\n`,
    );
  writeFileSync(c.path('cloud-1', '/data/held-out.jsonl'), `${lines(500, 700)}\n`);
  await c.apply(
    sedna('Model', 'modes', { url: '/models/modes.onnx', format: 'onnx' }),
    sedna('Dataset', 'held-out', {
      url: '/data/held-out.jsonl',
      format: 'jsonl',
      nodeName: 'cloud-1',
    }),
    ...Array.from({ length: PARTICIPANTS }, (_, i) =>
      sedna('Dataset', `modes-${i}`, {
        url: `/data/modes-${i}.jsonl`,
        format: 'jsonl',
        nodeName: nodeOf(i),
      }),
    ),
  );
});

afterAll(async () => {
  await c.stop();
});

function job(name: string, over: JsonObject): JsonObject {
  const worker = (kind: string, node?: string): JsonObject => {
    const made = template(node ?? '', ['node', 'workers/src/main.ts', kind]) as {
      spec: { nodeName?: string } & JsonObject;
    };
    if (node === undefined) delete made.spec.nodeName;
    return made;
  };
  return sedna('FederatedLearningJob', name, {
    aggregationWorker: { model: { name: 'modes' }, template: worker('aggregate', 'cloud-1') },
    trainingWorkers: Array.from({ length: PARTICIPANTS }, (_, i) => ({
      dataset: { name: `modes-${i}` },
      template: worker('participate'),
    })),
    rounds: 4,
    localTraining: { epochs: 2, batchSize: 16, learningRate: 0.1 },
    ...over,
  });
}

interface Status {
  readonly phase?: string;
  readonly currentRound?: number;
  readonly bestRound?: number;
  readonly accuracy?: string;
  readonly bytesUp?: number;
  readonly rounds?: readonly Record<string, string | number>[];
  readonly participants?: readonly Record<string, string | number>[];
}

async function finished(name: string): Promise<Status> {
  const done = await c.until(
    `${name} to end`,
    async () => {
      const live = await c.get('fl', name);
      const phase = live?.status?.phase;
      if (phase === 'Failed') throw new Error(JSON.stringify(live?.status?.conditions?.at(-1)));
      return phase === 'Succeeded' ? live : undefined;
    },
    90_000,
  );
  await c.resources.remove('fl', 'default', name);
  await c.until('nothing left', async () => (await c.pods(`${name}-`)).length === 0);
  return (done as Live).status as Status;
}

const percent = (text: unknown): number => Number.parseFloat(String(text));

test('changes are only added up masked; held-out samples choose the best model', async () => {
  await c.apply(
    job('secret', {
      privacy: { secureAggregation: { stageSeconds: 20 } },
      evaluation: { dataset: { name: 'held-out' }, patience: 20 },
    }),
  );
  const secret = await c.until('the secret', async () => {
    const found = await c.client.request(
      'GET',
      '/api/v1/namespaces/default/secrets/secret-federation',
    );
    return found as { data: Record<string, string> };
  });
  // Each participant signs for itself; the aggregator has no such key.
  expect(Object.keys(secret.data).toSorted()).toEqual([
    'authority',
    'certificate',
    'identity-train-0',
    'identity-train-1',
    'identity-train-2',
    'identity-train-3',
    'privateKey',
    'token',
  ]);
  const pods = await c.until('the pods', async () => {
    const found = await c.pods('secret-');
    return found.length === PARTICIPANTS + 1 ? found : undefined;
  });
  for (const pod of pods) {
    const env = JSON.stringify(pod.spec);
    expect(/FEDERATED_PRIVATE_KEY/.test(env)).toBe(pod.metadata.name.includes('aggregation'));
    expect(/FEDERATED_IDENTITY/.test(env)).toBe(!pod.metadata.name.includes('aggregation'));
  }
  const status = await finished('secret');
  expect(status.currentRound).toBe(5);
  const rows = status.rounds ?? [];
  expect(rows.map((r) => r['participants'])).toEqual([4, 4, 4, 4, 4]);
  expect(percent(rows.at(-1)?.['validationAccuracy'])).toBeGreaterThan(60);
  expect(rows[0]?.['accuracySpread']).toMatch(/^[\d.]+ % \/ [\d.]+ % \/ [\d.]+ %$/);
  const best = rows.toSorted(
    (a, b) => percent(b['validationAccuracy']) - percent(a['validationAccuracy']),
  )[0];
  expect(status.bestRound).toBe(best?.['round']);
  expect(status.participants?.map((p) => [p['name'], p['node'], p['state'], p['samples']])).toEqual(
    Array.from({ length: PARTICIPANTS }, (_, i) => [
      `trainworker-secret-train-${i}`,
      nodeOf(i),
      'Succeeded',
      120,
    ]),
  );
});

test('groups of nodes have aggregators of their own; half the updates reach the cloud', async () => {
  for (const [node, group] of [
    ['edge-1', 'North'],
    ['edge-2', 'South'],
  ])
    await c.client.request(
      'PATCH',
      `/api/v1/nodes/${node}`,
      { metadata: { labels: { 'shoal.dev/group': group ?? '' } } },
      { contentType: 'application/merge-patch+json' },
    );
  await c.apply(job('tree', { topology: 'hierarchical' }));
  const groups = await c.until('the aggregators of groups', async () => {
    const found = await c.pods('tree-group-');
    return found.length === 2 ? found : undefined;
  });
  expect(
    groups.map((g) => String(g.spec?.['nodeName'])).toSorted((a, b) => a.localeCompare(b)),
  ).toEqual(['edge-1', 'edge-2']);
  const status = await finished('tree');
  expect(status.rounds?.map((r) => [r['participants'], r['samples']])).toEqual(
    Array.from({ length: 5 }, () => [2, 480]),
  );
  expect(percent(status.accuracy)).toBeGreaterThan(60);
  expect(status.participants?.map((p) => p['group'])).toEqual(['north', 'south', 'north', 'south']);
  // What does not go together is told, not tried.
  await c.apply(job('tree', { topology: 'hierarchical', privacy: { clipping: 1, noise: 1 } }));
  const condition = await c.until('the refusal', async () => await c.condition('fl', 'tree'));
  expect(condition.message).toBe(
    'spec.topology hierarchical does not go with spec.privacy; take it away, or use topology flat',
  );
  await c.resources.remove('fl', 'default', 'tree');
});

test('asynchronous rounds take the updates that are there', async () => {
  await c.apply(
    job('buffered', {
      strategy: { name: 'FedBuff', parameters: [{ key: 'bufferSize', value: '2' }] },
      rounds: 6,
    }),
  );
  const status = await finished('buffered');
  expect(status.currentRound).toBe(7);
  expect(status.rounds?.slice(0, 6).map((r) => r['participants'])).toEqual([2, 2, 2, 2, 2, 2]);
  expect(percent(status.accuracy)).toBeGreaterThan(50);
});
