import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { AggregatorFrameSchema, type ParticipantFrame, ParticipantFrameSchema } from '@shoal/api';
import type { FrameTransport } from './frame-stream.ts';

/** Bytes a socket may hold back before the sender waits. */
const HIGH_WATER_BYTES = 4 * 1024 * 1024;
const LOOK_AGAIN_MS = 5;

/** The same frames over a WebSocket, for browsers (and Node ≥ 22). */
export function webSocketTransport(address: string): FrameTransport {
  return {
    address,
    open: ({ onFrame, onEnd }) => {
      const socket = new WebSocket(address, 'shoal.federated.v1');
      socket.binaryType = 'arraybuffer';
      let waiting: ParticipantFrame[] | undefined = [];
      const send = (frame: ParticipantFrame): void =>
        socket.send(toBinary(ParticipantFrameSchema, frame) as Uint8Array<ArrayBuffer>);
      socket.addEventListener('open', () => {
        for (const frame of waiting ?? []) send(frame);
        waiting = undefined;
      });
      socket.addEventListener('message', ({ data }) => {
        try {
          onFrame(fromBinary(AggregatorFrameSchema, new Uint8Array(data as ArrayBuffer)));
        } catch {
          onEnd('a message is no frame');
          socket.close();
        }
      });
      socket.addEventListener('close', ({ reason }) => onEnd(reason || 'closed'));
      socket.addEventListener('error', () => onEnd('not reached'));
      return {
        write: (frame) => {
          if (waiting) waiting.push(frame);
          else if (socket.readyState === WebSocket.OPEN) send(frame);
          return socket.bufferedAmount < HIGH_WATER_BYTES;
        },
        drained: async () => {
          while (
            socket.readyState === WebSocket.OPEN &&
            socket.bufferedAmount > HIGH_WATER_BYTES / 2
          )
            await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
        },
        close: () => socket.close(),
      };
    },
  };
}
