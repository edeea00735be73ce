import { create } from '@bufbuild/protobuf';
import {
  type AggregatorFrame,
  type ParticipantFrame,
  ParticipantFrameSchema,
  type SecureRequest,
} from '@shoal/api';
import {
  backoffMs,
  type Clock,
  type Logger,
  messageOf,
  type Random,
  ShoalError,
  seededRandom,
  silentLogger,
  systemClock,
} from '@shoal/core';
import { Assembly, sendChunks } from '../../transfer/chunks.ts';
import { type FederatedModel, type LocalTask, layoutText } from '../federated-model.ts';
import type { SigningIdentity } from '../privacy/secure-aggregation/identity.ts';
import type { RoundSummary } from '../round-summary.ts';
import type { FrameStream, FrameTransport, ParticipantPlatform } from './frame-stream.ts';
import { type Pending, Progress, type ProgressStore } from './progress.ts';
import { SecureUpload } from './secure-upload.ts';

export interface ParticipantOptions {
  /** The way to the aggregator. */
  readonly transport: FrameTransport;
  readonly platform: ParticipantPlatform;
  readonly job: string;
  /** Unique in the federation. */
  readonly participant: string;
  readonly token?: string;
  /** What it signs with; needed where changes are only added up masked (secure aggregation). */
  readonly identity?: SigningIdentity;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
  /** Where it keeps what it must not forget when it is killed. Default nowhere. */
  readonly progress?: ProgressStore;
  /** Told why a round cannot go on yet. */
  readonly onNotice?: (reason: string) => void;
  /** Told why the work of a round does not count: it was refused, or could not be done. */
  readonly onRefused?: (round: number, reason: string) => void;
  /** Told when the update of a round counts. */
  readonly onAccepted?: (round: number) => void;
  /** Told before every task, with the rounds so far. */
  readonly onTask?: (history: readonly RoundSummary[]) => void;
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

/** Attempts to reach the aggregator in vain that people are not told of: it may just be starting again. */
const TOLD_ATTEMPT = 4;

type TaskFrame = Extract<AggregatorFrame['frame'], { case: 'task' }>['value'];

function isFinal(error: unknown): boolean {
  return error instanceof ShoalError && error.retry === 'terminal';
}

function bytesOf(words: Uint32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

/**
 * A participant of a federation: dials out, trains what it is given, and keeps its update until the
 * aggregator has it durably. A broken stream is dialled again with jitter; nothing is trained twice
 * for one round while this process lives. Runs in Node and in browsers.
 */
export class Participant {
  readonly #options: ParticipantOptions;
  readonly #model: FederatedModel;
  readonly #logger: Logger;
  readonly #progress: Progress;
  /** Whether the aggregator, of an older version, wants the digest of an update before its bytes. */
  #hashesFirst = false;
  /** The stream that is open now. */
  #stream: FrameStream | undefined;
  /** What is being sent on a stream: the rounds of the updates, and when the last one is through. */
  readonly #lanes = new WeakMap<
    FrameStream,
    { readonly rounds: Set<number>; last: Promise<void> }
  >();
  #secure: SecureUpload | undefined;
  #vector: { digest: string; values: Float32Array<ArrayBuffer> } | undefined;
  #assembly: Assembly | undefined;
  #task: TaskFrame | undefined;
  /** The last task that needs no other beginning. */
  #begun: TaskFrame | undefined;
  #rounds = 0;
  #working = Promise.resolve();
  /** Tasks that are being worked on or wait. */
  #tasks = 0;

  constructor(options: ParticipantOptions, model: FederatedModel) {
    this.#options = options;
    this.#model = model;
    this.#logger = options.logger ?? silentLogger;
    this.#progress = new Progress(model, options.participant, options.progress);
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
        const reason = messageOf(error);
        this.#logger.info('the aggregator is not reached', { reason });
        if (attempt === TOLD_ATTEMPT)
          this.#options.onNotice?.(`the aggregator is not reached: ${reason}`);
        await clock.sleep(50 + backoffMs(attempt, { baseMs: 100, capMs: 5_000 }, random), signal);
      }
    }
  }

