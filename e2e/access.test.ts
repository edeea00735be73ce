import { request } from 'node:https';
import { connect } from 'node:tls';
import type { ApiClient, ApiObject } from '@shoal/cluster';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ApiServerProcess } from './api-server-process.ts';

/** What roles allow, and the ways around them that are closed. */
const RBAC = '/apis/rbac.authorization.k8s.io/v1';
const CORE = '/api/v1/namespaces/default';
let server: ApiServerProcess;
let client: ApiClient;

beforeAll(async () => {
  server = await ApiServerProcess.start();
  client = server.client();
  await bind('viewer', 'view');
  await bind('boss', 'admin');
  await role('patcher', [{ apiGroups: [''], resources: ['configmaps'], verbs: ['patch'] }]);
  await role('one', [
    { apiGroups: [''], resources: ['secrets'], verbs: ['list', 'watch'], resourceNames: ['s1'] },
  ]);
  await client.request('POST', `${CORE}/configmaps`, { metadata: { name: 'there' } });
  const spec = { containers: [{ name: 'c', image: 'any', command: ['true'] }] };
  await client.request('POST', `${CORE}/pods`, { metadata: { name: 'p' }, spec });
  const labels = { app: 'd' };
  await client.request('POST', '/apis/apps/v1/namespaces/default/deployments', {
    metadata: { name: 'd' },
    spec: {
      replicas: 3,
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { ...spec, nodeSelector: { no: 'where' } } },
    },
  });
});
afterAll(async () => {
  client.close();
  await server.close();
});

async function bind(user: string, clusterRole: string): Promise<void> {
  await client.request('POST', `${RBAC}/namespaces/default/rolebindings`, {
    metadata: { name: `${user}-${clusterRole}` },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: clusterRole },
    subjects: [{ kind: 'User', name: user }],
  });
}

async function role(user: string, rules: readonly object[]): Promise<void> {
  await client.request('POST', `${RBAC}/clusterroles`, {
    metadata: { name: `${user}-only` },
    rules,
  });
  await bind(user, `${user}-only`);
}

interface Answer {
  readonly code: number;
  readonly body: Partial<ApiObject> & { readonly message?: string };
}

/** A request as somebody else. */
function as(
  user: string,
  method: string,
  path: string,
  ...[body, headers = {}]: readonly [body?: unknown, headers?: Record<string, string>]
): Promise<Answer> {
  const text = body === undefined ? '' : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const call = request(`${server.url}${path}`, {
      method,
      ca: server.authority,
      agent: false,
      headers: {
        Authorization: `Bearer ${server.token}`,
        'Content-Type': 'application/json',
        'Content-Length': String(Buffer.byteLength(text)),
        ...(user ? { 'Impersonate-User': user } : {}),
        ...headers,
      },
    });
    call.on('error', reject);
    call.on('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        const all = Buffer.concat(chunks).toString();
        resolve({
          code: response.statusCode ?? 0,
          body: JSON.parse(all || '{}') as Answer['body'],
        });
      });
    });
    call.end(text);
  });
}

test('a role allows what it says and nothing else', async () => {
  expect((await as('viewer', 'GET', `${CORE}/configmaps`)).code).toBe(200);
  expect((await as('viewer', 'GET', '/api/v1/configmaps')).code).toBe(403);
  expect((await as('viewer', 'GET', `${CORE}/secrets`)).code).toBe(403);
  expect((await as('viewer', 'DELETE', `${CORE}/configmaps/there`)).code).toBe(403);
  expect((await as('nobody', 'GET', `${CORE}/configmaps`)).code).toBe(403);
  expect((await as('nobody', 'GET', '/version')).code).toBe(200);
});

const UPGRADE = {
  Connection: 'Upgrade',
  Upgrade: 'websocket',
  'Sec-WebSocket-Version': '13',
  'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAA==',
  'Sec-WebSocket-Protocol': 'v5.channel.k8s.io',
};

test('who may look may not run commands, by whatever path', async () => {
  for (const prefix of [CORE, '/apis/sedna.io/v1alpha1/namespaces/default']) {
    const path = `${prefix}/pods/p/exec?command=id&stdout=true`;
    expect((await as('viewer', 'GET', path, undefined, UPGRADE)).code).toBeOneOf([400, 403]);
  }
  const watching = `${CORE}/pods/p/exec?command=id&watch=true`;
  expect((await as('viewer', 'GET', watching, undefined, UPGRADE)).code).toBe(403);
  expect((await as('viewer', 'GET', `${CORE}/pods/p/constructor`)).code).toBe(403);
});

test('what is cluster-wide is not reached through a namespace', async () => {
  const binding = {
    metadata: { name: 'grab' },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'cluster-admin' },
    subjects: [{ kind: 'User', name: 'boss' }],
  };
  await bind('chief', 'cluster-admin');
  const path = `${RBAC}/namespaces/default/clusterrolebindings`;
  expect((await as('chief', 'POST', path, binding)).code).toBe(404);
  expect((await as('chief', 'GET', '/api/v1/namespaces/default/nodes')).code).toBe(404);
});

