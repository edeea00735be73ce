import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { connect, type TLSSocket } from 'node:tls';
import { type ApiClient, type ApiObject } from '@shoal/cluster';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ApiServerProcess } from './api-server-process.ts';

/** What a client can do wrong, and Kubernetes’ own codes and reasons for it. */
const CONFIG_MAPS = '/api/v1/namespaces/default/configmaps';
let server: ApiServerProcess;
let client: ApiClient;
let agent: Agent;
beforeAll(async () => {
  server = await ApiServerProcess.start();
  client = server.client();
  agent = new Agent({ keepAlive: true, ca: server.authority });
});
afterAll(async () => {
  agent.destroy();
  client.close();
  await server.close();
});

interface Answer {
  readonly code: number;
  readonly reason: string;
  readonly message: string;
  readonly warnings: string;
}

/** Sends bytes as they are. */
function send(
  method: string,
  path: string,
  body: string | Buffer,
  headers: Record<string, string> = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const call = request(
      `${server.url}${path}`,
      {
        method,
        agent,
        headers: {
          Authorization: `Bearer ${server.token}`,
          'Content-Type': 'application/json',
          'Content-Length': String(Buffer.byteLength(body)),
          ...headers,
        },
      },
      (response: IncomingMessage) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const status = JSON.parse(Buffer.concat(chunks).toString()) as Partial<Answer>;
          resolve({
            code: response.statusCode ?? 0,
            reason: status.reason ?? '',
            message: status.message ?? '',
            warnings: String(response.headers['warning'] ?? ''),
          });
        });
      },
    );
    call.on('error', reject);
    call.end(body);
  });
}

const configMap = (name: string, more: object = {}): string =>
  JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, ...more });

interface Refusal {
  readonly code: number;
  readonly reason: string;
  readonly message: RegExp;
}

const REFUSED: readonly (readonly [what: string, body: string, type: string, wanted: Refusal])[] = [
  [
    'malformed JSON',
    '{"metadata":',
    'application/json',
    { code: 400, reason: 'BadRequest', message: /not valid JSON/ },
  ],
  [
    'malformed YAML',
    'a: [1',
    'application/yaml',
    { code: 400, reason: 'BadRequest', message: /not valid YAML/ },
  ],
  [
    'a list',
    '[1]',
    'application/json',
    { code: 400, reason: 'BadRequest', message: /must be a JSON object/ },
  ],
  [
    'a content type nobody knows',
    '{}',
    'text/plain',
    { code: 415, reason: 'UnsupportedMediaType', message: /application\/json/ },
  ],
  [
    '3 MB',
    configMap('big', { data: { x: 'x'.repeat(3e6) } }),
    'application/json',
    { code: 413, reason: 'RequestEntityTooLarge', message: /limit is/ },
  ],
  [
    'broken protobuf',
    'k8s\0\xff\xff',
    'application/vnd.kubernetes.protobuf',
    { code: 400, reason: 'BadRequest', message: /protobuf/ },
  ],
  [
    'another kind',
    JSON.stringify({ apiVersion: 'v1', kind: 'Pod' }),
    'application/json',
    { code: 400, reason: 'BadRequest', message: /this endpoint takes v1\/ConfigMap/ },
  ],
  [
    'a bad name',
    configMap('Upper'),
    'application/json',
    { code: 422, reason: 'Invalid', message: /lowercase RFC 1123/ },
  ],
  [
    'no name',
    configMap(''),
    'application/json',
    { code: 422, reason: 'Invalid', message: /name or generateName is required/ },
  ],
  [
    'a wrong type',
    configMap('t', { data: { a: 1 } }),
    'application/json',
    { code: 422, reason: 'Invalid', message: /must be of type string: "integer"/ },
  ],
];

test.each(REFUSED)('%s is refused', async (_, body, type, { code, reason, message }) => {
  const answer = await send('POST', CONFIG_MAPS, body, { 'Content-Type': type });
  expect(answer).toMatchObject({ code, reason });
  expect(answer.message).toMatch(message);
});

