import { isDeepStrictEqual } from 'node:util';
import { backoffMs, type Clock, isShoalError, type Logger, type Random } from '@shoal/core';
import type { ApiClient } from '../client/api-client.ts';
import type { ApiObject } from '../object.ts';

interface Entry {
  readonly pod: ApiObject;
  wanted: Record<string, unknown>;
  written: Record<string, unknown> | undefined;
  writing: Promise<void> | undefined;
}

export interface StatusWriterOptions {
  readonly client: ApiClient;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** Writes pod status to the API: only the newest of each pod, again until it arrives. */
export class StatusWriter {
  readonly #options: StatusWriterOptions;
  readonly #entries = new Map<string, Entry>();

  constructor(options: StatusWriterOptions) {
    this.#options = options;
  }

  put(pod: ApiObject, status: Record<string, unknown>): void {
    const uid = pod.metadata.uid ?? '';
    const entry = this.#entries.get(uid) ?? {
      pod,
      wanted: status,
      written: undefined,
      writing: undefined,
    };
    entry.wanted = structuredClone(status);
    this.#entries.set(uid, entry);
    entry.writing ??= this.#write(uid, entry);
  }

  forget(uid: string): void {
    this.#entries.delete(uid);
  }

  /** Resolves when the newest status of a pod is written (or the writer stops). */
  async flush(uid: string): Promise<void> {
    await this.#entries.get(uid)?.writing;
  }

  async #write(uid: string, entry: Entry): Promise<void> {
    const { clock, random, signal } = this.#options;
    let attempt = 0;
    while (
      !signal.aborted &&
      this.#entries.get(uid) === entry &&
      !isDeepStrictEqual(entry.wanted, entry.written)
    ) {
      const status = entry.wanted;
      try {
        await this.#send(entry.pod, status);
        entry.written = status;
        attempt = 0;
      } catch (error) {
        if (isShoalError(error) && (error.code === 'not_found' || error.code === 'conflict')) break;
        await clock
          .sleep(backoffMs(attempt++, { baseMs: 200, capMs: 5_000 }, random) + 50, signal)
          .catch(() => undefined);
      }
    }
    entry.writing = undefined;
  }

  async #send(pod: ApiObject, status: Record<string, unknown>): Promise<void> {
    const { namespace, name, uid } = pod.metadata;
    const path = `/api/v1/namespaces/${namespace}/pods/${name}/status`;
    await this.#options.client.request(
      'PATCH',
      path,
      { metadata: { uid }, status },
      { contentType: 'application/merge-patch+json' },
    );
  }
}
