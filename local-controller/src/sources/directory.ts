import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fromNode, isShoalError } from '@shoal/core';
import type { SampleSink, SampleSource, SourceContext, SourceHealth } from './source.ts';

export interface DirectoryOptions {
  readonly path: string;
  readonly suffix?: string;
  readonly after?: string;
}

/** A file is whole once it has not changed for so long. */
const QUIET_MS = 1_000;
/** Files taken at one look. */
const FILES_A_LOOK = 200;
/** A file that was away for so long is a new one when it comes back. */
const GONE_MS = 24 * 3_600_000;
const MAX_FILE_BYTES = 16 * 1024 * 1024;

interface Found {
  readonly path: string;
  /** Name, size and time: a file that was written anew is a new one. */
  readonly id: string;
  readonly size: number;
  readonly mtimeMs: number;
}

function filesOf(folder: string, suffix: string | undefined): Found[] {
  const names = readdirSync(folder, { withFileTypes: true })
    .filter((e) => e.isFile() && !e.name.startsWith('.') && !e.name.endsWith('.tmp'))
    .map((e) => e.name)
    .filter((name) => suffix === undefined || name.endsWith(suffix))
    .toSorted();
  return names.flatMap((name) => {
    const path = join(folder, name);
    try {
      const { size, mtimeMs } = statSync(path);
      return [{ path, id: `${name}:${size}:${mtimeMs}`, size, mtimeMs }];
    } catch {
      return []; // gone between
    }
  });
}

/** Files that appear in a folder of the node. */
export class DirectorySource implements SampleSource {
  readonly #folder: string;
  readonly #options: DirectoryOptions;
  readonly #sink: SampleSink;
  readonly #context: SourceContext<DirectoryOptions>;
  readonly #seenAt = new Map<string, number>();
  readonly #startedAt: number;
  #forgetAtMs = 0;
  #health: SourceHealth = { state: 'Running' };

  constructor(context: SourceContext<DirectoryOptions>) {
    this.#context = context;
    this.#options = context.options;
    this.#folder = context.hostPath(context.options.path);
    this.#sink = context.sink;
    this.#startedAt = context.clock.monotonic();
  }

  health(): SourceHealth {
    return this.#health;
  }

  poll(): void {
    let files: Found[];
    try {
      files = filesOf(this.#folder, this.#options.suffix);
    } catch (error) {
      const { message } = fromNode(error, `reading ${this.#options.path}`);
      this.#health = { state: 'Failed', message };
      return;
    }
    this.#forgetGone(new Set(files.map((f) => f.id)));
    const now = this.#context.clock.now();
    let left = FILES_A_LOOK;
    let health: SourceHealth = { state: 'Running' };
    for (const file of files.filter((f) => now - f.mtimeMs >= QUIET_MS)) {
      if (left === 0) break;
      try {
        if (this.#take(file)) left--;
      } catch (error) {
        // The others are tried all the same.
        const isFull = isShoalError(error) && error.code === 'resource_exhausted';
        const { message } = fromNode(error, `taking ${file.path}`);
        health = { state: isFull ? 'Full' : 'Failed', message };
      }
    }
    this.#health = health;
  }

  /** A file that was here is forgotten once it has been away for long: a folder may be unmounted for a while. */
  #forgetGone(here: ReadonlySet<string>): void {
    const now = this.#context.clock.monotonic();
    for (const id of here) this.#seenAt.set(id, now);
    for (const [id, at] of this.#seenAt) if (now - at > GONE_MS) this.#seenAt.delete(id);
    if (now < this.#forgetAtMs) return;
    this.#forgetAtMs = now + GONE_MS;
    // After a start nothing is known of what was here before: it stays for a day.
    if (now - this.#startedAt > GONE_MS) this.#sink.keepOnly(new Set(this.#seenAt.keys()));
  }

  /** False when it was taken at an earlier look. */
  #take(file: Found): boolean {
    const { id, size, path } = file;
    const isNew = !this.#sink.knows(id);
    const delivery = { id, isLasting: true };
    if (isNew && size > MAX_FILE_BYTES) {
      this.#sink.refuse(
        delivery,
        `${path} is larger than ${MAX_FILE_BYTES} bytes; cut it into several files`,
      );
      return true;
    }
    const refused = isNew
      ? this.#sink.take({ ...delivery, payload: readFileSync(path) }).refused
      : [];
    // A file of which something was refused is left to be looked at.
    if (this.#options.after === 'delete' && isNew && refused.length === 0 && isAsItWas(file))
      rmSync(path, { force: true });
    return isNew;
  }

  close(): void {
    // Nothing is held open.
  }
}

function isAsItWas({ path, size, mtimeMs }: Found): boolean {
  const now = statSync(path);
  return now.size === size && now.mtimeMs === mtimeMs;
}
