import { EventEmitter } from 'node:events';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { type AggregatorFrame, AggregatorFrameSchema, ParticipantFrameSchema } from '@shoal/api';
import type { ParticipantCall } from '@shoal/lib';
import type { RawData, WebSocket } from 'ws';

const HIGH_WATER_BYTES = 4 * 1024 * 1024;

/** A WebSocket as the aggregator sees any participant's stream. */
export class WebSocketCall extends EventEmitter implements ParticipantCall {
  readonly #socket: WebSocket;

  constructor(socket: WebSocket) {
    super();
    this.#socket = socket;
    socket.on('message', (data: RawData) => {
      try {
        this.emit('data', fromBinary(ParticipantFrameSchema, new Uint8Array(data as Buffer)));
      } catch {
        socket.close(1008, 'a message is no frame');
      }
    });
    socket.on('close', () => {
      this.emit('end');
      this.emit('close');
    });
    socket.on('error', () => this.emit('close'));
  }

  write(frame: AggregatorFrame): boolean {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return true;
    socket.send(toBinary(AggregatorFrameSchema, frame), () => {
      if (socket.bufferedAmount < HIGH_WATER_BYTES / 2) this.emit('drain');
    });
    return socket.bufferedAmount < HIGH_WATER_BYTES;
  }

  end(): void {
    this.#socket.close(1000);
  }
}
