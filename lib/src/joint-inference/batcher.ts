import { ShoalError } from '@shoal/core';
import type { Predictions } from '../estimator/estimator.ts';

export interface BatcherOptions {
  /** Runs one batch: `[size, …sample]` → class probabilities. */
  readonly run: (inputs: Float32Array, size: number) => Promise<Predictions>;
  /** Most samples in a batch, ≥ 1. Default 32. */
  readonly maxBatch?: number;
  /**
   * How long the first sample of a batch waits for others while nothing runs, in milliseconds. Default
   * 0: a batch starts at once when nothing runs, and is whatever has come in meanwhile otherwise.
   */
  readonly maxDelayMs?: number;
  /** Samples that may wait, ≥ 1; more are refused. Default 1024. */
  readonly maxQueue?: number;
}

interface Waiting {
  readonly samples: readonly Float32Array[];
  readonly deadline: number;
  readonly resolve: (rows: Float32Array[]) => void;
  readonly reject: (error: Error) => void;
}

/** Samples per batch and requests refused, since the start. */
export interface BatcherFigures {
  readonly batches: number;
  readonly samples: number;
  readonly refused: number;
  readonly late: number;
}

/** Puts samples of many requests into one run of the model. */
export class Batcher {
  readonly #options: Required<BatcherOptions>;
  #queue: Waiting[] = [];
  #queued = 0;
  #running = false;
  #timer: NodeJS.Timeout | undefined;
  readonly #figures = { batches: 0, samples: 0, refused: 0, late: 0 };

  constructor(options: BatcherOptions) {
    this.#options = { maxBatch: 32, maxDelayMs: 0, maxQueue: 1024, ...options };
  }

  get figures(): BatcherFigures {
    return { ...this.#figures };
  }

  /**
   * Class probabilities of each sample.
   *
   * @param deadlineMs Milliseconds after which an answer is of no use; what waits longer is not run.
   * @throws ShoalError `resource_exhausted` when too much waits, `deadline_exceeded` when it waited too long.
   */
  async predict(samples: readonly Float32Array[], deadlineMs = 60_000): Promise<Float32Array[]> {
    const { maxQueue } = this.#options;
    if (this.#queued + samples.length > maxQueue) {
      this.#figures.refused++;
      throw new ShoalError(
        'resource_exhausted',
        `${this.#queued} samples wait for the model, at most ${maxQueue} may; try again later`,
      );
    }
    return await new Promise<Float32Array[]>((resolve, reject) => {
      const deadline = performance.now() + deadlineMs;
      this.#queue.push({ samples, deadline, resolve, reject });
      this.#queued += samples.length;
      this.#kick();
    });
  }

  /** Starts a batch when nothing runs: at once, or when the first has waited long enough. */
  #kick(): void {
    if (this.#running || this.#queue.length === 0) return;
    const { maxBatch, maxDelayMs } = this.#options;
    if (maxDelayMs > 0 && this.#queued < maxBatch) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        void this.#runNext();
      }, maxDelayMs);
      return;
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
    void this.#runNext();
  }

  /** Requests that fit into one batch; one that is larger than a batch runs by itself. */
  #take(): Waiting[] {
    const now = performance.now();
    const taken: Waiting[] = [];
    let size = 0;
    while (this.#queue.length > 0) {
      const next = this.#queue[0] as Waiting;
      if (taken.length > 0 && size + next.samples.length > this.#options.maxBatch) break;
      this.#queue.shift();
      this.#queued -= next.samples.length;
      if (next.deadline < now) {
        this.#figures.late++;
        next.reject(
          new ShoalError('deadline_exceeded', 'the sample waited longer than it may for the model'),
        );
        continue;
      }
      taken.push(next);
      size += next.samples.length;
    }
    return taken;
  }

  async #runNext(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    const taken = this.#take();
    try {
      if (taken.length > 0) await this.#runBatch(taken);
    } finally {
      this.#running = false;
      this.#kick();
    }
  }

  async #runBatch(taken: readonly Waiting[]): Promise<void> {
    const samples = taken.flatMap((w) => w.samples);
    const length = samples[0]?.length ?? 0;
    // Samples of another size would take the others down with them.
    const misfit = taken.find((w) => w.samples.some((s) => s.length !== length));
    try {
      if (misfit && taken.length > 1) {
        for (const one of taken) await this.#runBatch([one]);
        return;
      }
      const inputs = new Float32Array(samples.reduce((n, s) => n + s.length, 0));
      let at = 0;
      for (const sample of samples) {
        inputs.set(sample, at);
        at += sample.length;
      }
      const { probabilities, classes } = await this.#options.run(inputs, samples.length);
      this.#figures.batches++;
      this.#figures.samples += samples.length;
      let row = 0;
      for (const { samples: own, resolve } of taken)
        resolve(own.map(() => probabilities.slice(row * classes, ++row * classes)));
    } catch (error) {
      const reason = error instanceof Error ? error : new Error(String(error));
      // One bad sample must not fail the requests beside it.
      if (taken.length > 1) for (const one of taken) await this.#runBatch([one]);
      else taken[0]?.reject(reason);
    }
  }
}
