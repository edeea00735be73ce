import { makeInformer } from '@kubernetes/client-node';
import type { ApiClient, ApiObject } from '@shoal/cluster';
import { isShoalError, seededRandom } from '@shoal/core';
import { afterEach, expect, test } from 'vitest';
import { ApiServerProcess } from './api-server-process.ts';

const PATH = '/api/v1/namespaces/default/configmaps';
let server: ApiServerProcess;
afterEach(async () => await server.close());

const configMap = (name: string, value = 0): unknown => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name, labels: { test: 'yes' } },
  data: { value: String(value) },
});

async function list(client: ApiClient): Promise<{ items: ApiObject[]; revision: number }> {
  const body = (await client.request('GET', `${PATH}?labelSelector=test%3Dyes`)) as {
    items: ApiObject[];
    metadata: { resourceVersion: string };
  };
  return { items: body.items, revision: Number(body.metadata.resourceVersion) };
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + 30_000;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await sleep(20);
  }
}

test('kill -9 during 10,000 writes: what was acknowledged is there, revisions never go back', async () => {
  server = await ApiServerProcess.start();
  const client = server.client();
  const acknowledged = new Map<string, number>();
  const random = seededRandom(1);
  let next = 0;
  const put = async (name: string): Promise<boolean> => {
    try {
      const made = (await client.request('POST', PATH, configMap(name))) as ApiObject;
      acknowledged.set(name, Number(made.metadata.resourceVersion));
      return true;
    } catch (error) {
      // Stored, but the server died before it could say so.
      if (isShoalError(error) && error.code === 'already_exists') return true;
      await sleep(20);
      return false;
    }
  };
  const writer = async (): Promise<void> => {
    while (next < 10_000) {
      const name = `c-${next++}`;
      while (!(await put(name))) continue;
    }
  };
  const writers = Promise.all(Array.from({ length: 32 }, writer));
  for (const share of [0.25, 0.5, 0.75]) {
    await until('some writes', () => next > 10_000 * share + random.next() * 500);
    await server.kill();
    const highest = Math.max(...acknowledged.values());
    await server.run();
    expect((await list(client)).revision).toBeGreaterThanOrEqual(highest);
  }
  await writers;
  const { items, revision } = await list(client);
  const stored = new Map(items.map((o) => [o.metadata.name, Number(o.metadata.resourceVersion)]));
  expect(stored.size).toBe(10_000);
  expect(acknowledged.size).toBeGreaterThan(9_800);
  for (const [name, at] of acknowledged) expect(stored.get(name)).toBe(at);
  expect(new Set(stored.values()).size).toBe(stored.size);
  expect(revision).toBeGreaterThanOrEqual(Math.max(...acknowledged.values()));
  client.close();
});

/** Follows a collection as client libraries do: list, watch from there, list again when told. */
class Watcher {
  readonly state = new Map<string, string>();
  readonly revisions: number[] = [];
  #revision: number | undefined;
  readonly #client: ApiClient;
  readonly #stop = new AbortController();
  #connection = new AbortController();

  constructor(client: ApiClient) {
    this.#client = client;
  }

  async run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        if (this.#revision === undefined) await this.#list();
        this.#connection = new AbortController();
        const query = `watch=true&labelSelector=test%3Dyes&resourceVersion=${this.#revision}`;
        const signal = AbortSignal.any([this.#connection.signal, this.#stop.signal]);
        await this.#client.watch(`${PATH}?${query}`, (e) => this.#take(e), signal);
      } catch (error) {
        if (isShoalError(error) && error.code === 'out_of_range') this.#revision = undefined;
        else await sleep(10);
      }
    }
  }

  async #list(): Promise<void> {
    const { items, revision } = await list(this.#client);
    this.state.clear();
    for (const o of items) this.state.set(o.metadata.name, o.metadata.resourceVersion ?? '');
    this.#revision = revision;
  }

  #take({ type, object }: { type: string; object: ApiObject }): void {
    const { name, resourceVersion = '' } = object.metadata;
    this.revisions.push(Number(resourceVersion));
    this.#revision = Number(resourceVersion);
    if (type === 'DELETED') this.state.delete(name);
    else this.state.set(name, resourceVersion);
  }

  disconnect(): void {
    this.#connection.abort();
  }

  stop(): void {
    this.#stop.abort();
  }
}

