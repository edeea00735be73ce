import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import type { ApiObject } from '../object.ts';
import { type ChangeEvent, type Key, RevisionedStore } from './revisioned-store.ts';

const folders: string[] = [];
afterEach(() => folders.splice(0).forEach((f) => rmSync(f, { recursive: true })));

function fresh(): string {
  const folder = mkdtempSync(join(tmpdir(), 'shoal-store-'));
  folders.push(folder);
  return join(folder, 'store.db');
}

const key = (name: string): Key => ({ resource: '/things', namespace: 'n', name });
const object = (name: string, value: number): ApiObject => ({
  apiVersion: 'v1',
  kind: 'Thing',
  metadata: { name, namespace: 'n' },
  value,
});

test('revisions rise by one, what is acknowledged is there after reopening, and they do not go back', async () => {
  const path = fresh();
  const store = new RevisionedStore(path);
  const start = store.revision;
  await store.write((tx) => tx.put(key('a'), object('a', 1)));
  await store.write((tx) => tx.put(key('b'), object('b', 2)));
  await store.write((tx) => tx.delete(key('a')));
  expect(store.revision).toBe(start + 3);
  store.close();
  const again = new RevisionedStore(path);
  expect(again.revision).toBe(start + 3);
  expect(again.list('/things')).toMatchObject([
    { metadata: { name: 'b', resourceVersion: String(start + 2) }, value: 2 },
  ]);
  expect(again.watch(start, () => undefined)).toBeUndefined();
  again.close();
});

test('an op that throws changes nothing, ops beside it are kept', async () => {
  const store = new RevisionedStore(fresh());
  const results = await Promise.allSettled([
    store.write((tx) => tx.put(key('a'), object('a', 1))),
    store.write((tx) => {
      tx.put(key('a'), object('a', 99));
      tx.put(key('c'), object('c', 99));
      throw new Error('no');
    }),
    store.write((tx) => tx.put(key('b'), object('b', 2))),
  ]);
  expect(results.map((r) => r.status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect(store.list('/things').map((o) => o['value'])).toEqual([1, 2]);
  store.close();
});

test('a compacted or future revision must be listed again', async () => {
  const store = new RevisionedStore(fresh());
  const from = store.revision;
  for (let i = 0; i < 5; i++) await store.write((tx) => tx.put(key('a'), object('a', i)));
  expect(store.watch(from, () => undefined)).toBeTypeOf('function');
  store.compact(from + 3);
  expect(store.watch(from, () => undefined)).toBeUndefined();
  expect(store.watch(store.revision + 1, () => undefined)).toBeUndefined();
  store.close();
});

test('every watcher, begun anywhere, ends with the store’s state and sees each change once, in order', async () => {
  const command = fc.record({
    name: fc.constantFrom('a', 'b', 'c', 'd'),
    value: fc.nat(100),
    gone: fc.boolean(),
    watch: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(command, { maxLength: 6 }), { maxLength: 12 }),
      async (batches) => {
        const store = new RevisionedStore(':memory:');
        const watchers: { state: Map<string, unknown>; seen: number[] }[] = [];
        for (const batch of batches) {
          const writes = batch.map((c) =>
            store.write((tx) =>
              c.gone ? tx.delete(key(c.name)) : tx.put(key(c.name), object(c.name, c.value)),
            ),
          );
          await Promise.all(writes);
          if (!batch.some((c) => c.watch)) continue;
          const watcher = {
            state: new Map(store.list('/things').map((o) => [o.metadata.name, o['value']])),
            seen: [] as number[],
          };
          watchers.push(watcher);
          store.watch(store.revision, (event: ChangeEvent) => {
            watcher.seen.push(event.revision);
            if (event.type === 'DELETED') watcher.state.delete(event.object.metadata.name);
            else watcher.state.set(event.object.metadata.name, event.object['value']);
          });
        }
        const truth = new Map(store.list('/things').map((o) => [o.metadata.name, o['value']]));
        for (const { state, seen } of watchers) {
          expect(Object.fromEntries(state)).toEqual(Object.fromEntries(truth));
          expect(seen).toEqual([...new Set(seen)].toSorted((a, b) => a - b));
        }
        store.close();
      },
    ),
    { numRuns: 60 },
  );
});
