import type { Duplex } from 'node:stream';
import { StatusError } from './status-error.ts';

/** Answers a request to upgrade with a failure, as a Kubernetes Status. */
export function refuseUpgrade(socket: Duplex, error: unknown): void {
  const failure =
    error instanceof StatusError
      ? error
      : new StatusError('InternalError', error instanceof Error ? error.message : String(error));
  const body = JSON.stringify(failure.status);
  socket.end(
    `HTTP/1.1 ${failure.code} ${failure.status.reason}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