  #connect(signal: AbortSignal, connected: () => void): Promise<ParticipantResult> {
    const { transport } = this.#options;
    let stream: FrameStream | undefined;
    let stop: (() => void) | undefined;
    return new Promise<ParticipantResult>((resolve, reject) => {
      const opened = transport.open({
        onFrame: (frame) => {
          if (frame.frame.case === 'admitted') {
            connected();
            this.#hashesFirst = !frame.frame.value.trailingDigests;
          }
          try {
            const result = this.#take(opened, frame, signal);
            if (result) resolve(result);
          } catch (error) {
            reject(error instanceof Error ? error : new Error(messageOf(error)));
          }
        },
        onEnd: (reason) =>
          reject(
            new ShoalError('unavailable', `the stream to ${transport.address} ended: ${reason}`),
          ),
      });
      stream = opened;
      this.#stream = opened;
      stop = () =>
        reject(
          signal.reason instanceof Error ? signal.reason : new ShoalError('cancelled', 'stopped'),
        );
      signal.addEventListener('abort', stop, { once: true });
      this.#send(opened, { case: 'join', value: this.#joinFrame() });
    }).finally(() => {
      if (stop) signal.removeEventListener('abort', stop);
      stream?.close();
    });
  }

  /** Where two processes have one name, the aggregator must know which of them dials again. */
  readonly #instance = randomName();

  #joinFrame(): Extract<ParticipantFrame['frame'], { case: 'join' }>['value'] {
    const { job, participant, token = '' } = this.#options;
    const { samples, size, layout } = this.#model;
    return {
      job,
      participant,
      token,
      samples: BigInt(samples),
      size: BigInt(size),
      layout: this.#digestOf(new TextEncoder().encode(layoutText(layout))),
      instance: this.#instance,
    } as never;
  }

  #digestOf(bytes: Uint8Array): string {
    const hash = this.#options.platform.newHash();
    hash.update(bytes);
    return hash.digest();
  }

  #send(stream: FrameStream, frame: unknown): void {
    stream.write(create(ParticipantFrameSchema, { frame: frame as never }));
  }

  #fail(stream: FrameStream, round: number, reason: string): void {
    this.#logger.warn('round failed', { round, reason });
    this.#options.onRefused?.(round, reason);
    this.#send(stream, { case: 'failed', value: { round, reason } });
  }

  #take(
    stream: FrameStream,
    { frame }: AggregatorFrame,
    signal: AbortSignal,
  ): ParticipantResult | undefined {
    switch (frame.case) {
      case 'task':
        this.#begin(stream, frame.value, signal);
        return undefined;
      case 'chunk': {
        const { digest, offset } = frame.value;
        // Chunks of a model that is not wanted any more may still be on their way.
        const isNext =
          this.#assembly?.digest === digest && BigInt(this.#assembly.offset) === offset;
        const bytes = isNext ? this.#assembly?.add(frame.value) : undefined;
        if (!bytes) return undefined;
        this.#assembly = undefined;
        this.#vector = { digest, values: new Float32Array(bytes.buffer) };
        this.#work(stream, signal);
        return undefined;
      }
      case 'accepted':
        this.#accepted(frame.value.round);
        this.#work(stream, signal);
        return undefined;
      case 'secure':
        void this.#answer(stream, frame.value);
        return undefined;
      case 'notice':
        this.#logger.warn('the federation waits', { reason: frame.value.reason });
        this.#options.onNotice?.(frame.value.reason);
        return undefined;
      case 'refused':
        this.#refused(frame.value);
        this.#work(stream, signal);
        return undefined;
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

  #accepted(round: number): void {
    this.#progress.accepted(round);
    this.#options.onAccepted?.(round);
  }

  #refused({ round, reason, final }: { round: number; reason: string; final: boolean }): void {
    if (final) throw new ShoalError('permission_denied', `the aggregator refuses: ${reason}`);
    this.#logger.warn('update refused', { round, reason });
    this.#options.onRefused?.(round, reason);
    this.#progress.refused(round);
  }

  #begin(stream: FrameStream, task: TaskFrame, signal: AbortSignal): void {
    this.#task = task;
    this.#options.onTask?.(JSON.parse(task.history || '[]') as RoundSummary[]);
    if (this.#hasResultOf(task)) {
      this.#begun = task;
      this.#upload(stream, task).catch((error: unknown) =>
        this.#fail(stream, task.round, messageOf(error)),
      );
      return;
    }
    // An asynchronous federation takes what is late; it was trained and must not be lost.
    const { asynchronous } = JSON.parse(task.instructions) as LocalTask;
    for (const pending of this.#progress.pending)
      if (asynchronous) void this.#sendUpdate(stream, pending, task.attempt);
      // Whether it counts is not known: the answer to its announcement tells.
      else this.#announce(stream, pending, task.attempt);
    this.#secure = undefined;
    if (this.#vector?.digest === task.model) {
      this.#work(stream, signal);
      return;
    }
    const hash = this.#options.platform.newHash();
    const memory = this.#released();
    this.#assembly = new Assembly(task.model, Number(task.modelBytes), { hash, memory });
    this.#send(stream, { case: 'want', value: { digest: task.model, offset: 0n } });
  }

  /** Memory of a model that nobody reads any more. */
  #released(): ArrayBuffer | undefined {
    const isRead = this.#tasks > 0 || this.#progress.pending.length > 0;
    const buffer = isRead ? undefined : this.#vector?.values.buffer;
    this.#vector = undefined;
    return buffer;
  }

  #hasResultOf({ round, model }: TaskFrame): boolean {
    return this.#secure?.round === round || this.#progress.of(round, model) !== undefined;
  }

  /** Whether it is not known yet if an update of another round counts: what is carried depends on it. */
  #isUnsettled({ round, instructions }: TaskFrame): boolean {
    if ((JSON.parse(instructions) as LocalTask).asynchronous) return false;
    return this.#progress.pending.some((p) => p.round !== round);
  }

  /** Trains in the background, one task after the other; frames are handled meanwhile. */
  #work(stream: FrameStream, signal: AbortSignal): void {
    const task = this.#task;
    const vector = this.#vector;
    if (!task || vector?.digest !== task.model || task === this.#begun) return;
    if (this.#isUnsettled(task)) return;
    this.#begun = task;
    this.#tasks++;
    this.#working = this.#working
      .then(() => this.#train(stream, { task, values: vector.values, signal }))
      .finally(() => this.#tasks--);
  }

  async #train(
    stream: FrameStream,
    at: { task: TaskFrame; values: Float32Array; signal: AbortSignal },
  ): Promise<void> {
    const { task, values, signal } = at;
    if (task !== this.#task || signal.aborted) return;
    try {
      // Trained while the stream was away: it went to one that is gone.
      if (!this.#hasResultOf(task)) await this.#result(task, values, signal);
      await this.#upload(this.#stream ?? stream, task);
    } catch (error) {
      if (!signal.aborted) this.#fail(this.#stream ?? stream, task.round, messageOf(error));
    }
  }

  /** Trains and keeps what came of it. */
  async #result(task: TaskFrame, values: Float32Array, signal: AbortSignal): Promise<void> {
    const { round } = task;
    const instructions = JSON.parse(task.instructions) as LocalTask;
    const { job, participant, identity, platform } = this.#options;
    if (identity && !instructions.secure && !instructions.evaluateOnly)
      throw new ShoalError(
        'permission_denied',
        'we have an identity to sign with, so our changes are only added up masked; the aggregator asks for them as they are',
      );
    if (round <= this.#progress.opened)
      throw new ShoalError(
        'permission_denied',
        `the sum of round ${this.#progress.opened} was opened: there is no other of it, or of one before`,
      );
    const before = this.#progress.mark();
    const result = await this.#model.train(values, instructions, signal);
    const { delta, samples, metrics } = result;
    if (instructions.secure && !instructions.evaluateOnly) {
      if (!identity)
        throw new ShoalError(
          'failed_precondition',
          'this federation adds changes up masked: the participant needs an identity to sign with',
        );
      this.#secure = new SecureUpload(
        {
          job,
          round,
          samples,
          metrics,
          delta,
          task: `${task.model} ${task.instructions}`,
          bound: instructions.secure.bound,
          range: instructions.secure.range,
        },
        { participant, identity, crypto: platform.crypto },
      );
      this.#progress.trainedSecurely();
    } else this.#progress.trained(result, instructions, { model: task.model, before });
    this.#rounds++;
    const history = JSON.parse(task.history || '[]') as RoundSummary[];
    this.#options.onRound?.(round, metrics, history);
  }

  async #upload(stream: FrameStream, task: TaskFrame): Promise<void> {
    if (this.#secure?.round === task.round)
      this.#send(stream, { case: 'secure', value: this.#secure.ready(task.attempt) });
    else {
      const pending = this.#progress.of(task.round, task.model);
      if (pending) await this.#sendUpdate(stream, pending, task.attempt);
    }
  }

  /** Sends updates of a stream one after the other, each once: their chunks must not mix. */
  #sendUpdate(stream: FrameStream, pending: Pending, attempt: number): Promise<void> {
    const lane = this.#lanes.get(stream) ?? { rounds: new Set(), last: Promise.resolve() };
    this.#lanes.set(stream, lane);
    if (lane.rounds.has(pending.round)) return lane.last;
    lane.rounds.add(pending.round);
    lane.last = lane.last
      .then(() => this.#transmit(stream, pending, attempt))
      .catch((error: unknown) => this.#logger.warn('not sent', { reason: messageOf(error) }))
      .finally(() => lane.rounds.delete(pending.round));
    return lane.last;
  }

  #announce(stream: FrameStream, pending: Pending, attempt: number): void {
    const { bytes, samples, round, metrics, encoding, digest } = pending;
    const counts = { samples: BigInt(samples), bytes: BigInt(bytes.length) };
    const value = { round, metrics, encoding, digest, attempt, ...counts };
    this.#send(stream, { case: 'update', value });
  }

  async #transmit(stream: FrameStream, pending: Pending, attempt: number): Promise<void> {
    const { bytes } = pending;
    if (this.#hashesFirst) pending.digest = this.#digestOf(bytes);
    this.#announce(stream, pending, attempt);
    if (bytes.length === 0) return;
    const hash = this.#options.platform.newHash();
    await sendChunks(stream, { digest: pending.digest, bytes }, ({ offset, data }) => {
      hash.update(data);
      if (Number(offset) + data.length === bytes.length) pending.digest = hash.digest();
      const value = { digest: pending.digest, offset, data };
      return create(ParticipantFrameSchema, { frame: { case: 'chunk', value: value as never } });
    });
  }

  /** A stage of secure aggregation; what it must not answer ends its part in the round, with the reason. */
  async #answer(stream: FrameStream, request: SecureRequest): Promise<void> {
    const { round, attempt } = request;
    try {
      const secure = this.#secure;
      if (secure?.round !== round)
        throw new ShoalError('failed_precondition', `the keys of round ${round} are not here`);
      const answer = await secure.answer(request);
      if (secure.isOpened) this.#progress.open(round);
      if (!(answer instanceof Uint32Array)) {
        this.#send(stream, { case: 'secure', value: answer });
        return;
      }
      const bytes = bytesOf(answer);
      // Samples and metrics were told when it was ready.
      const told = { samples: 1, metrics: {}, encoding: 'masked' };
      const update = { round, model: '', bytes, digest: '', ...told };
      await this.#sendUpdate(stream, update, attempt);
    } catch (error) {
      this.#fail(stream, round, messageOf(error));
    }
  }
}

/** A name nobody else has; also where a page is not served over HTTPS. */
function randomName(): string {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
