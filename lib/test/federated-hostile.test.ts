import { type Logger, silentLogger } from '@shoal/core';
import { afterEach, expect, test } from 'vitest';
import { moveModel } from '../src/federated-learning/aggregate.ts';
import { AsyncCoordinator } from '../src/federated-learning/async-coordinator.ts';
import { createStrategy } from '../src/federated-learning/strategies/strategies.ts';
import { AggregationServer } from '../src/index.ts';
import { cleanUp, join_, options, serve, ToyModel } from './toy-federation.ts';

afterEach(cleanUp);

type Result = Awaited<ReturnType<ToyModel['train']>>;

/** A participant that answers something of its own in some rounds. */
class HostileModel extends ToyModel {
  readonly #spoil: (round: number, honest: Result) => Result;

  constructor(id: number, spoil: (round: number, honest: Result) => Result) {
    super(id);
    this.#spoil = spoil;
  }

  override async train(
    vector: Float32Array,
    task: { round: number; evaluateOnly: boolean },
  ): Promise<Result> {
    return this.#spoil(task.round, await super.train(vector, task));
  }
}

const QUORUM = { quorum: 2, deadlineMs: 2_000 };

test('names of metrics that JavaScript has of its own are names like others', async () => {
  const { server, address } = await serve();
  const odd = new HostileModel(3, (_round, honest) => ({
    ...honest,
    metrics: { ...honest.metrics, ['constructor']: 3, toString: 4 } as unknown as Record<
      string,
      number
    >,
  }));
  for (const id of [1, 2]) join_(address, new ToyModel(id), id);
  join_(address, odd, 3);
  const { history } = await server.done;
  expect(history.map((h) => h.participants)).toEqual([3, 3, 3, 3, 3]);
  expect(history[0]?.metrics['constructor']).toBe(3);
});

const COUNTS: readonly (readonly [string, (honest: Result) => Result])[] = [
  ['more samples than can be counted', (r) => ({ ...r, samples: 2 ** 53 })],
  ['an accuracy above 1', (r) => ({ ...r, metrics: { accuracy: 1e9 } })],
  [
    'more metrics than people could read',
    (r) => ({
      ...r,
      metrics: Object.fromEntries(Array.from({ length: 60_000 }, (_, i) => [`m${i}`, i])),
    }),
  ],
];

test.each(COUNTS)('%s: refused, and the others go on', async (_what, spoil) => {
  const { server, address } = await serve(QUORUM);
  for (const id of [1, 2]) join_(address, new ToyModel(id), id);
  join_(address, new HostileModel(3, (_round, honest) => spoil(honest)), 3);
  const { history } = await server.done;
  expect(history.map((h) => h.participants)).toEqual([2, 2, 2, 2, 2]);
});

test('a change that makes the model infinite moves nothing; when every round is like that it is said', async () => {
  const huge = (until: number): HostileModel =>
    new HostileModel(3, (round, honest) =>
      round > until || honest.delta.length === 0
        ? honest
        : { ...honest, samples: 1_000, delta: new Float32Array(honest.delta.length).fill(1e38) },
    );
  const once = await serve();
  for (const id of [1, 2]) join_(once.address, new ToyModel(id), id);
  join_(once.address, huge(1), 3);
  const { history, model } = await once.server.done;
  expect(history.map((h) => h.participants)).toEqual([0, 3, 3, 3, 3]);
  expect(model.every(Number.isFinite)).toBe(true);
  const always = await serve({ retries: 1 });
  for (const id of [1, 2]) join_(always.address, new ToyModel(id), id);
  join_(always.address, huge(100), 3);
  await expect(always.server.done).rejects.toThrow(
    /2 rounds in a row made no model: the changes of this round add up to values beyond float32/,
  );
  // Fewer rounds than patience: the model it began with is no result.
  const short = await serve({ rounds: 2 });
  for (const id of [1, 2]) join_(short.address, new ToyModel(id), id);
  join_(short.address, huge(100), 3);
  await expect(short.server.done).rejects.toThrow(/2 rounds in a row made no model/);
});

