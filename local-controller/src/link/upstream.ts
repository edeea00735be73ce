import { create } from '@bufbuild/protobuf';
import { type EdgeFrame, EdgeFrameSchema } from '@shoal/api';
import { type Outbox, type OutboxEntry, STATE_STREAM } from '../store/outbox.ts';

/** Records, and bytes of them, that may be on their way at once. */
const WINDOW = 256;
const WINDOW_BYTES = 1024 ** 2;

/**
 * What one session has sent of the outbox: every record once, at most a window of them
 * unacknowledged. What is not acknowledged when the session ends is sent by the next one.
 */
export class Upstream {
  readonly #outbox: Outbox;
  /** Numbers sent and not acknowledged, by stream, rising. */
  readonly #unacknowledged = new Map<string, { seq: number; bytes: number }[]>();
  readonly #sent = new Map<string, number>();
  #records = 0;
  #bytes = 0;
  readonly #withLog: boolean;

  constructor(outbox: Outbox, options: { withLog: boolean }) {
    this.#outbox = outbox;
    this.#withLog = options.withLog;
  }

  get #room(): number {
    return this.#bytes >= WINDOW_BYTES ? 0 : WINDOW - this.#records;
  }

  /** Frames that may go now. */
  next(): EdgeFrame[] {
    const frames: EdgeFrame[] = [];
    const send = (entries: readonly OutboxEntry[], first: number): void => {
      for (const entry of entries) {
        if (this.#room <= 0) return;
        frames.push(this.#record(entry, first));
      }
    };
    send(this.#outbox.state(this.#sent.get(STATE_STREAM) ?? 0, this.#room), 0);
    if (!this.#withLog) return frames;
    for (const { stream, first } of this.#outbox.logStreams())
      send(this.#outbox.log(stream, this.#sent.get(stream) ?? 0, this.#room), first);
    return frames;
  }

  #record(entry: OutboxEntry, first: number): EdgeFrame {
    const { stream, seq, key, body, idempotencyKey } = entry;
    const previous = BigInt(this.#sent.get(stream) ?? 0);
    this.#sent.set(stream, seq);
    const sent = this.#unacknowledged.get(stream) ?? [];
    sent.push({ seq, bytes: body.length });
    this.#records++;
    this.#bytes += body.length;
    this.#unacknowledged.set(stream, sent);
    const value = {
      stream,
      seq: BigInt(seq),
      key,
      body,
      idempotencyKey,
      first: BigInt(first),
      previous,
    };
    return create(EdgeFrameSchema, { frame: { case: 'record', value } });
  }

  /** Drops what the cloud has taken; what it never got from us is no acknowledgement of ours. */
  acknowledge(stream: string, seq: number): void {
    const upTo = Math.min(seq, this.#sent.get(stream) ?? 0);
    if (upTo === 0) return;
    this.#outbox.acknowledge(stream, upTo);
    const sent = this.#unacknowledged.get(stream) ?? [];
    const taken = sent.filter((record) => record.seq <= upTo);
    this.#unacknowledged.set(stream, sent.slice(taken.length));
    this.#records -= taken.length;
    this.#bytes -= taken.reduce((sum, record) => sum + record.bytes, 0);
  }
}
