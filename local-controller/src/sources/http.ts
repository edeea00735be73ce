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

export interface HttpOptions {
  readonly credentialName?: string;
}

const MAX_ID = 200;

function isSame(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

/** Requests to the node’s worker API. */
export class HttpSource implements SampleSource {
  readonly #context: SourceContext<HttpOptions>;

  /** @throws ShoalError `invalid_argument` for a Secret without a token. */
  constructor(context: SourceContext<HttpOptions>) {
    const { credentialName } = context.options;
    if (credentialName !== undefined && !context.credentials['token'])
      throw new ShoalError(
        'invalid_argument',
        `spec.source.http.credentialName: Secret "${credentialName}" has no token`,
      );
    this.#context = context;
  }

  health(): SourceHealth {
    return { state: 'Running' };
  }

  /**
   * Lets a sender in, before anything of its request is read.
   *
   * @throws ShoalError `unauthenticated` or `permission_denied`.
   */
  admit({ token, isLocal }: Pick<SampleRequest, 'token' | 'isLocal'>): void {
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
  }

  /**
   * Takes the samples of a request.
   *
   * @throws ShoalError as {@link admit}; `invalid_argument`; or `resource_exhausted` while there is no
   *   room: the sender keeps them then.
   */
  accept(request: SampleRequest): Taken {
    const { id, payload } = request;
    this.admit(request);
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
