import { connect, createServer } from 'node:net';
import { createServer as createSecureServer } from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import { type AggregatorFrame, FEDERATION_METHODS, type ParticipantFrame } from '@shoal/api';
import { createAuthority, issueCertificate, type KeyPair } from '@shoal/core';
import { afterEach, expect, test } from 'vitest';
import { grpcTransport, socketTransport } from '../src/index.ts';
import { listen } from '../src/transfer/listen.ts';
import { cleanUp, cleanups, digestOfModel, join_, serve, ToyModel } from './toy-federation.ts';

afterEach(cleanUp);

const HOUR_MS = 3_600_000;

async function certificates(validForMs = HOUR_MS): Promise<{ tls: KeyPair; authority: string }> {
  const nowMs = Date.now();
  const authority = await createAuthority('test', { nowMs, validForMs: HOUR_MS });
  const tls = await issueCertificate(authority, {
    commonName: 'aggregator',
    ipAddresses: ['127.0.0.1'],
    usages: ['server'],
    nowMs,
    validForMs,
  });
  return { tls, authority: authority.certificate };
}

test.each(['without encryption', 'over TLS'])(
  'one port takes frames and gRPC, %s: the same model',
  async (how) => {
    const { tls, authority } = await certificates();
    const secure = how === 'over TLS' ? { tls } : {};
    const trust = 'tls' in secure ? { authority } : {};
    const models = await Promise.all(
      [[socketTransport], [grpcTransport], [socketTransport, grpcTransport]].map(async (kinds) => {
        const { server, address } = await serve({ rounds: 2, ...secure });
        for (const id of [1, 2, 3]) {
          const transport = kinds[id % kinds.length] ?? grpcTransport;
          join_(address, new ToyModel(id), id, { transport: transport(address, trust) });
        }
        return digestOfModel(await server.done);
      }),
    );
    expect(new Set(models).size).toBe(1);
  },
);

test.each(['without encryption', 'over TLS'])(
  'where only gRPC is spoken, %s, a participant speaks that',
  async (how) => {
    const { tls, authority } = await certificates();
    const isSecure = how === 'over TLS';
    const only = new grpc.Server();
    cleanups.push(() => only.forceShutdown());
    const joined = new Promise<string>((resolve) =>
      only.addService(FEDERATION_METHODS as unknown as grpc.ServiceDefinition, {
        participate: (call: grpc.ServerDuplexStream<ParticipantFrame, AggregatorFrame>) => {
          call.on('data', ({ frame }: ParticipantFrame) => resolve(frame.case ?? ''));
        },
      }),
    );
    const port = await listen(only, {
      address: '127.0.0.1:0',
      tls: isSecure ? tls : undefined,
      what: 'the test',
    });
    join_(`127.0.0.1:${port}`, new ToyModel(1), 1, isSecure ? { authority } : {});
    expect(await joined).toBe('join');
  },
);

/** What a socket is told and whether it is closed, after it has said something. */
async function say(address: string, bytes: Buffer): Promise<string> {
  const [host = '', port = ''] = address.split(':');
  const socket = connect({ host, port: Number(port) });
  const parts: Buffer[] = [];
  socket.on('data', (part) => parts.push(part));
  socket.on('error', () => undefined);
  socket.write(bytes);
  await new Promise((resolve) => socket.on('close', resolve));
  return Buffer.concat(parts).toString('latin1');
}

function header(message: number, data: number): Buffer {
  const head = Buffer.from('SHOAL/1\n--------', 'latin1');
  head.writeUInt32LE(message, 8);
  head.writeUInt32LE(data, 12);
  return head;
}

