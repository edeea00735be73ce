import { DatabaseSync } from 'node:sqlite';
import { create } from '@bufbuild/protobuf';
import { type CloudFrame, CloudFrameSchema } from '@shoal/api';
import { digestOf } from '@shoal/core';
import { beforeEach, expect, test } from 'vitest';
import { EdgeDatabase } from '../store/database.ts';
import { type CoreOutput, EdgeLinkCore } from './edge-link-core.ts';

let db: EdgeDatabase;
let core: EdgeLinkCore;

beforeEach(() => {
  db = new EdgeDatabase(':memory:');
  core = new EdgeLinkCore(db, 'boot');
});

type Item = {
  rev: number;
  op?: string;
  name?: string;
  uid?: string;
  body?: string;
  digest?: string;
  kind?: string;
};

function welcome(storeId = 's', epoch = 1): CoreOutput {
  return core.receive(
    create(CloudFrameSchema, {
      frame: { case: 'welcome', value: { epoch: BigInt(epoch), storeId } },
    }),
  );
}

function batch(
  from: number,
  to: number,
  items: readonly Item[],
  over: { snapshot?: boolean; epoch?: number; storeId?: string } = {},
): CoreOutput {
  const changes = items.map(
    ({ rev, op = 'put', name = 'a', uid = 'u', body = '{"v":1}', kind = 'Dataset', digest }) => {
      const bytes = op === 'put' ? Buffer.from(body) : Buffer.alloc(0);
      return {
        rev: BigInt(rev),
        op,
        kind,
        namespace: 'n',
        name,
        uid,
        digest: digest ?? (op === 'put' ? digestOf(bytes) : ''),
        body: bytes,
      };
    },
  );
  const frame: CloudFrame = create(CloudFrameSchema, {
    frame: {
      case: 'batch',
      value: {
        storeId: over.storeId ?? 's',
        epoch: BigInt(over.epoch ?? 1),
        from: BigInt(from),
        to: BigInt(to),
        snapshot: over.snapshot ?? false,
        items: changes,
      },
    },
  });
  return core.receive(frame);
}

const acked = (output: CoreOutput): unknown[] =>
  output.send.map((f) => (f.frame.case === 'ack' ? Number(f.frame.value.cursor) : f.frame.case));
const names = (): string[] =>
  db
    .objects()
    .map((o) => o.name)
    .toSorted();

test('a first snapshot, then deltas; the cursor is what the next hello says', () => {
  welcome();
  expect(
    acked(
      batch(
        0,
        4,
        [
          { rev: 3, name: 'a' },
          { rev: 4, name: 'b' },
        ],
        { snapshot: true },
      ),
    ),
  ).toEqual([4]);
  const output = batch(4, 6, [
    { rev: 5, name: 'c' },
    { rev: 6, name: 'a', op: 'delete' },
  ]);
  expect(output.changed.map((c) => c.name)).toEqual(['c', 'a']);
  expect(names()).toEqual(['b', 'c']);
  expect(core.hello().frame.value).toMatchObject({ storeId: 's', cursor: 6n, bootId: 'boot' });
});

test('a duplicate is acknowledged again and changes nothing; after a gap the cloud is asked to go on from the cursor, once', () => {
  welcome();
  batch(0, 2, [{ rev: 2, name: 'a', body: '{"v":2}' }], { snapshot: true });
  const again = batch(0, 2, [{ rev: 2, name: 'a', body: '{"v":9}' }]);
  expect(acked(again)).toEqual([2]);
  expect(db.objects()[0]?.body).toEqual({ v: 2 });
  expect(batch(5, 6, [{ rev: 6, name: 'x' }]).send[0]?.frame).toMatchObject({
    case: 'resync',
    value: { cursor: 2n },
  });
  expect(batch(6, 7, [{ rev: 7, name: 'y' }]).send).toEqual([]);
  expect(acked(batch(2, 6, [{ rev: 6, name: 'a', body: '{"v":6}' }]))).toEqual([6]);
  expect(names()).toEqual(['a']);
});

