import {
  backoffMs,
  type Clock,
  messageOf,
  type Random,
  ShoalError,
  seededRandom,
  systemClock,
} from '@shoal/core';

export type TaskStatus = 'running' | 'completed' | 'failed' | 'waiting';
export type TaskKind = 'train' | 'eval' | 'deploy' | 'inference';

/** A model a worker made or measured. */
export interface ModelResult {
  readonly format: string;
  /** Path as the node knows it. */
  readonly url: string;
  readonly metrics?: Readonly<Record<string, number | readonly number[]>>;
}

/** Body of `POST /sedna/workers/{name}/info`. */
export interface TaskInfo {
  readonly kind: TaskKind;
  readonly status?: TaskStatus;
  readonly results?: readonly ModelResult[];
  readonly ownerInfo?: Readonly<Record<string, unknown>>;
}

export interface ReporterOptions {
  /** `LC_SERVER`; empty: reports go nowhere, so that the library works without a cluster. */
  readonly server: string;
  readonly workerName: string;
  readonly namespace: string;
  readonly ownerName: string;
  readonly ownerKind: string;
  readonly clock?: Clock;
  readonly random?: Random;
}

/** Attempts for a report of progress; the end of a task is reported until it is taken. */
const ATTEMPTS = 8;
const TIMEOUT_MS = 5_000;

/** Tells the local controller of this node what a worker is doing. */
export class Reporter {
  readonly #options: ReporterOptions;

  constructor(options: ReporterOptions) {
    this.#options = options;
  }

  /**
   * Sends one report, again with jitter until it is taken. Hours of training must not be lost to a
   * local controller that restarts, so `completed` and `failed` are sent until they arrive.
   *
   * @throws ShoalError `unavailable` when the local controller cannot be reached.
   */
  async send(info: TaskInfo, signal?: AbortSignal): Promise<void> {
    const { server, clock = systemClock, random = seededRandom(Date.now()) } = this.#options;
    if (server === '') return;
    for (let attempt = 0; ; attempt++) {
      try {
        await this.#post(info);
        return;
      } catch (error) {
        const final = info.status === 'completed' || info.status === 'failed';
        if ((!final && attempt + 1 >= ATTEMPTS) || signal?.aborted) {
          throw new ShoalError(
            'unavailable',
            `the local controller at ${server} does not take reports: ${messageOf(error)}`,
            { cause: error },
          );
        }
        await clock.sleep(100 + backoffMs(attempt, { baseMs: 200, capMs: 5_000 }, random), signal);
      }
    }
  }

  async #post(info: TaskInfo): Promise<void> {
    const { server, workerName, namespace, ownerName, ownerKind } = this.#options;
    const response = await fetch(`${server}/sedna/workers/${encodeURIComponent(workerName)}/info`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ name: workerName, namespace, ownerName, ownerKind, ...info }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`HTTP ${response.status}: ${text.slice(0, 200)}`);
  }
}
