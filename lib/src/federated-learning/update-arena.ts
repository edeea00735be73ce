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
import { syncFolder } from '../transfer/durable-file.ts';

const PAGE_BYTES = 4096;
/** Left free beside the models: the table of rounds grows. */
const LEAST_FREE_BYTES = 8 * 1024 * 1024;

/** An update on its way in. */
interface Coming {
  readonly bytes: number;
  at: number;
}

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
  /** Updates on their way in, by their place. */
  readonly #open = new Map<number, Coming>();
  /** Bytes a slot had at most: what was written over takes no more room. */
  readonly #written = new Map<number, number>();
  #memory: Uint8Array<ArrayBuffer> = new Uint8Array();
  /** What the memory holds. */
  #held: number | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  #opened(): number {
    if (this.#file !== undefined) return this.#file;
    try {
      this.#file = openSync(this.#path, constants.O_RDWR | constants.O_CREAT, 0o600);
      syncFolder(dirname(this.#path));
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
    const stride = Math.max(1, Math.ceil(limit / PAGE_BYTES)) * PAGE_BYTES;
    const taken = new Set([...this.#open.keys()].map((at) => Math.floor(at / stride)));
    for (const e of kept)
      for (let k = Math.floor(e.offset / stride); k * stride < e.offset + e.bytes; k++)
        taken.add(k);
    let slot = 0;
    while (taken.has(slot)) slot++;
    const offset = slot * stride;
    this.#requireRoom(bytes - (this.#written.get(offset) ?? 0), limit);
    const coming: Coming = { bytes, at: 0 };
    this.#open.set(offset, coming);
    return {
      offset,
      put: (data, at) => this.#put(coming, { data, at, offset }),
      drop: () => {
        if (this.#open.get(offset) === coming) this.#open.delete(offset);
      },
    };
  }

  #put(
    coming: Coming,
    {
      data,
      at,
      offset,
    }: { readonly data: Uint8Array; readonly at: number; readonly offset: number },
  ): void {
    if (this.#open.get(offset) !== coming)
      throw new ShoalError('failed_precondition', 'nobody waits for this update any more');
    if (this.#held === offset) this.#held = undefined;
    const file = this.#opened();
    try {
      for (let done = 0; done < data.length; )
        done += writeSync(file, data, done, data.length - done, offset + at + done);
    } catch (error) {
      throw fromNode(error, 'no room for the update where the aggregator keeps it');
    }
    coming.at = at + data.length;
    this.#written.set(offset, Math.max(coming.at, this.#written.get(offset) ?? 0));
  }

  /** An update is refused before it fills the disk: then nothing could be written down any more. */
  #requireRoom(bytes: number, limit: number): void {
    if (bytes <= 0) return;
    // A model, and the state of an adaptive strategy.
    const rest = 2 * limit + LEAST_FREE_BYTES;
    const free = this.#free();
    if (free >= bytes + rest) return;
    const mebibytes = (n: number): string => `${Math.round(n / 2 ** 20)} MiB`;
    throw new ShoalError(
      'resource_exhausted',
      `the disk of the aggregator has ${mebibytes(free)} left; an update needs ${mebibytes(bytes)}, and ${mebibytes(rest)} stay free for the models that follow`,
    );
  }

  /** What is left of the disk when all that is on its way is here. */
  #free(): number {
    let promised = 0;
    for (const [offset, { bytes, at }] of this.#open)
      promised += Math.max(0, bytes - Math.max(at, this.#written.get(offset) ?? 0));
    try {
      const { bavail, bsize } = statfsSync(dirname(this.#path));
      return bavail * bsize - promised;
    } catch (error) {
      throw fromNode(error, `looking at the disk of ${this.#path}`);
    }
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
