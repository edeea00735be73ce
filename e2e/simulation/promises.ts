import type { CloudFrame, EdgeFrame } from '@shoal/api';
import type { SimDisk } from './sim-disk.ts';
import type { Truth } from './truth.ts';

/** A promise of EdgeLink that did not hold. */
export class Violation extends Error {
  readonly promise: string;

  constructor(promise: string, message: string) {
    super(`${promise}: ${message}`);
    this.promise = promise;
  }
}

interface Row {
  readonly name: string;
  readonly uid: string;
  readonly rev: number;
  readonly deleted: boolean;
  /** Version in the body; undefined where the body is damaged. */
  readonly version: number | undefined;
}

type Batch = Extract<CloudFrame['frame'], { case: 'batch' }>['value'];

/** What the validators know of one edge. */
export interface EdgeRecordBook {
  /** P2: index into the history of each object. */
  readonly seen: Map<string, number>;
  /** P2: objects removed because their bytes were damaged; they come back as they were. */
  readonly damaged: Set<string>;
  /** P3: the newest cursor that was acknowledged, by feed. */
  readonly acked: Map<string, number>;
  /** P4: batches that have arrived and may be applied. */
  readonly batches: Batch[];
  cursor: number;
  storeId: string;
  rows: Map<string, Row>;
}

export function newBook(): EdgeRecordBook {
  return {
    seen: new Map(),
    damaged: new Set(),
    acked: new Map(),
    batches: [],
    cursor: 0,
    storeId: '',
    rows: new Map(),
  };
}

export function rowsOf(disk: SimDisk): Map<string, Row> {
  const rows = new Map<string, Row>();
  for (const r of disk.look('SELECT name, uid, rev, deleted, body FROM objects')) {
    let version: number | undefined;
    try {
      version = (JSON.parse(Buffer.from(r['body'] as Uint8Array).toString()) as { version: number })
        .version;
    } catch {
      version = undefined;
    }
    rows.set(String(r['name']), {
      name: String(r['name']),
      uid: String(r['uid']),
      rev: Number(r['rev']),
      deleted: r['deleted'] === 1,
      version,
    });
  }
  return rows;
}

/** After every commit of an edge: nothing goes back (P2), batches are applied whole (P4). */
export function checkCommit(node: string, book: EdgeRecordBook, disk: SimDisk, truth: Truth): void {
  const [sync] = disk.look('SELECT store_id, cursor FROM sync_state');
  if (!sync) return;
  const rows = rowsOf(disk);
  const cursor = Number(sync['cursor']);
  const storeId = String(sync['store_id']);
  checkOrder(node, book, rows, truth);
  checkWhole(node, book, { rows, cursor, storeId, disk });
  Object.assign(book, { rows, cursor, storeId });
}

function checkOrder(
  node: string,
  book: EdgeRecordBook,
  rows: ReadonlyMap<string, Row>,
  truth: Truth,
): void {
  const names = new Set([...rows.keys(), ...book.rows.keys()]);
  for (const name of names) {
    const row = rows.get(name);
    const history = truth.history(node, name);
    const at = book.seen.get(name) ?? 0;
    if (row && !row.deleted && row.version !== undefined) {
      const index = history.indexOf(row.version);
      if (index < at)
        throw new Violation(
          'P2',
          `${node} went back to version ${row.version} of ${name} after ${history[at]}`,
        );
      book.seen.set(name, index);
      book.damaged.delete(name);
    } else if (history[at] !== 'absent' && !book.damaged.has(name) && !row?.version) {
      const index = history.indexOf('absent', at);
      if (index < 0)
        throw new Violation('P2', `${node} lost ${name} version ${history[at]}, nobody removed it`);
      book.seen.set(name, index);
    }
  }
}

function isSameState(a: ReadonlyMap<string, Row>, b: ReadonlyMap<string, Row>): boolean {
  const living = (rows: ReadonlyMap<string, Row>): string =>
    JSON.stringify(
      [...rows.values()]
        .filter((r) => !r.deleted)
        .map((r) => `${r.name} ${r.uid} ${r.version}`)
        .toSorted((x, y) => (x < y ? -1 : 1)),
    );
  return living(a) === living(b);
}

function checkWhole(
  node: string,
  book: EdgeRecordBook,
  now: { rows: Map<string, Row>; cursor: number; storeId: string; disk: SimDisk },
): void {
  const { rows, cursor, storeId, disk } = now;
  const isMoved = cursor !== book.cursor || storeId !== book.storeId;
  if (!isMoved) {
    if (storeId !== '' && book.damaged.size === 0 && !isSameState(rows, book.rows))
      throw new Violation('P4', `${node} changed objects without moving its cursor ${cursor}`);
    return;
  }
  if (storeId === '') return; // a reconcile has begun
  const applied = book.batches.filter(
    (b) => Number(b.to) === cursor && b.storeId === storeId && (!b.reconcile || b.last),
  );
  if (applied.length === 0)
    throw new Violation('P4', `${node} moved to ${cursor}, no batch that came goes there`);
  const whole = applied.some((batch) => batch.items.every((i) => isThere(i, rows, disk)));
  if (!whole) throw new Violation('P4', `${node} moved to ${cursor} without all of its batch`);
  if (book.batches.length > 200) book.batches.splice(0, 100);
}

function isThere(item: Batch['items'][number], rows: Map<string, Row>, disk: SimDisk): boolean {
  const row = rows.get(item.name);
  if (row && row.rev >= Number(item.rev)) return true;
  if (item.op === 'delete') return row === undefined || row.uid !== item.uid || row.deleted;
  if (item.op === 'keep') return true;
  return disk.look('SELECT 1 FROM poison WHERE rev=?', Number(item.rev)).length > 0;
}

/** What an edge acknowledges must be on its disk whatever happens next (P3). */
export function noteAck(book: EdgeRecordBook, frame: EdgeFrame, storeId: string): void {
  if (frame.frame.case !== 'ack' || frame.frame.value.cursor === 0n) return;
  const before = book.acked.get(storeId) ?? 0;
  book.acked.set(storeId, Math.max(before, Number(frame.frame.value.cursor)));
}

export function checkAfterCrash(node: string, book: EdgeRecordBook, disk: SimDisk): void {
  if (disk.look("SELECT 1 FROM sqlite_master WHERE name='objects'").length === 0) return;
  const [sync] = disk.look('SELECT store_id, cursor FROM sync_state');
  const storeId = String(sync?.['store_id'] ?? '');
  const cursor = Number(sync?.['cursor'] ?? 0);
  const acked = book.acked.get(storeId) ?? 0;
  if (storeId !== '' && cursor < acked)
    throw new Violation('P3', `${node} acknowledged ${acked} and has ${cursor} after a crash`);
  const kept = rowsOf(disk);
  if (storeId !== '' && cursor === book.cursor && !isSameState(kept, book.rows))
    throw new Violation('P3', `${node} has other objects after a crash than before`);
}