test('unknown fields: refused, warned of, or dropped, as the client wants it', async () => {
  const post = async (name: string, mode: string): Promise<Answer> =>
    await send('POST', `${CONFIG_MAPS}?fieldValidation=${mode}`, configMap(name, { bogus: 1 }));
  expect(await post('u1', 'Strict')).toMatchObject({ code: 400, reason: 'BadRequest' });
  expect((await post('u1', 'Strict')).message).toMatch(
    /strict decoding error: unknown field "bogus"/,
  );
  expect(await post('u2', 'Warn')).toMatchObject({
    code: 201,
    warnings: '299 - "unknown field \\"bogus\\""',
  });
  expect(await post('u3', 'Ignore')).toMatchObject({ code: 201, warnings: '' });
  expect(await post('u4', 'Perhaps')).toMatchObject({ code: 422, reason: 'Invalid' });
});

test('a stale version, an immutable field, an object with finalizers', async () => {
  const made = (await client.request(
    'POST',
    CONFIG_MAPS,
    JSON.parse(configMap('stale')),
  )) as ApiObject;
  await client.request('PUT', `${CONFIG_MAPS}/stale`, { ...made, data: { a: '1' } });
  const stale = await send('PUT', `${CONFIG_MAPS}/stale`, JSON.stringify(made));
  expect(stale).toMatchObject({ code: 409, reason: 'Conflict' });
  const deployments = '/apis/apps/v1/namespaces/default/deployments';
  const deployment = (app: string): object => ({
    metadata: { name: 'd' },
    spec: {
      replicas: 0,
      selector: { matchLabels: { app } },
      template: {
        metadata: { labels: { app } },
        spec: { containers: [{ name: 'c', image: 'any' }] },
      },
    },
  });
  await client.request('POST', deployments, deployment('a'));
  const moved = await send('PUT', `${deployments}/d`, JSON.stringify(deployment('b')));
  expect(moved).toMatchObject({ code: 422, reason: 'Invalid' });
  expect(moved.message).toMatch(/spec\.selector: Invalid value: .*field is immutable/);
  const held = { ...(JSON.parse(configMap('held')) as ApiObject) };
  held.metadata.finalizers = ['example.org/keep'];
  await client.request('POST', CONFIG_MAPS, held);
  await client.request('DELETE', `${CONFIG_MAPS}/held`);
  const still = (await client.request('GET', `${CONFIG_MAPS}/held`)) as ApiObject;
  expect(still.metadata.deletionTimestamp).toBeTruthy();
});

test('paths, methods, selectors and versions that are not there', async () => {
  const get = async (path: string): Promise<Answer> => await send('GET', path, '');
  expect(await get('/api/v1/namespaces/default/spaceships')).toMatchObject({ code: 404 });
  expect(await send('PUT', CONFIG_MAPS, '{}')).toMatchObject({
    code: 405,
    reason: 'MethodNotAllowed',
  });
  expect(await get(`${CONFIG_MAPS}?fieldSelector=data.x%3D1`)).toMatchObject({
    code: 400,
    message: 'field label not supported: data.x',
  });
  expect(await get(`${CONFIG_MAPS}?labelSelector=a%3D%3D%3D`)).toMatchObject({ code: 400 });
  expect(await get(`${CONFIG_MAPS}?watch=true&resourceVersion=999999999`)).toMatchObject({
    code: 410,
    reason: 'Expired',
  });
  expect(await get(`${CONFIG_MAPS}?watch=true&resourceVersion=x`)).toMatchObject({ code: 400 });
  expect(await get(`${CONFIG_MAPS}?limit=1&continue=nonsense`)).toMatchObject({ code: 410 });
  expect(await get('/api/v1/namespaces/default/configmaps/%E0%A4%A')).toMatchObject({ code: 400 });
  const exec = '/api/v1/namespaces/default/pods/none/exec?command=ls';
  expect(await get(exec)).toMatchObject({ code: 400, message: 'Upgrade request required' });
});

