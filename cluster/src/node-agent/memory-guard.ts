import { proportionalBytes, type Usage } from './usage.ts';

/** A container that may use so much memory. */
export interface Limited {
  readonly pid: number;
  readonly limitBytes: number;
  /** Called once when it uses more. */
  readonly onExceeded: () => void;
}

const CHECK_MS = 500;

/**
 * Ends containers that use more memory than their limit: their processes are measured twice a
 * second, which needs no rights a plain user lacks. Where there is no /proc nothing is measured.
 */
export class MemoryGuard {
  readonly #watched = new Map<number, Limited>();
  readonly #measure: () => ReadonlyMap<number, Usage>;
  #timer: NodeJS.Timeout | undefined;

  /** @param measure Use by session. */
  constructor(measure: () => ReadonlyMap<number, Usage>) {
    this.#measure = measure;
  }

  /** @returns A function that ends the watch. */
  watch(limited: Limited): () => void {
    this.#watched.set(limited.pid, limited);
    this.#timer ??= setInterval(() => this.check(), CHECK_MS).unref();
    return () => {
      this.#watched.delete(limited.pid);
      if (this.#watched.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    };
  }

  check(): void {
    const usage = this.#measure();
    for (const { pid, limitBytes, onExceeded } of this.#watched.values()) {
      const used = usage.get(pid);
      // Shared pages count once: looked at closely only when the quick figure is too high.
      if (!used || used.memoryBytes <= limitBytes || proportionalBytes(used) <= limitBytes)
        continue;
      this.#watched.delete(pid);
      onExceeded();
    }
  }
}
