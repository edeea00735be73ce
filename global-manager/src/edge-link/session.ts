import { create } from '@bufbuild/protobuf';
import { type CloudFrame, CloudFrameSchema, type EdgeFrame } from '@shoal/api';
import { isJsonObject } from '@shoal/core';
import { Downstream } from './downstream.ts';
import type { Feed } from './feed.ts';

/** Who is at the other end, as the certificate says. */
export interface Peer {
  readonly node: string;
  /** How long its certificate is still good. */
  readonly certificateRemainingMs?: number;
}

/** The transport's end of a session. */
export interface SessionSocket {
  send(frame: CloudFrame): void;
  /** Ends the stream after what was sent. */
  close(): void;
}

type FrameOf<C extends NonNullable<EdgeFrame['frame']['case']>> = Extract<
  EdgeFrame['frame'],
  { case: C }
>['value'];
export type Hello = FrameOf<'hello'>;
export type RecordFrame = FrameOf<'record'>;

/** What an edge said of its outbox. */
export interface OutboxReport {
  readonly records: number;
  readonly ageMs: number;
  readonly dropped: number;
}

const MAX_KEY = 512;
const MAX_STREAM = 128;
/** Refused changes that one frame may name. */
const MAX_NACKS = 256;
/** Streams of one edge that are followed. */
const MAX_STREAMS = 64;
const MAX_RECORD_BYTES = 256 * 1024;
/** Bytes of records taken from a stream and not yet stored: more than an edge’s window is a fault. */
const MAX_INBOX_BYTES = 4 * 1024 ** 2;
const NO_OUTBOX: OutboxReport = { records: 0, ageMs: 0, dropped: 0 };

export function isStream(stream: string): boolean {
  return stream.length <= MAX_STREAM && /^(state|log\/[\w.-]+)$/.test(stream);
}

/** What is wrong with a record, if anything: keys are `kind/namespace/name[/part]`, bodies JSON objects. */
export function recordFault(record: Pick<RecordFrame, 'key' | 'body'>): string | undefined {
  const { key, body } = record;
  if (key.length > MAX_KEY || !/^[A-Za-z]+(\/[^/]+){2,3}$/.test(key)) return 'not a key';
  if (body.length > MAX_RECORD_BYTES) return `larger than ${MAX_RECORD_BYTES} bytes`;
  try {
    return isJsonObject(JSON.parse(Buffer.from(body).toString('utf8')))
      ? undefined
      : 'not a JSON object';
  } catch {
    return 'not JSON';
  }
}

/**
 * One connection of an edge as the cloud sees it. It is live once its greeting was answered with an
 * epoch; what it says before, or after it was closed, has no effect.
 */
export class Session {
  readonly peer: Peer;
  readonly #socket: SessionSocket;
  readonly #feed: Feed;
  /** Frames whose effect must be stored: the greeting and records, in order. */
  /** The last number of each stream, as looked at and as stored. */
  readonly #chain = new Map<string, bigint>();
  readonly #chainStored = new Map<string, bigint>();
  readonly #inbox: (Hello | RecordFrame)[] = [];
  #inboxBytes = 0;
  #downstream: Downstream | undefined;
  #closed = false;
  #nonce = 0n;
  epoch = 0;
  hello: Hello | undefined;
  outbox: OutboxReport = NO_OUTBOX;
  framesHeard = 0;
  readonly openedMs: number;
  lastHeardMs: number;
  lastPingMs: number;
  liveSinceMs = 0;

  constructor(peer: Peer, socket: SessionSocket, ports: { feed: Feed; nowMs: number }) {
    this.peer = peer;
    this.#socket = socket;
    this.#feed = ports.feed;
    this.openedMs = ports.nowMs;
    this.lastHeardMs = ports.nowMs;
    this.lastPingMs = ports.nowMs;
  }