test('no token, a wrong one, one of another scheme: nobody', async () => {
  for (const Authorization of ['', 'Bearer wrong', 'Bearer a.b.c', 'Basic YTpi'])
    expect(await send('GET', CONFIG_MAPS, '', { Authorization })).toMatchObject({
      code: 401,
      reason: 'Unauthorized',
    });
});

test('whatever bytes come, the answer is a Status and the server goes on', async () => {
  const types = ['application/json', 'application/yaml', 'application/vnd.kubernetes.protobuf'];
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map((b) => Buffer.from(b)),
    fc.json({ maxDepth: 3 }).map((text) => Buffer.from(text)),
    fc
      .uint8Array({ maxLength: 100 })
      .map((b) => Buffer.concat([Buffer.from([0x6b, 0x38, 0x73, 0]), b])),
  );
  const methods = fc.constantFrom('POST', 'PATCH', 'PUT', 'DELETE');
  await fc.assert(
    fc.asyncProperty(bytes, methods, fc.constantFrom(...types), async (body, method, type) => {
      const path = method === 'POST' ? CONFIG_MAPS : `${CONFIG_MAPS}/fuzz`;
      const patch = method === 'PATCH' ? 'application/strategic-merge-patch+json' : type;
      const { code } = await send(method, path, body, { 'Content-Type': patch });
      expect(code).toBeGreaterThanOrEqual(200);
      expect(code).toBeLessThan(500);
    }),
    { numRuns: 300 },
  );
  await client.request('GET', CONFIG_MAPS);
});

/** A connection on which the test writes by hand. */
function rawConnection(): Promise<TLSSocket> {
  const { hostname: host, port } = new URL(server.url);
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: Number(port), ca: server.authority, servername: '' });
    socket.once('secureConnect', () => resolve(socket));
    socket.once('error', reject);
  });
}

test('clients that never finish their headers are shown out, others are served meanwhile', async () => {
  const slow = await Promise.all(Array.from({ length: 100 }, rawConnection));
  const ended = slow.map(
    (socket) =>
      new Promise<void>((resolve) => {
        socket.on('error', () => undefined);
        socket.on('close', () => resolve());
        socket.resume();
        socket.write('GET /api HTTP/1.1\r\nHost: x\r\nX-Slow: ');
      }),
  );
  const drip = setInterval(() => {
    for (const socket of slow) if (!socket.destroyed) socket.write('.');
  }, 500);
  await client.request('GET', CONFIG_MAPS);
  await Promise.all(ended);
  clearInterval(drip);
  expect(await send('GET', CONFIG_MAPS, '')).toMatchObject({ code: 200 });
});

test('watches beyond the limit are told to come again later; those there are go on', async () => {
  const stop = new AbortController();
  const refusals: unknown[] = [];
  let events = 0;
  const asked = 2_100;
  const path = `${CONFIG_MAPS}?watch=true&fieldSelector=metadata.name%3Dseen`;
  const wide = new Agent({ ca: server.authority, maxSockets: Number.POSITIVE_INFINITY });
  const open: Promise<void>[] = Array.from({ length: asked }, () => watch(wide, path));
  function watch(pool: Agent, at: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const headers = { Authorization: `Bearer ${server.token}` };
      const call = request(`${server.url}${at}`, { agent: pool, headers, signal: stop.signal });
      call.on('response', (response) => {
        if (response.statusCode === 429) refusals.push(response.headers['retry-after']);
        response.on('error', () => undefined);
        response.on('data', () => events++);
        resolve();
      });
      call.on('error', (error) => (stop.signal.aborted ? resolve() : reject(error)));
      call.end();
    });
  }
  await Promise.all(open);
  expect(refusals.length).toBe(asked - 2_000);
  expect(new Set(refusals)).toEqual(new Set(['1']));
  const before = events;
  await client.request('POST', CONFIG_MAPS, JSON.parse(configMap('seen')));
  const end = Date.now() + 20_000;
  while (events < before + 2_000 && Date.now() < end)
    await new Promise((resolve) => {
      setTimeout(resolve, 50);
    });
  expect(events).toBeGreaterThanOrEqual(before + 2_000);
  stop.abort();
  wide.destroy();
});
