import type { AggregatorFrame, ParticipantFrame } from '@shoal/api';
import type { FrameSink, Hasher } from '../../transfer/chunks.ts';
import type { SecureCrypto } from '../privacy/secure-aggregation/secure-crypto.ts';

/** A stream to the aggregator, open or opening; what is written before it is open waits. */
export interface FrameStream extends FrameSink<ParticipantFrame> {
  close(): void;
}

export interface FrameHandlers {
  readonly onFrame: (frame: AggregatorFrame) => void;
  /** Told once, with why: the stream is of no use any more. */
  readonly onEnd: (reason: string) => void;
}

/** A way to the aggregator: gRPC in Node, a WebSocket in browsers. */
export interface FrameTransport {
  readonly address: string;
  open(handlers: FrameHandlers): FrameStream;
}

/** What a participant needs of the place it runs in. */
export interface ParticipantPlatform {
  newHash(): Hasher;
  readonly crypto: SecureCrypto;
}
