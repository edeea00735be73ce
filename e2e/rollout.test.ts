import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { type JsonObject, seededRandom } from '@shoal/core';
import { imageData } from '@shoal/lib';
import { dense, flatten, sequential } from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture, template } from './cluster-fixture.ts';

/**
 * New models reach the serving nodes group by group, wait for their release at the edge, are tolerated or
 * rolled back: with the ready-made workers, while local controllers stand still.
 */
let c: ClusterFixture;
const SHAPE = [1, 4, 4];
const EDGES = ['edge-1', 'edge-2', 'edge-3'] as const;
type Edge = (typeof EDGES)[number];

const env = [
  { name: 'INPUT_SHAPE', value: SHAPE.join(',') },
  { name: 'EPOCHS', value: '1' },
  { name: 'LEARNING_RATE', value: '0.005' },
  { name: 'LC_PERIOD', value: '1' },
  { name: 'INFERENCE_PORT', value: '8131' },
];
const worker = (kind: string): string[] => ['node', 'workers/src/main.ts', kind];

function object(kind: string, name: string, spec: JsonObject): JsonObject {
  return { apiVersion: 'sedna.io/v1alpha1', kind, metadata: { name }, spec };
}

async function patch(path: string, body: JsonObject): Promise<void> {
  await c.client.request('PATCH', path, body, { contentType: 'application/merge-patch+json' });
}

const JOB = '/apis/sedna.io/v1alpha1/namespaces/default/incrementallearningjobs/quarters';

async function policy(rollout: JsonObject): Promise<void> {
  await patch(JOB, { spec: { deploySpec: { rollout } } });
}

let written = 0;

/** New samples: the next round trains on them. */
function appendSamples(): void {
  const random = seededRandom(++written);
  const lines = Array.from({ length: 40 }, () => {
    const label = random.int(4);
    const pixels = Float32Array.from({ length: 16 }, (_, p) =>
      Math.floor(p / 8) * 2 + Math.floor((p % 4) / 2) === label ? 0.9 : 0.1 * random.next(),
    );
    return `${JSON.stringify({ ...imageData(pixels), label })}\n`;
  });
  appendFileSync(c.path('cloud-1', '/data/quarters.jsonl'), lines.join(''));
}

interface Rollout {
  readonly digest: string;
  readonly phase: string;
  readonly group: number;
  readonly message?: string;
  readonly groups: readonly JsonObject[];
}

async function status(): Promise<{ rollout?: Rollout; deployedModel?: string }> {
  const job = await c.get('il', 'quarters');
  return (job?.status ?? {}) as { rollout?: Rollout; deployedModel?: string };
}

async function untilRollout(phase: string, group: number, more: RegExp = /(?:)/): Promise<Rollout> {
  return await c.until(
    `the rollout to be ${phase} at group ${group}, ${more}`,
    async () => {
      const { rollout } = await status();
      const fits =
        rollout?.phase === phase && rollout.group === group && more.test(rollout.message ?? '');
      return fits ? rollout : undefined;
    },
    60_000,
  );
}

/** Digest, cut short, of the model a node’s worker is pointed at; empty for the one it began with. */
function modelOf(edge: Edge): string {
  const path = c.path(
    edge,
    '/var/lib/sedna/model-hot-update/default/incrementallearningjob/quarters/model_config.json',
  );
  if (!existsSync(path)) return '';
  return /model-([0-9a-f]{12})/.exec(readFileSync(path, 'utf8'))?.[1] ?? '';
}

async function addressOf(edge: Edge): Promise<string> {
  const { addresses } = ((await c.get('node', edge))?.status ?? {}) as {
    addresses?: { type: string; address: string }[];
  };
  return addresses?.find((a) => a.type === 'InternalIP')?.address ?? '';
}

const short = (digest: string): string => digest.slice(7, 19);

async function untilModels(wanted: Record<Edge, string>): Promise<void> {
  await c.until(`models ${JSON.stringify(wanted)}`, () =>
    Promise.resolve(EDGES.every((e) => modelOf(e) === wanted[e]) || undefined),
  );
}

beforeAll(async () => {
  c = await ClusterFixture.start(3);
  const layers = [flatten(), dense(4)];
  const model = sequential({ input: SHAPE, layers, random: seededRandom(1) });
  writeFileSync(c.path('cloud-1', '/models/initial.onnx'), model);
  writeFileSync(c.path('cloud-1', '/data/quarters.jsonl'), '');
  for (const [i, edge] of EDGES.entries()) {
    writeFileSync(c.path(edge, '/models/quarters.onnx'), model);
    const group = i === 0 ? 'north' : 'south';
    await patch(`/api/v1/nodes/${edge}`, { metadata: { labels: { 'shoal.dev/group': group } } });
  }
  const onnx = (name: string): JsonObject =>
    object('Model', name, { url: `/models/${name}.onnx`, format: 'onnx' });
  await c.apply(
    object('Dataset', 'quarters', {
      url: '/data/quarters.jsonl',
      format: 'jsonl',
      nodeName: 'cloud-1',
    }),
    onnx('initial'),
    onnx('quarters'),
    object('IncrementalLearningJob', 'quarters', {
      dataset: { name: 'quarters', trainProb: 0.8 },
      initialModel: { name: 'initial' },
      outputDir: '/output/quarters',
      placement: { groups: [{ name: 'north' }, { name: 'south' }] },
      trainSpec: {
        template: template('cloud-1', worker('train'), { env }),
        trigger: {
          checkPeriodSeconds: 1,
          condition: { operator: '>=', threshold: 30, metric: 'num_of_samples' },
        },
      },
      evalSpec: { template: template('cloud-1', worker('evaluate'), { env }) },
      deploySpec: {
        model: { name: 'quarters', hotUpdateEnabled: true, pollPeriodSeconds: 1 },
        trigger: { condition: { operator: '>', threshold: -1, metric: 'accuracy_delta' } },
        hardExampleMining: { name: 'EdgeOnly' },
        template: {
          spec: {
            containers: [
              { name: 'main', image: 'shoal/examples:0.1.0', command: worker('infer'), env },
            ],
          },
        },
        rollout: { hold: 'edge', deadlineSeconds: 30 },
      },
    }),
  );
  await c.until('all three to serve', async () => {
    const job = (await c.get('il', 'quarters'))?.status as { placement?: { ready: number } };
    return job.placement?.ready === 3;
  });
});
afterAll(async () => await c.stop());

