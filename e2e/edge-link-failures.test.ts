import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { type CloudFrame, CloudFrameSchema, type EdgeFrame, EdgeFrameSchema } from '@shoal/api';
import { FakeClock, seededRandom, silentLogger, superviseLoop } from '@shoal/core';
import { edgeAuthority } from '@shoal/global-manager';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CloudStore } from '../global-manager/src/edge-link/cloud-store.ts';
import { Feed } from '../global-manager/src/edge-link/feed.ts';
import { LinkHub } from '../global-manager/src/edge-link/hub.ts';
import { Records } from '../global-manager/src/edge-link/records.ts';
import type { Session } from '../global-manager/src/edge-link/session.ts';
import { EdgeLinkCore } from '../local-controller/src/link/edge-link-core.ts';
import { EdgeDatabase } from '../local-controller/src/store/database.ts';
import { edgeFrames } from './edge-link-frames.ts';

/** What went wrong in other systems (design, §7), one test each, on both ends as they run in production. */
let clock: FakeClock;
let store: CloudStore;
let feed: Feed;
let records: Records;
let hub: LinkHub;
let soon: (() => unknown)[];

beforeEach(() => {
  clock = new FakeClock(1_000_000);
  soon = [];
  openCloud(new CloudStore(':memory:'));
});
afterEach(() => store.close());

function openCloud(on: CloudStore): void {
  store = on;
  feed = new Feed(store);
  records = new Records(store);
  hub = new LinkHub({
    store,
    feed,
    records,
    clock,
    logger: silentLogger,
    soon: (body) => soon.push(body),
  });
}

/** One edge with its own disk; frames go both ways at once, as bytes. */
class Edge {
  readonly db: EdgeDatabase;
  readonly core: EdgeLinkCore;
  readonly node: string;
  session: Session | undefined;
  isOpen = false;
  readonly got: CloudFrame[] = [];
  readonly sent: EdgeFrame[] = [];

  constructor(node: string, options: { db?: EdgeDatabase; boot?: string } = {}) {
    this.node = node;
    this.db = options.db ?? new EdgeDatabase(':memory:');
    this.core = new EdgeLinkCore(this.db, options.boot ?? `boot of ${node}`);
  }

  connect(): void {
    this.isOpen = true;
    const session: Session = hub.open(
      { node: this.node },
      {
        // Never at once: a network is between.
        send: (frame) => soon.push(() => this.session === session && this.#receive(frame)),
        close: () =>
          soon.push(() => {
            if (this.session === session) this.isOpen = false;
          }),
      },
    );
    this.session = session;
    this.say(this.core.hello());
    settle();
  }

  say(frame: EdgeFrame): void {
    this.sent.push(frame);
    const copy = fromBinary(EdgeFrameSchema, toBinary(EdgeFrameSchema, frame));
    if (this.session) hub.receive(this.session, copy);
  }

  #receive(frame: CloudFrame): void {
    const copy = fromBinary(CloudFrameSchema, toBinary(CloudFrameSchema, frame));
    this.got.push(copy);
    const output = this.core.receive(copy);
    for (const reply of output.send) this.say(reply);
    if (output.close !== undefined) this.drop();
  }

  /** The connection is gone, and the cloud knows. */
  drop(): void {
    this.isOpen = false;
    if (this.session) hub.closed(this.session);
    settle();
  }

  report(key: string, body: object): void {
    this.db.outbox.putState(key, Buffer.from(JSON.stringify(body)));
    if (this.isOpen) for (const frame of this.core.pending()) this.say(frame);
    settle();
  }

  names(): string[] {
    return this.db
      .objects()
      .map((o) => o.name)
      .toSorted();
  }

  count(kind: CloudFrame['frame']['case']): number {
    return this.got.filter((f) => f.frame.case === kind).length;
  }
}

function settle(): void {
  for (let body = soon.shift(); body; body = soon.shift()) body();
}

function assign(name: string, nodes: readonly string[], body: object = { v: 1 }, uid = 'u'): void {
  const key = { kind: 'Dataset', namespace: 'n', name, uid };
  feed.assign(key, new Map(nodes.map((node) => [node, body])));
  settle();
}

test('F1 the first delivery to an offline node is not lost: it is in the feed before anything is sent', () => {
  assign('a', ['edge']);
  const edge = new Edge('edge');
  edge.connect();
  expect(edge.names()).toEqual(['a']);
});

