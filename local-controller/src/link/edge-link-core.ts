import { create } from '@bufbuild/protobuf';
import { type CloudFrame, type EdgeFrame, EdgeFrameSchema } from '@shoal/api';
import { digestOf } from '@shoal/core';
import type { EdgeDatabase, IncomingChange, ObjectKey } from '../store/database.ts';
import { Upstream } from './upstream.ts';

/** What the core wants done after a frame. */
export interface CoreOutput {
  readonly send: readonly EdgeFrame[];
  /** Objects that changed, in revision order: tell the local watchers. */
  readonly changed: readonly ObjectKey[];
  /** End this session; the next one resumes. */
  readonly close?: string;
  /** With `close`: how long the cloud asks to be left alone, in milliseconds. */
  readonly retryAfterMs?: number;
  readonly spreadMs?: number;
  /** The cloud wants to reach something here. */
  readonly openRelay?: true;
}

type FrameOf<C extends NonNullable<CloudFrame['frame']['case']>> = Extract<
  CloudFrame['frame'],
  { case: C }
>['value'];
type Batch = FrameOf<'batch'>;
type Welcome = FrameOf<'welcome'>;

interface Applied {
  readonly nacks: { rev: bigint; error: string }[];
  readonly changed: ObjectKey[];
}

/** What this edge can do beyond the first protocol. */
export const CAPABILITIES: readonly string[] = ['reconcile', 'log'];
const INVENTORY_ITEMS = 1_000;
const MAX_NACKS = 256;
const NOTHING: CoreOutput = { send: [], changed: [] };

/**
 * The edge's end of EdgeLink without sockets or clocks: frames in, frames out, and the database
 * between. A batch and the cursor it moves to are one transaction; the acknowledgement follows
 * the commit.
 */
export class EdgeLinkCore {
  readonly #db: EdgeDatabase;
  readonly #bootId: string;
  readonly #version: string;
  #epoch = 0;
  #storeId = '';
  #upstream: Upstream;
  /** Of a reconcile: the next page, and what the pages so far named. */
  #page = 0;
  #named = new Set<string>();
  /** A resync was asked for: batches that do not continue the cursor are leftovers. */
  #resyncing = false;
  #certificateRemainingMs: number | undefined;

  constructor(db: EdgeDatabase, bootId: string, version = '') {
    this.#db = db;
    this.#bootId = bootId;
    this.#version = version;
    this.#upstream = new Upstream(db.outbox, { withLog: false });
  }

  /** The first frame of a session. */
  hello(): EdgeFrame {
    const { storeId, cursor, epoch } = this.#db.syncState();
    this.#epoch = 0;
    this.#page = 0;
    this.#named.clear();
    this.#resyncing = false;
    const value = {
      bootId: this.#bootId,
      storeId,
      cursor: BigInt(cursor),
      protocols: ['v1'],
      edgeStoreId: this.#db.id,
      capabilities: [...CAPABILITIES],
      epoch: BigInt(epoch),
      version: this.#version,
      ...this.#waiting(),
    };
    return create(EdgeFrameSchema, { frame: { case: 'hello', value } });
  }

