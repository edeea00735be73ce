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

test('a duplicate is acknowledged again and changes nothing; a gap ends the session', () => {
  welcome();
  batch(0, 2, [{ rev: 2, name: 'a', body: '{"v":2}' }], { snapshot: true });
  const again = batch(0, 2, [{ rev: 2, name: 'a', body: '{"v":9}' }]);
  expect(acked(again)).toEqual([2]);
  expect(db.objects()[0]?.body).toEqual({ v: 2 });
  expect(batch(5, 6, [{ rev: 6, name: 'x' }]).close).toMatch(/gap: have 2/);
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
  batch(5, 6, [{ rev: 6, op: 'delete', uid: 'old' }]);
  expect(names()).toEqual(['a']);
  batch(6, 7, [{ rev: 7, op: 'delete', uid: 'new' }]);
  expect(names()).toEqual([]);
  batch(7, 8, [{ rev: 4, uid: 'new' }]);
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
  expect(db.cursor().cursor).toBe(5);
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

test('records coalesce by key, are resent until acknowledged, and nothing is said twice', () => {
  const put = (key: string, v: number): boolean => db.putOutbox(key, Buffer.from(String(v)));
  expect(core.pending()).toEqual([]);
  for (let v = 0; v < 10_000; v++) put('state', v % 100);
  put('other', 1);
  const sent = welcome().send.map((f) =>
    f.frame.case === 'record'
      ? [f.frame.value.key, Buffer.from(f.frame.value.body).toString()]
      : [],
  );
  expect(sent).toEqual([
    ['state', '99'],
    ['other', '1'],
  ]);
  const last = core.pending().at(-1);
  const seq = last?.frame.case === 'record' ? last.frame.value.seq : 0n;
  core.receive(
    create(CloudFrameSchema, { frame: { case: 'recordAck', value: { stream: 'state', seq } } }),
  );
  expect(core.pending()).toEqual([]);
  expect(put('other', 1)).toBe(false);
  expect(core.pending()).toEqual([]);
});

test('a cloud that lost its store is told everything again', () => {
  welcome('s', 1);
  batch(0, 0, [], { snapshot: true });
  db.putOutbox('k', Buffer.from('1'));
  const [record] = core.pending();
  const seq = record?.frame.case === 'record' ? record.frame.value.seq : 0n;
  core.receive(
    create(CloudFrameSchema, { frame: { case: 'recordAck', value: { stream: 'state', seq } } }),
  );
  const [again] = welcome('fresh', 1).send;
  expect(again?.frame.case === 'record' && Buffer.from(again.frame.value.body).toString()).toBe(
    '1',
  );
});
