import { writeFileSync } from 'node:fs';
import type { JsonObject } from '@shoal/core';
import { seededRandom } from '@shoal/core';
import { dense, flatten, sequential } from '@shoal/training';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture, type Live, template } from './cluster-fixture.ts';

/** Workers by groups of nodes: what differs there, who joins and leaves, what makes no sense. */
let c: ClusterFixture;
beforeAll(async () => {
  c = await ClusterFixture.start(3);
  const random = seededRandom(1);
  const model = sequential({ input: [1, 2, 2], layers: [flatten(), dense(2)], random });
  for (const node of ['cloud-1', 'edge-1', 'edge-2', 'edge-3'])
    for (const name of ['little', 'north', 'big'])
      writeFileSync(c.path(node, `/models/${name}.onnx`), model);
  await c.apply(
    ...['little', 'north', 'big'].map((name) =>
      object('Model', name, { url: `/models/${name}.onnx`, format: 'onnx' }),
    ),
  );
});
afterAll(async () => await c.stop());

function object(kind: string, name: string, spec: JsonObject): JsonObject {
  return { apiVersion: 'sedna.io/v1alpha1', kind, metadata: { name }, spec };
}

async function label(node: string, labels: Record<string, string | null>): Promise<void> {
  const body = { metadata: { labels } };
  await c.client.request('PATCH', `/api/v1/nodes/${node}`, body, {
    contentType: 'application/merge-patch+json',
  });
}

const bare = (command: string[], env: JsonObject[] = []): JsonObject => ({
  spec: { containers: [{ name: 'main', image: 'none', command, env }] },
});
const idle = ['node', '-e', 'setInterval(() => {}, 1000)'];

interface Worker {
  readonly node: string | undefined;
  readonly env: Record<string, string | undefined>;
  readonly resources: unknown;
  /** Milliseconds since the epoch, of whole seconds. */
  readonly createdAt: number;
  /** The same; NaN while it is not ready. */
  readonly readyAt: number;
}

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly lastTransitionTime?: string;
}

/** Running pods of a service’s edge workers, by node. */
async function workers(prefix: string): Promise<Worker[]> {
  const pods = (await c.pods(prefix)).filter(
    (p) => !(p.metadata as JsonObject)['deletionTimestamp'],
  );
  return pods
    .map((pod): Worker => {
      const spec = pod.spec as {
        nodeName?: string;
        containers: { env: { name: string; value?: string }[]; resources?: unknown }[];
      };
      const [main] = spec.containers;
      const env = Object.fromEntries((main?.env ?? []).map((e) => [e.name, e.value]));
      const { conditions = [] } = (pod.status ?? {}) as { conditions?: Condition[] };
      const ready = conditions.find((c) => c.type === 'Ready' && c.status === 'True');
      const createdAt = Date.parse(String((pod.metadata as JsonObject)['creationTimestamp']));
      const readyAt = Date.parse(ready?.lastTransitionTime ?? '');
      return { node: spec.nodeName, env, resources: main?.resources, createdAt, readyAt };
    })
    .toSorted((a, b) => String(a.node).localeCompare(String(b.node)));
}

async function untilNodes(prefix: string, nodes: string[]): Promise<Worker[]> {
  return await c.until(
    `workers ${prefix} on ${nodes.join(', ') || 'no node'}`,
    async () => {
      const found = await workers(prefix);
      return JSON.stringify(found.map((w) => w.node)) === JSON.stringify(nodes) ? found : undefined;
    },
    30_000,
  );
}

interface Placement {
  readonly nodes: number;
  readonly ready: number;
  readonly groups: readonly (JsonObject & { readonly name: string })[];
}

async function untilPlacement(
  kind: string,
  name: string,
  fits: (placement: Placement) => boolean,
): Promise<Placement> {
  return await c.until(
    `${kind}/${name} to say where it is`,
    async () => {
      const status = ((await c.get(kind, name)) as Live | undefined)?.status;
      const { placement } = (status ?? {}) as { placement?: Placement };
      return placement && fits(placement) ? placement : undefined;
    },
    30_000,
  );
}

const service = (name: string, placement: JsonObject, edge: JsonObject = {}): JsonObject =>
  object('JointInferenceService', name, {
    cloudWorker: { model: { name: 'big' }, template: template('cloud-1', idle) },
    edgeWorker: {
      model: { name: 'little' },
      hardExampleMining: {
        name: 'CrossEntropy',
        parameters: [{ key: 'threshold_cross_entropy', value: '0.5' }],
      },
      template: bare(idle, [{ name: 'LIGHT', value: 'day' }]),
      ...edge,
    },
    placement,
  });

const GROUPS = {
  groups: [
    {
      name: 'north',
      overrides: {
        model: { name: 'north' },
        threshold: 0.8,
        endpoint: 'http://gateway.north:5000',
        resources: { limits: { memory: '512Mi' } },
        env: [{ name: 'LIGHT', value: 'night' }],
      },
    },
    { name: 'south' },
  ],
};

