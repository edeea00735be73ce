import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import { type AggregatorFrame, FEDERATION_METHODS, ParticipantFrameSchema } from '@shoal/api';
import { createAuthority, digestOf, issueCertificate } from '@shoal/core';
import { afterEach, expect, test } from 'vitest';
import { layoutText } from '../src/federated-learning/federated-model.ts';
import { AggregationServer, type FederatedModel } from '../src/index.ts';
import {
  cleanUp,
  cleanups,
  digestOfModel,
  folder,
  join_,
  LAYOUT,
  options,
  SIZE,
  serve,
  ToyModel,
  undisturbed,
} from './toy-federation.ts';

afterEach(cleanUp);

test('a federation follows its formula, round by round, and tells what happened', async () => {
  const { server, address } = await serve({ token: 'secret' });
  const workers = [1, 2, 3].map((id) => join_(address, new ToyModel(id), id, { token: 'secret' }));
  const result = await server.done;
  const model = Float64Array.from(new ToyModel(1).initial());
  for (let round = 1; round <= 4; round++) {
    const before = model.slice();
    for (let i = 0; i < SIZE; i++) {
      let sum = 0;
      for (const id of [1, 2, 3])
        sum += 10 * id * (Math.cos(i * id + round) * 0.1 - (before[i] ?? 0) * 0.01);
      model[i] = (before[i] ?? 0) + sum / 60;
    }
  }
  for (const i of [0, 1, 77, SIZE - 1]) expect(result.model[i]).toBeCloseTo(model[i] ?? 0, 4);
  expect(result.reason).toBe('all 4 rounds are done');
  expect(result.history.map((h) => [h.round, h.participants, h.samples])).toEqual(
    [1, 2, 3, 4, 5].map((r) => [r, 3, 60]),
  );
  // Round 5 only scores the last model; without compression the payload is all that goes up.
  expect(result.history.map((h) => h.bytesUp)).toEqual([36_000, 36_000, 36_000, 36_000, 0]);
  expect(result.best?.round).toBe(5);
  for (const { done } of workers) expect((await done).rounds).toBe(5);
});

test('the order of arrival changes no bit', async () => {
  const first = await undisturbed();
  const { server, address } = await serve();
  for (const id of [3, 1, 2])
    join_(
      address,
      new ToyModel(id, () => new Promise((r) => setTimeout(r, id === 1 ? 60 : 5))),
      id,
    );
  expect(digestOfModel(await server.done)).toBe(digestOfModel(first));
});

test.each(['FedAvg', 'FedAdam', 'Median'])(
  'an aggregator that is ended in the middle goes on with the same round, %s, same bits',
  async (name) => {
    const strategy = { name };
    const wanted = await undisturbed({ strategy });
    const dir = folder();
    const first = await serve({ dir, strategy });
    const models = [1, 2, 3].map(
      (id) =>
        new ToyModel(
          id,
          (round) => new Promise((r) => setTimeout(r, round === 2 && id === 3 ? 300 : 1)),
        ),
    );
    const port = Number(first.address.split(':')[1]);
    const workers = models.map((m, i) => join_(first.address, m, i + 1));
    // Round 2: two updates are in, the third is not.
    while (first.server.history.length < 1) await new Promise((r) => setTimeout(r, 5));
    await new Promise((r) => setTimeout(r, 60));
    await first.server.close();
    const second = await serve({ dir, port, strategy });
    const result = await second.server.done;
    expect(digestOfModel(result)).toBe(digestOfModel(wanted));
    expect(result.history).toHaveLength(5);
    await Promise.all(workers.map((w) => w.done));
    // Nobody trained a round twice, though the aggregator lost its memory.
    for (const m of models) expect(m.trained).toEqual([1, 2, 3, 4, 5]);
  },
);

test('a participant that leaves and returns is asked again; the model is the same', async () => {
  const wanted = await undisturbed();
  const { server, address } = await serve();
  join_(address, new ToyModel(1), 1);
  join_(address, new ToyModel(2), 2);
  const leaving = join_(
    address,
    new ToyModel(3, (round) => (round === 2 ? new Promise(() => undefined) : Promise.resolve())),
    3,
  );
  while (server.history.length < 1) await new Promise((r) => setTimeout(r, 5));
  await new Promise((r) => setTimeout(r, 30));
  leaving.stop();
  await expect(leaving.done).rejects.toThrow(/stopped/);
  join_(address, new ToyModel(3), 3);
  expect(digestOfModel(await server.done)).toBe(digestOfModel(wanted));
});

