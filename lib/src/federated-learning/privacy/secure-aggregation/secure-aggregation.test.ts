import { ed25519, x25519 } from '@noble/curves/ed25519.js';
import { seededRandom } from '@shoal/core';
import { describe, expect, test } from 'vitest';
import { SecureAggregationClient } from './client.ts';
import { decodeFixedPoint, encodeFixedPoint, planFixedPoint } from './fixed-point.ts';
import { createIdentities, type SigningIdentity } from './identity.ts';
import type { KeyAdvert, SecureSession } from './keys.ts';
import { nativeCrypto } from './native-crypto.ts';
import { neighbourCount, neighbourGraph } from './neighbours.ts';
import { applyMask, portableCrypto } from './secure-crypto.ts';
import { SecureAggregationServer, type SecureStage } from './server.ts';

const SIZE = 1_000;
const SESSION: SecureSession = { job: 'toy', round: 3, attempt: 1, task: 'sha256:… {}' };
const STAGES: readonly SecureStage[] = ['shares', 'vectors', 'confirmations', 'reveals'];

function names(n: number): string[] {
  return Array.from({ length: n }, (_, i) => `p${String(i).padStart(3, '0')}`);
}

function vectorOf(i: number): Uint32Array {
  const random = seededRandom(i + 1);
  return Uint32Array.from({ length: SIZE }, () => random.int(2 ** 32));
}

function sumOf(indices: Iterable<number>): Uint32Array {
  const sum = new Uint32Array(SIZE);
  for (const i of indices) for (const [k, v] of vectorOf(i).entries()) sum[k] = (sum[k] ?? 0) + v;
  return sum;
}

interface Party {
  readonly clients: ReadonlyMap<string, SecureAggregationClient>;
  readonly server: SecureAggregationServer;
  /** Everything the server was sent. */
  readonly transcript: unknown[];
}

function party(n: number, session = SESSION): Party {
  const identities = createIdentities(names(n));
  const clients = new Map(
    [...identities].map(([participant, identity]) => [
      participant,
      new SecureAggregationClient({
        session,
        participant,
        identity,
        crypto: nativeCrypto,
        samples: 10,
        range: 1,
      }),
    ]),
  );
  const adverts = [...clients.values()].map((c) => c.advertise());
  const server = new SecureAggregationServer({
    session,
    adverts,
    size: SIZE,
    crypto: nativeCrypto,
  });
  return { clients, server, transcript: [adverts] };
}

/** Lets one participant answer what the server asks; one that is not there does not. */
async function answer({ clients, server, transcript }: Party, name: string): Promise<void> {
  const client = clients.get(name);
  const request = server.requestFor(name);
  if (!client || !request) return;
  switch (request.stage) {
    case 'shares': {
      const shares = await client.share(request.adverts, request);
      transcript.push(shares);
      server.takeShares(name, shares);
      return;
    }
    case 'vectors': {
      const words = vectorOf(Number(name.slice(1)));
      client.mask(request.shares, words);
      transcript.push(words);
      server.takeVector(name, words);
      return;
    }
    case 'confirmations': {
      const { signature } = client.confirm(request.survivors);
      server.takeConfirmation(name, signature);
      return;
    }
    case 'reveals': {
      const shares = client.reveal(request.confirmations);
      transcript.push(shares);
      server.takeReveals(name, shares);
    }
  }
}

/** Runs all stages; `gone` leave before they answer the stage named. */
async function run(all: Party, gone: Readonly<Record<string, SecureStage>> = {}): Promise<void> {
  for (const stage of STAGES) {
    if (all.server.stage !== stage) continue;
    for (const name of all.clients.keys()) {
      const leaves = gone[name];
      if (leaves === undefined || STAGES.indexOf(stage) < STAGES.indexOf(leaves))
        await answer(all, name);
    }
    if (all.server.stage === stage) all.server.expire();
  }
}