test('F2 an error while queuing is no silent drop: the caller is told, and the next try lands', () => {
  store.run(
    "CREATE TRIGGER full BEFORE INSERT ON body BEGIN SELECT RAISE(ABORT, 'disk full'); END",
  );
  expect(() => assign('a', ['edge'])).toThrow(/disk full/);
  expect(feed.head('edge')).toBe(0);
  store.run('DROP TRIGGER full');
  assign('a', ['edge']);
  expect(feed.head('edge')).toBe(1);
});

test('F3 deleted and made again under the same name while the edge was away: the new one lives', () => {
  const edge = new Edge('edge');
  assign('a', ['edge'], { v: 1 }, 'old');
  edge.connect();
  edge.drop();
  assign('a', [], {}, 'old');
  assign('a', ['edge'], { v: 2 }, 'new');
  edge.connect();
  expect(edge.db.objects()).toMatchObject([{ uid: 'new', body: { v: 2 } }]);
});

test('F4 no acknowledgement when the local write fails; it comes again with the next session', () => {
  const sqlite = new DatabaseSync(':memory:');
  const edge = new Edge('edge', { db: new EdgeDatabase('', { open: () => sqlite }) });
  edge.connect();
  const acks = (): number => edge.sent.filter((f) => f.frame.case === 'ack').length;
  const before = acks();
  sqlite.exec(
    "CREATE TRIGGER full BEFORE INSERT ON objects BEGIN SELECT RAISE(ABORT, 'disk full'); END",
  );
  expect(() => assign('a', ['edge'])).toThrow(/disk full/); // out of the edge’s end, which closes
  edge.drop();
  expect(acks()).toBe(before);
  expect(edge.db.syncState().cursor).toBe(0);
  sqlite.exec('DROP TRIGGER full');
  edge.connect();
  expect(edge.names()).toEqual(['a']);
});

test('F5 a half-open link is noticed within 45 s', async () => {
  const edge = new Edge('edge');
  edge.connect();
  const seen: number[] = [];
  for (let s = 0; s < 45; s++) {
    await clock.advance(1_000);
    // What the cloud sends is lost, what the edge would say never comes.
    edge.session = undefined;
    hub.tick();
    seen.push(hub.connected);
  }
  // Pinged at 15 and 30 s, given up before 45.
  expect(seen.slice(0, 40)).not.toContain(0);
  expect(hub.connected).toBe(0);
});

test('F6 what was on its way up when the connection went comes with the next one, once', () => {
  const edge = new Edge('edge');
  edge.connect();
  edge.isOpen = false;
  edge.report('Job/n/a', { v: 1 }); // durable, not sent
  edge.drop();
  edge.connect();
  edge.drop();
  edge.connect();
  expect(records.record('edge', 'Job/n/a')).toEqual({ v: 1 });
  expect(edge.sent.filter((f) => f.frame.case === 'record')).toHaveLength(1);
});

test('F7 after ten hours offline one status per object is sent, and a quiet node is not kept waiting', () => {
  const noisy = new Edge('noisy');
  for (let i = 0; i < 5_000; i++)
    noisy.db.outbox.putState(`Job/n/k${i % 300}`, Buffer.from(`{"v":${i}}`));
  expect(noisy.db.outbox.summary().records).toBe(300);
  for (let i = 0; i < 2_000; i++)
    noisy.db.outbox.append('log/results', { key: 'Job/n/r', body: { i }, droppable: false });
  const quiet = new Edge('quiet');
  const order: string[] = [];
  records.onRecord((node) => order.push(node));
  for (const edge of [noisy, quiet]) {
    edge.isOpen = true;
    edge.session = hub.open(
      { node: edge.node },
      { send: (f) => void edge.got.push(f), close: () => undefined },
    );
    edge.say(edge.core.hello());
  }
  settle();
  for (const edge of [noisy, quiet])
    for (const frame of edge.got.splice(0))
      for (const f of edge.core.receive(frame).send) edge.say(f);
  quiet.db.outbox.putState('Job/n/mine', Buffer.from('{"v":1}'));
  for (const f of quiet.core.pending()) quiet.say(f);
  settle();
  // The noisy one has sent 256 records before the quiet one sent its own.
  expect(order.indexOf('quiet')).toBeGreaterThanOrEqual(0);
  expect(order.indexOf('quiet')).toBeLessThan(64);
});