  get isLive(): boolean {
    return this.#downstream !== undefined && !this.#closed;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** The newest revision that is durable at the edge. */
  get acked(): number {
    return this.#downstream?.acked ?? 0;
  }

  /** Keeps a frame for the next turn of storing. False when the edge sends more than its window. */
  enqueue(frame: Hello | RecordFrame): boolean {
    this.#inbox.push(frame);
    this.#inboxBytes += weightOf(frame);
    return this.#inboxBytes <= MAX_INBOX_BYTES;
  }

  /**
   * Whether a record follows the one before it: `again` for one that was here, `gap` when one that
   * was sent before it has not come.
   */
  follows(record: RecordFrame): 'next' | 'again' | 'gap' {
    // The version before does not chain its records.
    if (!this.hello?.capabilities.includes('log')) return 'next';
    const last = this.#chain.get(record.stream) ?? 0n;
    if (record.seq <= last) return 'again';
    if (record.previous !== last) return 'gap';
    if (this.#chain.size >= MAX_STREAMS && !this.#chain.has(record.stream)) return 'gap';
    this.#chain.set(record.stream, record.seq);
    return 'next';
  }

  /** What was looked at in a turn that failed is looked at again. */
  forgetChain(): void {
    this.#chain.clear();
    for (const [stream, seq] of this.#chainStored) this.#chain.set(stream, seq);
  }

  takeInbox(limit: number): (Hello | RecordFrame)[] {
    const taken = this.#inbox.splice(0, limit);
    for (const frame of taken) this.#inboxBytes -= weightOf(frame);
    return taken;
  }

  get hasInbox(): boolean {
    return this.#inbox.length > 0 && !this.#closed;
  }

  /** Answers the greeting: from now on the session is live. */
  welcome(options: {
    epoch: number;
    positions: readonly { stream: string; seq: number }[];
    pingMs: number;
    nowMs: number;
  }): 'delta' | 'reconcile' | 'snapshot' {
    const hello = this.hello;
    if (!hello) return 'delta';
    const feed = this.#feed;
    const { node, certificateRemainingMs = 0 } = this.peer;
    const { epoch } = options;
    const head = feed.head(node);
    const compacted = feed.compacted(node);
    const cursor = Number(hello.cursor);
    const fits = hello.storeId === feed.storeId && cursor <= head && cursor >= compacted;
    const mode = fits
      ? 'delta'
      : hello.capabilities.includes('reconcile')
        ? 'reconcile'
        : 'snapshot';
    this.epoch = epoch;
    this.liveSinceMs = options.nowMs;
    const ports = { feed, send: (frame: CloudFrame) => this.send(frame) };
    this.#downstream = new Downstream(ports, { node, epoch, cursor: fits ? cursor : 0, mode });
    const value = {
      epoch: BigInt(epoch),
      storeId: feed.storeId,
      head: BigInt(head),
      compacted: BigInt(compacted),
      mode: mode === 'delta' ? 'delta' : 'reconcile',
      pingMs: options.pingMs,
      capabilities: ['reconcile', 'log'],
      positions: options.positions.map(({ stream, seq }) => ({ stream, seq: BigInt(seq) })),
      certificateRemainingMs: BigInt(Math.max(0, Math.round(certificateRemainingMs))),
    };
    this.send(create(CloudFrameSchema, { frame: { case: 'welcome', value } }));
    this.pump();
    return mode;
  }

  /** What the edge says of the feed. @returns What is wrong with it, if anything. */
  heard(frame: FrameOf<'ack'> | FrameOf<'resync'> | FrameOf<'inventory'>): string | undefined {
    const downstream = this.#downstream;
    if (!downstream || this.#closed) return undefined;
    let fault: string | undefined;
    if ('nacks' in frame) {
      downstream.ack(Number(frame.cursor), Number(frame.page));
      const nacks = frame.nacks
        .slice(0, MAX_NACKS)
        .map((n) => ({ rev: Number(n.rev), error: n.error }));
      if (nacks.length > 0) this.#feed.refused(this.peer.node, nacks);
    } else if ('items' in frame) fault = downstream.inventory(frame.items, frame.last);
    else fault = downstream.resync(Number(frame.cursor));
    this.pump();
    return fault;
  }

  /** Sends what the window allows of what is new. */
  pump(): void {
    if (this.isLive) this.#downstream?.pump();
  }

  acknowledge(stream: string, seq: number): void {
    this.#chainStored.set(stream, BigInt(seq));
    const value = { stream, seq: BigInt(seq) };
    this.send(create(CloudFrameSchema, { frame: { case: 'recordAck', value } }));
  }

  ping(nowMs: number): void {
    this.lastPingMs = nowMs;
    const value = { nonce: ++this.#nonce };
    this.send(create(CloudFrameSchema, { frame: { case: 'ping', value } }));
  }

  send(frame: CloudFrame): void {
    if (!this.#closed) this.#socket.send(frame);
  }

  goAway(reason: string, retry: { afterMs: number; spreadMs: number }): void {
    const value = { reason, retryAfterMs: retry.afterMs, spreadMs: retry.spreadMs };
    this.send(create(CloudFrameSchema, { frame: { case: 'goAway', value } }));
    this.close();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.close();
  }
}

/** Bytes a frame keeps, about. */
function weightOf(frame: Hello | RecordFrame): number {
  if (!('body' in frame)) return 1_000;
  const { body, key, stream, idempotencyKey } = frame;
  return 200 + body.length + key.length + stream.length + idempotencyKey.length;
}
