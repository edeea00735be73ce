import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  type AggregatorFrame,
  FEDERATION_METHODS,
  type ParticipantFrame,
  ParticipantFrameSchema,
} from '@shoal/api';
import {
  backoffMs,
  type Clock,
  digestOf,
  type Logger,
  messageOf,
  type Random,
  ShoalError,
  seededRandom,
  silentLogger,
  systemClock,
} from '@shoal/core';
import { Assembly, sendChunks } from '../transfer/chunks.ts';
import { Compressor } from './compression.ts';
import { type FederatedModel, type LocalTask, layoutDigest } from './federated-model.ts';
import type { RoundSummary } from './round-store.ts';

export interface ParticipantOptions {
  /** `host:port` of the aggregator. */
  readonly address: string;
  readonly job: string;
  /** Unique in the federation. */
  readonly participant: string;
  readonly token?: string;
  /** PEM of the authority of the aggregator's certificate; without it the stream is not encrypted. */
  readonly authority?: string;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
  /** Told why a round cannot go on yet. */
  readonly onNotice?: (reason: string) => void;
  /** Told after every task, with the rounds so far. */
  readonly onRound?: (
    round: number,
    metrics: Readonly<Record<string, number>>,
    history: readonly RoundSummary[],
  ) => void;
}

export interface ParticipantResult {
  readonly reason: string;
  readonly rounds: number;
  readonly history: readonly RoundSummary[];
}

type Stream = grpc.ClientDuplexStream<ParticipantFrame, AggregatorFrame>;
type TaskFrame = Extract<AggregatorFrame['frame'], { case: 'task' }>['value'];

/** An update that is not accepted yet. */
interface Pending {
  readonly round: number;
  readonly bytes: Uint8Array;
  readonly digest: string;
  readonly samples: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly encoding: string;
}

function isFinal(error: unknown): boolean {
  return error instanceof ShoalError && error.retry === 'terminal';
}

/**
 * A participant of a federation: dials out, trains what it is given, and keeps its update until the
 * aggregator has it durably. A broken stream is dialled again with jitter; nothing is trained twice
 * for one round while this process lives.
 */
export class Participant {
  readonly #options: ParticipantOptions;
  readonly #model: FederatedModel;
  readonly #logger: Logger;
  #pending: Pending | undefined;
  #vector: { digest: string; values: Float32Array } | undefined;
  #assembly: Assembly | undefined;
  #task: TaskFrame | undefined;
  #compressor: Compressor | undefined;
  #rounds = 0;
  #working = Promise.resolve();

  constructor(options: ParticipantOptions, model: FederatedModel) {
    this.#options = options;
    this.#model = model;
    this.#logger = options.logger ?? silentLogger;
  }

