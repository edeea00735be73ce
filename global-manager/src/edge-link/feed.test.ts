import { expect, test } from 'vitest';
import { Feed, type FeedKey } from './feed.ts';

const key = (name: string, uid = 'u1'): FeedKey => ({ kind: 'Dataset', namespace: 'n', name, uid });
const bodies = (nodes: Record<string, object>): Map<string, object> =>
  new Map(Object.entries(nodes));

test('a change is in the feed before anything is sent, also for a node that was never there', () => {
  const feed = new Feed(':memory:');
  feed.assign(key('a'), bodies({ edge: { v: 1 } }));
  expect(feed.page('edge', 0)).toMatchObject({
    from: 0,
    to: 1,
    items: [{ op: 'put', name: 'a', rev: 1 }],
  });
  expect(feed.page('edge', 1)).toBeUndefined();
  feed.close();
});

test('what does not change is not written; pending changes of one object merge', () => {
  const feed = new Feed(':memory:');
  for (let v = 0; v < 20; v++) feed.assign(key('a'), bodies({ edge: { v: Math.floor(v / 2) } }));
  expect(feed.head('edge')).toBe(10);
  const page = feed.page('edge', 0);
  expect(page?.items).toHaveLength(1);
  expect(page?.to).toBe(10);
  expect(JSON.parse(Buffer.from(page?.items[0]?.body ?? []).toString())).toEqual({ v: 9 });
  feed.close();
});

test('a node that is no longer named gets a delete with the uid it knew; a successor of the name is safe', () => {
  const feed = new Feed(':memory:');
  feed.assign(key('a', 'old'), bodies({ edge: { v: 1 }, other: { v: 1 } }));
  feed.assign(key('a', 'old'), bodies({ other: { v: 1 } }));
  expect(feed.page('edge', 1)).toMatchObject({ items: [{ op: 'delete', uid: 'old' }] });
  expect(feed.page('other', 1)).toBeUndefined();
  feed.assign(key('a', 'new'), bodies({ edge: { v: 1 } }));
  expect(feed.page('edge', 2)).toMatchObject({ items: [{ op: 'put', uid: 'new', rev: 3 }] });
  feed.close();
});

test('pages are bounded; paging by their end reaches everything once', () => {
  const feed = new Feed(':memory:');
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
  feed.close();
});

test('a record takes effect once, whatever is repeated or comes late', () => {
  const feed = new Feed(':memory:');
  const told: string[] = [];
  feed.onRecord((node, k) => told.push(`${node} ${k}`));
  const record = (seq: number, v: number): number =>
    feed.take('edge', { stream: 'state', seq, key: 'k', body: Buffer.from(JSON.stringify({ v })) });
  expect(record(1, 1)).toBe(1);
  expect(record(3, 3)).toBe(3);
  expect(record(2, 2)).toBe(3);
  expect(record(3, 99)).toBe(3);
  expect(feed.record('edge', 'k')).toEqual({ v: 3 });
  expect(told).toHaveLength(2);
  expect(
    feed.take('other', { stream: 'state', seq: 1, key: 'k', body: Buffer.from('{"v":7}') }),
  ).toBe(1);
  expect(feed.records('k').map((r) => r.body)).toEqual([{ v: 3 }, { v: 7 }]);
  feed.close();
});

test('a node may read only blobs that something addressed to it names', () => {
  const feed = new Feed(':memory:');
  const digest = `sha256:${'a'.repeat(64)}`;
  feed.assign(key('a'), bodies({ edge: { accepted: digest } }));
  expect(feed.mentions('edge', digest)).toBe(true);
  expect(feed.mentions('other', digest)).toBe(false);
  feed.assign(key('a'), bodies({}));
  expect(feed.mentions('edge', digest)).toBe(false);
  feed.close();
});

test('epochs only rise', () => {
  const feed = new Feed(':memory:');
  expect([feed.raiseEpoch('a'), feed.raiseEpoch('a'), feed.raiseEpoch('b')]).toEqual([1, 2, 1]);
  feed.close();
});