test('a quorum ends a round at its deadline; without one the cause is told and the job fails', async () => {
  const slow = (): Promise<void> => new Promise(() => undefined);
  const stalls: string[] = [];
  const lucky = await serve({ rounds: 1, quorum: 2, deadlineMs: 400 });
  join_(lucky.address, new ToyModel(1), 1);
  join_(lucky.address, new ToyModel(2), 2);
  join_(lucky.address, new ToyModel(3, slow), 3);
  expect((await lucky.server.done).history[0]?.participants).toBe(2);
  const doomed = await serve({
    rounds: 1,
    deadlineMs: 250,
    retries: 1,
    onStalled: (r) => stalls.push(r),
  });
  join_(doomed.address, new ToyModel(1), 1);
  join_(doomed.address, new ToyModel(2), 2);
  join_(doomed.address, new ToyModel(3, slow), 3);
  await expect(doomed.server.done).rejects.toThrow(
    /round 1: 2 updates after 250 ms, 3 are needed; missing: p3 \(still working\)/,
  );
  expect(stalls[0]).toMatch(/missing: p3/);
  const waits: string[] = [];
  const lonely = await serve({ deadlineMs: 100, onStalled: (r) => waits.push(r) });
  const heard: string[] = [];
  join_(lonely.address, new ToyModel(1), 1, { onNotice: (r: string) => heard.push(r) });
  while (waits.length === 0) await new Promise((r) => setTimeout(r, 20));
  expect(waits[0]).toBe('round 1 waits for participants: 1 of 3 are connected (p1), 3 are needed');
  while (heard.length === 0) await new Promise((r) => setTimeout(r, 20));
  expect(heard[0]).toMatch(/^round 1 waits for participants/);
});

test('strangers, other models, other jobs and poisoned updates are refused with a reason; the round survives', async () => {
  const { server, address } = await serve({
    token: 'secret',
    quorum: 2,
    deadlineMs: 700,
    rounds: 1,
  });
  const refused = async (over: object, model: FederatedModel = new ToyModel(9)): Promise<void> => {
    await join_(address, model, 'x', { token: 'secret', ...over }).done;
  };
  await expect(refused({ token: 'guess' })).rejects.toThrow(/the token is not this federation/);
  await expect(refused({ job: 'other' })).rejects.toThrow(/belongs to job "other", this is "toy"/);
  await expect(refused({ participant: 'a b' })).rejects.toThrow(/no name for a participant/);
  const other = Object.assign(new ToyModel(9), { layout: [{ name: 'w', shape: [SIZE, 1] }] });
  await expect(refused({}, other)).rejects.toThrow(/has another model/);
  const poisoned = new ToyModel(3);
  poisoned.train = () =>
    Promise.resolve({ delta: new Float32Array(SIZE).fill(Number.NaN), samples: 5, metrics: {} });
  join_(address, new ToyModel(1), 1, { token: 'secret' });
  join_(address, new ToyModel(2), 2, { token: 'secret' });
  join_(address, poisoned, 3, { token: 'secret' });
  const result = await server.done;
  expect(result.history[0]?.participants).toBe(2);
  expect(result.model.every(Number.isFinite)).toBe(true);
});

test('compressed updates cost what they promise and still train', async () => {
  const full = await undisturbed();
  for (const [encoding, share] of [
    ['int8', 0.27],
    ['fp16', 0.51],
  ] as const) {
    const small = await undisturbed({ compression: { name: encoding } });
    expect((small.history[0]?.bytesUp ?? 0) / (full.history[0]?.bytesUp ?? 1)).toBeLessThan(share);
    let worst = 0;
    for (const [i, v] of small.model.entries())
      worst = Math.max(worst, Math.abs(v - (full.model[i] ?? 0)));
    expect(worst).toBeLessThan(0.02);
  }
});

