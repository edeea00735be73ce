import { type BackoffOptions, backoffMs, type Clock, type Random } from '@shoal/core';

export interface WorkQueueOptions extends BackoffOptions {
  readonly clock: Clock;
  readonly random: Random;
}

/** Timers know no more than 24.8 days: who has longer to wait looks again in between. */
const MAX_DELAY_MS = 3_600_000;

/**
 * Keys waiting to be reconciled: each at most once, never two at a time for the same key, failed
 * ones again with back-off (after client-go's workqueue).
 */
export class WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #waiting = new Set<string>();
  readonly #running = new Set<string>();
  readonly #again = new Set<string>();
  readonly #attempts = new Map<string, number>();
  /** When a key is added again, where that is known. */
  readonly #due = new Map<string, number>();
  #wake: (() => void) | undefined;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
  }

  add(key: string): void {
    if (this.#running.has(key)) this.#again.add(key);
    else this.#waiting.add(key);
    this.#wake?.();
  }

  /** Adds a key after a delay; of several delays of a key the shortest counts. */
  addAfter(key: string, delayMs: number, signal: AbortSignal): void {
    const ms = Math.min(delayMs, MAX_DELAY_MS);
    const due = this.#options.clock.now() + ms;
    if ((this.#due.get(key) ?? Number.POSITIVE_INFINITY) <= due) return;
    this.#due.set(key, due);
    this.#options.clock.sleep(ms, signal).then(
      () => {
        // A shorter delay came after this one: that has added the key.
        if (this.#due.get(key) !== due) return;
        this.#due.delete(key);
        this.add(key);
      },
      () => undefined,
    );
  }

  /** Adds a key that failed, later each time. */
  retry(key: string, signal: AbortSignal): void {
    const attempt = this.#attempts.get(key) ?? 0;
    this.#attempts.set(key, attempt + 1);
    this.addAfter(
      key,
      this.#options.baseMs + backoffMs(attempt, this.#options, this.#options.random),
      signal,
    );
  }

  /** Forgets a key's failures. */
  succeeded(key: string): void {
    this.#attempts.delete(key);
  }

  /** Waits for a key and marks it as running. Undefined once the signal aborts. */
  async take(signal: AbortSignal): Promise<string | undefined> {
    while (!signal.aborted) {
      const [key] = this.#waiting;
      if (key !== undefined) {
        this.#waiting.delete(key);
        this.#running.add(key);
        return key;
      }
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal.removeEventListener('abort', wake);
          resolve();
        };
        this.#wake = wake;
        signal.addEventListener('abort', wake, { once: true });
      });
    }
    return undefined;
  }

  /** Ends a key's run; if it was added meanwhile it waits again. */
  done(key: string): void {
    this.#running.delete(key);
    if (this.#again.delete(key)) this.add(key);
  }

  get length(): number {
    return this.#waiting.size;
  }

  /** True when nothing waits and nothing runs. */
  get idle(): boolean {
    return this.#waiting.size === 0 && this.#running.size === 0;
  }
}
