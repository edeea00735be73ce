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
  #health: SourceHealth = { state: 'Running' };

  constructor(context: SourceContext<DirectoryOptions>) {
    this.#context = context;
    this.#options = context.options;
    this.#folder = context.hostPath(context.options.path);
    this.#sink = context.sink;
  }

  health(): SourceHealth {
    return this.#health;
  }

  poll(): void {
    try {
      const files = filesOf(this.#folder, this.#options.suffix);
      this.#sink.keepOnly(new Set(files.map((f) => f.id)));
      const now = this.#context.clock.now();
      const whole = files.filter((f) => now - f.mtimeMs >= QUIET_MS);
      let left = FILES_A_LOOK;
      for (const file of whole) if (left > 0 && this.#take(file)) left--;
      this.#health = { state: 'Running' };
    } catch (error) {
      const known = fromNode(error, `reading ${this.#options.path}`);
      const state = isShoalError(error) && error.code === 'resource_exhausted' ? 'Full' : 'Failed';
      this.#health = { state, message: known.message };
    }
  }

  /** False when it was taken at an earlier look. */
  #take(file: Found): boolean {
    const { id, size, path } = file;
    const isNew = !this.#sink.knows(id);
    const delivery = { id, isLasting: true };
    if (isNew && size > MAX_FILE_BYTES)
      this.#sink.refuse(
        delivery,
        `${path} is larger than ${MAX_FILE_BYTES} bytes; cut it into several files`,
      );
    else if (isNew) this.#sink.take({ ...delivery, payload: readFileSync(path) });
    if (this.#options.after === 'delete' && size <= MAX_FILE_BYTES) rmSync(path, { force: true });
    return isNew;
  }

  close(): void {
    // Nothing is held open.
  }
}
