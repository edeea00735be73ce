import { mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** Smaller files are made anew as fast. */
const LEAST_BYTES = 256 * 1024;
const MOST_BYTES = 2 ** 30;

/**
 * Files nobody needs any more, kept to be written over: pages a file has already take a tenth of the time of
 * new ones, which on a virtual machine its host may first have to find.
 */
export class SpareFiles {
  readonly #dir: string;
  readonly #files: { readonly path: string; readonly bytes: number }[] = [];
  #count = 0;

  /** @param dir Folder of its own; made when missing, emptied of what another process left. */
  constructor(dir: string) {
    this.#dir = dir;
    this.clear();
    mkdirSync(dir, { recursive: true });
  }

  /** A file to write over, for as many bytes; undefined where a new one will do. The caller moves it. */
  take(bytes: number): string | undefined {
    if (bytes < LEAST_BYTES) return undefined;
    const fit = this.#files.findIndex((f) => f.bytes >= bytes / 2 && f.bytes <= bytes * 2);
    return fit < 0 ? undefined : this.#files.splice(fit, 1)[0]?.path;
  }

  /** Takes a file away: it is kept to be written over, or removed. */
  give(path: string): void {
    const bytes = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    const kept = this.#files.reduce((n, f) => n + f.bytes, 0);
    if (bytes < LEAST_BYTES || kept + bytes > MOST_BYTES) {
      rmSync(path, { force: true });
      return;
    }
    const spare = join(this.#dir, String(this.#count++));
    try {
      renameSync(path, spare);
    } catch {
      // A full disk may have no room for another name.
      rmSync(path, { force: true });
      return;
    }
    this.#files.push({ path: spare, bytes });
  }

  /** Removes them all. */
  clear(): void {
    this.#files.length = 0;
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