test('a batch of an older session or of another store is refused', () => {
  welcome('s', 7);
  expect(batch(0, 1, [{ rev: 1 }], { snapshot: true, epoch: 6 }).close).toMatch(/another session/);
  expect(batch(0, 1, [{ rev: 1 }], { snapshot: true, epoch: 7, storeId: 't' }).close).toMatch(
    /another session/,
  );
  expect(names()).toEqual([]);
});

test('a stale delete does not kill a successor of the same name (F3), an old put does not undo a delete (P2)', () => {
  welcome();
  batch(0, 5, [{ rev: 5, uid: 'new' }], { snapshot: true });
  batch(5, 6, [{ rev: 4, op: 'delete', uid: 'old' }]);
  expect(names()).toEqual(['a']);
  batch(6, 7, [{ rev: 7, op: 'delete', uid: 'new' }]);
  expect(names()).toEqual([]);
  batch(7, 8, [{ rev: 4, uid: 'new' }]);
  expect(names()).toEqual([]);
});

test('a delete reaches an edge that slept through several objects of the same name', () => {
  welcome();
  batch(0, 4, [{ rev: 4, uid: 'first' }], { snapshot: true });
  batch(4, 20, [{ rev: 20, op: 'delete', uid: 'third' }]);
  expect(names()).toEqual([]);
});

test('one poison message does not block the node (F9, F16): the cursor moves, the rest is applied', () => {
  welcome();
  const output = batch(
    0,
    5,
    [
      { rev: 1, name: 'bad', body: 'not json' },
      { rev: 2, name: 'forged', digest: digestOf('else') },
      { rev: 3, kind: '', name: 'x' },
      { rev: 4, op: 'explode' },
      { rev: 5, name: 'good' },
    ],
    { snapshot: true },
  );
  expect(names()).toEqual(['good']);
  const [ack] = output.send;
  expect(ack?.frame.case === 'ack' && ack.frame.value.nacks.map((n) => n.error)).toEqual([
    'the body is not JSON',
    'the body does not have its digest',
    'a change without kind or name',
    'unknown operation "explode"',
  ]);
  expect(db.syncState().cursor).toBe(5);
});

test('a snapshot from a new store removes what it does not name and forgets old revisions', () => {
  welcome();
  batch(
    0,
    9,
    [
      { rev: 8, name: 'a' },
      { rev: 9, name: 'b' },
    ],
    { snapshot: true },
  );
  welcome('t', 2);
  batch(0, 1, [{ rev: 1, name: 'a', body: '{"v":2}' }], { snapshot: true, epoch: 2, storeId: 't' });
  expect(db.objects()).toMatchObject([{ name: 'a', body: { v: 2 } }]);
});

const recordsOf = (frames: CoreOutput['send']): [string, string, number][] =>
  frames.flatMap((f) =>
    f.frame.case === 'record'
      ? [[f.frame.value.key, Buffer.from(f.frame.value.body).toString(), Number(f.frame.value.seq)]]
      : [],
  );
const acknowledge = (seq: number, stream = 'state'): CoreOutput =>
  core.receive(
    create(CloudFrameSchema, {
      frame: { case: 'recordAck', value: { stream, seq: BigInt(seq) } },
    }),
  );

test('records coalesce by key, are sent once a session until acknowledged, and nothing is said twice', () => {
  const put = (key: string, v: number): boolean => db.outbox.putState(key, Buffer.from(String(v)));
  expect(core.pending()).toEqual([]);
  for (let v = 0; v < 1_000; v++) put('state', v % 100);
  put('other', 1);
  const sent = recordsOf(welcome().send);
  expect(sent.map(([key, body]) => [key, body])).toEqual([
    ['state', '99'],
    ['other', '1'],
  ]);
  expect(core.pending()).toEqual([]);
  expect(recordsOf(welcome('s', 2).send)).toEqual(sent);
  acknowledge(sent.at(-1)?.[2] ?? 0);
  expect(recordsOf(welcome('s', 3).send)).toEqual([]);
  expect(put('other', 1)).toBe(false);
});

