import type { Clock } from '@shoal/core';

interface Event {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
}

/** Time that jumps from event to event; equal times run in the order they were planned. */
export class VirtualTime {
  #now = 0;
  #order = 0;
  readonly #heap: Event[] = [];
  events = 0;

  get now(): number {
    return this.#now;
  }

  /** Runs a function after a delay. */
  after(delayMs: number, run: () => void): void {
    this.#push({ at: this.#now + Math.max(0, delayMs), order: this.#order++, run });
  }

  /** Runs until nothing is planned before `untilMs`. Promises settle between events. */
  async runUntil(untilMs: number): Promise<void> {
    for (;;) {
      const next = this.#heap[0];
      if (!next || next.at > untilMs) break;
      this.#pop();
      this.#now = next.at;
      this.events++;
      next.run();
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#now = untilMs;
  }

  /** A machine’s clock: `skew` says by how much it is wrong now. */
  clock(skew: () => number): Clock {
    return {
      now: () => 1_800_000_000_000 + this.#now + skew(),
      monotonic: () => this.#now,
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          if (signal?.aborted) return reject(signal.reason);
          let over = false;
          this.after(ms, () => {
            if (over) return;
            over = true;
            signal?.removeEventListener('abort', stop);
            resolve();
          });
          const stop = (): void => {
            if (over) return;
            over = true;
            reject(signal?.reason);
          };
          signal?.addEventListener('abort', stop, { once: true });
        }),
    };
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let i = heap.length;
    heap.push(event);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      const above = heap[parent];
      if (!above || !isBefore(event, above)) break;
      heap[i] = above;
      i = parent;
    }
    heap[i] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (!last || heap.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      let least = heap[child];
      if (!least) break;
      const right = heap[child + 1];
      if (right && isBefore(right, least)) {
        child++;
        least = right;
      }
      if (!isBefore(least, last)) break;
      heap[i] = least;
      i = child;
    }
    heap[i] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
