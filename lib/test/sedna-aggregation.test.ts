import { expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { SednaAggregationServer } from '../src/index.ts';

/** A client that does what Sedna's Python library does, frame by frame (contract §4.8). */
class SednaClient {
  readonly frames: Record<string, unknown>[] = [];
  readonly #socket: WebSocket;
  readonly #id: string;
  readonly #waiting: (() => void)[] = [];

  constructor(url: string, id: string) {
    this.#socket = new WebSocket(url);
    this.#id = id;
    this.#socket.on('message', (data) => {
      this.frames.push(JSON.parse((data as Buffer).toString('utf8')) as Record<string, unknown>);
      for (const wake of this.#waiting.splice(0)) wake();
    });
  }

  async next(type: string): Promise<Record<string, unknown>> {
    for (;;) {
      const at = this.frames.findIndex((f) => f['type'] === type);
      if (at >= 0) return this.frames.splice(at, 1)[0] ?? {};
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  async subscribe(): Promise<Record<string, unknown>> {
    await new Promise<void>((resolve) => this.#socket.once('open', () => resolve()));
    this.#socket.send(JSON.stringify({ type: 'subscribe', client_id: this.#id }));
    return await this.next('subscribe');
  }

  send(samples: unknown, weights: unknown, as = this.#id): void {
    const data = { num_samples: samples, weights };
    this.#socket.send(JSON.stringify({ type: 'update_weight', client: as, data, job_name: 'j' }));
  }

  close(): void {
    this.#socket.close();
  }
}

test('Sedna’s Python workers meet the frames they know, and the weighted mean', async () => {
  const server = new SednaAggregationServer({ rounds: 2, participants: 2 });
  const url = await server.start();
  expect(url).toMatch(/^ws:\/\/127\.0\.0\.1:\d+\/FedAvg$/);
  const a = new SednaClient(url, 'trainworker-a');
  expect(await a.subscribe()).toEqual({ type: 'subscribe', client_id: 'trainworker-a' });
  const b = new SednaClient(url, 'trainworker-b');
  await b.subscribe();
  expect(await a.next('CLIENT_JOIN')).toEqual({ type: 'CLIENT_JOIN', data: 'trainworker-b' });
  const listed = await fetch(url.replace('ws:', 'http:'));
  expect(await listed.json()).toEqual({ clients: ['trainworker-a', 'trainworker-b'] });
  a.send(1, [[1, 2], [[3]]]);
  a.send(1, [[9, 9], [[9]]]); // a second one for the round changes nothing
  b.send(3, [[5, 6], [[7]]]);
  const first = await a.next('recv_weight');
  expect(first).toEqual({
    type: 'recv_weight',
    client: 'trainworker-b',
    job_name: 'j',
    round_number: 1,
    data: { total_sample: 4, round_number: 1, weights: [[4, 5], [[6]]], exit_flag: 'continue' },
  });
  expect(await b.next('recv_weight')).toEqual(first);
  a.send(2, [[0, 0], [[0]]]);
  b.send(2, [[2, 2], [[4]]]);
  const second = await a.next('recv_weight');
  expect(second['data']).toEqual({
    total_sample: 4,
    round_number: 2,
    weights: [[1, 1], [[2]]],
    exit_flag: 'ok',
  });
  expect(await server.done).toBe(2);
  a.close();
  b.close();
  await server.close();
});

test('a client that dies does not hold up the others for ever; none speaks for another', async () => {
  const server = new SednaAggregationServer({
    rounds: 1,
    participants: 3,
    quorum: 2,
    deadlineMs: 100,
  });
  const url = await server.start();
  const come = async (id: string): Promise<SednaClient> => {
    const client = new SednaClient(url, id);
    await client.subscribe();
    return client;
  };
  const [a, b, c] = [await come('a'), await come('b'), await come('c')];
  c.close();
  a.send(1, [[1, 2]], 'b');
  expect((await a.next('error'))['data']).toBe('a sends an update of b');
  a.send(1, [[1, 2]]);
  b.send(1, [[3, 4]]);
  expect(((await a.next('recv_weight'))['data'] as { weights: unknown }).weights).toEqual([[2, 3]]);
  expect(await server.done).toBe(1);
  a.close();
  b.close();
  await server.close();
});

test('bad frames are answered with a reason and counted nowhere', async () => {
  const server = new SednaAggregationServer({ rounds: 1, participants: 2 });
  const url = await server.start();
  const a = new SednaClient(url, 'a');
  await a.subscribe();
  const reason = async (samples: unknown, weights: unknown): Promise<unknown> => {
    a.send(samples, weights);
    return (await a.next('error'))['data'];
  };
  expect(await reason(0, [[1]])).toBe('num_samples must be a whole number ≥ 1, got 0');
  expect(await reason(1, 'x')).toBe('weights must be a list of layers');
  expect(await reason(1, [[1, null]])).toBe(
    'weights must be lists of finite numbers of one length',
  );
  a.send(1, [[1, 2]]);
  const b = new SednaClient(url, 'b');
  await b.subscribe();
  b.send(1, [[1, 2, 3]]);
  expect((await b.next('error'))['data']).toBe('weights have shape [3], the others [2]');
  b.send(1, [[3, 4]]);
  expect(((await a.next('recv_weight'))['data'] as { weights: unknown }).weights).toEqual([[2, 3]]);
  a.close();
  b.close();
  await server.close();
});