test('nobody gives away rights that they have not', async () => {
  const grant = (name: string): object => ({
    metadata: { name: `grant-${name}` },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name },
    subjects: [{ kind: 'User', name: 'boss' }],
  });
  const path = `${RBAC}/namespaces/default/rolebindings`;
  const taken = await as('boss', 'POST', path, grant('cluster-admin'));
  expect(taken.code).toBe(403);
  expect(taken.body.message).toMatch(/attempting to grant RBAC permissions not currently held/);
  expect((await as('boss', 'POST', path, grant('edit'))).code).toBe(201);
  const rules = [{ apiGroups: ['*'], resources: ['*'], verbs: ['*'] }];
  const roles = `${RBAC}/namespaces/default/roles`;
  expect((await as('boss', 'POST', roles, { metadata: { name: 'all' }, rules })).code).toBe(403);
});

test('methods and subresources that would do more than they are checked for', async () => {
  const deployment = '/apis/apps/v1/namespaces/default/deployments/d';
  for (const method of ['HEAD', 'DELETE', 'POST'])
    expect((await as('', method, `${deployment}/scale`)).code).toBe(405);
  expect((await as('', 'PUT', `${deployment}/scale`)).code).toBe(422);
  expect((await as('', 'DELETE', `${deployment}/status`)).code).toBe(405);
  expect((await as('', 'GET', `${CORE}/pods/p/binding`, { target: { name: 'n' } })).code).toBe(405);
  const patch = [{ op: 'replace', path: '/spec/replicas', value: 2 }];
  const json = { 'Content-Type': 'application/json-patch+json' };
  expect((await as('', 'PATCH', `${deployment}/scale`, patch, json)).code).toBe(200);
  const now = await as('', 'GET', deployment);
  expect(now.body.spec).toMatchObject({ replicas: 2 });
});

test('an apply that creates needs the right to create, and the name of its URL', async () => {
  const apply = { 'Content-Type': 'application/apply-patch+yaml' };
  const config = (name: string): object => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name },
    data: { a: '1' },
  });
  const path = (name: string): string => `${CORE}/configmaps/${name}?fieldManager=m`;
  expect((await as('patcher', 'PATCH', path('there'), config('there'), apply)).code).toBe(200);
  expect((await as('patcher', 'PATCH', path('new'), config('new'), apply)).code).toBe(403);
  expect((await as('', 'PATCH', path('there'), config('other'), apply)).code).toBe(400);
});

test('rights on one object hold for a list of just that object', async () => {
  const only = `${CORE}/secrets?fieldSelector=metadata.name%3Ds1`;
  expect((await as('one', 'GET', only)).code).toBe(200);
  expect((await as('one', 'GET', `${CORE}/secrets`)).code).toBe(403);
});

test('who may act as another, and with which groups', async () => {
  const me = { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' };
  const reviews = '/apis/authentication.k8s.io/v1/selfsubjectreviews';
  const account = await as('system:serviceaccount:default:x', 'POST', reviews, me);
  expect(account.body.status).toMatchObject({
    userInfo: { groups: expect.arrayContaining(['system:serviceaccounts:default']) as unknown },
  });
  const group = { 'Impersonate-Group': 'system:masters' };
  expect((await as('', 'GET', `${CORE}/secrets`, undefined, group)).code).toBe(400);
});

test('reviews of others: for those who may ask', async () => {
  const path = '/apis/authorization.k8s.io/v1/subjectaccessreviews';
  const about = (user: string, verb: string): object => ({
    spec: { user, resourceAttributes: { verb, resource: 'configmaps', namespace: 'default' } },
  });
  expect((await as('', 'POST', path, about('viewer', 'list'))).body.status).toMatchObject({
    allowed: true,
  });
  expect((await as('', 'POST', path, about('viewer', 'delete'))).body.status).toMatchObject({
    allowed: false,
  });
  expect((await as('viewer', 'POST', path, about('boss', 'list'))).code).toBe(403);
  const tokens = '/apis/authentication.k8s.io/v1/tokenreviews';
  const known = await as('', 'POST', tokens, { spec: { token: server.token } });
  expect(known.body.status).toMatchObject({ authenticated: true, user: { username: 'admin' } });
  const unknown = await as('', 'POST', tokens, { spec: { token: 'x' } });
  expect(unknown.body.status).toEqual({ authenticated: false });
});

test('JSON patches stay inside their document', async () => {
  const json = { 'Content-Type': 'application/json-patch+json' };
  for (const path of [
    '/metadata/__proto__/polluted',
    '/__proto__/polluted',
    '/metadata/constructor/prototype/x',
  ]) {
    const patch = [{ op: 'add', path, value: 'yes' }];
    expect((await as('', 'PATCH', `${CORE}/configmaps/there`, patch, json)).code).toBe(422);
  }
});

test('a request line that is no URL ends neither the server nor the connection of others', async () => {
  const { hostname, port } = new URL(server.url);
  const answer = await new Promise<string>((resolve, reject) => {
    const socket = connect({
      host: hostname,
      port: Number(port),
      ca: server.authority,
      servername: '',
    });
    let text = '';
    socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
    socket.on('error', reject);
    socket.on('close', () => resolve(text));
    socket.write('GET // HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  });
  expect(answer).toMatch(/^HTTP\/1\.1 401 /);
  expect((await as('', 'GET', `${CORE}/configmaps`)).code).toBe(200);
});
