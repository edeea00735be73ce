import { create } from '@bufbuild/protobuf';
import { type CloudFrame, CloudFrameSchema, type EdgeFrame } from '@shoal/api';
import { isJsonObject, type Logger } from '@shoal/core';
import type { Feed, FeedPage } from './feed.ts';

export interface SessionPorts {
  readonly feed: Feed;
  readonly logger: Logger;
  readonly send: (frame: CloudFrame) => void;
  /** Ends the stream. */
  readonly close: () => void;
  readonly onLag: (changes: number) => void;
}

export const PING_MS = 15_000;
const MISSED_PINGS = 3;

const MAX_KEY = 512;
const MAX_RECORD_BYTES = 256 * 1024;

/** What is wrong with a record, if anything: keys are `kind/namespace/name[/part]`, bodies JSON objects. */
function recordFault(key: string, body: Uint8Array): string | undefined {
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
 * One edge's session as the cloud sees it: greets, delivers the feed one window at a time, takes
 * records. Frames of a session that is not the newest of its node are refused.
 */
export class Session {
  readonly node: string;
  readonly #ports: SessionPorts;
  #epoch = 0;
  /** Numbers of records belong to one edge database: a replaced disk begins at 1 again. */
  #edgeStore = '';
  /** The newest revision the edge has acknowledged. */
  #acked = 0;
  #inFlight = false;
  #mustReconcile = false;
  #unanswered = 0;
  #nonce = 0n;

  constructor(node: string, ports: SessionPorts) {
    this.node = node;
    this.#ports = ports;
  }

  get epoch(): number {
    return this.#epoch;
  }

  receive(edge: EdgeFrame): void {
    this.#unanswered = 0;
    const { feed } = this.#ports;
    if (
      edge.frame.case !== 'hello' &&
      (this.#epoch === 0 || feed.epoch(this.node) !== this.#epoch)
    ) {
      return this.goAway('a newer session of this node is live');
    }
    switch (edge.frame.case) {
      case 'hello':
        return this.#hello(edge.frame.value);
      case 'ack':
        return this.#ack(Number(edge.frame.value.cursor), edge.frame.value.nacks.length);
      case 'record': {
        const { stream, seq, key, body } = edge.frame.value;
        const fault = recordFault(key, body);
        if (fault !== undefined) {
          this.#ports.logger.warn('record refused', {
            node: this.node,
            key: key.slice(0, MAX_KEY),
            fault,
          });
        }
        // A record that is refused is used up all the same: one bad record must not block a node.
        const ownStream = `${this.#edgeStore}/${stream}`;
        const upTo = feed.take(
          this.node,
          { stream: ownStream, seq: Number(seq), key, body },
          fault === undefined,
        );
        return this.#ports.send(
          create(CloudFrameSchema, {
            frame: { case: 'recordAck', value: { stream, seq: BigInt(upTo) } },
          }),
        );
      }
      case 'ping':
        return this.#ports.send(
          create(CloudFrameSchema, {
            frame: { case: 'pong', value: { nonce: edge.frame.value.nonce } },
          }),
        );
      case 'pong':
        return;
      case undefined:
        return this.#ports.logger.warn('unknown frame ignored', { node: this.node });
    }
  }

  #hello(hello: { storeId: string; cursor: bigint; edgeStoreId: string }): void {
    const { feed, logger } = this.#ports;
    this.#epoch = feed.raiseEpoch(this.node);
    this.#edgeStore = hello.edgeStoreId;
    const cursor = Number(hello.cursor);
    const head = feed.head(this.node);
    this.#mustReconcile = hello.storeId !== feed.storeId || cursor > head;
    this.#acked = this.#mustReconcile ? 0 : cursor;
    const mode = this.#mustReconcile ? 'reconcile' : 'delta';
    logger.info('edge connected', { node: this.node, epoch: this.#epoch, cursor, head, mode });
    const welcome = {
      epoch: BigInt(this.#epoch),
      storeId: feed.storeId,
      head: BigInt(head),
      compacted: 0n,
      mode,
      pingMs: PING_MS,
    };
    this.#ports.send(create(CloudFrameSchema, { frame: { case: 'welcome', value: welcome } }));
    this.pump();
  }

  #ack(cursor: number, nacks: number): void {
    this.#acked = Math.max(this.#acked, cursor);
    this.#inFlight = false;
    if (nacks > 0) this.#ports.logger.warn('edge refused changes', { node: this.node, nacks });
    this.pump();
  }

  /** Sends the next window if the last one was acknowledged. */
  pump(): void {
    if (this.#epoch === 0 || this.#inFlight) return;
    const { feed } = this.#ports;
    const snapshot = this.#mustReconcile;
    const page = snapshot ? feed.snapshot(this.node) : feed.page(this.node, this.#acked);
    this.#ports.onLag(feed.head(this.node) - this.#acked);
    if (!page) return;
    this.#mustReconcile = false;
    this.#inFlight = true;
    this.#ports.send(this.#batch(page, snapshot));
  }

  #batch(page: FeedPage, snapshot: boolean): CloudFrame {
    const { feed } = this.#ports;
    return create(CloudFrameSchema, {
      frame: {
        case: 'batch',
        value: {
          storeId: feed.storeId,
          epoch: BigInt(this.#epoch),
          from: BigInt(page.from),
          to: BigInt(page.to),
          snapshot,
          items: page.items.map((i) => ({ ...i, rev: BigInt(i.rev) })),
        },
      },
    });
  }

  /** To be called every {@link PING_MS}: a link that answers nothing is closed. */
  tick(): void {
    if (++this.#unanswered > MISSED_PINGS) {
      this.#ports.logger.warn('edge does not answer, closing', { node: this.node });
      return this.#ports.close();
    }
    this.#nonce++;
    this.#ports.send(
      create(CloudFrameSchema, { frame: { case: 'ping', value: { nonce: this.#nonce } } }),
    );
  }

  goAway(reason: string): void {
    this.#ports.send(
      create(CloudFrameSchema, {
        frame: { case: 'goAway', value: { reason, retryAfterMs: 1_000 } },
      }),
    );
    this.#ports.close();
  }
}