  /**
   * Takes part until the federation ends.
   *
   * @throws ShoalError when the aggregator refuses this participant for good, or the signal aborts.
   */
  async run(signal: AbortSignal): Promise<ParticipantResult> {
    const { clock = systemClock, random = seededRandom(Date.now()) } = this.#options;
    for (let attempt = 0; ; attempt++) {
      signal.throwIfAborted();
      try {
        return await this.#connect(signal, () => {
          attempt = 0;
        });
      } catch (error) {
        if (signal.aborted || isFinal(error)) throw error;
        this.#logger.info('the aggregator is not reached', { reason: messageOf(error) });
        await clock.sleep(50 + backoffMs(attempt, { baseMs: 100, capMs: 5_000 }, random), signal);
      }
    }
  }

  #client(): grpc.Client {
    const { address, authority } = this.#options;
    const credentials =
      authority === undefined
        ? grpc.credentials.createInsecure()
        : grpc.credentials.createSsl(Buffer.from(authority));
    return new grpc.Client(address, credentials, {
      'grpc.max_receive_message_length': 8 * 1024 * 1024,
      'grpc.max_send_message_length': 8 * 1024 * 1024,
      'grpc.keepalive_time_ms': 15_000,
      'grpc.initial_reconnect_backoff_ms': 100,
    });
  }

  #connect(signal: AbortSignal, connected: () => void): Promise<ParticipantResult> {
    const { address } = this.#options;
    const client = this.#client();
    const { path, requestSerialize, responseDeserialize } = FEDERATION_METHODS.participate;
    const stream: Stream = client.makeBidiStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
    );
    return new Promise<ParticipantResult>((resolve, reject) => {
      const stop = (): void => {
        stream.cancel();
        reject(
          signal.reason instanceof Error ? signal.reason : new ShoalError('cancelled', 'stopped'),
        );
      };
      signal.addEventListener('abort', stop, { once: true });
      stream.on('data', (frame: AggregatorFrame) => {
        if (frame.frame.case === 'admitted') connected();
        try {
          const result = this.#take(stream, frame, signal);
          if (result) resolve(result);
        } catch (error) {
          reject(error instanceof Error ? error : new Error(messageOf(error)));
          stream.cancel();
        }
      });
      const lost = (error?: Error): void =>
        reject(
          new ShoalError(
            'unavailable',
            `the stream to ${address} ended: ${error?.message ?? 'closed'}`,
          ),
        );
      stream.on('error', lost);
      stream.on('end', () => lost());
      this.#send(stream, {
        case: 'join',
        value: {
          job: this.#options.job,
          participant: this.#options.participant,
          token: this.#options.token ?? '',
          samples: BigInt(this.#model.samples),
          size: BigInt(this.#model.size),
          layout: layoutDigest(this.#model.layout),
        },
      });
    }).finally(() => {
      stream.on('error', () => undefined);
      client.close();
    });
  }

  #send(stream: Stream, frame: unknown): void {
    stream.write(create(ParticipantFrameSchema, { frame: frame as never }));
  }

  #take(
    stream: Stream,
    { frame }: AggregatorFrame,
    signal: AbortSignal,
  ): ParticipantResult | undefined {
    switch (frame.case) {
      case 'task':
        this.#begin(stream, frame.value, signal);
        return undefined;
      case 'chunk': {
        const bytes = this.#assembly?.add(frame.value);
        if (!bytes) return undefined;
        const { digest } = frame.value;
        this.#assembly = undefined;
        this.#vector = { digest, values: new Float32Array(bytes.buffer) };
        this.#work(stream, signal);
        return undefined;
      }
      case 'accepted':
        if (this.#pending?.round === frame.value.round) this.#pending = undefined;
        return undefined;
      case 'notice':
        this.#logger.warn('the federation waits', { reason: frame.value.reason });
        this.#options.onNotice?.(frame.value.reason);
        return undefined;
      case 'refused':
        return this.#refused(frame.value);
      case 'finished': {
        const { reason, history } = frame.value;
        return {
          reason,
          rounds: this.#rounds,
          history: JSON.parse(history || '[]') as RoundSummary[],
        };
      }
      case 'admitted':
      case undefined:
        return undefined;
    }
  }

  #refused({ round, reason, final }: { round: number; reason: string; final: boolean }): undefined {
    if (final) throw new ShoalError('permission_denied', `the aggregator refuses: ${reason}`);
    this.#logger.warn('update refused', { round, reason });
    if (this.#pending?.round === round) this.#pending = undefined;
    return undefined;
  }

  #begin(stream: Stream, task: TaskFrame, signal: AbortSignal): void {
    this.#task = task;
    if (this.#pending?.round === task.round) {
      void this.#upload(stream, this.#pending, task);
      return;
    }
    this.#pending = undefined;
    if (this.#vector?.digest === task.model) {
      this.#work(stream, signal);
      return;
    }
    this.#assembly = new Assembly(task.model, Number(task.modelBytes));
    this.#send(stream, { case: 'want', value: { digest: task.model, offset: 0n } });
  }

  /** Trains in the background, one task after the other; frames are handled meanwhile. */
  #work(stream: Stream, signal: AbortSignal): void {
    const task = this.#task;
    const vector = this.#vector;
    if (!task || vector?.digest !== task.model) return;
    this.#working = this.#working.then(() =>
      this.#train(stream, { task, values: vector.values, signal }),
    );
  }

  async #train(
    stream: Stream,
    at: { task: TaskFrame; values: Float32Array; signal: AbortSignal },
  ): Promise<void> {
    const { task, values, signal } = at;
    if (task !== this.#task || signal.aborted) return;
    if (this.#pending?.round === task.round) {
      // Trained while the stream was away: it went to one that is gone.
      await this.#upload(stream, this.#pending, task);
      return;
    }
    try {
      const instructions = JSON.parse(task.instructions) as LocalTask;
      const { delta, samples, metrics } = await this.#model.train(values, instructions, signal);
      this.#compressor ??= new Compressor(
        instructions.encoding,
        seededRandom(instructions.seed).fork(this.#options.participant),
      );
      const bytes = instructions.evaluateOnly ? new Uint8Array() : this.#compressor.compress(delta);
      const encoding = instructions.encoding.name;
      this.#pending = {
        round: task.round,
        bytes,
        digest: digestOf(bytes),
        samples,
        metrics,
        encoding,
      };
      this.#rounds++;
      this.#options.onRound?.(
        task.round,
        metrics,
        JSON.parse(task.history || '[]') as RoundSummary[],
      );
      await this.#upload(stream, this.#pending, task);
    } catch (error) {
      if (signal.aborted) return;
      this.#logger.warn('training failed', { round: task.round, reason: messageOf(error) });
      this.#send(stream, {
        case: 'failed',
        value: { round: task.round, reason: messageOf(error) },
      });
    }
  }

  async #upload(stream: Stream, pending: Pending, task: TaskFrame): Promise<void> {
    const { round, bytes, digest, samples, metrics, encoding } = pending;
    this.#send(stream, {
      case: 'update',
      value: {
        round,
        attempt: task.attempt,
        samples: BigInt(samples),
        metrics,
        encoding,
        bytes: BigInt(bytes.length),
        digest,
      },
    });
    if (bytes.length === 0) return;
    await sendChunks(stream, { digest, bytes }, (chunk) =>
      create(ParticipantFrameSchema, { frame: { case: 'chunk', value: chunk } }),
    );
  }
}