test('native and portable cryptography agree', () => {
  const key = Uint8Array.from({ length: 32 }, (_, i) => i);
  const words = Uint32Array.from({ length: 40_000 }, (_, i) => i);
  const masked = words.slice();
  applyMask(masked, 1, nativeCrypto.keystream(key));
  expect(masked).not.toEqual(words);
  applyMask(masked, -1, portableCrypto.keystream(key));
  expect(masked).toEqual(words);
  const alice = new Uint8Array(32).map((_, i) => i * 7 + 1);
  const bob = x25519.keygen();
  expect([...nativeCrypto.sharedSecret(alice, bob.publicKey)]).toEqual([
    ...portableCrypto.sharedSecret(bob.secretKey, x25519.getPublicKey(alice)),
  ]);
  const { secretKey, publicKey } = ed25519.keygen();
  const message = Buffer.from('a message');
  const signature = ed25519.sign(message, secretKey);
  for (const crypto of [nativeCrypto, portableCrypto]) {
    expect(crypto.verify(signature, message, publicKey)).toBe(true);
    expect(crypto.verify(signature, Buffer.from('another'), publicKey)).toBe(false);
    expect(crypto.verify(signature.subarray(1), message, publicKey)).toBe(false);
  }
});

describe('neighbours', () => {
  test('small federations are complete; larger ones regular, symmetric and connected', () => {
    expect(neighbourCount(5)).toBe(4);
    const all = names(100);
    const graph = neighbourGraph(all, neighbourCount(100), new Uint8Array([7]));
    for (const [p, near] of graph) {
      expect(near).toHaveLength(neighbourCount(100));
      for (const q of near) expect(graph.get(q)).toContain(p);
    }
    const reached = new Set([all[0] ?? '']);
    for (const p of reached) for (const q of graph.get(p) ?? []) reached.add(q);
    expect(reached.size).toBe(100);
    expect(neighbourGraph(all, 34, new Uint8Array([8]))).not.toEqual(graph);
  });
});

describe('the sum is exact', () => {
  test.each([3, 4, 10])('of %i participants who all stay', async (n) => {
    const all = party(n);
    await run(all);
    expect(all.server.stage).toBe('done');
    expect(await all.server.sum()).toEqual(sumOf(Array.from({ length: n }, (_, i) => i)));
  });

  test.each(STAGES)('when three of ten leave before %s', async (stage) => {
    const all = party(10);
    await run(all, { p001: stage, p004: stage, p009: stage });
    expect(all.server.stage).toBe('done');
    const early = stage === 'shares' || stage === 'vectors';
    const stayed = early ? [0, 2, 3, 5, 6, 7, 8] : Array.from({ length: 10 }, (_, i) => i);
    expect(all.server.survivors).toEqual(stayed.map((i) => `p00${i}`));
    expect(await all.server.sum()).toEqual(sumOf(stayed));
  });

  test('when one leaves at each stage, among forty with few neighbours each', async () => {
    const all = party(40);
    await run(all, { p003: 'shares', p011: 'vectors', p020: 'confirmations', p039: 'reveals' });
    const stayed = Array.from({ length: 40 }, (_, i) => i).filter((i) => i !== 3 && i !== 11);
    expect(await all.server.sum()).toEqual(sumOf(stayed));
  });

  test('and when too many leave, it fails and names them', async () => {
    const all = party(4);
    await run(all, { p001: 'vectors', p002: 'vectors' });
    expect(all.server.stage).toBe('failed');
    expect(all.server.reason).toMatch(/p001, p002 of 4 participants are gone/);
  });

  test('after a restart: kept answers give the same state, in any order', async () => {
    const all = party(5);
    await run(all, { p002: 'vectors' });
    const expected = await all.server.sum();
    const again = party(5);
    const shares = new Map<string, Awaited<ReturnType<SecureAggregationClient['share']>>>();
    for (const [name, client] of again.clients) {
      const request = again.server.requestFor(name);
      if (request?.stage === 'shares')
        shares.set(name, await client.share(request.adverts, request));
    }
    for (const [name, s] of [...shares].toReversed()) again.server.takeShares(name, s);
    for (const name of ['p004', 'p003', 'p001', 'p000']) await answer(again, name);
    again.server.expire();
    await run(again);
    expect(again.server.stage).toBe('done');
    expect(await again.server.sum()).toEqual(expected);
  });
});

