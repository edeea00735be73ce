import { readdirSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { createServer as createSecureServer } from 'node:tls';
import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  type AggregatorFrame,
  AggregatorFrameSchema,
  FEDERATION_METHODS,
  type ParticipantFrame,
  ParticipantFrameSchema,
} from '@shoal/api';
import { createAuthority, digestOf, issueCertificate, type KeyPair } from '@shoal/core';
import { afterEach, expect, test } from 'vitest';
import { layoutText } from '../src/federated-learning/federated-model.ts';
import { createStrategy, grpcTransport, socketTransport } from '../src/index.ts';
import { FrameSocket } from '../src/transfer/frame-socket.ts';
import { listen } from '../src/transfer/listen.ts';
import {
  cleanUp,
  cleanups,
  digestOfModel,
  folder,
  join_,
  LAYOUT,
  SIZE,
  serve,
  ToyModel,
  undisturbed,
} from './toy-federation.ts';

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
    /2 and 9 bytes was announced, at most 65536 and 0/,
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

/** A participant by hand. */
class Hand {
  readonly frames: FrameSocket;
  readonly got: AggregatorFrame['frame'][] = [];
  isClosed = false;

  constructor(address: string) {
    const [host = '', port = ''] = address.split(':');
    const schemas = { write: ParticipantFrameSchema, read: AggregatorFrameSchema };
    const socket = connect({ host, port: Number(port) });
    this.frames = new FrameSocket(socket, { ...schemas, isTrusted: true });
    this.frames.on('data', ({ frame }: AggregatorFrame) => this.got.push(frame));
    this.frames.on('close', () => {
      this.isClosed = true;
    });
    cleanups.push(() => this.frames.destroy());
  }

  say(frame: unknown): void {
    this.frames.write(create(ParticipantFrameSchema, { frame: frame as never }));
  }

  join(participant: string, token = ''): void {
    const layout = digestOf(layoutText(LAYOUT));
    const counts = { samples: 10n, size: BigInt(SIZE) };
    const value = { job: 'toy', participant, token, layout, instance: participant, ...counts };
    this.say({ case: 'join', value });
  }

