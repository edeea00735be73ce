import { afterEach, describe, expect, test, vi } from 'vitest';
import type { FrameTransport } from '../src/federated-learning/participant/frame-stream.ts';
import { RoundStore } from '../src/federated-learning/round-store.ts';
import {
  AggregationServer,
  createIdentities,
  GroupAggregator,
  type GroupAggregatorOptions,
  type SigningIdentity,
  socketTransport,
} from '../src/index.ts';
import {
  cleanUp,
  cleanups,
  digestOfModel,
  folder,
  join_,
  LAYOUT,
  serve,
  ToyModel,
  undisturbed,
} from './toy-federation.ts';

afterEach(cleanUp);

const NAMES = ['p1', 'p2', 'p3', 'p4', 'p5'];

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function until(done: () => boolean): Promise<void> {
  while (!done()) await pause(5);
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((worst, v, i) => Math.max(worst, Math.abs(v - (b[i] ?? 0))), 0);
}

describe('secure aggregation', () => {
  const identities = createIdentities(NAMES);
  const identity = (id: number): { identity: SigningIdentity } => ({
    identity: identities.get(`p${id}`) as SigningIdentity,
  });
  const secure = (over: object = {}): object => ({
    participants: 5,
    privacy: { secureAggregation: { range: 0.5, stageMs: 2_000, ...over } },
  });
  const all = (address: string): { done: Promise<unknown>; stop: () => void }[] =>
    [1, 2, 3, 4, 5].map((id) => join_(address, new ToyModel(id), id, identity(id)));

  test('trains as without it, but for the rounding of its fixed point', async () => {
    const open = await serve({ participants: 5 });
    for (const id of [1, 2, 3, 4, 5]) join_(open.address, new ToyModel(id), id);
    const wanted = await open.server.done;
    const { server, address } = await serve(secure());
    all(address);
    const result = await server.done;
    expect(result.history.map((h) => h.participants)).toEqual([5, 5, 5, 5, 5]);
    expect(result.history[0]?.metrics).toEqual(wanted.history[0]?.metrics);
    expect(result.history[0]?.samples).toBe(150);
    expect(largestDifference(result.model, wanted.model)).toBeLessThan(1e-6);
    expect(digestOfModel(result)).not.toBe(digestOfModel(wanted));
  });

  test('what the aggregator keeps of a participant is not its change', async () => {
    const dir = folder();
    const { server, address } = await serve({ ...secure(), dir, rounds: 1 });
    const seen: Uint8Array[] = [];
    const keep = Reflect.get(RoundStore.prototype, 'keep') as RoundStore['keep'];
    vi.spyOn(RoundStore.prototype, 'keep').mockImplementation(function (
      this: RoundStore,
      round,
      arrivals,
    ) {
      for (const { upload, update } of arrivals)
        if (upload) seen.push(this.peek(upload, update.bytes).slice());
      keep.call(this, round, arrivals);
    });
    all(address);
    await server.done;
    vi.restoreAllMocks();
    expect(seen).toHaveLength(5);
    for (const bytes of seen) {
      const counts = new Uint32Array(256);
      for (const b of bytes) counts[b] = (counts[b] ?? 0) + 1;
      const expected = bytes.length / 256;
      const chi = counts.reduce((sum, c) => sum + (c - expected) ** 2 / expected, 0);
      expect(chi).toBeLessThan(400); // 255 degrees of freedom; plain fixed point gives thousands
    }
  });

  test('an aggregator that is ended in any stage goes on: same model, bit for bit', async () => {
    const calm = await serve(secure());
    all(calm.address);
    const wanted = digestOfModel(await calm.server.done);
    const dir = folder();
    let { server, address } = await serve({ ...secure({ stageMs: 20_000 }), dir });
    const port = Number(address.split(':')[1]);
    const workers = all(address);
    for (let i = 0; i < 12; i++) {
      await pause(40 + 17 * i);
      await server.close();
      ({ server, address } = await serve({ ...secure({ stageMs: 20_000 }), dir, port }));
      const isDone = await Promise.race([server.done.then(() => true), pause(30 + 11 * i)]);
      if (isDone) break;
    }
    expect(digestOfModel(await server.done)).toBe(wanted);
    await Promise.all(workers.map((w) => w.done));
  });

  test('participants that leave in between do not stop a round that has its quorum', async () => {
    const { server, address } = await serve({
      ...secure({ stageMs: 300 }),
      rounds: 3,
      quorum: 3,
      deadlineMs: 700,
    });
    const stay = [1, 2, 3, 4].map((id) => join_(address, new ToyModel(id), id, identity(id)));
    const leaving = join_(address, new ToyModel(5), 5, identity(5));
    await until(() => server.history.length > 0);
    leaving.stop();
    const { history } = await server.done;
    expect(history[0]?.participants).toBe(5);
    expect(history.at(-1)?.participants).toBe(4);
    await Promise.all(stay.map((s) => s.done));
  });

  test('one without identity, or with another, is not in the sum; the others are', async () => {
    const { server, address } = await serve({
      ...secure({ stageMs: 300 }),
      rounds: 1,
      quorum: 4,
      deadlineMs: 800,
    });
    for (const id of [1, 2, 3, 4]) join_(address, new ToyModel(id), id, identity(id));
    join_(address, new ToyModel(5), 5);
    expect((await server.done).history[0]?.participants).toBe(4);
    const foreign = createIdentities(NAMES).get('p5') as SigningIdentity;
    const stalls: string[] = [];
    const other = await serve({
      ...secure({ stageMs: 300 }),
      rounds: 1,
      retries: 1,
      deadlineMs: 800,
      onStalled: (r) => stalls.push(r),
    });
    for (const id of [1, 2, 3, 4]) join_(other.address, new ToyModel(id), id, identity(id));
    join_(other.address, new ToyModel(5), 5, { identity: foreign });
    // Keys nobody signed make every participant refuse: no round, and the reason is told.
    await expect(other.server.done).rejects.toThrow(/secure aggregation cannot go on/);
    expect(stalls[0]).toMatch(/round 1/);
  });

  test('what does not go with it is refused at once', () => {
    const make = (over: object) => () =>
      new AggregationServer({
        job: 'toy',
        rounds: 1,
        dir: folder(),
        initial: new Float32Array(3),
        layout: [{ name: 'w', shape: [3] }],
        participants: 5,
        ...secure(),
        ...over,
      });
    expect(make({ strategy: { name: 'Median' } })).toThrow(/Median looks at single changes/);
    expect(make({ strategy: { name: 'SCAFFOLD' } })).toThrow(/SCAFFOLD looks at single changes/);
    expect(make({ compression: { name: 'int8' } })).toThrow(/compression must be none, got int8/);
    expect(make({ participants: 2 })).toThrow(
      /needs 3 participants in a round or more, 2 are asked/,
    );
    expect(make({ privacy: { secureAggregation: { range: 0 } } })).toThrow(
      /range must be > 0, got 0/,
    );
    expect(make({ privacy: { noiseMultiplier: 1 } })).toThrow(/privacy.clipping is needed/);
  });
});

