import type { Clock } from '@shoal/core';

/** A pause that something may cut short; being woken while busy counts for the next pause. */
export class WakeUp {
  #woken = false;
  #wake: () => void = () => undefined;

  wake(): void {
    this.#woken = true;
    this.#wake();
  }

  /** Waits for `ms`, until woken, or until the signal aborts. */
  async pause(ms: number, clock: Clock, signal: AbortSignal): Promise<void> {
    if (!this.#woken) {
      const enough = new AbortController();
      this.#wake = () => enough.abort();
      await clock.sleep(ms, AbortSignal.any([enough.signal, signal])).catch(() => undefined);
      this.#wake = () => undefined;
    }
    this.#woken = false;
  }
}
