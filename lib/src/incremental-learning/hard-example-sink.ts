import type { HardExample } from '@shoal/api';
import {
  backoffMs,
  type Clock,
  canonicalJson,
  digestOf,
  type JsonObject,
  type Logger,
  messageOf,
  type Random,
  seededRandom,
  silentLogger,
  systemClock,
} from '@shoal/core';

export interface HardExampleSinkOptions {
  /** `LC_SERVER`; empty: samples go nowhere, so that the library works without a cluster. */
  readonly server: string;
  readonly namespace: string;
  readonly jobName: string;
  /** Default `incrementallearningjob`. */
  readonly jobKind?: string;
  readonly workerName: string;
  /** Samples kept in memory while the local controller is away; the oldest go first. Default 1,000. */
  readonly maxPending?: number;
  /** Their bytes as JSON. Default 16 MiB. */
  readonly maxPendingBytes?: number;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
}

/** A hard example as the service knows it: what the dataset has in a line, without the label. */
export type FoundExample = Omit<HardExample, 'id' | 'collectedAt' | 'worker'>;

interface Pending {
  readonly json: string;
}

const BATCH_SAMPLES = 64;
const BATCH_BYTES = 4 * 1024 * 1024;
/** A larger sample is refused: no dataset line may be longer. */
const MAX_SAMPLE_BYTES = 2 * 1024 * 1024;
const GATHER_MS = 200;
const TIMEOUT_MS = 10_000;
const BACKOFF = { baseMs: 200, capMs: 10_000 };

/**
 * Hands hard examples to this node's local controller, which keeps them on disk until the cloud has
 * them. Handing over never holds up inference: samples gather in a bounded memory and go in batches.
 */
export class HardExampleSink {
  readonly #options: HardExampleSinkOptions;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;
  readonly #stopping = new AbortController();
  #pending: Pending[] = [];
  #bytes = 0;
  #sending: Promise<void> | undefined;
  /** Samples given up because the memory was full or the sample too large. */
  dropped = 0;
  /** Samples the local controller has taken. */
  delivered = 0;

  constructor(options: HardExampleSinkOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? seededRandom(Date.now());
    this.#logger = options.logger ?? silentLogger;
  }

  /** Samples that wait in memory. */
  get pendingCount(): number {
    return this.#pending.length;
  }

  /** Takes a hard example; the same data is the same sample, however often it is found. */
  add(found: FoundExample): void {
    const {
      server,
      workerName,
      maxPending = 1_000,
      maxPendingBytes = 16 * 1024 * 1024,
    } = this.#options;
    if (server === '' || this.#stopping.signal.aborted) return;
    const example: HardExample = {
      ...found,
      id: exampleId(found.data),
      collectedAt: new Date(this.#clock.now()).toISOString(),
      worker: workerName,
    };
    const json = JSON.stringify(example);
    if (json.length > MAX_SAMPLE_BYTES) {
      this.dropped++;
      return;
    }
    this.#pending.push({ json });
    this.#bytes += json.length;
    while (this.#pending.length > maxPending || this.#bytes > maxPendingBytes) this.#drop();
    this.#sending ??= this.#send().finally(() => {
      this.#sending = undefined;
    });
  }

  #drop(): void {
    const [gone] = this.#pending.splice(0, 1);
    this.#bytes -= gone?.json.length ?? 0;
    this.dropped++;
  }

  async #send(): Promise<void> {
    const { signal } = this.#stopping;
    let attempt = 0;
    while (this.#pending.length > 0) {
      const gather = attempt === 0 ? GATHER_MS : backoffMs(attempt, BACKOFF, this.#random);
      if (!signal.aborted) await this.#clock.sleep(gather, signal).catch(() => undefined);
      const batch = this.#batch();
      try {
        if (await this.#post(batch)) this.delivered += batch.length;
        else this.dropped += batch.length;
        this.#remove(batch);
        attempt = 0;
      } catch (error) {
        // After close() one attempt is all there is.
        if (signal.aborted) return;
        if (attempt++ === 0)
          this.#logger.warn('hard examples not taken, will retry', { reason: messageOf(error) });
      }
    }
  }

  #batch(): Pending[] {
    const batch: Pending[] = [];
    let bytes = 0;
    for (const sample of this.#pending.slice(0, BATCH_SAMPLES)) {
      bytes += sample.json.length;
      if (batch.length > 0 && bytes > BATCH_BYTES) break;
      batch.push(sample);
    }
    return batch;
  }

  /** Some of the batch may have been dropped for newer ones meanwhile. */
  #remove(batch: readonly Pending[]): void {
    const sent = new Set(batch);
    const rest = this.#pending.filter((s) => !sent.has(s));
    this.#bytes = rest.reduce((n, s) => n + s.json.length, 0);
    this.#pending = rest;
  }

  /** False when the batch is refused for good. */
  async #post(batch: readonly Pending[]): Promise<boolean> {
    const { server, namespace, jobName, jobKind = 'incrementallearningjob' } = this.#options;
    const job = [jobKind, namespace, jobName].map(encodeURIComponent).join('/');
    const response = await fetch(`${server}/shoal/jobs/${job}/hard-examples`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: `{"samples":[${batch.map((s) => s.json).join(',')}]}`,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const text = await response.text();
    // What the local controller calls wrong will not be right the next time.
    if (response.status === 400 || response.status === 413) {
      this.#logger.error('hard examples refused', { reason: text.slice(0, 300) });
      return false;
    }
    if (!response.ok) throw new Error(`HTTP ${response.status}: ${text.slice(0, 200)}`);
    return true;
  }

  /** Sends what waits, once, and ends. */
  async close(): Promise<void> {
    this.#stopping.abort();
    await this.#sending;
  }
}

/** Identity of a sample: the digest of its data. */
export function exampleId(data: JsonObject): string {
  return digestOf(canonicalJson(data));
}