  async until(what: (hand: Hand) => unknown): Promise<void> {
    const endMs = Date.now() + 9_000;
    while (!what(this)) {
      if (Date.now() > endMs) throw new Error(`in vain; got ${this.got.map((f) => f.case)}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  has(name: string): boolean {
    return this.got.some((f) => f.case === name);
  }
}

test('who is refused for good cannot try again on the same connection', async () => {
  const { address } = await serve({ token: 'right' });
  const hand = new Hand(address);
  hand.join('p1', 'wrong');
  hand.join('p1', 'right');
  await hand.until((h) => h.isClosed);
  expect(hand.got.map((f) => f.case)).toEqual(['refused']);
});

test('what comes after the end of a federation changes nothing', async () => {
  const told: number[] = [];
  const { server, address } = await serve({
    rounds: 1,
    quorum: 2,
    deadlineMs: 1_000,
    onRound: ({ round, participants }) => told.push(round * 10 + participants),
  });
  const slow = new Hand(address);
  slow.join('p3');
  for (const id of [1, 2]) join_(address, new ToyModel(id), id);
  await slow.until((h) => h.got.filter((f) => f.case === 'task').length >= 1);
  const bytes = BigInt(SIZE * 4);
  const update = { round: 1, attempt: 1, samples: 30n, encoding: 'none', bytes, digest: '' };
  slow.say({ case: 'update', value: update });
  const { history, model } = await server.done;
  const before = digestOfModel({ model });
  for (const round of [1, 2]) {
    slow.say({ case: 'chunk', value: { digest: '', offset: 0n, data: new Uint8Array(100) } });
    slow.say({ case: 'failed', value: { round, reason: 'late' } });
    slow.say({ case: 'update', value: { ...update, round, bytes: 0n } });
  }
  await slow.until((h) => h.isClosed);
  expect(told).toEqual([12, 22]);
  expect(server.history).toEqual(history);
  expect(digestOfModel({ model: server.rounds.result('').model })).toBe(before);
});

test('updates that an older version kept in files of their own are asked for again', async () => {
  const dir = folder();
  const first = await serve({ dir });
  for (const id of [1, 2]) join_(first.address, new ToyModel(id), id);
  join_(first.address, new ToyModel(3, () => new Promise(() => undefined)), 3);
  const db = new DatabaseSync(join(dir, 'rounds.db'));
  const count = (): number =>
    Number(db.prepare('SELECT count(*) AS n FROM arrivals').get()?.['n'] ?? 0);
  while (count() < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  await first.server.close();
  db.exec("UPDATE arrivals SET file = 'c0ffee', offset = 0 WHERE participant = 'p1'");
  db.close();
  writeFileSync(join(dir, 'updates', 'c0ffee'), new Uint8Array(SIZE * 4));
  const { server, address } = await serve({ dir });
  expect(readdirSync(join(dir, 'updates'))).not.toContain('c0ffee');
  for (const id of [1, 2, 3]) join_(address, new ToyModel(id), id);
  const wanted = digestOfModel(await undisturbed());
  expect(digestOfModel(await server.done)).toBe(wanted);
});

test('every update that cannot be is refused with its reason, and the round ends with the others', async () => {
  const bytes = BigInt(SIZE * 4);
  const honest = { samples: 30n, encoding: 'none', bytes, digest: '' };
  const whole = new Uint8Array(SIZE * 4);
  const infinite = new Uint8Array(new Float32Array(SIZE).fill(Number.POSITIVE_INFINITY).buffer);
  const wrong = digestOf('something else');
  const cases: readonly (readonly [update: object, chunks: readonly object[], reason: RegExp])[] = [
    [{ samples: 0n }, [], /needs at least one sample/],
    [{}, [{ digest: wrong, offset: 0n, data: whole }], /the content is sha256:.*, announced was/],
    [{}, [{ digest: '', offset: 8n, data: whole }], /does not continue .* at 0 of 12000/],
    [
      { bytes: 400n },
      [{ digest: digestOf(whole.slice(0, 400)), offset: 0n, data: whole.slice(0, 400) }],
      /400 bytes of none cannot hold 3000 values/,
    ],
    [{}, [{ digest: digestOf(infinite), offset: 0n, data: infinite }], /NaN or infinite/],
    [{ bytes: 2n ** 40n }, [], /1099511627776 bytes were announced, at most 25024 are taken/],
    [{ encoding: 'zip' }, [{ digest: digestOf(whole), offset: 0n, data: whole }], /zip/],
  ];
  const { server, address } = await serve({
    rounds: cases.length,
    quorum: 2,
    deadlineMs: 2_000,
    retries: 0,
  });
  for (const id of [1, 2]) join_(address, new ToyModel(id), id);
  const hand = new Hand(address);
  hand.join('p3');
  const isTask = (f: AggregatorFrame['frame']): boolean => f.case === 'task';
  for (const [k, [update, chunks, reason]] of cases.entries()) {
    await hand.until((h) => h.got.filter(isTask).length > k);
    hand.say({ case: 'update', value: { round: k + 1, attempt: 1, ...honest, ...update } });
    for (const value of chunks) hand.say({ case: 'chunk', value });
    await hand.until((h) => h.got.some((f) => f.case === 'refused' && f.value.round === k + 1));
    const refused = hand.got.find((f) => f.case === 'refused' && f.value.round === k + 1);
    expect(refused?.case === 'refused' ? refused.value.reason : '').toMatch(reason);
  }
  const { history, model } = await server.done;
  expect(history.map((h) => h.participants)).toEqual(history.map(() => 2));
  expect(model.every(Number.isFinite)).toBe(true);
}, 60_000);

test('a parameter that a strategy has not is named', () => {
  expect(() => createStrategy('FedAdam', { tua: 1 })).toThrow(/tua.*tau/);
});