  /** What waits to be sent, when something does. */
  #waiting(): { outbox?: { records: number; ageMs: bigint; dropped: bigint } } {
    const { records, ageMs, dropped } = this.#db.outbox.summary();
    if (records === 0 && dropped === 0) return {};
    return { outbox: { records, ageMs: BigInt(Math.round(ageMs)), dropped: BigInt(dropped) } };
  }

  /** How long the certificate of this session is good, as the cloud said when it began. */
  get certificateRemainingMs(): number | undefined {
    return this.#certificateRemainingMs;
  }

  receive(frame: CloudFrame): CoreOutput {
    switch (frame.frame.case) {
      case 'welcome':
        return this.#welcome(frame.frame.value);
      case 'batch':
        return this.#batch(frame.frame.value);
      case 'recordAck': {
        if (this.#epoch === 0) return NOTHING;
        const { stream, seq } = frame.frame.value;
        this.#upstream.acknowledge(stream, Number(seq));
        return { ...NOTHING, send: this.pending() };
      }
      case 'ping': {
        const value = { nonce: frame.frame.value.nonce, ...this.#waiting() };
        const pong = { case: 'pong' as const, value };
        return { ...NOTHING, send: [create(EdgeFrameSchema, { frame: pong })] };
      }
      case 'goAway': {
        const { reason, retryAfterMs, spreadMs } = frame.frame.value;
        return {
          ...NOTHING,
          close: reason || 'the cloud ends the session',
          retryAfterMs,
          spreadMs,
        };
      }
      case 'openRelay':
        return { ...NOTHING, openRelay: true };
      case 'pong':
      case undefined:
        return NOTHING;
    }
  }

  #welcome(welcome: Welcome): CoreOutput {
    const known = this.#db.syncState();
    const epoch = Number(welcome.epoch);
    if (epoch <= known.epoch && welcome.capabilities.length > 0)
      return { ...NOTHING, close: `epoch ${epoch} is of the past, ${known.epoch} was seen` };
    this.#db.setEpoch(epoch);
    this.#epoch = epoch;
    this.#storeId = welcome.storeId;
    const remaining = Number(welcome.certificateRemainingMs);
    this.#certificateRemainingMs = remaining > 0 ? remaining : undefined;
    const positions = new Map(welcome.positions.map((p) => [p.stream, Number(p.seq)]));
    const talkedTo =
      this.#db.progress<string>('cloud_store_id') ??
      (known.storeId === '' ? undefined : known.storeId);
    const isForeign = talkedTo !== undefined && talkedTo !== welcome.storeId;
    this.#db.outbox.takeUp(positions, isForeign);
    if (talkedTo !== welcome.storeId) this.#db.setProgress('cloud_store_id', welcome.storeId);
    this.#upstream = new Upstream(this.#db.outbox, {
      withLog: welcome.capabilities.includes('log'),
    });
    const reconciles = welcome.mode === 'reconcile' && welcome.capabilities.includes('reconcile');
    if (reconciles) this.#page = 1;
    const continues = welcome.mode === 'delta' ? this.#refusedBefore(known.cursor) : [];
    const greeting = reconciles ? this.#inventory() : continues;
    return { ...NOTHING, send: [...greeting, ...this.pending()] };
  }

  /** What was refused is said again in every session: the first time may not have arrived. */
  #refusedBefore(cursor: number): EdgeFrame[] {
    const poison = this.#db.poison().slice(0, MAX_NACKS);
    if (poison.length === 0) return [];
    return [
      ack(
        cursor,
        poison.map(({ rev, error }) => ({ rev: BigInt(rev), error })),
      ),
    ];
  }

  #inventory(): EdgeFrame[] {
    const held = this.#db.held();
    const frames: EdgeFrame[] = [];
    for (let i = 0; i === 0 || i < held.length; i += INVENTORY_ITEMS) {
      const value = {
        items: held.slice(i, i + INVENTORY_ITEMS).map((o) => ({ ...o })),
        last: i + INVENTORY_ITEMS >= held.length,
      };
      frames.push(create(EdgeFrameSchema, { frame: { case: 'inventory', value } }));
    }
    return frames;
  }

  /** Records that may be sent now. Nothing before the session is welcome. */
  pending(): EdgeFrame[] {
    return this.#epoch === 0 ? [] : this.#upstream.next();
  }

  #batch(batch: Batch): CoreOutput {
    if (Number(batch.epoch) !== this.#epoch || batch.storeId !== this.#storeId)
      return { ...NOTHING, close: 'batch of another session' };
    if (batch.reconcile) return this.#reconcilePage(batch);
    const { cursor, storeId } = this.#db.syncState();
    const to = Number(batch.to);
    if (!batch.snapshot) {
      if (storeId === batch.storeId && to <= cursor) return { ...NOTHING, send: [ack(cursor, [])] };
      if (storeId !== batch.storeId || Number(batch.from) !== cursor) return this.#gap(cursor);
    }
    this.#resyncing = false;
    const { nacks, changed } = this.#db.transaction(() => {
      const gone = batch.snapshot ? this.#beginSnapshot(batch) : [];
      const applied = this.#applyAll(batch);
      this.#db.setCursor(batch.storeId, to);
      return { ...applied, changed: [...gone, ...applied.changed] };
    });
    return { send: [ack(to, nacks)], changed };
  }

  /** A batch that does not continue what is here: the cloud is asked to go on from the cursor. */
  #gap(cursor: number): CoreOutput {
    if (this.#resyncing) return NOTHING;
    this.#resyncing = true;
    const frame = { case: 'resync' as const, value: { cursor: BigInt(cursor) } };
    return { ...NOTHING, send: [create(EdgeFrameSchema, { frame })] };
  }

  /**
   * One page of a reconcile. Until the last page is here the store belongs to no feed, so that a
   * session that ends in between begins the reconcile anew.
   */
  #reconcilePage(batch: Batch): CoreOutput {
    const page = Number(batch.from);
    if (page !== this.#page)
      return { ...NOTHING, close: `reconcile page ${page} came, ${this.#page} was expected` };
    const named = new Set([...this.#named, ...batch.items.map(keyText)]);
    const { nacks, changed } = this.#db.transaction(() => {
      if (page === 1) {
        this.#db.setCursor('', 0);
        this.#db.forgetRevisions();
      }
      const applied = this.#applyAll(batch);
      const gone = batch.last ? this.#removeUnnamed(named, Number(batch.to)) : [];
      if (batch.last) this.#db.setCursor(batch.storeId, Number(batch.to));
      return { ...applied, changed: [...applied.changed, ...gone] };
    });
    this.#named = batch.last ? new Set() : named;
    this.#page = batch.last ? 0 : page + 1;
    return { send: [ack(batch.last ? Number(batch.to) : 0, nacks, page)], changed };
  }

  /** In a snapshot, what is not named is gone. */
  #beginSnapshot(batch: Batch): ObjectKey[] {
    this.#db.forgetRevisions();
    return this.#removeUnnamed(new Set(batch.items.map(keyText)), Number(batch.to));
  }

  #removeUnnamed(named: ReadonlySet<string>, rev: number): ObjectKey[] {
    const gone = this.#db.held().filter((o) => !named.has(keyText(o)));
    for (const o of gone) this.#db.deleteObject({ ...o, rev });
    return gone;
  }

  #applyAll(batch: Batch): Applied {
    const nacks: { rev: bigint; error: string }[] = [];
    const changed: ObjectKey[] = [];
    for (const item of batch.items) {
      const change: IncomingChange = { ...item, rev: Number(item.rev) };
      const fault = this.#apply(change);
      if (fault === undefined) {
        this.#db.removePoison(keyText(change));
        if (change.op !== 'keep') changed.push(change);
      } else if (fault !== '') {
        this.#db.addPoison(change.rev, keyText(change), fault);
        nacks.push({ rev: item.rev, error: fault });
      }
    }
    return { nacks, changed };
  }

  /** Applies one change. Undefined: applied; empty: older than what is here; else the fault. */
  #apply(change: IncomingChange): string | undefined {
    if (change.kind === '' || change.name === '') return 'a change without kind or name';
    const known = this.#db.revision(change);
    if (change.rev <= known.rev) return '';
    if (change.op === 'keep') {
      this.#db.keepObject(change, change.rev);
      return undefined;
    }
    if (change.op === 'delete') {
      // Revisions order all changes of a scope, so that a newer delete is meant for whatever is here,
      // also where objects of the same name came and went in between and only the last delete is left.
      this.#db.deleteObject(change);
      return undefined;
    }
    if (change.op !== 'put') return `unknown operation "${change.op}"`;
    if (digestOf(change.body) !== change.digest) return 'the body does not have its digest';
    try {
      JSON.parse(Buffer.from(change.body).toString('utf8'));
    } catch {
      return 'the body is not JSON';
    }
    this.#db.putObject(change);
    return undefined;
  }
}

function keyText(key: ObjectKey): string {
  return `${key.kind}/${key.namespace}/${key.name}`;
}

function ack(
  cursor: number,
  nacks: readonly { rev: bigint; error: string }[],
  page = 0,
): EdgeFrame {
  const value = { cursor: BigInt(cursor), nacks: nacks.map((n) => ({ ...n })), page: BigInt(page) };
  return create(EdgeFrameSchema, { frame: { case: 'ack', value } });
}
