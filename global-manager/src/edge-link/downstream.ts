import { create } from '@bufbuild/protobuf';
import { type CloudFrame, CloudFrameSchema } from '@shoal/api';
import {
  type Feed,
  type FeedItem,
  type HeldItem,
  type PageLimits,
  type ScopeEntry,
  WINDOW,
} from './feed.ts';

export interface DownstreamPorts {
  readonly feed: Feed;
  readonly send: (frame: CloudFrame) => void;
}

interface InFlight {
  readonly to: number;
  /** Of a reconcile; 0 for the feed. */
  readonly page: number;
  readonly items: number;
  readonly bytes: number;
}

/** Objects an edge may name in its inventory. */
const MAX_INVENTORY = 100_000;
const MAX_RESYNCS = 4;

/** A reconcile under way: what the edge must be told, and how far that is. */
interface Reconcile {
  readonly held: Map<string, HeldItem>;
  entries: readonly ScopeEntry[] | undefined;
  head: number;
  next: number;
  page: number;
}

/**
 * Delivers one node’s feed over one session: batches as far as the window allows, acknowledgements
 * cumulative, so that a slow link moves hundreds of objects per round trip. An edge whose cursor
 * does not fit is reconciled first: it says what it holds, and gets the bodies that differ.
 */
export class Downstream {
  readonly #ports: DownstreamPorts;
  readonly #node: string;
  readonly #epoch: number;
  #sent: number;
  #acked: number;
  #inFlight: InFlight[] = [];
  #reconcile: Reconcile | undefined;
  #snapshot: boolean;
  #resyncs = 0;

  constructor(
    ports: DownstreamPorts,
    options: {
      node: string;
      epoch: number;
      cursor: number;
      mode: 'delta' | 'reconcile' | 'snapshot';
    },
  ) {
    this.#ports = ports;
    this.#node = options.node;
    this.#epoch = options.epoch;
    this.#sent = options.cursor;
    this.#acked = options.cursor;
    this.#snapshot = options.mode === 'snapshot';
    if (options.mode === 'reconcile')
      this.#reconcile = { held: new Map(), entries: undefined, head: 0, next: 0, page: 0 };
  }

  /** The newest revision that is durable at the edge. */
  get acked(): number {
    return this.#acked;
  }

  /** @returns What is wrong with the inventory, if anything. */
  inventory(items: readonly HeldItem[], isLast: boolean): string | undefined {
    const reconcile = this.#reconcile;
    if (!reconcile || reconcile.entries) return 'an inventory nobody asked for';
    for (const item of items) reconcile.held.set(keyText(item), item);
    if (reconcile.held.size > MAX_INVENTORY) return `more than ${MAX_INVENTORY} objects held`;
    if (isLast) {
      reconcile.entries = this.#ports.feed.scope(this.#node);
      reconcile.head = this.#ports.feed.head(this.#node);
    }
    return undefined;
  }

  ack(cursor: number, page: number): void {
    this.#resyncs = 0;
    this.#inFlight = this.#inFlight.filter((b) =>
      page > 0 ? b.page > page : b.page > 0 || b.to > cursor,
    );
    this.#acked = Math.max(this.#acked, Math.min(cursor, this.#sent));
  }

  /** The edge has not got what was sent: goes on after its cursor. @returns What is wrong with that. */
  resync(cursor: number): string | undefined {
    // Each is room for another window: one that is answered by nothing but another gets no more.
    if (++this.#resyncs > MAX_RESYNCS) return 'resyncs without an acknowledgement';
    this.#inFlight = [];
    this.#sent = Math.min(cursor, this.#sent);
    return undefined;
  }

  /** Sends what the window allows. */
  pump(): void {
    for (;;) {
      const room = this.#room();
      if (room.items <= 0 || room.bytes <= 0) return;
      const more = this.#reconcile ? this.#reconcilePage(this.#reconcile, room) : this.#delta(room);
      if (!more) return;
    }
  }

  #room(): PageLimits {
    const used = this.#inFlight.reduce(
      (sum, b) => ({ items: sum.items + b.items, bytes: sum.bytes + b.bytes }),
      { items: 0, bytes: 0 },
    );
    return { items: WINDOW.items - used.items, bytes: WINDOW.bytes - used.bytes };
  }

  #delta(room: PageLimits): boolean {
    const { feed } = this.#ports;
    if (!this.#snapshot && feed.head(this.#node) <= this.#sent) return false;
    const page = this.#snapshot
      ? feed.snapshot(this.#node)
      : feed.page(this.#node, this.#sent, room);
    if (!page) return false;
    this.#send(page, { snapshot: this.#snapshot });
    this.#snapshot = false;
    this.#sent = page.to;
    return true;
  }

  #reconcilePage(reconcile: Reconcile, room: PageLimits): boolean {
    const { entries, held, head } = reconcile;
    if (!entries) return false;
    const items: FeedItem[] = [];
    let bytes = 0;
    while (reconcile.next < entries.length && items.length < room.items && bytes < room.bytes) {
      const entry = entries[reconcile.next];
      if (!entry) break;
      reconcile.next++;
      const item = this.#reconcileItem(entry, held.get(keyText(entry)));
      bytes += item.body.length;
      items.push(item);
    }
    const last = reconcile.next >= entries.length;
    reconcile.page++;
    this.#send({ from: reconcile.page, to: head, items }, { reconcile: true, last });
    if (last) {
      this.#reconcile = undefined;
      this.#sent = head;
    }
    return true;
  }

  #reconcileItem(entry: ScopeEntry, held: HeldItem | undefined): FeedItem {
    const isSame = held?.digest === entry.digest && held.uid === entry.uid;
    const body = isSame ? undefined : this.#ports.feed.body(entry.digest);
    // A body that is gone was replaced since: the newer change follows in the feed.
    return body ? { ...entry, op: 'put', body } : { ...entry, op: 'keep', body: new Uint8Array() };
  }

  #send(
    page: { from: number; to: number; items: readonly FeedItem[] },
    mode: { snapshot?: boolean; reconcile?: boolean; last?: boolean },
  ): void {
    this.#inFlight.push({
      to: page.to,
      page: mode.reconcile ? page.from : 0,
      items: Math.max(1, page.items.length),
      bytes: page.items.reduce((sum, i) => sum + i.body.length, 0),
    });
    const value = {
      storeId: this.#ports.feed.storeId,
      epoch: BigInt(this.#epoch),
      from: BigInt(page.from),
      to: BigInt(page.to),
      items: page.items.map((i) => ({ ...i, rev: BigInt(i.rev) })),
      ...mode,
    };
    this.#ports.send(create(CloudFrameSchema, { frame: { case: 'batch', value } }));
  }
}

function keyText(key: { kind: string; namespace: string; name: string }): string {
  return `${key.kind}/${key.namespace}/${key.name}`;
}