test('F8 a reconnect that races with the old session wins: the old one has no effects any more', () => {
  const edge = new Edge('edge');
  edge.connect();
  const old = edge.session;
  edge.connect();
  expect(old?.isClosed).toBe(true);
  const late = create(EdgeFrameSchema, {
    frame: {
      case: 'record',
      value: { stream: 'state', seq: 1n, key: 'Job/n/a', body: Buffer.from('{"late":true}') },
    },
  });
  if (old) hub.receive(old, late);
  settle();
  expect(records.record('edge', 'Job/n/a')).toBeUndefined();
  expect(edge.isOpen).toBe(true);
});

test('F9 an object without kind does not crash the decoder: it is refused, and the rest is applied', () => {
  const edge = new Edge('edge');
  feed.assign({ kind: '', namespace: 'n', name: 'bad', uid: 'u' }, new Map([['edge', {}]]));
  assign('good', ['edge']);
  edge.connect();
  expect(edge.names()).toEqual(['good']);
  expect(edge.db.poison()).toMatchObject([{ error: 'a change without kind or name' }]);
  expect(hub.status()[0]).toMatchObject({ lag: 0, refusals: 1 });
});

test('F10 two replicas that start at once have one authority', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'ca-'));
  const made = await Promise.all(
    [1, 2, 3, 4].map(async () => await edgeAuthority(dir, Date.now())),
  );
  expect(new Set(made.map((a) => a.certificate)).size).toBe(1);
  rmSync(dir, { recursive: true });
});

test('F11 a store that somebody else reads or writes for a moment is no error', () => {
  const dir = mkdtempSync(join(tmpdir(), 'lock-'));
  const edge = new EdgeDatabase(join(dir, 'edge.db'));
  const reader = new DatabaseSync(join(dir, 'edge.db'));
  reader.exec('BEGIN; SELECT * FROM objects');
  edge.outbox.putState('Job/n/a', Buffer.from('{}'));
  reader.exec('COMMIT');
  const [{ timeout } = { timeout: 0 }] = reader.prepare('PRAGMA busy_timeout=5000').all() as {
    timeout: number;
  }[];
  expect(timeout).toBe(5_000);
  expect(edge.outbox.summary().records).toBe(1);
  reader.close();
  edge.close();
  rmSync(dir, { recursive: true });
});

test('F12 what is told to watchers is in the list by then, in the order of revisions', () => {
  const edge = new Edge('edge');
  for (const name of ['a', 'b', 'c']) assign(name, ['edge']);
  edge.connect();
  edge.drop();
  assign('b', []);
  assign('d', ['edge']);
  const told: string[] = [];
  const receive = edge.core.receive.bind(edge.core);
  edge.core.receive = (frame) => {
    const output = receive(frame);
    for (const { name } of output.changed)
      told.push(`${name} ${edge.names().includes(name) ? 'there' : 'gone'}`);
    return output;
  };
  edge.connect();
  expect(told).toEqual(['b gone', 'd there']);
});

test('F13 a body for a thousand nodes is stored once; a session holds none', () => {
  const nodes = Array.from({ length: 1_000 }, (_, i) => `n${i}`);
  assign('a', nodes, { pad: 'x'.repeat(10_000) });
  expect(store.get('SELECT COUNT(*) AS n FROM body')).toEqual({ n: 1 });
});

test('F14 contact lost: nothing of the edge is deleted, in the feed or at the edge', () => {
  const edge = new Edge('edge');
  assign('a', ['edge']);
  edge.connect();
  const head = feed.head('edge');
  edge.drop();
  hub.tick();
  expect(feed.head('edge')).toBe(head);
  expect(feed.scope('edge').map((o) => o.name)).toEqual(['a']);
  expect(edge.names()).toEqual(['a']);
});

test('F15 a reboot without a cloud: what was assigned is there at once', () => {
  const dir = mkdtempSync(join(tmpdir(), 'reboot-'));
  const path = join(dir, 'edge.db');
  const edge = new Edge('edge', { db: new EdgeDatabase(path) });
  assign('a', ['edge']);
  edge.connect();
  edge.db.close();
  const again = new EdgeDatabase(path);
  expect(again.objects().map((o) => o.name)).toEqual(['a']);
  again.outbox.putState('Job/n/a', Buffer.from('{}'));
  again.close();
  rmSync(dir, { recursive: true });
});

