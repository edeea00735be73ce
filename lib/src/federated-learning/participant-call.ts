import { create } from '@bufbuild/protobuf';
import { type AggregatorFrame, AggregatorFrameSchema, type ParticipantFrame } from '@shoal/api';

/** A participant's stream, whatever carries it: that of gRPC, or one with the same events. */
export interface ParticipantCall {
  on(event: 'data', listener: (frame: ParticipantFrame) => void): unknown;
  on(event: 'end' | 'cancelled' | 'error', listener: () => void): unknown;
  /** What came is no frame; the stream ends by itself. */
  on(event: 'fault', listener: (error: unknown) => void): unknown;
  once(event: 'drain' | 'close' | 'error', listener: () => void): unknown;
  off(event: 'drain' | 'close' | 'error', listener: () => void): unknown;
  /** Who sends is known: its frames may be large. */
  admit?(): void;
  /** @returns Whether more may come at once; else `drain` tells when. */
  write(frame: AggregatorFrame): boolean;
  /** Resolves when nothing that was written is read any more; where it is missing, that is at once. */
  flushed?(): Promise<void>;
  end(): void;
}

/** Sends a frame. */
export function send(call: Pick<ParticipantCall, 'write'>, frame: unknown): void {
  call.write(create(AggregatorFrameSchema, { frame: frame as never }));
}