test('what the server was sent holds no vector, and looks like noise', async () => {
  const all = party(4);
  await run(all);
  const vectors = all.transcript.filter((t): t is Uint32Array => t instanceof Uint32Array);
  expect(vectors).toHaveLength(4);
  for (const [i, masked] of vectors.entries()) {
    const plain = vectorOf(i);
    expect(masked.filter((v, k) => v === plain[k]).length).toBeLessThan(3);
    // Differences of two masked vectors are not those of the plain ones either: masks do not repeat.
    const other = vectors[(i + 1) % 4] ?? new Uint32Array();
    const plainOther = vectorOf((i + 1) % 4);
    const same = masked.filter(
      (v, k) => (v - (other[k] ?? 0)) >>> 0 === ((plain[k] ?? 0) - (plainOther[k] ?? 0)) >>> 0,
    );
    expect(same.length).toBeLessThan(3);
    expect(mean(masked) / 2 ** 32).toBeCloseTo(0.5, 1);
  }
});

function mean(words: Uint32Array): number {
  return words.reduce((a, b) => a + b, 0) / words.length;
}

describe('a participant refuses', () => {
  const shareWith = (
    all: Party,
    change: (adverts: KeyAdvert[]) => KeyAdvert[],
    at: { threshold?: number; neighbours?: number } = {},
  ): Promise<unknown> => {
    const request = all.server.requestFor('p000');
    if (request?.stage !== 'shares') throw new Error('not asked');
    const adverts = change([...request.adverts]);
    return all.clients.get('p000')?.share(adverts, { ...request, ...at }) ?? Promise.resolve();
  };

  test('keys that were exchanged on the way', async () => {
    const all = party(4);
    const foreign = party(4).clients.get('p001')?.advertise();
    await expect(
      shareWith(all, (list) =>
        list.map((a) => (a.participant === 'p001' && foreign ? foreign : a)),
      ),
    ).rejects.toThrow('the signature of p001 is not its own');
    await expect(
      shareWith(all, (list) =>
        list.map((a) => (a.participant === 'p002' ? { ...a, maskingKey: a.encryptionKey } : a)),
      ),
    ).rejects.toThrow('the signature of p002 is not its own');
  });

  test('keys of an earlier round', async () => {
    const identities = createIdentities(names(3));
    const client = (round: number, p: string): SecureAggregationClient =>
      new SecureAggregationClient({
        session: { ...SESSION, round },
        participant: p,
        identity: identities.get(p) as SigningIdentity,
        crypto: portableCrypto,
        samples: 10,
        range: 1,
      });
    const now = names(3).map((p) => client(2, p));
    const adverts = now.map((c) => c.advertise());
    const old = client(1, 'p001').advertise();
    await expect(
      now[0]?.share([adverts[0] as KeyAdvert, old, adverts[2] as KeyAdvert], {
        neighbours: 2,
        threshold: 2,
      }),
    ).rejects.toThrow('the signature of p001 is not its own');
  });

  test('strangers, doubles, too few, and a threshold that protects nobody', async () => {
    const all = party(4);
    await expect(shareWith(all, (l) => l.slice(0, 2))).rejects.toThrow(/needs 3 or more/);
    await expect(shareWith(all, (l) => [...l.slice(0, 3), l[2] as KeyAdvert])).rejects.toThrow(
      /3 different participants of 4/,
    );
    const stranger = new SecureAggregationClient({
      session: SESSION,
      participant: 'mallory',
      identity: createIdentities(['mallory']).get('mallory') as SigningIdentity,
      crypto: portableCrypto,
      samples: 10,
      range: 1,
    }).advertise();
    await expect(shareWith(all, (l) => [...l, stranger])).rejects.toThrow(
      'mallory is not in the roster',
    );
    await expect(shareWith(all, (l) => l, { threshold: 2 })).rejects.toThrow(
      'a threshold of 2 of 4 holders is refused',
    );
  });

  test('shares that were changed, or sealed for another', async () => {
    const all = party(3);
    for (const name of all.clients.keys()) {
      const request = all.server.requestFor(name);
      if (request?.stage === 'shares')
        all.server.takeShares(
          name,
          (await all.clients.get(name)?.share(request.adverts, request)) ?? [],
        );
    }
    const request = all.server.requestFor('p000');
    if (request?.stage !== 'vectors') throw new Error('not asked');
    const [first, second] = request.shares;
    const changed = {
      ...first,
      ciphertext: first?.ciphertext.map((b, i) => (i === 5 ? b ^ 1 : b)),
    };
    const client = all.clients.get('p000');
    expect(() => client?.mask([changed as never, second as never], vectorOf(0))).toThrow(
      /is not what p00. sealed/,
    );
    const swapped = { ...first, ciphertext: second?.ciphertext };
    expect(() => client?.mask([swapped as never], vectorOf(0))).toThrow(/is not what p00. sealed/);
    expect(() => client?.mask([first as never, first as never], vectorOf(0))).toThrow(
      /none for us/,
    );
  });

  test('a second list of survivors, and lists that too few have confirmed', async () => {
    const all = party(5);
    for (let i = 0; i < 2; i++) for (const name of all.clients.keys()) await answer(all, name);
    const client = all.clients.get('p000');
    const own = client?.confirm(names(5));
    expect(() => client?.confirm(names(4))).toThrow('the server names other survivors than before');
    expect(() => client?.reveal(own ? [own, own, own, own] : [])).toThrow(
      /1 of 5 survivors have confirmed/,
    );
    // One that is not genuine counts as none.
    const forged = names(5).map((participant) => ({
      participant,
      signature: own?.signature ?? new Uint8Array(),
    }));
    expect(() => client?.reveal(forged)).toThrow(/1 of 5 survivors have confirmed/);
    expect(() => all.clients.get('p001')?.confirm(['p001', 'mallory', 'p002'])).toThrow(
      /are not 3 or more/,
    );
  });

  test('survivors it is not masked towards: a server that withholds shares would see its change', async () => {
    const all = party(5);
    for (const name of all.clients.keys()) await answer(all, name);
    const request = all.server.requestFor('p000');
    if (request?.stage !== 'vectors') throw new Error('not asked');
    const client = all.clients.get('p000');
    // Enough holders for the threshold, but those of the later survivors are kept back.
    client?.mask(request.shares.slice(0, 3), vectorOf(0));
    expect(() => client?.confirm(['p000', 'p001', 'p002', 'p004'])).toThrow(
      'p004 is named as a survivor, but its share never came',
    );
  });

  test('another range, other neighbours: what it says must be worth what others say', async () => {
    const all = party(4);
    await expect(shareWith(all, (l) => l, { neighbours: 2 })).rejects.toThrow(
      '2 neighbours are refused: 4 participants have 3',
    );
    const identities = createIdentities(names(3));
    const clients = names(3).map(
      (participant, i) =>
        new SecureAggregationClient({
          session: SESSION,
          participant,
          identity: identities.get(participant) as SigningIdentity,
          crypto: nativeCrypto,
          samples: 10 * (i + 1),
          range: i === 2 ? 1000 : 1,
        }),
    );
    const adverts = clients.map((c) => c.advertise());
    await expect(clients[0]?.share(adverts, { neighbours: 2, threshold: 2 })).rejects.toThrow(
      'p002 was told the range 1000 for 30 samples, we were told 1',
    );
  });

  test('to open both secrets of anybody', async () => {
    const all = party(5);
    await run(all, { p004: 'vectors' });
    const opened = all.transcript.at(-1) as { owner: string; of: string }[];
    expect(opened.map((o) => `${o.owner} ${o.of}`).toSorted()).toEqual([
      'p000 seed',
      'p001 seed',
      'p002 seed',
      'p003 seed',
      'p004 key',
    ]);
  });
});