test('F16 one poison message does not block the node, and is told again in every session until it is mended', () => {
  const edge = new Edge('edge');
  assign('a', ['edge']);
  store.run('UPDATE body SET bytes=CAST(\'{"v":9}\' AS BLOB)');
  const damaged: string[] = [];
  feed.onDamage((key) => damaged.push(key.name));
  edge.connect();
  assign('b', ['edge'], { v: 2 });
  expect(edge.names()).toEqual(['b']);
  expect(damaged).toEqual(['a']);
  assign('a', ['edge']);
  expect(edge.names()).toEqual(['a', 'b']);
  expect(edge.db.poison()).toEqual([]);
});

test('F17 what is assigned to a node that is away for long is never dropped, however much it is', () => {
  const edge = new Edge('edge');
  for (let i = 0; i < 3_000; i++) assign(`o${i}`, ['edge'], { i });
  edge.connect();
  expect(edge.names()).toHaveLength(3_000);
  expect(edge.db.syncState().cursor).toBe(3_000);
});

test('F18 a reconnect storm: edges beyond what can wait are asked to come later, spread in time', () => {
  const edges = Array.from({ length: 4_200 }, (_, i) => {
    const got: CloudFrame[] = [];
    const session = hub.open(
      { node: `n${i}` },
      { send: (f) => void got.push(f), close: () => undefined },
    );
    const hello = {
      bootId: `b${i}`,
      storeId: '',
      edgeStoreId: `e${i}`,
      capabilities: ['reconcile'],
    };
    hub.receive(session, create(EdgeFrameSchema, { frame: { case: 'hello', value: hello } }));
    return got;
  });
  const away = edges.filter((got) => got[0]?.frame.case === 'goAway');
  expect(away).toHaveLength(4_200 - 4_096);
  expect(away[0]?.[0]?.frame.value).toMatchObject({ retryAfterMs: 5_000, spreadMs: 30_000 });
  settle();
  expect(hub.connected).toBe(4_096);
});

test('F19 a second device under the same name is refused while the first lives, and let in once it does not', async () => {
  const first = new Edge('edge');
  first.connect();
  const second = new Edge('edge', { boot: 'another' });
  second.connect();
  await clock.advance(6_000);
  hub.tick();
  settle();
  expect(first.isOpen).toBe(true);
  expect(second.isOpen).toBe(false);
  expect(second.count('welcome')).toBe(0);
  expect(hub.status()[0]?.lastError).toMatch(/another device or process/);
  first.session = undefined; // its machine is gone, and nobody has said so
  second.connect();
  await clock.advance(6_000);
  hub.tick();
  settle();
  expect(second.count('welcome')).toBe(1);
});

test('F20 a loop that fails goes on', async () => {
  const stop = new AbortController();
  let runs = 0;
  const body = (): Promise<void> => {
    runs++;
    if (runs === 4) stop.abort();
    return Promise.reject(new Error('token could not be refreshed'));
  };
  const ports = { clock, random: seededRandom(1), logger: silentLogger };
  const loop = superviseLoop('refresher', body, ports, {
    baseMs: 10,
    capMs: 100,
    signal: stop.signal,
  });
  for (let i = 0; i < 10; i++) await clock.advance(100);
  await loop;
  expect(runs).toBe(4);
});

test('whatever an edge sends, the hub stands: other nodes are served, and nothing of theirs changes', () => {
  const good = new Edge('good');
  assign('a', ['good', 'bad']);
  good.connect();
  good.report('Job/n/a', { v: 1 });
  let turns = 0;
  fc.assert(
    fc.property(fc.array(edgeFrames(), { maxLength: 12 }), (frames) => {
      const session = hub.open({ node: 'bad' }, { send: () => undefined, close: () => undefined });
      for (const frame of frames) hub.receive(session, frame);
      // In the same turn as what the good one says.
      good.report('Job/n/b', { turn: ++turns });
      settle();
      expect(records.record('good', 'Job/n/b')).toEqual({ turn: turns });
      hub.closed(session);
      expect(records.record('good', 'Job/n/a')).toEqual({ v: 1 });
      expect(good.isOpen).toBe(true);
    }),
    { numRuns: 400 },
  );
  assign('b', ['good']);
  expect(good.names()).toEqual(['a', 'b']);
});

test('whatever bytes come as a frame: they are one, or refused by the decoder, on both ends', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      for (const schema of [EdgeFrameSchema, CloudFrameSchema]) {
        const outcome = ((): unknown => {
          try {
            return fromBinary(schema, bytes);
          } catch (error) {
            return error;
          }
        })();
        expect(outcome).toBeTypeOf('object');
      }
    }),
    { numRuns: 3_000 },
  );
});