test('joint inference: a worker on every node of the groups, each with what its group overrides', async () => {
  await label('edge-1', { 'shoal.dev/group': 'north' });
  await label('edge-2', { 'apps.kubeedge.io/belonging-to': 'south' });
  await c.apply(service('doors', GROUPS));
  const [north, south] = await untilNodes('doors-deployment-edge', ['edge-1', 'edge-2']);
  expect(north?.env).toMatchObject({
    LIGHT: 'night',
    MODEL_URL: '/home/data/models/north.onnx',
    BIG_MODEL_URL: 'http://gateway.north:5000',
    HEM_PARAMETERS: '[{"key":"threshold_cross_entropy","value":"0.8"}]',
  });
  expect(north?.resources).toMatchObject({ limits: { memory: '512Mi' } });
  expect(south?.env).toMatchObject({
    LIGHT: 'day',
    MODEL_URL: '/home/data/models/little.onnx',
    HEM_PARAMETERS: '[{"key":"threshold_cross_entropy","value":"0.5"}]',
  });
  expect(south?.env['BIG_MODEL_URL']).toBeUndefined();
  const placement = await untilPlacement('ji', 'doors', (p) => p.ready === 2);
  expect(placement.groups).toMatchObject([
    {
      name: 'north',
      nodes: 1,
      members: ['edge-1'],
      resolved: { model: 'north', threshold: '0.8', endpoint: 'http://gateway.north:5000' },
    },
    { name: 'south', nodes: 1, resolved: { model: 'little', threshold: '0.5' } },
  ]);
  expect((await c.condition('ji', 'doors'))?.message).toBe('all 3 workers are available');
});

test('a node that joins a group gets a worker and is told of it; one that leaves, or is drained, loses both', async () => {
  await label('edge-3', { 'shoal.dev/group': 'south' });
  await untilNodes('doors-deployment-edge', ['edge-1', 'edge-2', 'edge-3']);
  await untilPlacement('ji', 'doors', (p) => p.ready === 3);
  const told = async (): Promise<Record<string, number>> => {
    const links = JSON.parse((await c.shoal('link status --json')).output) as {
      node: string;
      head: number;
    }[];
    return Object.fromEntries(links.map((l) => [l.node, Number(l.head)]));
  };
  const before = await told();
  await label('edge-3', { 'shoal.dev/group': null });
  await untilNodes('doors-deployment-edge', ['edge-1', 'edge-2']);
  // Its feed has heard of the deletion; nobody else has heard anything.
  const after = await told();
  expect(after['edge-3']).toBe((before['edge-3'] ?? 0) + 1);
  expect(after['edge-1']).toBe(before['edge-1']);
  await label('edge-2', { 'shoal.dev/group': 'north' });
  const moved = await c.until('edge-2 to be of the north', async () => {
    const at = (await workers('doors-deployment-edge')).filter((w) => w.node === 'edge-2');
    return at.length === 1 && at[0]?.env['LIGHT'] === 'night' ? at[0] : undefined;
  });
  expect(moved?.env['BIG_MODEL_URL']).toBe('http://gateway.north:5000');
  await c.shoal('node drain edge-1');
  await untilNodes('doors-deployment-edge', ['edge-2']);
  await c.shoal('node uncordon edge-1');
  await untilNodes('doors-deployment-edge', ['edge-1', 'edge-2']);
});

test('what makes no sense is refused by name; a group without nodes is said', async () => {
  await c.apply(
    service('empty', { groups: [{ name: 'nowhere' }] }),
    service('twice', { groups: [{ name: 'north' }, { name: 'north' }] }),
    service('both', GROUPS, { template: template('edge-1', idle) }),
    service('scaled', GROUPS, { hpa: { maxReplicas: 3 } }),
    service('random', GROUPS, { hardExampleMining: { name: 'Random' } }),
    service('lost', { groups: [{ name: 'north', overrides: { model: { name: 'none' } } }] }),
  );
  const says = async (name: string, text: RegExp): Promise<void> => {
    await c.until(`${name}: ${text}`, async () =>
      text.test((await c.condition('ji', name))?.message ?? ''),
    );
  };
  await says('empty', /no node is in group nowhere/);
  await says('twice', /groups\[1\]\.name: group "north" is there twice/);
  await says('both', /nodeName and spec\.placement both say where/);
  await says('scaled', /hpa and spec\.placement do not go together/);
  await says('random', /Random has no threshold/);
  await says('lost', /groups\[0\]\.overrides\.model\.name: Model "none" does not exist/);
  for (const name of ['empty', 'twice', 'both', 'scaled', 'random', 'lost'])
    await c.client.request(
      'DELETE',
      `/apis/sedna.io/v1alpha1/namespaces/default/jointinferenceservices/${name}`,
    );
});

