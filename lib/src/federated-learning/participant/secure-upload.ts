import { create } from '@bufbuild/protobuf';
import { type SecureAnswer, SecureAnswerSchema, type SecureRequest } from '@shoal/api';
import { ShoalError } from '@shoal/core';
import { clipTo } from '../privacy/clipping.ts';
import {
  type RevealedShare,
  SecureAggregationClient,
} from '../privacy/secure-aggregation/client.ts';
import { encodeFixedPoint } from '../privacy/secure-aggregation/fixed-point.ts';
import type { SigningIdentity } from '../privacy/secure-aggregation/identity.ts';
import type { SecureCrypto } from '../privacy/secure-aggregation/secure-crypto.ts';

/** A change that waits to be masked. */
export interface SecureChange {
  readonly job: string;
  readonly round: number;
  readonly samples: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly delta: Float32Array;
  /** The model and the instructions it was trained by. */
  readonly task: string;
  /** Largest norm, when changes are clipped. */
  readonly bound: number | undefined;
  /** Largest magnitude of a value. */
  readonly range: number;
}

export interface SecureParty {
  readonly participant: string;
  readonly identity: SigningIdentity;
  readonly crypto: SecureCrypto;
}

type Answer = SecureAnswer['answer'];

/**
 * Brings one change into a secure aggregation, over as many attempts as it takes. Once shares were
 * opened in one attempt, it takes part in no other of that round: two sums with different survivors
 * would tell the changes of those who differ.
 */
export class SecureUpload {
  readonly #change: SecureChange;
  readonly #party: SecureParty;
  #client: SecureAggregationClient | undefined;
  #opened: number | undefined;
  #words: Uint32Array | undefined;

  constructor(change: SecureChange, party: SecureParty) {
    this.#change = change;
    this.#party = party;
  }

  /** Whether shares were opened: the round has no other attempt then. */
  get isOpened(): boolean {
    return this.#opened !== undefined;
  }

  get round(): number {
    return this.#change.round;
  }

  #frame(answer: Answer): SecureAnswer {
    const { round } = this.#change;
    return create(SecureAnswerSchema, {
      round,
      attempt: this.#client?.session.attempt ?? 0,
      answer: answer as never,
    });
  }

  /** Says that the change is there, with the keys of this attempt. @throws ShoalError `failed_precondition` after opening. */
  ready(attempt: number): SecureAnswer {
    const { job, round, task, samples, metrics, range } = this.#change;
    if (this.#opened !== undefined && this.#opened !== attempt)
      throw new ShoalError(
        'failed_precondition',
        `the masks of round ${round} were opened in attempt ${this.#opened}: there is no other`,
      );
    if (this.#client?.session.attempt !== attempt) {
      this.#client = new SecureAggregationClient({
        session: { job, round, attempt, task },
        ...this.#party,
        samples,
        range,
      });
      this.#words = undefined;
    }
    const advert = this.#client.advertise();
    const value = { advert, samples: BigInt(samples), metrics } as never;
    return this.#frame({ case: 'ready', value });
  }

  /**
   * Answers what the aggregator asks in a stage; the masked vector comes as words.
   *
   * @throws ShoalError when the request would tell more than a sum, or is of an aggregation this
   *   process knows nothing of.
   */
  async answer({ attempt, request }: SecureRequest): Promise<SecureAnswer | Uint32Array> {
    const client = this.#client;
    if (!client || client.session.attempt !== attempt)
      throw new ShoalError('failed_precondition', `the keys of attempt ${attempt} are not here`);
    switch (request.case) {
      case 'shares': {
        const list = await client.share(request.value.adverts, request.value);
        return this.#frame({ case: 'shares', value: { list } as never });
      }
      case 'vector': {
        this.#words ??= this.#masked(client, request.value);
        return this.#words;
      }
      case 'survivors': {
        const value = client.confirm(request.value.names);
        return this.#frame({ case: 'confirmation', value: value as never });
      }
      case 'confirmations': {
        const list: RevealedShare[] = client.reveal(request.value.list);
        this.#opened = attempt;
        return this.#frame({ case: 'reveals', value: { list } as never });
      }
      case undefined:
        throw new ShoalError('invalid_argument', 'a request of secure aggregation without content');
    }
  }

  /** The clipped change in fixed point and, at the end, whether it was within the bound; masked. */
  #masked(
    client: SecureAggregationClient,
    at: Extract<SecureRequest['request'], { case: 'vector' }>['value'],
  ): Uint32Array {
    const { delta, bound } = this.#change;
    const values = delta.slice();
    const isWithin = bound === undefined || clipTo(values, bound);
    const words = new Uint32Array(values.length + 1);
    encodeFixedPoint(values, client.fixedPoint, words);
    words[values.length] = isWithin ? 1 : 0;
    client.mask(at.shares, words);
    return words;
  }
}
