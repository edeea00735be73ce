import { isShoalError, type LoopPorts, messageOf } from '@shoal/core';
import type { Metrics } from '../operator/metrics.ts';
import { WorkQueue } from './work-queue.ts';

/** What a reconcile asks for next. */
export type ReconcileResult =
  | { readonly kind: 'done' }
  | { readonly kind: 'requeueAfter'; readonly ms: number };

export const DONE: ReconcileResult = { kind: 'done' };

/** A level-triggered function of a key (`namespace/name`), and what makes a key worth looking at. */
export interface Reconciler {
  readonly name: string;
  /** Tells, once, which keys changes concern; `enqueue` may be called at any time after. */
  watch(enqueue: (key: string) => void): void;
  reconcile(namespace: string, name: string): Promise<ReconcileResult>;
}

const BACKOFF = { baseMs: 100, capMs: 60_000 };

/** Runs one reconciler: the retry policy of the whole process is here. */
export class ControllerRunner {
  readonly #reconciler: Reconciler;
  readonly #ports: LoopPorts;
  readonly #metrics: Metrics;
  readonly #queue: WorkQueue;

  constructor(reconciler: Reconciler, ports: LoopPorts, metrics: Metrics) {
    this.#reconciler = reconciler;
    this.#ports = ports;
    this.#metrics = metrics;
    this.#queue = new WorkQueue({ ...BACKOFF, ...ports });
    reconciler.watch((key) => this.#queue.add(key));
  }

  /** Asks for a look at an object, whatever has changed. */
  enqueue(key: string): void {
    this.#queue.add(key);
  }

  /** True when every key known so far was looked at. */
  get idle(): boolean {
    return this.#queue.idle;
  }

  /** True once it runs. */
  started = false;

  async run(signal: AbortSignal): Promise<void> {
    this.started = true;
    for (
      let key = await this.#queue.take(signal);
      key !== undefined;
      key = await this.#queue.take(signal)
    ) {
      await this.#one(key, signal);
      this.#queue.done(key);
    }
  }

  async #one(key: string, signal: AbortSignal): Promise<void> {
    const { name } = this.#reconciler;
    const slash = key.indexOf('/');
    const startedAt = performance.now();
    try {
      const result = await this.#reconciler.reconcile(key.slice(0, slash), key.slice(slash + 1));
      this.#queue.succeeded(key);
      if (result.kind === 'requeueAfter') this.#queue.addAfter(key, result.ms, signal);
      this.#metrics.reconciled(name, 'ok', performance.now() - startedAt);
    } catch (error) {
      const retry = isShoalError(error) ? error.retry : 'backoff';
      this.#metrics.reconciled(name, retry, performance.now() - startedAt);
      if (retry === 'conflict') return this.#queue.addAfter(key, 50, signal);
      const level = retry === 'terminal' ? 'error' : 'warn';
      this.#ports.logger[level]('reconcile failed', {
        controller: name,
        key,
        retry,
        reason: messageOf(error),
      });
      this.#queue.retry(key, signal);
    }
  }
}