test('watchers that disconnect, fall behind compaction and outlive the server end with its state, in order', async () => {
  server = await ApiServerProcess.start(200);
  const client = server.client();
  const random = seededRandom(7);
  const watchers = Array.from({ length: 6 }, () => new Watcher(client));
  const running = watchers.map(async (w) => await w.run());
  const writer = async (id: number): Promise<void> => {
    for (let i = 0; i < 250; i++) {
      const name = `w-${Math.floor(random.next() * 12)}`;
      const path = `${PATH}/${name}`;
      const merge = { contentType: 'application/merge-patch+json' };
      const draw = random.next();
      const write =
        draw < 0.2
          ? client.request('DELETE', path)
          : draw < 0.6
            ? client.request('POST', PATH, configMap(name, i))
            : client.request('PATCH', path, { data: { value: `${id}-${i}` } }, merge);
      await write.catch(async () => await sleep(1));
    }
  };
  const unrest = async (): Promise<void> => {
    for (let i = 0; i < 25; i++) {
      await sleep(random.next() * 60);
      watchers[i % watchers.length]?.disconnect();
      if (i !== 12) continue;
      await server.kill();
      await server.run();
    }
  };
  await Promise.all([unrest(), ...[0, 1, 2, 3].map(writer)]);
  const { items } = await list(client);
  const truth = items.map((o) => [o.metadata.name, o.metadata.resourceVersion]);
  for (const watcher of watchers) {
    await until('the watchers to catch up', () =>
      truth.length === watcher.state.size
        ? truth.every(([name = '', at]) => watcher.state.get(name) === at)
        : false,
    );
    expect(watcher.revisions).toEqual([...new Set(watcher.revisions)].toSorted((a, b) => a - b));
  }
  for (const watcher of watchers) watcher.stop();
  await Promise.all(running);
  // Whoever comes with a revision from before the history, or before the restart, must list again.
  const old = client.watch(`${PATH}?watch=true&resourceVersion=2`, () => undefined);
  await expect(old).rejects.toMatchObject({ code: 'out_of_range' });
  client.close();
});

test('an informer of @kubernetes/client-node knows 10,000 objects, and again after kill -9', async () => {
  server = await ApiServerProcess.start();
  const client = server.client();
  for (let start = 0; start < 10_000; start += 100) {
    const batch = Array.from({ length: 100 }, (_, i) => configMap(`o-${start + i}`));
    await Promise.all(batch.map(async (o) => await client.request('POST', PATH, o)));
  }
  const informer = makeInformer(server.kubeConfig(), PATH, async () => {
    const body = await client.request('GET', PATH);
    return body as never;
  });
  let closing = false;
  let errors = 0;
  informer.on('error', () => {
    errors++;
    // It stops for good on an error: this is how its users start it again.
    if (!closing) setTimeout(() => void informer.start(), 100);
  });
  await informer.start();
  await until('the informer', () => informer.list().length >= 10_000);
  await server.kill();
  await server.run();
  await client.request('DELETE', `${PATH}/o-7`);
  await client.request('POST', PATH, configMap('late'));
  await until(
    'the informer to follow',
    () =>
      informer.get('late', 'default') !== undefined && informer.get('o-7', 'default') === undefined,
  );
  expect(errors).toBeGreaterThan(0);
  closing = true;
  await informer.stop();
  client.close();
});

test('pages of a list are of one revision, whatever is written meanwhile; a lost one says so', async () => {
  server = await ApiServerProcess.start();
  const client = server.client();
  for (let i = 0; i < 25; i++) await client.request('POST', PATH, configMap(`p-${10 + i}`));
  type Answer = { items: ApiObject[]; metadata: { continue?: string; resourceVersion: string } };
  const page = async (query: string): Promise<Answer> =>
    (await client.request('GET', `${PATH}?labelSelector=test%3Dyes&limit=10${query}`)) as Answer;
  const first = await page('');
  await client.request('DELETE', `${PATH}/p-25`);
  await client.request('POST', PATH, configMap('p-99'));
  const second = await page(`&continue=${first.metadata.continue}`);
  const third = await page(`&continue=${second.metadata.continue}`);
  const names = [first, second, third].flatMap((p) => p.items.map((o) => o.metadata.name));
  expect(names).toEqual(Array.from({ length: 25 }, (_, i) => `p-${10 + i}`));
  expect(third.metadata).toEqual({ resourceVersion: first.metadata.resourceVersion });
  await server.kill();
  await server.run();
  await expect(page(`&continue=${first.metadata.continue}`)).rejects.toThrow('start a new list');
  client.close();
});
