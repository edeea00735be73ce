import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EDGE_LINK_METHODS, fleetToken, verifyJoinToken } from '@shoal/api';
import { createAuthority, isShoalError, type JsonObject } from '@shoal/core';
import { createJoinToken } from '@shoal/global-manager';
import { join as joinCloud, writeIdentity } from '@shoal/local-controller';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { GrpcTransport } from '../local-controller/src/link/grpc.ts';
import { recover } from '../local-controller/src/link/identity.ts';
import { ClusterFixture, template } from './cluster-fixture.ts';

/** Machines join, are watched, asked and revoked; services of the cloud through one connection. */
let c: ClusterFixture;
const folder = mkdtempSync(join(tmpdir(), 'shoal-join-'));
beforeAll(async () => {
  c = await ClusterFixture.start(2);
});
afterAll(async () => {
  await c.stop();
  rmSync(folder, { recursive: true, force: true });
});

const key = (): string => readFileSync(join(c.layout.managerDir, 'fleet.key'), 'utf8').trim();
const authority = (): string =>
  (
    JSON.parse(readFileSync(join(c.layout.managerDir, 'edge-link-ca.json'), 'utf8')) as {
      certificate: string;
    }
  ).certificate;
const tokenFor = (node: string, over: object = {}): string =>
  createJoinToken(key(), {
    node,
    authority: authority(),
    nowMs: Date.now(),
    validForMs: 60_000,
    server: c.cluster.state.fleet,
    ...over,
  });
const codeOf = async (body: Promise<unknown>): Promise<string> =>
  await body.then(
    () => 'none',
    (error: unknown) => (isShoalError(error) ? `${error.code}: ${error.message}` : String(error)),
  );

test('a token makes one machine a node, once; forged, late and foreign ones are refused', async () => {
  const token = tokenFor('camera-1');
  const { identity } = await joinCloud(token);
  expect(identity.validForMs).toBe(72 * 3_600_000);
  expect(await codeOf(joinCloud(token))).toMatch(/^unauthenticated: .*used before/);
  const [head, payload] = token.split('.');
  expect(await codeOf(joinCloud(`${head}.${payload}.${'x'.repeat(43)}`))).toMatch(
    /unauthenticated: .*not made by this cloud/,
  );
  const late = tokenFor('camera-2', { nowMs: Date.now() - 120_000 });
  expect(await codeOf(joinCloud(late))).toMatch(/unauthenticated: .*ended/);
  expect(await codeOf(joinCloud('nonsense'))).toMatch(/invalid_argument: .*not a join token/);
  // Who answers under the address is not the cloud of the token: nothing is sent to it.
  const other = await createAuthority('another', { nowMs: Date.now(), validForMs: 60_000 });
  expect(await codeOf(joinCloud(tokenFor('camera-2', { authority: other.certificate })))).toMatch(
    /unauthenticated: .*another digest/,
  );
  expect(() => tokenFor('Camera 2')).toThrow(/no name of a node/);
  expect(verifyJoinToken(key(), tokenFor('camera-2')).node).toBe('camera-2');
  expect(fleetToken(key())).not.toBe(fleetToken('else'));
});

test('a certificate is renewed with a new key, recovered after its end, and revoked for good', async () => {
  const { identity } = await joinCloud(tokenFor('camera-3'));
  const address = c.cluster.state.edgeLink;
  const calls = async (who: typeof identity): Promise<string> => {
    const transport = new GrpcTransport({ address, tls: who, authority: who.authority });
    const code = await codeOf(transport.statBlob(`sha256:${'0'.repeat(64)}`));
    transport.close();
    return code;
  };
  expect(await calls(identity)).toBe('none');
  const again = await recover(identity);
  expect(again.certificate).not.toBe(identity.certificate);
  expect(await calls(again)).toBe('none');
  // Somebody who has the certificate, but not its key.
  expect(await codeOf(recover({ ...identity, privateKey: again.privateKey }))).toMatch(
    /its key is not here/,
  );
  // The machine was lost: another one takes its place.
  const { identity: successor } = await joinCloud(tokenFor('camera-3'));
  expect(await calls(again)).toMatch(/permission_denied: .*replaced/);
  expect(await codeOf(recover(again))).toMatch(/revoked or replaced/);
  expect(await calls(successor)).toBe('none');
  const revoked = await c.shoal(`node revoke camera-3`);
  expect(revoked.output).toMatch(/camera-3 is revoked: 1 certificate refused/);
  expect(await calls(successor)).toMatch(/permission_denied: .*revoked/);
  expect(await codeOf(recover(successor))).toMatch(/revoked or replaced/);
  expect((await c.shoal(`node revoke nobody`)).output).toMatch(/no node "nobody" ever joined/);
});