test('clipping and noise are applied, ε is told each round, and the budget stops the job', async () => {
  const clipped = await undisturbed({ rounds: 1, privacy: { clipping: 0.5, noiseMultiplier: 0 } });
  expect(clipped.history[0]?.changeNorm).toBeLessThanOrEqual(0.5 + 1e-6);
  const noisy = await undisturbed({
    rounds: 50,
    privacy: { clipping: 0.5, noiseMultiplier: 2, epsilonBudget: 6, adaptive: true },
  });
  expect(noisy.reason).toMatch(/the privacy budget is spent: ε = \d/);
  const spent = noisy.history.map((h) => h.epsilon ?? 0);
  expect(spent.length).toBeLessThan(50);
  expect(spent).toEqual(spent.toSorted((a, b) => a - b));
  expect(spent.length).toBeGreaterThan(1);
  expect(spent.at(-1)).toBeLessThanOrEqual(6);
});

test('over TLS, with the aggregator’s certificate checked', async () => {
  const authority = await createAuthority('test', {
    nowMs: Date.now(),
    validForMs: 3_600_000,
  });
  const tls = await issueCertificate(authority, {
    commonName: 'aggregator',
    ipAddresses: ['127.0.0.1'],
    usages: ['server'],
    nowMs: Date.now(),
    validForMs: 3_600_000,
  });
  const { server, address } = await serve({ tls, rounds: 1 });
  for (const id of [1, 2, 3])
    join_(address, new ToyModel(id), id, { authority: authority.certificate });
  expect((await server.done).history).toHaveLength(2);
});

test('faults of the options are listed at once', () => {
  expect(() => new AggregationServer(options({ rounds: 0, quorum: 7, learningRate: -1 }))).toThrow(
    /rounds must be a whole number in \[1, 1000000\], got 0; quorum must be .* got 7; learningRate must be > 0/,
  );
});

test('an aggregator killed after the last round, before its model was fetched, gives it again', async () => {
  const dir = folder();
  const wanted = await undisturbed({ dir });
  const { server } = await serve({ dir });
  const result = await server.done;
  expect(digestOfModel(result)).toBe(digestOfModel(wanted));
  expect(result.reason).toBe('all 4 rounds are done');
});

test('an update that is still on its way when its round ends is refused, and counts for no other round', async () => {
  const { server, address } = await serve({
    participants: 2,
    rounds: 2,
    quorum: 1,
    deadlineMs: 300,
  });
  const { path, requestSerialize, responseDeserialize } = FEDERATION_METHODS.participate;
  const client = new grpc.Client(address, grpc.credentials.createInsecure());
  cleanups.push(() => client.close());
  const stream = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
  const send = (frame: object): unknown =>
    stream.write(create(ParticipantFrameSchema, { frame } as never));
  const frames: AggregatorFrame['frame'][] = [];
  const bytes = new Uint8Array(SIZE * 4);
  const update = {
    round: 1,
    attempt: 1,
    samples: 1n,
    encoding: 'none',
    bytes: BigInt(bytes.length),
    digest: digestOf(bytes),
  };
  stream.on('error', () => undefined);
  stream.on('data', ({ frame }: AggregatorFrame) => {
    frames.push(frame);
    if (frame.case !== 'task') return;
    if (frame.value.round === 1) send({ case: 'update', value: update });
    else if (frame.value.round === 2)
      send({ case: 'chunk', value: { digest: update.digest, offset: 0n, data: bytes } });
  });
  const layout = digestOf(layoutText(LAYOUT));
  send({
    case: 'join',
    value: { job: 'toy', participant: 'p2', samples: 1n, size: BigInt(SIZE), layout },
  });
  join_(address, new ToyModel(1), 1);
  const { history } = await server.done;
  expect(history.map((h) => [h.round, h.participants])).toEqual([
    [1, 1],
    [2, 1],
    [3, 1],
  ]);
  expect(frames.map((f) => f.case)).not.toContain('accepted');
  expect(frames.find((f) => f.case === 'refused')?.value).toMatchObject({
    round: 1,
    reason: 'round 1 does not wait for p2',
  });
});