describe('asynchronous rounds', () => {
  const fedBuff = (bufferSize: number): object => ({
    strategy: { name: 'FedBuff', parameters: { bufferSize, learningRate: 1 } },
  });

  test('nobody waits for the slow one, and what it brings late counts less', async () => {
    const { server, address } = await serve({ ...fedBuff(2), rounds: 6, participants: 3 });
    const slow = new ToyModel(3, () => pause(150));
    join_(address, new ToyModel(1), 1);
    join_(address, new ToyModel(2), 2);
    join_(address, slow, 3);
    const { history } = await server.done;
    const trained = history.slice(0, 6);
    expect(trained.map((h) => h.participants)).toEqual([2, 2, 2, 2, 2, 2]);
    // It trained fewer rounds than there were, and never one twice.
    expect(slow.trained.length).toBeLessThan(6);
    expect(new Set(slow.trained).size).toBe(slow.trained.length);
    expect(history.at(-1)?.participants).toBe(3);
  });

  test('a late update of weight 1/√(1+τ) moves the model by the formula', async () => {
    const { server, address } = await serve({
      ...fedBuff(1),
      rounds: 3,
      participants: 2,
      deadlineMs: 500,
    });
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const slow = new ToyModel(2, (round) => (round === 1 ? held : Promise.resolve()));
    join_(address, slow, 2);
    const quick = new ToyModel(1, (round) =>
      round === 3 ? new Promise(() => undefined) : Promise.resolve(),
    );
    join_(address, quick, 1);
    await until(() => server.history.length === 2);
    release();
    await until(() => server.history.length === 3);
    const at = (id: number, round: number, v: number, i: number): number =>
      Math.cos(i * id + round) * 0.1 - v * 0.01;
    const first = new ToyModel(1).initial();
    const model = first.slice();
    for (const round of [1, 2])
      for (const [i, v] of model.entries()) model[i] = v + at(1, round, v, i);
    for (const [i, v] of model.entries()) model[i] = v + at(2, 1, first[i] ?? 0, i) / Math.sqrt(3);
    const result = await server.done;
    expect(largestDifference(result.model, model)).toBeLessThan(1e-6);
    expect(result.history[2]?.metrics['staleness']).toBe(2);
  });

  test('an aggregator that is ended goes on, and counts nothing twice', async () => {
    const dir = folder();
    const over = { ...fedBuff(2), rounds: 8, participants: 4, dir };
    let { server, address } = await serve(over);
    const port = Number(address.split(':')[1]);
    const models = [1, 2, 3, 4].map((id) => new ToyModel(id, () => pause(15 * id)));
    const workers = models.map((m, i) => join_(address, m, i + 1));
    for (let i = 0; i < 3; i++) {
      await pause(60);
      await server.close();
      ({ server, address } = await serve({ ...over, port }));
    }
    const { history } = await server.done;
    expect(history.slice(0, 8).map((h) => h.participants)).toEqual(
      Array.from({ length: 8 }, () => 2),
    );
    await Promise.all(workers.map((w) => w.done));
    for (const m of models) expect(new Set(m.trained).size).toBe(m.trained.length);
  });

  test('one that asks for a model that is gone by then gets the next one', async () => {
    const { server, address } = await serve({ ...fedBuff(1), rounds: 4, participants: 2 });
    const transport = socketTransport(address);
    const late: FrameTransport = {
      address,
      open: (handlers) => {
        const stream = transport.open(handlers);
        // Its question for the first model waits until that is of the past.
        let isFirst = true;
        return {
          ...stream,
          write: (frame) => {
            if (frame.frame.case !== 'want' || !isFirst) return stream.write(frame);
            isFirst = false;
            void until(() => server.history.length >= 1).then(() => stream.write(frame));
            return true;
          },
        };
      },
    };
    const slow = new ToyModel(2);
    const workers = [
      join_(address, slow, 2, { transport: late }),
      join_(address, new ToyModel(1, () => pause(40)), 1),
    ];
    await server.done;
    expect(slow.trained.length).toBeGreaterThan(1);
    await Promise.all(workers.map((w) => w.done));
  });

  test('a buffer nobody can fill is refused', () => {
    const dir = folder();
    const initial = new Float32Array(3);
    const layout = [{ name: 'w', shape: [3] }];
    expect(
      () =>
        new AggregationServer({
          job: 'x',
          rounds: 1,
          dir,
          initial,
          layout,
          ...fedBuff(4),
          participants: 3,
        }),
    ).toThrow(/bufferSize 4 of strategy FedBuff is more than 3 participants can fill/);
  });
});