test('a node reads and writes only its own: other nodes’ objects, blobs and names (P8)', async () => {
  await c.apply({
    apiVersion: 'sedna.io/v1alpha1',
    kind: 'Dataset',
    metadata: { name: 'private' },
    spec: { url: '/data/private.csv', format: 'csv', nodeName: 'edge-1' },
  });
  writeFileSync(c.path('edge-1', '/data/private.csv'), 'a,b\n1,2\n');
  await c.until(
    'the dataset to be counted',
    async () => (await c.get('dataset', 'private'))?.status?.numberOfSamples === 1,
  );
  const { identity } = await joinCloud(tokenFor('spy'));
  const options = {
    address: c.cluster.state.edgeLink,
    tls: identity,
    authority: identity.authority,
  };
  const transport = new GrpcTransport(options);
  const read = async (): Promise<void> => {
    for await (const _chunk of transport.getBlob(`sha256:${'1'.repeat(64)}`, 0)) break;
  };
  expect(await codeOf(read())).toMatch(/permission_denied/);
  const upload = {
    kind: 'IncrementalLearningJob',
    namespace: 'default',
    name: 'x',
    uid: 'u',
    samples: [],
  };
  expect(await codeOf(transport.putSamples(upload))).toMatch(/permission_denied/);
  // It greets, says it is somebody else in every field it can, and gets its own, empty scope.
  const names: string[] = [];
  const connection = transport.connect((frame) => {
    if (frame.frame.case === 'welcome')
      connection.send({
        $typeName: 'shoal.edgelink.v1.EdgeFrame',
        frame: {
          case: 'inventory',
          value: { $typeName: 'shoal.edgelink.v1.Inventory', items: [], last: true },
        },
      });
    if (frame.frame.case === 'batch') names.push(...frame.frame.value.items.map((i) => i.name));
    if (frame.frame.case === 'batch') connection.close();
  });
  connection.send({
    $typeName: 'shoal.edgelink.v1.EdgeFrame',
    frame: {
      case: 'hello',
      value: {
        $typeName: 'shoal.edgelink.v1.Hello',
        bootId: 'edge-1',
        storeId: '',
        cursor: 0n,
        protocols: ['v1'],
        edgeStoreId: 'edge-1',
        capabilities: ['reconcile', 'log'],
        epoch: 0n,
        version: 'edge-1',
      },
    },
  });
  await connection.closed;
  expect(names).toEqual([]);
  transport.close();
  expect(EDGE_LINK_METHODS.renew.path).toContain('EdgeLink');
});

test('shoal token, join, node list, link status: a machine on its own becomes part of the fleet', async () => {
  const { output: token } = await c.shoal(`token create --node camera-9 --ttl 5m`);
  const dir = join(folder, 'camera-9');
  const joined = await c.shoal(`join ${token.trim()} --data-dir ${dir}`);
  expect(joined.output).toMatch(/This machine is node camera-9 now/);
  expect(existsSync(join(dir, 'identity.json'))).toBe(true);
  const list = await c.shoal(`node list`);
  expect(list.output).toMatch(/camera-9\s+not in Kubernetes\s+not connected\s+for 2d/);
  expect(list.output).toMatch(/edge-1\s+Ready\s+for \d+[sm]/);
  const status = await c.shoal(`link status --json`);
  const links = JSON.parse(status.output) as { node: string; connected: boolean; lag: number }[];
  expect(links.find((l) => l.node === 'edge-1')).toMatchObject({ connected: true, lag: 0 });
  const bad = await c.shoal(`token create --node x --ttl long`);
  expect(bad.output).toMatch(/say 30m, 1h or 2d/);
});

/** The worker in the cloud answers; the one at the edge asks it every half second. */
const CLOUD = `require('http').createServer((q, r) => {
  let n = 0; q.on('data', (d) => n += d.length); q.on('end', () => r.end('took ' + n + ' bytes at ' + q.url)); }).listen(5000, process.env.POD_IP)`;