test('one that opens false shares keeps nobody from the sum', async () => {
  const all = party(6);
  for (let i = 0; i < 3; i++) for (const name of all.clients.keys()) await answer(all, name);
  for (const name of all.clients.keys()) {
    const request = all.server.requestFor(name);
    if (request?.stage !== 'reveals') throw new Error('not asked');
    const shares = all.clients.get(name)?.reveal(request.confirmations) ?? [];
    const opened =
      name === 'p001' ? shares.map((s) => ({ ...s, share: s.share.map((b) => b ^ 1) })) : shares;
    all.server.takeReveals(name, opened);
  }
  expect(await all.server.sum()).toBeDefined();
});

test('keys are signed with the task: whoever was told another one takes part with nobody', async () => {
  const told = party(4);
  const other = party(4, { ...SESSION, task: 'sha256:… {"bound":1e-6}' });
  const adverts = [...told.clients].map(([name, client]) =>
    (name === 'p001' ? client : other.clients.get(name))?.advertise(),
  );
  const request = { neighbours: 3, threshold: 3 };
  await expect(
    told.clients.get('p001')?.share(
      adverts.filter((a) => a !== undefined),
      request,
    ),
  ).rejects.toMatchObject({ code: 'permission_denied' });
});

test('the server notices shares that are not genuine', async () => {
  const all = party(3);
  for (let i = 0; i < 3; i++) for (const name of all.clients.keys()) await answer(all, name);
  for (const name of all.clients.keys()) {
    const request = all.server.requestFor(name);
    if (request?.stage !== 'reveals') throw new Error('not asked');
    const shares = all.clients.get(name)?.reveal(request.confirmations) ?? [];
    all.server.takeReveals(
      name,
      shares.map((s) => (s.owner === 'p001' ? { ...s, share: s.share.map((b) => b ^ 1) } : s)),
    );
  }
  await expect(all.server.sum()).rejects.toThrow(
    'the shares of p001 that were opened are not genuine',
  );
});

