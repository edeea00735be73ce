import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { CloudStore } from './cloud-store.ts';
import { Feed, type FeedKey } from './feed.ts';
import { Records } from './records.ts';

const key = (name: string, uid = 'u1'): FeedKey => ({ kind: 'Dataset', namespace: 'n', name, uid });
let store: CloudStore;
let feed: Feed;

beforeEach(() => {
  store = new CloudStore(':memory:');
  feed = new Feed(store);
});

const bodies = (nodes: Record<string, object>): Map<string, object> =>
  new Map(Object.entries(nodes));

test('a change is in the feed before anything is sent, also for a node that was never there', () => {
  feed.assign(key('a'), bodies({ edge: { v: 1 } }));
  expect(feed.page('edge', 0)).toMatchObject({
    from: 0,
    to: 1,
    items: [{ op: 'put', name: 'a', rev: 1 }],
  });
  expect(feed.page('edge', 1)).toBeUndefined();
});

test('what does not change is not written; pending changes of one object merge', () => {
  for (let v = 0; v < 20; v++) feed.assign(key('a'), bodies({ edge: { v: Math.floor(v / 2) } }));
  expect(feed.head('edge')).toBe(10);
  const page = feed.page('edge', 0);
  expect(page?.items).toHaveLength(1);
  expect(page?.to).toBe(10);
  expect(JSON.parse(Buffer.from(page?.items[0]?.body ?? []).toString())).toEqual({ v: 9 });
});

test('a node that is no longer named gets a delete with the uid it knew; a successor of the name is safe', () => {
  feed.assign(key('a', 'old'), bodies({ edge: { v: 1 }, other: { v: 1 } }));
  feed.assign(key('a', 'old'), bodies({ other: { v: 1 } }));
  expect(feed.page('edge', 1)).toMatchObject({ items: [{ op: 'delete', uid: 'old' }] });
  expect(feed.page('other', 1)).toBeUndefined();
  feed.assign(key('a', 'new'), bodies({ edge: { v: 1 } }));
  expect(feed.page('edge', 2)).toMatchObject({ items: [{ op: 'put', uid: 'new', rev: 3 }] });
});

test('pages are bounded; paging by their end reaches everything once', () => {
  for (let i = 0; i < 600; i++)
    feed.assign(key(`o${i}`), bodies({ edge: { i, text: 'x'.repeat(2_000) } }));
  const seen: string[] = [];
  let cursor = 0;
  for (let page = feed.page('edge', cursor); page; page = feed.page('edge', cursor)) {
    expect(page.items.length).toBeLessThanOrEqual(256);
    expect(page.items.reduce((n, i) => n + i.body.length, 0)).toBeLessThan(300_000);
    seen.push(...page.items.map((i) => i.name));
    cursor = page.to;
  }
  expect(new Set(seen).size).toBe(600);
  expect(seen).toHaveLength(600);
});

test('a state record takes effect once, whatever is repeated or comes late', () => {
  const records = new Records(store);
  const take = (seq: number, v: number, node = 'edge'): string =>
    records.take(node, 'disk', {
      stream: 'state',
      seq,
      key: 'Job/ns/a/part',
      body: Buffer.from(JSON.stringify({ v })),
    });
  expect([take(1, 1), take(3, 3), take(2, 2), take(3, 99)]).toEqual([
    'taken',
    'taken',
    'known',
    'known',
  ]);
  expect(records.record('edge', 'Job/ns/a/part')).toEqual({ v: 3 });
  expect(take(1, 7, 'other')).toBe('taken');
  const work = { kind: 'Job', namespace: 'ns', name: 'a', uid: 'u' };
  const said = (): unknown[] => records.said(work, 'part').map((r) => r.body);
  expect(said()).toEqual([]);
  records.admit(work, ['edge']);
  expect(said()).toEqual([{ v: 3 }]);
  records.admit(work, ['edge', 'other']);
  expect(said()).toEqual([{ v: 3 }, { v: 7 }]);
  expect(records.said(work)).toHaveLength(2);
  expect(records.said({ ...work, name: 'a/part' })).toEqual([]);
  expect(records.positions('edge', 'disk')).toEqual([{ stream: 'state', seq: 3 }]);
});

test('what is said of a job counts of nodes that work for it, by a pod or because they were told', () => {
  const records = new Records(store);
  const [first, second] = ['a', 'b'].map((name) => ({
    kind: 'Job',
    namespace: 'ns',
    name,
    uid: 'u',
  }));
  if (!first || !second) throw new Error('two');
  new Feed(store).assign(first, new Map([['edge', {}]]));
  expect([records.worksFor('edge', first), records.worksFor('edge', second)]).toEqual([
    true,
    false,
  ]);
  records.admit(second, ['edge']);
  expect(records.worksFor('edge', second)).toBe(true);
  expect(records.worksFor('other', second)).toBe(false);
  // Another job of that name: those of the one before do not count.
  const next = { ...second, uid: 'v' };
  expect([records.isSuccessor(second), records.isSuccessor(next)]).toEqual([false, true]);
  records.admit(next, ['third']);
  expect([records.worksFor('edge', next), records.worksFor('third', next)]).toEqual([false, true]);
  expect(records.works()).toEqual([{ kind: 'Job', namespace: 'ns', name: 'b' }]);
  records.forget(next);
  expect(records.worksFor('third', next)).toBe(false);
});