describe('evaluation', () => {
  test('held-out scores of the aggregator choose the best model and end the training', async () => {
    const accuracies = [0.5, 0.9, 0.8, 0.7, 0.6];
    let calls = 0;
    const { server, address } = await serve({
      rounds: 10,
      patience: 2,
      evaluate: async (model) => {
        await pause(20);
        expect(model).toHaveLength(3_000);
        return { accuracy: accuracies[calls++] ?? 0 };
      },
    });
    for (const id of [1, 2, 3]) join_(address, new ToyModel(id), id);
    const { history, best, reason } = await server.done;
    expect(history.map((h) => h.validation?.['accuracy'])).toEqual([0.5, 0.9, 0.8, 0.7]);
    expect(best?.round).toBe(2);
    expect(reason).toBe('no better score for 2 rounds');
    // Scores over participants: mean by samples, and how far they lie apart.
    expect(history[0]?.spread?.['accuracy']).toEqual([0.1, 0.1, 0.1]);
  });

  test('every third round only; one that fails ends the federation with its cause', async () => {
    const { server, address } = await serve({
      rounds: 4,
      evaluation: { every: 3 },
      evaluate: () => Promise.resolve({ accuracy: 0.5 }),
    });
    for (const id of [1, 2, 3]) join_(address, new ToyModel(id), id);
    const { history } = await server.done;
    expect(history.map((h) => h.validation !== undefined)).toEqual([
      true,
      false,
      false,
      true,
      true,
    ]);
    const broken = await serve({
      evaluate: () => Promise.reject(new Error('no such file: held-out.csv')),
    });
    for (const id of [1, 2, 3]) join_(broken.address, new ToyModel(id), id);
    await expect(broken.server.done).rejects.toThrow('no such file: held-out.csv');
  });

  test('it does not change what is learned', async () => {
    const wanted = await undisturbed();
    const scored = await undisturbed({ evaluate: () => Promise.resolve({ accuracy: 1 }) });
    expect(digestOfModel(scored)).toBe(digestOfModel(wanted));
  });
});