test('at most a window of records is on its way; acknowledgements let more go', () => {
  for (let i = 0; i < 600; i++) db.outbox.putState(`k${i}`, Buffer.from('{}'));
  expect(recordsOf(welcome().send)).toHaveLength(256);
  expect(recordsOf(acknowledge(100).send)).toHaveLength(100);
  expect(recordsOf(acknowledge(356).send).at(-1)?.[0]).toBe('k599');
});

test('a cloud that lost its store is told everything again', () => {
  welcome('s', 1);
  batch(0, 0, [], { snapshot: true });
  db.outbox.putState('k', Buffer.from('1'));
  const [[, , seq] = ['', '', 0]] = recordsOf(core.pending());
  acknowledge(seq);
  expect(recordsOf(welcome('fresh', 2).send).map(([, body]) => body)).toEqual(['1']);
});

test('an edge whose disk was restored from an older copy numbers on after what the cloud has', () => {
  db.outbox.putState('k', Buffer.from('1'));
  db.outbox.append('log/events', { key: 'e', body: {}, droppable: true });
  const output = core.receive(
    create(CloudFrameSchema, {
      frame: {
        case: 'welcome',
        value: {
          epoch: 1n,
          storeId: 's',
          capabilities: ['log'],
          positions: [
            { stream: 'state', seq: 40n },
            { stream: 'log/events', seq: 7n },
          ],
        },
      },
    }),
  );
  expect(recordsOf(output.send)).toEqual([
    ['k', '1', 41],
    ['e', '{}', 8],
  ]);
});

test('an epoch of the past is refused: an older manager answers', () => {
  const greet = (epoch: number): CoreOutput =>
    core.receive(
      create(CloudFrameSchema, {
        frame: {
          case: 'welcome',
          value: { epoch: BigInt(epoch), storeId: 's', capabilities: ['log'] },
        },
      }),
    );
  expect(greet(5).close).toBeUndefined();
  core.hello();
  expect(greet(5).close).toMatch(/of the past/);
});

test('events beyond the quota go, oldest first, and are counted; results make the caller wait', () => {
  const small = new EdgeDatabase(':memory:', {
    outbox: { droppableBytes: 100, controlBytes: 100 },
  });
  const append = (stream: string, i: number, droppable: boolean): void =>
    small.outbox.append(stream, { key: `k${i}`, body: { text: 'x'.repeat(20) }, droppable });
  for (let i = 0; i < 10; i++) append('log/events', i, true);
  expect(small.outbox.summary()).toMatchObject({ records: 3, dropped: 7 });
  expect(small.outbox.logStreams()).toEqual([{ stream: 'log/events', first: 8 }]);
  for (let i = 0; i < 3; i++) append('log/results', i, false);
  expect(() => append('log/results', 3, false)).toThrow(/results wait to be sent/);
  small.outbox.acknowledge('log/results', 1);
  append('log/results', 3, false);
  expect(small.outbox.summary()).toMatchObject({ records: 6, dropped: 7 });
});

test('bits that flip on the disk: objects are asked for again, records are healed from their copy', () => {
  const sqlite = new DatabaseSync(':memory:');
  const disk = new EdgeDatabase('', { open: () => sqlite });
  const edge = new EdgeLinkCore(disk, 'boot');
  disk.putObject({
    kind: 'Dataset',
    namespace: 'n',
    name: 'a',
    uid: 'u',
    rev: 1,
    op: 'put',
    digest: digestOf('{"v":1}'),
    body: Buffer.from('{"v":1}'),
  });
  disk.setCursor('s', 1);
  disk.outbox.putState('k', Buffer.from('{"v":1}'));
  sqlite.exec('UPDATE objects SET body=CAST(\'{"v":9}\' AS BLOB)');
  sqlite.exec('UPDATE outbox_state SET body=CAST(\'{"v":9}\' AS BLOB)');
  expect(disk.removeDamaged()).toEqual([{ kind: 'Dataset', namespace: 'n', name: 'a' }]);
  expect(disk.syncState().storeId).toBe('');
  edge.hello();
  const output = edge.receive(
    create(CloudFrameSchema, { frame: { case: 'welcome', value: { epoch: 1n, storeId: 's' } } }),
  );
  expect(recordsOf(output.send)).toEqual([['k', '{"v":1}', 1]]);
});