describe('fixed point', () => {
  test('a weighted mean comes back within half a step', () => {
    const samples = new Map([
      ['a', 20],
      ['b', 400],
      ['c', 3],
    ]);
    const plan = planFixedPoint(samples, 0.5);
    expect(plan.bits).toBe(23);
    const sum = new Uint32Array(SIZE);
    const wanted = new Float64Array(SIZE);
    for (const [k, [name, n]] of [...samples].entries()) {
      const random = seededRandom(k);
      const values = Float32Array.from({ length: SIZE }, () => random.next() - 0.5);
      const words = new Uint32Array(SIZE);
      encodeFixedPoint(values, { ...plan, weight: plan.weights.get(name) ?? 0 }, words);
      for (const [i, w] of words.entries()) {
        sum[i] = (sum[i] ?? 0) + w;
        wanted[i] = (wanted[i] ?? 0) + ((values[i] ?? 0) * n) / 423;
      }
    }
    const mean_ = decodeFixedPoint(sum, { ...plan, totalWeight: 423 });
    const worst = Math.max(...mean_.map((v, i) => Math.abs(v - (wanted[i] ?? 0))));
    expect(worst).toBeLessThan(1 / (2 ** plan.bits - 1) + 1e-7);
  });

  test('many participants with many samples leave enough bits, in proportion', () => {
    const samples = new Map(Array.from({ length: 1000 }, (_, i) => [`p${i}`, 1e6 + i * 1e4]));
    const { bits, weights } = planFixedPoint(samples, 1);
    const sum = [...weights.values()].reduce((a, b) => a + b, 0);
    expect(sum * (2 ** bits - 1)).toBeLessThan(2 ** 32);
    expect(bits).toBeGreaterThanOrEqual(17);
    expect(weights.get('p999')).toBeGreaterThan(5 * (weights.get('p0') ?? 0));
  });

  test('a value beyond the range is a fault, not cut off', () => {
    expect(() =>
      encodeFixedPoint(
        Float32Array.of(0, 2),
        { range: 1, bits: 16, weight: 1 },
        new Uint32Array(2),
      ),
    ).toThrow(/value 1 of the change is 2, beyond the range ±1/);
    expect(() =>
      encodeFixedPoint(
        Float32Array.of(Number.NaN),
        { range: 1, bits: 16, weight: 1 },
        new Uint32Array(1),
      ),
    ).toThrow(/NaN/);
  });
});