test('changed workers are rolled out group by group; those that do not come up take everybody back', async () => {
  const path = '/apis/sedna.io/v1alpha1/namespaces/default/jointinferenceservices/doors';
  const change = async (edgeWorker: JsonObject): Promise<void> => {
    await c.client.request(
      'PATCH',
      path,
      { spec: { edgeWorker } },
      {
        contentType: 'application/merge-patch+json',
      },
    );
  };
  const rollout = async (): Promise<{ phase?: string; message?: string }> => {
    const status = (await c.get('ji', 'doors'))?.status as { rollout?: object } | undefined;
    return status?.rollout ?? {};
  };
  const lights = async (): Promise<Record<string, string | undefined>> =>
    Object.fromEntries(
      (await workers('doors-deployment-edge')).map((w) => [w.node ?? '', w.env['VERSION']]),
    );
  const versionTwo = async (): Promise<{ createdAt: number; readyAt: number }[]> => {
    const found = (await workers('doors-deployment-edge')).filter((w) => w.env['VERSION'] === '2');
    expect(found.map((w) => w.node)).toEqual(['edge-1', 'edge-2']);
    return found.map(({ createdAt, readyAt }) => ({ createdAt, readyAt }));
  };
  await label('edge-2', { 'shoal.dev/group': 'south' });
  await untilPlacement('ji', 'doors', (p) => p.ready === 2);
  await change({ rollout: { deadlineSeconds: 20 } });
  await c.until('a first rollout', async () => (await rollout()).phase === 'Completed');
  // Slow to be ready: the south waits for the north.
  const slow = (version: string, command: string[]): JsonObject => ({
    template: {
      spec: {
        containers: [
          {
            name: 'main',
            image: 'none',
            command,
            env: [{ name: 'VERSION', value: version }],
            readinessProbe: { exec: { command: ['true'] }, initialDelaySeconds: 2 },
          },
        ],
      },
    },
  });
  await change(slow('2', idle));
  await c.until(
    'version 2 everywhere',
    async () => (await rollout()).phase === 'Completed' && (await lights())['edge-2'] === '2',
    60_000,
  );
  // Both took two seconds to be ready: the second one began when the first one was.
  const [north, south] = await versionTwo();
  expect(north?.readyAt).toBeGreaterThan(north?.createdAt ?? Number.NaN);
  expect(south?.createdAt).toBeGreaterThanOrEqual(north?.readyAt ?? Number.NaN);
  await change({ rollout: { deadlineSeconds: 4 } });
  await change(slow('3', ['node', '-e', 'process.exit(1)']));
  const back = await c.until('it to be rolled back', async () => {
    const now = await rollout();
    return now.phase === 'RolledBack' ? now : undefined;
  });
  expect(back.message).toMatch(/1 of 1 nodes of group north failed: edge-1: too late/);
  await c.until('version 2 again', async () => {
    const now = await lights();
    return now['edge-1'] === '2' && now['edge-2'] === '2' && Object.keys(now).length === 2;
  });
  await untilPlacement('ji', 'doors', (p) => p.ready === 2);
});

test('federated learning: participants of a group train in its way', async () => {
  for (const i of [1, 3]) writeFileSync(c.path(`edge-${i}`, '/data/share.csv'), 'x,y\n1,0\n');
  const dataset = (i: number): JsonObject =>
    object('Dataset', `share-${i}`, {
      url: `/data/share.csv`,
      format: 'csv',
      nodeName: `edge-${i}`,
    });
  await c.apply(
    dataset(1),
    dataset(3),
    object('FederatedLearningJob', 'fed', {
      aggregationWorker: { model: { name: 'little' }, template: template('cloud-1', idle) },
      trainingWorkers: [1, 3].map((i) => ({
        dataset: { name: `share-${i}` },
        template: bare(idle),
      })),
      placement: {
        groups: [
          {
            name: 'north',
            overrides: {
              parameters: [{ key: 'epochs', value: '5' }],
              env: [{ name: 'LIGHT', value: 'night' }],
            },
          },
        ],
      },
    }),
  );
  const [one, three] = await untilNodes('fed-train', ['edge-1', 'edge-3']);
  expect(one?.env).toMatchObject({ LOCAL_TRAINING: '{"epochs":5}', LIGHT: 'night' });
  expect(three?.env['LOCAL_TRAINING']).toBeUndefined();
  const { groups } = await untilPlacement('fl', 'fed', (p) => p.ready === 1);
  expect(groups).toMatchObject([
    {
      name: 'north',
      members: ['edge-1'],
      resolved: { parameters: [{ key: 'epochs', value: '5' }] },
    },
  ]);
  await label('edge-3', { 'shoal.dev/group': 'north' });
  await c.until('edge-3 to train as the north does', async () => {
    const at = (await workers('fed-train')).filter((w) => w.node === 'edge-3');
    return at.length === 1 && at[0]?.env['LOCAL_TRAINING'] !== undefined;
  });
});
