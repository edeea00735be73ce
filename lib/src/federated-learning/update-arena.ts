import {
  closeSync,
  constants,
  fdatasyncSync,
  openSync,
  readSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { fromNode, ShoalError } from '@shoal/core';

const PAGE_BYTES = 4096;
/** Left free beside the models: the table of rounds grows. */
const LEAST_FREE_BYTES = 8 * 1024 * 1024;

/** A place of the file. */
export interface Extent {
  readonly offset: number;
  readonly bytes: number;
}

/** Bytes of an update, and the most that any has. */
export interface UpdateSize {
  readonly bytes: number;
  readonly limit: number;
}

/** Room for one update on its way in. */
export interface Upload {
  readonly offset: number;
  /** @throws ShoalError `resource_exhausted` when the disk is full. */
  put(data: Uint8Array, at: number): void;
  /** Holds the room no longer: it is given back, unless the update is kept. */
  drop(): void;
}

/**
 * The bytes of updates, in slots of one file that are written over round after round: memory holds one of
 * them at a time however many come, and a file that is there takes a tenth of the time of a new one.
 */
export class UpdateArena {
  readonly #path: string;
  #file: number | undefined;
  /** Slots of updates on their way in, with the bytes that may still come. */
  readonly #open = new Map<number, number>();
  /** Bytes a slot had at most: what was written over takes no more room. */
  readonly #written = new Map<number, number>();
  #memory: Uint8Array<ArrayBuffer> = new Uint8Array();
  /** What the memory holds. */
  #held: number | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  #opened(): number {
    try {
      this.#file ??= openSync(this.#path, constants.O_RDWR | constants.O_CREAT, 0o600);
      return this.#file;
    } catch (error) {
      throw fromNode(error, `opening ${this.#path}`);
    }
  }

  /**
   * Room for an update.
   *
   * @param size.bytes What it has.
   * @param size.limit Most bytes one may have; the same for all.
   * @param kept Places of the updates that are here.
   * @throws ShoalError `resource_exhausted` when the disk then could not hold the models that follow.
   */
  reserve(size: UpdateSize, kept: readonly Extent[]): Upload {
    const { bytes, limit } = size;
    const file = this.#opened();
    const stride = Math.max(1, Math.ceil(limit / PAGE_BYTES)) * PAGE_BYTES;
    const isTaken = (from: number): boolean =>
      this.#open.has(from) ||
      kept.some((e) => e.offset < from + stride && from < e.offset + e.bytes);
    let offset = 0;
    while (isTaken(offset)) offset += stride;
    this.#requireRoom(bytes - (this.#written.get(offset) ?? 0), limit);
    this.#open.set(offset, bytes);
    return {
      offset,
      put: (data, at) => {
        if (this.#held === offset) this.#held = undefined;
        try {
          for (let done = 0; done < data.length; )
            done += writeSync(file, data, done, data.length - done, offset + at + done);
        } catch (error) {
          throw fromNode(error, 'no room for the update where the aggregator keeps it');
        }
        const end = at + data.length;
        this.#open.set(offset, bytes - end);
        if (end > (this.#written.get(offset) ?? 0)) this.#written.set(offset, end);
      },
      drop: () => this.#open.delete(offset),
    };
  }

  /** An update is refused before it fills the disk: then nothing could be written down any more. */
  #requireRoom(bytes: number, limit: number): void {
    if (bytes <= 0) return;
    const { bavail, bsize } = statfsSync(dirname(this.#path));
    const promised = this.#open.values().reduce((n, rest) => n + rest, 0);
    const free = bavail * bsize - promised;
    if (free >= bytes + limit + LEAST_FREE_BYTES) return;
    const mebibytes = (n: number): string => `${Math.round(n / 2 ** 20)} MiB`;
    throw new ShoalError(
      'resource_exhausted',
      `the disk of the aggregator has ${mebibytes(free)} left; an update needs ${mebibytes(bytes)}, and ${mebibytes(limit + LEAST_FREE_BYTES)} stay free for the models that follow`,
    );
  }

  /** Makes all that was put durable. */
  sync(): void {
    try {
      if (this.#file !== undefined) fdatasyncSync(this.#file);
    } catch (error) {
      throw fromNode(error, `writing ${this.#path}`);
    }
  }

  /** Where updates are read to, when they have room there. */
  readInto(memory: Uint8Array<ArrayBuffer>): void {
    this.#memory = memory;
    this.#held = undefined;
  }

  /**
   * Bytes of an update, in memory that the next call overwrites, to be looked at only.
   *
   * @throws ShoalError `data_corrupt` when they are not there.
   */
  peek({ offset, bytes }: Extent): Uint8Array<ArrayBuffer> {
    if (this.#memory.length < bytes) this.#memory = new Uint8Array(bytes);
    const view = this.#memory.subarray(0, bytes);
    if (this.#held === offset) return view;
    this.#held = undefined;
    const file = this.#opened();
    for (let at = 0; at < bytes; ) {
      const length = readSync(file, view, at, bytes - at, offset + at);
      if (length === 0)
        throw new ShoalError('data_corrupt', `${this.#path} ends at ${offset + at}`);
      at += length;
    }
    this.#held = offset;
    return view;
  }

  /** As {@link peek}; the caller may change what it gets. */
  read(extent: Extent): Uint8Array<ArrayBuffer> {
    const bytes = this.peek(extent);
    this.#held = undefined;
    return bytes;
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  /** Removes everything. */
  remove(): void {
    this.close();
    this.#open.clear();
    this.#written.clear();
    this.#held = undefined;
    rmSync(this.#path, { force: true });
  }
}