test('a second process of one name is told so, and the first one goes on', async () => {
  const said: string[] = [];
  const joined: unknown[] = [];
  const logger: Logger = {
    ...silentLogger,
    info: (message, fields) => message === 'participant joined' && joined.push(fields),
  };
  const { server, address } = await serve({
    rounds: 3,
    logger,
    onStalled: (reason) => said.push(reason),
  });
  const slow = new ToyModel(1, () => new Promise((r) => setTimeout(r, 100)));
  const first = join_(address, slow, 1);
  join_(address, new ToyModel(2), 2);
  await expect.poll(() => joined.length).toBe(2);
  const second = join_(address, new ToyModel(1), 1);
  await expect.poll(() => said.join()).toMatch(/a second process calls itself p1/);
  join_(address, new ToyModel(3), 3);
  const { history } = await server.done;
  expect(history.map((h) => h.participants)).toEqual([3, 3, 3, 3]);
  expect((await first.done).rounds).toBe(4);
  second.stop();
});

test('who is not of the job does not take part, whatever it calls itself', async () => {
  const { server, address } = await serve({ rounds: 1, names: ['p1', 'p2', 'p3'] });
  const stranger = join_(address, new ToyModel(9), 9);
  await expect(stranger.done).rejects.toThrow(/the job has no participant "p9"; it has p1, p2, p3/);
  for (const id of [1, 2, 3]) join_(address, new ToyModel(id), id);
  expect((await server.done).history.map((h) => h.participants)).toEqual([3, 3]);
});

test('what would protect nobody is refused by name', () => {
  const refused = (over: object): (() => unknown) => {
    return () => new AggregationServer(options(over));
  };
  const noise = { clipping: 1, noiseMultiplier: 5 };
  expect(refused({ strategy: { name: 'Median' }, privacy: noise })).toThrow(
    /strategy Median makes no weighted mean .* noise .* choose FedAvg/,
  );
  expect(refused({ strategy: { name: 'q-FedAvg' }, privacy: noise })).toThrow(/q-FedAvg/);
  expect(refused({ privacy: { clipping: 1, epsilonBudget: 1 } })).toThrow(
    /epsilonBudget needs noise/,
  );
  expect(refused({ privacy: { ...noise, noiseMultiplier: 0.3, epsilonBudget: 1 } })).toThrow(
    /one round alone has ε = \d+\.\d+, the budget is 1/,
  );
  const krum = { name: 'Krum', parameters: { malicious: 1 } };
  expect(refused({ participants: 7, quorum: 3, strategy: krum })).toThrow(
    /strategy Krum needs \d updates of 7, quorum is 3/,
  );
});

test('running statistics follow the mean change, whatever the server’s optimizer does', () => {
  const [model, change] = [Float32Array.of(1, 1, 0.5), Float32Array.of(0.1, -0.1, -0.01)];
  const state = {};
  for (let round = 1; round <= 40; round++)
    moveModel(createStrategy('FedAdam'), model, change, { state, round, trained: 2 });
  expect(model[2]).toBeCloseTo(0.1, 5);
  expect(Math.abs((model[0] ?? 0) - 1)).toBeGreaterThan(1);
});

test('FedBuff: nobody fills a buffer alone', () => {
  const at = { round: 4, nowMs: 0, arrived: [] };
  const coordinator = new AsyncCoordinator({ bufferSize: 3, deadlineMs: 1_000 }, at);
  for (const p of ['a', 'b']) coordinator.join(p, 0);
  expect(coordinator.expects('a', 1)).toBe(true);
  coordinator.received('a', 1);
  expect([1, 2, 4].map((base) => coordinator.expects('a', base))).toEqual([false, false, false]);
  expect(coordinator.expects('b', 2)).toBe(true);
});