const EDGE = `
  console.log('url ' + process.env.BIG_MODEL_URL);
  setInterval(() => fetch(process.env.BIG_MODEL_URL + '/predict?x=1', { method: 'POST', body: 'y'.repeat(700000) })
    .then(async (r) => console.log(r.status + ' ' + await r.text()))
    .catch((e) => console.log('failed ' + e)), 500)`;

const object = (kind: string, name: string, spec: JsonObject): JsonObject => ({
  apiVersion: 'sedna.io/v1alpha1',
  kind,
  metadata: { name },
  spec,
});

test('a worker reaches its service in the cloud through the link; its log and metrics come the same way', async () => {
  mkdirSync(join(c.layout.rootfs('edge-1'), 'm'), { recursive: true });
  for (const node of ['cloud-1', 'edge-1']) writeFileSync(c.path(node, '/m/model.onnx'), 'model');
  const worker = (node: string, program: string): JsonObject => ({
    model: { name: 'any' },
    template: template(node, ['node', '-e', program]),
  });
  await c.apply(
    object('Model', 'any', { url: '/m/model.onnx', format: 'onnx' }),
    object('JointInferenceService', 'relayed', {
      cloudAccess: 'relay',
      cloudWorker: worker('cloud-1', CLOUD),
      edgeWorker: { ...worker('edge-1', EDGE), hardExampleMining: { name: 'IBT' } },
    }),
  );
  const logs = async (): Promise<string> => {
    const [pod] = await c.pods('relayed-deployment-edge');
    if (!pod) return '';
    return (await c.shoal(`logs ${pod.metadata.name} --link --tail 3`)).output;
  };
  await c.until('an answer through the link', async () =>
    (await logs()).includes('200 took 700000 bytes at /predict?x=1'),
  );
  const metrics = await c.shoal(`node metrics edge-1`);
  expect(metrics.output).toMatch(/shoal_link_connected 1/);
  // A node that runs nothing of the job may not reach the service.
  const [other] = await c.pods('relayed-deployment-cloud');
  expect(other).toBeDefined();
  const slot = c.cluster.state.fleet.split('.').slice(0, 3).join('.');
  const edge2 = `${slot}.3`; // the third node of the cluster
  const address = `http://${edge2}:9100/shoal/services/default/relayed-cloud/5000/`;
  const refused = await fetch(address);
  expect(refused.status).toBe(503);
  expect(await refused.text()).toMatch(/may not reach svc:\/\/default\/relayed-cloud:5000/);
});

test('what a node says of a service that it does not work for counts nowhere (P8)', async () => {
  const slot = c.cluster.state.fleet.split('.').slice(0, 3).join('.');
  const say = async (at: string, inferenceNumber: number): Promise<void> => {
    const response = await fetch(`http://${at}:9100/sedna/workers/forged/info`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        name: 'forged',
        namespace: 'default',
        ownerName: 'relayed',
        ownerKind: 'jointinferenceservice',
        kind: 'inference',
        ownerInfo: { inferenceNumber },
      }),
    });
    expect(response.ok).toBe(true);
  };
  const counted = async (): Promise<string | undefined> => {
    const status = (await c.get('ji', 'relayed'))?.status as
      | { metrics?: { key: string; value: string }[] }
      | undefined;
    return status?.metrics?.find((m) => m.key === 'inferenceNumber')?.value;
  };
  const waiting = async (node: string): Promise<number | undefined> => {
    const { output } = await c.shoal(`link status --json`);
    const links = JSON.parse(output) as { node: string; outboxRecords: string | number }[];
    const link = links.find((l) => l.node === node);
    return link && Number(link.outboxRecords);
  };
  await say(`${slot}.3`, 1000); // the second edge: nothing of the service is there
  await c.until('the record to be in the cloud', async () => (await waiting('edge-2')) === 0);
  await say(`${slot}.2`, 7);
  expect(await c.until('the service to be counted', counted)).toBe('7');
});

test('the identity on the disk is written whole or not at all, and only its owner reads it', () => {
  const file = join(folder, 'identity.json');
  writeIdentity(file, { certificate: 'c', privateKey: 'p', authority: 'a' });
  const { stdout } = spawnSync('stat', ['-c', '%a', file], { encoding: 'utf8' });
  expect(stdout.trim()).toBe('600');
  expect(existsSync(`${file}.new`)).toBe(false);
});
