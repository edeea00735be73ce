import { appendFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ClusterFixture } from './cluster-fixture.ts';

/** Two global managers over one store: one leads, the other stands by. */
let c: ClusterFixture;
beforeAll(async () => {
  c = await ClusterFixture.start(2, 2);
});
afterAll(async () => {
  await c.stop();
});

const holder = async (): Promise<string> => {
  const path = '/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/shoal-global-manager';
  const lease = (await c.client.request('GET', path)) as { spec: { holderIdentity: string } };
  return lease.spec.holderIdentity;
};
const samples = async (name: string): Promise<number | undefined> =>
  (await c.get('dataset', name))?.status?.numberOfSamples;
const dataset = (name: string, node: string) => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind: 'Dataset',
  metadata: { name },
  spec: { url: `/data/${name}.csv`, format: 'csv', nodeName: node },
});

test('kill -9 of the leader: the other takes over, edges move, nothing is lost', async () => {
  for (const node of ['edge-1', 'edge-2']) {
    writeFileSync(c.path(node, `/data/at-${node}.csv`), 'x,y\n1,2\n');
    await c.apply(dataset(`at-${node}`, node));
    await c.until(`${node} to count`, async () => (await samples(`at-${node}`)) === 1);
  }
  const first = await holder();
  const name = first === 'manager-1' ? 'global-manager' : 'global-manager-2';
  // Stopped, and not killed, it comes back later and must not write any more.
  const pid = c.pidOf(name);
  process.kill(pid, 'SIGSTOP');
  // While nobody leads: one edge has something to say, and something new is asked of the other.
  appendFileSync(c.path('edge-1', '/data/at-edge-1.csv'), '3,4\n5,6\n');
  writeFileSync(c.path('edge-2', '/data/late.csv'), 'x,y\n1,2\n3,4\n');
  await c.apply(dataset('late', 'edge-2'));
  await c.until('the other manager to lead', async () => (await holder()) !== first, 60_000);
  await c.until('what edge-1 said', async () => (await samples('at-edge-1')) === 3, 90_000);
  await c.until('what edge-2 was asked', async () => (await samples('late')) === 2, 90_000);
  process.kill(pid, 'SIGCONT');
  const second = await holder();
  expect(second).not.toBe(first);
  // The one that slept has lost its lease: it ends, comes back, and stands by.
  await c.until(
    'the sleeper to end',
    async () => await Promise.resolve().then(() => c.pidOf(name) !== pid),
    60_000,
  );
  appendFileSync(c.path('edge-2', '/data/late.csv'), '5,6\n');
  await c.until('edge-2 to count on', async () => (await samples('late')) === 3, 60_000);
  // Now really.
  const leader = second === 'manager-1' ? 'global-manager' : 'global-manager-2';
  process.kill(c.pidOf(leader), 'SIGKILL');
  appendFileSync(c.path('edge-1', '/data/at-edge-1.csv'), '7,8\n');
  await c.until('edge-1 to count on', async () => (await samples('at-edge-1')) === 4, 90_000);
}, 300_000);
