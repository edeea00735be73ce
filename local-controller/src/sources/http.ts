import { createHash, timingSafeEqual } from 'node:crypto';
import { ShoalError } from '@shoal/core';
import type { SampleSource, SourceContext, SourceHealth, Taken } from './source.ts';

/** A request with samples, as the worker API hands it on. */
export interface SampleRequest {
  /** Of `Authorization: Bearer`. */
  readonly token: string | undefined;
  /** Whether it comes from the node itself. */
  readonly isLocal: boolean;
  /** `Idempotency-Key`: the same request again is not taken again. */
  readonly id: string | undefined;
  readonly payload: Buffer;
}

const MAX_ID = 200;

function isSame(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

/** Requests to the node’s worker API. */
export class HttpSource implements SampleSource {
  readonly #context: SourceContext;

  constructor(context: SourceContext) {
    this.#context = context;
  }

  health(): SourceHealth {
    return { state: 'Running' };
  }

  /**
   * Takes the samples of a request.
   *
   * @throws ShoalError `unauthenticated`, `permission_denied`, `invalid_argument`, or `resource_exhausted`
   *   while there is no room: the sender keeps them then.
   */
  accept({ token, isLocal, id, payload }: SampleRequest): Taken {
    const { token: expected } = this.#context.credentials;
    if (expected === undefined && !isLocal)
      throw new ShoalError(
        'permission_denied',
        'only the node itself may send to this dataset; name a Secret with a token in spec.source.http.credentialName to let others',
      );
    if (expected !== undefined && !(token !== undefined && isSame(token, expected)))
      throw new ShoalError(
        'unauthenticated',
        'this dataset needs its token: Authorization: Bearer …',
      );
    if (id !== undefined && id.length > MAX_ID)
      throw new ShoalError(
        'invalid_argument',
        `Idempotency-Key is longer than ${MAX_ID} characters`,
      );
    return this.#context.sink.take({ payload, ...(id === undefined ? {} : { id }) });
  }

  close(): void {
    // Requests find it by its dataset.
  }
}