describe('groups', () => {
  const group = async (
    above: string,
    over: Partial<GroupAggregatorOptions>,
  ): Promise<{
    address: string;
    group: GroupAggregator;
    done: Promise<unknown>;
    stop: () => void;
  }> => {
    const aggregator = new GroupAggregator({
      job: 'toy',
      group: 'g1',
      members: 2,
      above: socketTransport(above),
      dir: folder(),
      layout: LAYOUT,
      deadlineMs: 8_000,
      ...over,
    });
    const address = await aggregator.start();
    const stopping = new AbortController();
    const done = aggregator.run(stopping.signal);
    done.catch(() => undefined);
    cleanups.push(async () => {
      stopping.abort(new Error('test over'));
      await aggregator.close();
    });
    return { address, group: aggregator, done, stop: () => stopping.abort(new Error('stopped')) };
  };

  test('two groups and one of its own learn what five learn without groups; few updates go up', async () => {
    const flat = await serve({ participants: 5 });
    for (const id of [1, 2, 3, 4, 5]) join_(flat.address, new ToyModel(id), id);
    const wanted = await flat.server.done;
    const { server, address } = await serve({ participants: 3 });
    const g1 = await group(address, { group: 'g1' });
    const g2 = await group(address, { group: 'g2' });
    const members = [
      join_(g1.address, new ToyModel(1), 1),
      join_(g1.address, new ToyModel(2), 2),
      join_(g2.address, new ToyModel(3), 3),
      join_(g2.address, new ToyModel(4), 4),
      join_(address, new ToyModel(5), 5),
    ];
    const result = await server.done;
    expect(largestDifference(result.model, wanted.model)).toBeLessThan(1e-6);
    expect(result.history.map((h) => [h.participants, h.samples])).toEqual(
      Array.from({ length: 5 }, () => [3, 150]),
    );
    expect(result.history[0]?.metrics['loss']).toBeCloseTo(wanted.history[0]?.metrics['loss'] ?? 0);
    expect(result.history[0]?.bytesUp).toBe(((wanted.history[0]?.bytesUp ?? 0) * 3) / 5);
    // Members hear of the rounds of the whole federation, and of its end.
    for (const m of members)
      expect(await m.done).toMatchObject({ reason: 'all 4 rounds are done' });
  });

  test('a group that is ended in the middle goes on; nobody trains twice, the model is the same', async () => {
    const run = async (interrupt: boolean): Promise<string> => {
      const { server, address } = await serve({ participants: 2 });
      const dir = folder();
      let own = await group(address, { dir });
      const port = Number(own.address.split(':')[1]);
      const models = [1, 2].map((id) => new ToyModel(id, () => pause(id * 40)));
      for (const [i, m] of models.entries()) join_(own.address, m, i + 1);
      join_(address, new ToyModel(3), 3);
      for (let i = 0; i < 3 && interrupt; i++) {
        await pause(70);
        own.stop();
        await own.group.close();
        own = await group(address, { dir, port });
      }
      const result = await server.done;
      for (const m of models) expect(m.trained).toEqual([1, 2, 3, 4, 5]);
      return digestOfModel(result);
    };
    expect(await run(true)).toBe(await run(false));
  });

  test('a group without its quorum says who is missing, where the federation waits', async () => {
    const stalls: string[] = [];
    const { server, address } = await serve({
      participants: 2,
      rounds: 1,
      retries: 0,
      deadlineMs: 900,
      onStalled: (r) => stalls.push(r),
    });
    const own = await group(address, { deadlineMs: 300 });
    join_(own.address, new ToyModel(1), 1);
    join_(own.address, new ToyModel(2, () => new Promise(() => undefined)), 2);
    join_(address, new ToyModel(3), 3);
    await expect(server.done).rejects.toThrow(/missing: g1 \(.*missing: p2 \(still working\)\)/);
  });
});
