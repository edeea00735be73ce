import type { BlobChunk, CloudFrame, EdgeFrame, RelayFrame } from '@shoal/api';

/** Hard examples of one job on their way up. */
export interface SampleUpload {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly samples: readonly { readonly id: string; readonly body: Uint8Array }[];
}

/** One live connection to the global manager. */
export interface Connection {
  send(frame: EdgeFrame): void;
  /** Resolves when the connection has ended, with the reason if there is one. */
  readonly closed: Promise<string | undefined>;
  close(): void;
  /** Closes it and what is under it: nothing is heard through that any more. */
  abandon(): void;
}

/** The connection that relay streams go over. */
export interface RelayConnection {
  send(frame: RelayFrame): void;
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
  /** Sends hard examples; resolves with those that need not be sent again, and why others were not taken. */
  putSamples(upload: SampleUpload): Promise<{ taken: readonly string[]; reason: string }>;
  close(): void;
}
