import { create } from '@bufbuild/protobuf';
import { type CloudFrame, type EdgeFrame, EdgeFrameSchema } from '@shoal/api';
import { digestOf } from '@shoal/core';
import type { EdgeDatabase, IncomingChange } from '../store/database.ts';

/** What the core wants done after a frame. */
export interface CoreOutput {
  readonly send: readonly EdgeFrame[];
  /** Objects that changed, in revision order: tell the local watchers. */
  readonly changed: readonly {
    readonly kind: string;
    readonly namespace: string;
    readonly name: string;
  }[];
  /** End this session; the next one resumes. */
  readonly close?: string;
}

type Batch = Extract<CloudFrame['frame'], { case: 'batch' }>['value'];

export const STATE_STREAM = 'state';

const NOTHING: CoreOutput = { send: [], changed: [] };

/**
 * The edge's end of EdgeLink without sockets or clocks: frames in, frames out, and the database
 * between. A batch and the cursor it moves to are one transaction; the acknowledgement follows
 * the commit.
 */
export class EdgeLinkCore {
  readonly #db: EdgeDatabase;
  readonly #bootId: string;
  #epoch = 0n;
  #storeId = '';

  constructor(db: EdgeDatabase, bootId: string) {
    this.#db = db;
    this.#bootId = bootId;
  }

  /** The first frame of a session. */
  hello(): EdgeFrame {
    const { storeId, cursor } = this.#db.cursor();
    this.#epoch = 0n;
    return create(EdgeFrameSchema, {
      frame: {
        case: 'hello',
        value: {
          bootId: this.#bootId,
          storeId,
          cursor: BigInt(cursor),
          protocols: ['v1'],
          edgeStoreId: this.#db.id,
        },
      },
    });
  }

  receive(frame: CloudFrame): CoreOutput {
    switch (frame.frame.case) {
      case 'welcome':
        return this.#welcome(frame.frame.value);
      case 'batch':
        return this.#batch(frame.frame.value);
      case 'recordAck': {
        if (frame.frame.value.stream === STATE_STREAM)
          this.#db.acknowledge(Number(frame.frame.value.seq));
        return NOTHING;
      }
      case 'ping':
        return {
          ...NOTHING,
          send: [
            create(EdgeFrameSchema, {
              frame: { case: 'pong', value: { nonce: frame.frame.value.nonce } },
            }),
          ],
        };
      case 'goAway':
        return { ...NOTHING, close: frame.frame.value.reason };
      case 'pong':
      case undefined:
        return NOTHING;
    }
  }

  #welcome(welcome: { epoch: bigint; storeId: string }): CoreOutput {
    this.#epoch = welcome.epoch;
    this.#storeId = welcome.storeId;
    const known = this.#db.cursor().storeId;
    // A cloud with another store has none of our records: everything is said again.
    if (known !== '' && known !== welcome.storeId) this.#db.transaction(() => this.#db.resendAll());
    return { ...NOTHING, send: this.pending() };
  }

  /** Records that wait to be acknowledged, as frames. Nothing before the session is welcome. */
  pending(): EdgeFrame[] {
    if (this.#epoch === 0n) return [];
    return this.#db.outbox().map(({ key, seq, body }) =>
      create(EdgeFrameSchema, {
        frame: { case: 'record', value: { stream: STATE_STREAM, seq: BigInt(seq), key, body } },
      }),
    );
  }

  #batch(batch: Batch): CoreOutput {
    if (batch.epoch !== this.#epoch || batch.storeId !== this.#storeId)
      return { ...NOTHING, close: 'batch of another session' };
    const { cursor, storeId } = this.#db.cursor();
    const to = Number(batch.to);
    if (!batch.snapshot) {
      if (storeId !== batch.storeId || Number(batch.from) > cursor)
        return { ...NOTHING, close: `gap: have ${cursor}, got from ${batch.from}` };
      if (to <= cursor) return { ...NOTHING, send: [ack(cursor, [])] };
    }
    const nacks: { rev: bigint; error: string }[] = [];
    const changed: { kind: string; namespace: string; name: string }[] = [];
    this.#db.transaction(() => {
      if (batch.snapshot) changed.push(...this.#replaceAll(batch));
      for (const item of batch.items) {
        const change: IncomingChange = { ...item, rev: Number(item.rev) };
        const fault = this.#apply(change);
        if (fault === undefined) changed.push(change);
        else if (fault !== '') {
          this.#db.addPoison(
            change.rev,
            `${change.kind}/${change.namespace}/${change.name}`,
            fault,
          );
          nacks.push({ rev: item.rev, error: fault });
        }
      }
      this.#db.setCursor(batch.storeId, to);
    });
    return { send: [ack(to, nacks)], changed };
  }

  /** In a snapshot, what is not named is gone. */
  #replaceAll(batch: Batch): { kind: string; namespace: string; name: string }[] {
    this.#db.forgetRevisions();
    const named = new Set(batch.items.map((i) => `${i.kind}/${i.namespace}/${i.name}`));
    const gone = this.#db.objects().filter((o) => !named.has(`${o.kind}/${o.namespace}/${o.name}`));
    for (const o of gone)
      this.#db.deleteObject({
        ...o,
        rev: Number(batch.to),
        op: 'delete',
        digest: '',
        body: new Uint8Array(),
      });
    return gone;
  }

  /** Applies one change. Undefined: applied; empty: older than what is here; else the fault. */
  #apply(change: IncomingChange): string | undefined {
    if (change.kind === '' || change.name === '') return 'a change without kind or name';
    const known = this.#db.revision(change.kind, change.namespace, change.name);
    if (change.rev <= known.rev) return '';
    if (change.op === 'delete') {
      // A delete of an earlier object of the same name must not touch its successor.
      if (known.uid !== change.uid) return '';
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

function ack(cursor: number, nacks: readonly { rev: bigint; error: string }[]): EdgeFrame {
  return create(EdgeFrameSchema, {
    frame: { case: 'ack', value: { cursor: BigInt(cursor), nacks: nacks.map((n) => ({ ...n })) } },
  });
}