let first = '';

test('a model is fetched everywhere, and served group by group as people beside the machines let it go', async () => {
  appendSamples();
  const { digest } = await untilRollout('Updating', 0, /held at the edge: edge-1/);
  first = short(digest);
  expect(EDGES.map(modelOf)).toEqual(['', '', '']);
  expect((await c.shoal('edge status --node edge-1')).output).toContain(first);
  // It is there already, but its group is not due.
  expect((await c.shoal('edge status --node edge-2')).output).toMatch(/No model waits here/);
  expect((await status()).rollout?.groups).toMatchObject([
    { name: 'north', pulled: 1, held: 1 },
    { name: 'south', nodes: 2, pulled: 2, held: 0 },
  ]);
  // A page in a browser of that machine is not somebody beside it.
  const url = `http://${await addressOf('edge-1')}:9100/shoal/edge/release`;
  const json = { 'Content-Type': 'application/json' };
  for (const headers of [
    { ...json, Origin: 'http://evil.example' },
    { 'Content-Type': 'text/plain' },
  ])
    expect((await fetch(url, { method: 'POST', headers, body: '{}' })).status).toBe(403);
  expect((await c.shoal('edge release quarters --node edge-1')).output).toMatch(/released/);
  await untilRollout('Updating', 1, /held at the edge: edge-2, edge-3/);
  await untilModels({ 'edge-1': first, 'edge-2': '', 'edge-3': '' });
  await c.shoal('edge release --node edge-2');
  await c.shoal('edge release --node edge-3');
  await untilRollout('Completed', 1);
  await untilModels({ 'edge-1': first, 'edge-2': first, 'edge-3': first });
  await c.until('it to be the served one', async () => (await status()).deployedModel === digest);
});

test('a node that stands still is tolerated, and serves the new model once it is back', async () => {
  await policy({ hold: 'none', tolerance: 0.5, deadlineSeconds: 12 });
  const stopped = c.pidOf('local-controller-edge-3');
  process.kill(stopped, 'SIGSTOP');
  appendSamples();
  const { digest, groups } = await untilRollout('Completed', 1).then(async (r) =>
    short(r.digest) === first
      ? await c.until('another rollout', async () => {
          const { rollout } = await status();
          return rollout?.phase === 'Completed' && short(rollout.digest) !== first
            ? rollout
            : undefined;
        })
      : r,
  );
  expect(groups).toMatchObject([{ updated: 1 }, { nodes: 2, updated: 1 }]);
  await untilModels({ 'edge-1': short(digest), 'edge-2': short(digest), 'edge-3': first });
  process.kill(stopped, 'SIGCONT');
  await untilModels({
    'edge-1': short(digest),
    'edge-2': short(digest),
    'edge-3': short(digest),
  });
});

test('too many that fail, and every node goes back to the model before', async () => {
  await policy({ tolerance: 0, deadlineSeconds: 12, prePull: 'group' });
  const { deployedModel = '' } = await status();
  const stopped = c.pidOf('local-controller-edge-3');
  process.kill(stopped, 'SIGSTOP');
  appendSamples();
  const { digest } = await untilRollout('Updating', 1);
  await untilModels({
    'edge-1': short(digest),
    'edge-2': short(digest),
    'edge-3': short(deployedModel),
  });
  await untilRollout('RolledBack', 1, /1 of 2 nodes of group south failed: edge-3: too late/);
  process.kill(stopped, 'SIGCONT');
  const before = short(deployedModel);
  await untilModels({ 'edge-1': before, 'edge-2': before, 'edge-3': before });
  expect((await status()).deployedModel).toBe(deployedModel);
  expect((await c.condition('il', 'quarters'))?.message ?? '').not.toMatch(/undefined/);
});

test('a machine that holds new models waits, also without a policy that says so', async () => {
  expect((await c.shoal('edge hold --node edge-1')).output).toMatch(/takes no new models/);
  await policy({ deadlineSeconds: 30 });
  appendSamples();
  const { digest } = await untilRollout('Updating', 0, /held at the edge: edge-1/);
  expect((await c.shoal('edge hold --off --node edge-1')).output).toMatch(/takes new models again/);
  await untilModels({
    'edge-1': short(digest),
    'edge-2': short(digest),
    'edge-3': short(digest),
  });
});