test('a node that makes up keys without end keeps what is said of its work', () => {
  const records = new Records(store);
  const work = { kind: 'Job', namespace: 'ns', name: 'real', uid: 'u' };
  records.admit(work, ['edge']);
  const take = (seq: number, key: string): unknown =>
    records.take('edge', 'disk', { stream: 'state', seq, key, body: Buffer.from('{}') });
  store.transaction(() => {
    take(1, 'Job/ns/real/part');
    for (let seq = 2; seq <= 12_000; seq++) take(seq, `Job/ns/made-up-${seq}/part`);
  });
  expect(records.said(work)).toHaveLength(1);
  const kept = store.get("SELECT count(*) AS n FROM record WHERE node='edge'");
  expect(Number(kept?.['n'])).toBeLessThanOrEqual(10_000);
});

test('log entries take effect in order; what the edge no longer holds is passed over, known keys once', () => {
  const records = new Records(store);
  const take = (seq: number, first: number, idempotencyKey: string): string =>
    records.take('edge', 'disk', {
      stream: 'log/events',
      seq,
      first,
      idempotencyKey,
      key: 'k',
      body: Buffer.from('{}'),
    });
  expect([take(1, 1, 'a'), take(3, 2, 'c'), take(2, 2, 'b'), take(2, 2, 'b')]).toEqual([
    'taken',
    'gap',
    'taken',
    'known',
  ]);
  expect(take(9, 9, 'i')).toBe('taken');
  expect(take(10, 10, 'a')).toBe('taken');
  const entries = records.logEntries(10);
  expect(entries.map((e) => e.idempotencyKey)).toEqual(['a', 'b', 'i']);
  for (const entry of entries) records.logDone(entry);
  take(11, 11, 'b');
  expect(records.logEntries(10)).toEqual([]);
});

test('a node may read only blobs that something addressed to it names', () => {
  const digest = `sha256:${'a'.repeat(64)}`;
  feed.assign(key('a'), bodies({ edge: { accepted: digest } }));
  expect(feed.mentions('edge', digest)).toBe(true);
  expect(feed.mentions('other', digest)).toBe(false);
  feed.assign(key('a'), bodies({}));
  expect(feed.mentions('edge', digest)).toBe(false);
});

test('epochs only rise', () => {
  expect([feed.raiseEpoch('a'), feed.raiseEpoch('a'), feed.raiseEpoch('b')]).toEqual([1, 2, 1]);
});

test('an epoch goes beyond what the edge has seen: the cloud may have been restored', () => {
  expect(feed.raiseEpoch('a', 40)).toBe(41);
  expect(feed.raiseEpoch('a', 3)).toBe(42);
});

test('compaction forgets old deletes and says so', () => {
  for (let i = 0; i < 10; i++) feed.assign(key(`o${i}`), bodies({ edge: { i } }));
  for (let i = 0; i < 8; i++) feed.assign(key(`o${i}`), bodies({}));
  feed.compact('edge', 3);
  expect(feed.compacted('edge')).toBe(15);
  expect(feed.page('edge', 15)?.items.map((i) => i.name)).toEqual(['o5', 'o6', 'o7']);
  expect(feed.scope('edge').map((o) => o.name)).toEqual(['o8', 'o9']);
});

test('a body that rots in the store is found when an edge refuses it, and asked for again', () => {
  const damaged: string[] = [];
  feed.onDamage((k) => damaged.push(k.name));
  feed.assign(key('a'), bodies({ edge: { v: 1 }, other: { v: 1 } }));
  store.run('UPDATE body SET bytes=CAST(\'{"v":7}\' AS BLOB)');
  feed.refused('edge', [{ rev: 1, error: 'the body does not have its digest' }]);
  expect(damaged).toEqual(['a']);
  feed.assign(key('a'), bodies({ edge: { v: 1 }, other: { v: 1 } }));
  expect([feed.head('edge'), feed.head('other')]).toEqual([2, 2]);
  expect(Buffer.from(feed.page('other', 1)?.items[0]?.body ?? []).toString()).toBe('{"v":1}');
  expect(feed.refusals('edge')).toEqual([]);
});

test('a manager whose term is over cannot write any more', () => {
  const path = join(mkdtempSync(join(tmpdir(), 'feed-')), 'feed.db');
  const older = new CloudStore(path);
  const newer = new CloudStore(path);
  expect(() => new Feed(older).assign(key('a'), bodies({ edge: {} }))).toThrow(
    /another global manager has taken over/,
  );
  new Feed(newer).assign(key('a'), bodies({ edge: {} }));
  expect(new Feed(newer).head('edge')).toBe(1);
  older.close();
  newer.close();
});