test('what is no frame, or too long, ends its own connection, with the reason', async () => {
  const { server, address } = await serve({ rounds: 2 });
  const gate: { open: () => void } = { open: () => undefined };
  const opened = new Promise<void>((resolve) => {
    gate.open = resolve;
  });
  for (const id of [1, 2, 3]) join_(address, new ToyModel(id, () => opened), id);
  expect(await say(address, header(9_000_000, 0))).toMatch(/9000000 and 0 bytes was announced/);
  expect(await say(address, header(2 ** 17, 0))).toMatch(/at most 65536/);
  expect(await say(address, header(4, 2 ** 30))).toMatch(/1073741824 bytes was announced/);
  const noise = Buffer.alloc(100, 0xff);
  expect(await say(address, Buffer.concat([header(100, 0), noise]))).toMatch(/no frame/);
  expect(await say(address, Buffer.concat([header(2, 9), Buffer.from([18, 0])]))).toMatch(
    /only a chunk has data/,
  );
  expect(await say(address, Buffer.from('SHOUT/1\nnobody knows', 'latin1'))).toMatch(
    /does not speak frames/,
  );
  expect(await say(address, Buffer.from('GET / HTTP/1.1\r\n\r\n'))).not.toMatch(/no frame/);
  gate.open();
  expect((await server.done).history.map((h) => h.participants)).toEqual([3, 3, 3]);
}, 30_000);

test('an expired certificate, and a port where nobody answers, are told to people', async () => {
  const { tls, authority } = await certificates(-60_000);
  const { address } = await serve({ tls });
  const told = (at: string, trust: { authority?: string }): Promise<string> =>
    new Promise((resolve) =>
      join_(at, new ToyModel(1), 1, { ...trust, onNotice: (reason) => resolve(reason) }),
    );
  expect(await told(address, { authority })).toMatch(/certificate has expired/);
  const { authority: stranger } = await certificates();
  const { address: valid } = await serve({ tls: (await certificates()).tls });
  expect(await told(valid, { authority: stranger })).toMatch(/unable to verify|signature/);
  const nobody = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => nobody.once('listening', resolve));
  const { port } = nobody.address() as { port: number };
  nobody.close();
  expect(await told(`127.0.0.1:${port}`, {})).toMatch(/ECONNREFUSED/);
}, 30_000);

test('a connection that dies in the middle of a chunk changes no bit', async () => {
  const { server, address } = await serve({ rounds: 3 });
  const [host = '', port = ''] = address.split(':');
  let cut = 0;
  // Closes every connection after some thousand bytes, seven times.
  const proxy = createServer((client) => {
    const up = connect({ host, port: Number(port) });
    let passed = 0;
    const end = (): void => {
      client.destroy();
      up.destroy();
    };
    up.on('data', (part) => {
      client.write(part);
      passed += part.length;
      if (passed > 7_000 && cut < 7) {
        cut++;
        end();
      }
    });
    client.on('data', (part) => up.write(part));
    for (const socket of [client, up]) socket.on('error', end).on('close', end);
  }).listen(0, '127.0.0.1');
  cleanups.push(() => void proxy.close());
  await new Promise((resolve) => proxy.once('listening', resolve));
  const { port: through } = proxy.address() as { port: number };
  for (const id of [1, 2, 3]) join_(`127.0.0.1:${through}`, new ToyModel(id), id);
  const disturbed = await server.done;
  expect(cut).toBe(7);
  const { server: calm, address: direct } = await serve({ rounds: 3 });
  for (const id of [1, 2, 3]) join_(direct, new ToyModel(id), id);
  expect(digestOfModel(disturbed)).toBe(digestOfModel(await calm.done));
}, 60_000);

test('a TLS server that speaks neither is not taken for an aggregator', async () => {
  const { tls, authority } = await certificates();
  const other = createSecureServer({ key: tls.privateKey, cert: tls.certificate }, (socket) => {
    socket.on('error', () => undefined);
    socket.write('220 mail.example ready\r\n');
  }).listen(0, '127.0.0.1');
  cleanups.push(() => void other.close());
  await new Promise((resolve) => other.once('listening', resolve));
  const { port } = other.address() as { port: number };
  const reason = await new Promise<string>((resolve) =>
    join_(`127.0.0.1:${port}`, new ToyModel(1), 1, { authority, onNotice: resolve }),
  );
  expect(reason).toMatch(/is not reached/);
}, 30_000);
