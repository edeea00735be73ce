import type { BlobChunk, CloudFrame, EdgeFrame } from '@shoal/api';

/** One live connection to the global manager. */
export interface Connection {
  send(frame: EdgeFrame): void;
  /** Resolves when the connection has ended, with the reason if there is one. */
  readonly closed: Promise<string | undefined>;
  close(): void;
}

/** How an edge reaches the cloud; EdgeLink over gRPC is the usual one. */
export interface EdgeTransport {
  connect(onFrame: (frame: CloudFrame) => void): Connection;
  /** Chunks of a blob from an offset. @throws ShoalError. */
  getBlob(digest: string, offset: number): AsyncIterable<BlobChunk>;
  /** Sends chunks; resolves with what the cloud holds then. */
  putBlob(chunks: AsyncIterable<BlobChunk>): Promise<{ receivedBytes: number; complete: boolean }>;
  statBlob(digest: string): Promise<{ receivedBytes: number; complete: boolean }>;
  close(): void;
}
