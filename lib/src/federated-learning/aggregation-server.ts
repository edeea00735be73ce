import type { Socket } from 'node:net';
import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  type AggregatorFrame,
  AggregatorFrameSchema,
  FEDERATION_METHODS,
  type ParticipantFrame,
  ParticipantFrameSchema,
  type SecureRequest,
} from '@shoal/api';
import {
  type Clock,
  digestOf,
  isShoalError,
  type Logger,
  messageOf,
  ShoalError,
  silentLogger,
  systemClock,
} from '@shoal/core';
import { sendChunks, sinkOf } from '../transfer/chunks.ts';
import { FrameSocket } from '../transfer/frame-socket.ts';
import { type FrameListener, listenForFrames } from '../transfer/listen-frames.ts';
import { requireAdmission } from './admission.ts';
import type { AggregationServerOptions } from './aggregation-options.ts';
import { layoutText } from './federated-model.ts';
import { type ResolvedFederation, resolveFederation } from './federation-options.ts';
import { type ParticipantCall, send } from './participant-call.ts';
import { RoundRunner } from './round-runner.ts';
import type { RoundSummary } from './round-summary.ts';
import type { FederationResult, RoundPorts, Rounds } from './rounds.ts';
import { type Sender, Uploads } from './uploads.ts';

const TICK_MS = 200;
/** Rounds of the history that participants are told. */
const TOLD_ROUNDS = 50;
const JOIN_TIMEOUT_MS = 10_000;
const FRAMES = { write: AggregatorFrameSchema, read: ParticipantFrameSchema, isTrusted: false };

interface Session extends Sender {
  /** The participant’s process. */
  readonly instance: string;
  readonly call: ParticipantCall;
}

/**
 * The aggregator of a federation: pushes rounds to participants over gRPC, keeps every update
 * durably before it says so, adds them up in a fixed order, and goes on after a kill.
 */
export class AggregationServer<R extends Rounds = Rounds> {
  readonly #options: AggregationServerOptions;
  readonly #federation: ResolvedFederation;
  /** The rounds behind this server. */
  readonly rounds: R;
  readonly #server: grpc.Server;
  readonly #logger: Logger;
  readonly #clock: Clock;
  readonly #sessions = new Map<string, Session>();
  readonly #uploads: Uploads<Session>;
  readonly #ended = new WeakSet<ParticipantCall>();
  readonly #layout: string;
  #listener: FrameListener | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  readonly #done: Promise<FederationResult>;
  #resolve: (result: FederationResult) => void = () => undefined;
  #reject: (error: Error) => void = () => undefined;

  /**
   * @param makeRounds Whose rounds these are; default those of the options.
   * @throws ShoalError `invalid_argument` listing every fault of the options.
   */
  constructor(options: AggregationServerOptions, makeRounds?: (ports: RoundPorts) => R) {
    this.#options = options;
    this.#federation = resolveFederation(options);
    this.#logger = options.logger ?? silentLogger;
    this.#clock = options.clock ?? systemClock;
    this.#layout = digestOf(layoutText(options.layout));
    this.#done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#done.catch(() => undefined);
    const make =
      makeRounds ?? (this.#ownRounds as (ports: RoundPorts) => Rounds as (ports: RoundPorts) => R);
    this.rounds = make(this.#ports());
    this.#uploads = new Uploads({
      rounds: this.rounds,
      clock: this.#clock,
      accept: (session, round) => send(session.call, { case: 'accepted', value: { round } }),
      refuse: (session, round, reason) => this.#refuse(session.call, round, reason, false),
      dismiss: (session, round, reason) => this.#dismiss(session, round, reason),
      guard: (body) => this.#guard(body),
    });
    this.#server = new grpc.Server({
      'grpc.max_receive_message_length': 8 * 1024 * 1024,
      'grpc.max_send_message_length': 8 * 1024 * 1024,
      'grpc.keepalive_time_ms': 15_000,
      'grpc.keepalive_timeout_ms': 10_000,
    });
    this.#server.addService(FEDERATION_METHODS as unknown as grpc.ServiceDefinition, {
      participate: (call: grpc.ServerDuplexStream<ParticipantFrame, AggregatorFrame>) =>
        this.attach(call),
    });
  }

  readonly #ownRounds = (ports: RoundPorts): Rounds => {
    const { dir, initial, evaluate, trained } = this.#options;
    const at = { federation: this.#federation, dir, initial, nowMs: this.#clock.now() };
    return new RoundRunner({
      ...at,
      ...ports,
      ...(evaluate ? { evaluate } : {}),
      ...(trained === undefined ? {} : { trained }),
    });
  };

  #ports(): RoundPorts {
    const { onRound, onStalled } = this.#options;
    return {
      ask: (participant) => this.#ask(participant),
      tell: (participant, request) => this.#tell(participant, request),
      broken: (error) => this.#break(error),
      ended: (reason, failed) => this.#end(reason, failed),
      onRound: (summary) => {
        this.#logger.info('round done', { ...summary });
        onRound?.(summary);
      },
      onStalled: (reason) => {
        this.#logger.warn('round waits', { reason });
        this.notify(reason);
        onStalled?.(reason);
      },
    };
  }

  /** Starts listening; resolves with `host:port`. @throws ShoalError when the address is taken. */
  async start(): Promise<string> {
    const { host = '127.0.0.1', port = 0, tls } = this.#options;
    const onFrames = (socket: Socket): void => this.attach(new FrameSocket(socket, FRAMES));
    const at = { host, port, tls, what: 'the aggregator', onFrames };
    this.#listener = await listenForFrames(this.#server, at);
    const { outcome } = this.rounds;
    if (outcome !== undefined) this.#end(outcome, false);
    else {
      const tick = (): void => this.#guard(() => this.rounds.tick(this.#clock.now()));
      this.#timer = setInterval(tick, TICK_MS);
      tick();
    }
    return `${host}:${this.#listener.port}`;
  }

  /** The end of the federation: all rounds done, patience or privacy spent. Rejects when a round cannot be saved. */
  get done(): Promise<FederationResult> {
    return this.#done;
  }

  get history(): readonly RoundSummary[] {
    return this.rounds.history;
  }

  /** Runs something that must not fail; a failure (a full disk) ends the federation with its cause. */
  #guard(body: () => void): void {
    try {
      body();
    } catch (error) {
      this.#break(error);
    }
  }

  #break(error: unknown): void {
    this.#logger.error('the federation cannot go on', { reason: messageOf(error) });
    this.#reject(error instanceof Error ? error : new Error(messageOf(error)));
  }

  #end(reason: string, failed: boolean): void {
    if (this.#timer) clearInterval(this.#timer);
    // After a failure participants dial again: the aggregator may be restarted.
    for (const session of this.#sessions.values())
      if (failed) this.#endCall(session.call);
      else this.#finish(session, reason);
    if (failed) this.#reject(new ShoalError('deadline_exceeded', reason));
    else this.#resolve(this.rounds.result(reason));
  }

  #finish({ call }: Session, reason: string): void {
    const history = JSON.stringify(this.rounds.history.slice(-TOLD_ROUNDS));
    const value = { reason, history, model: this.rounds.digest };
    send(call, { case: 'finished', value });
    this.#endCall(call);
  }

  /** Ends a stream: what still comes on it is not for us. */
  #endCall(call: ParticipantCall): void {
    this.#ended.add(call);
    call.end();
  }

  /** Lets a participant in whose stream came another way than gRPC. */
  attach(call: ParticipantCall): void {
    let session: Session | undefined;
    const timer = setTimeout(
      () => this.#refuse(call, 0, 'no Join frame came', true),
      JOIN_TIMEOUT_MS,
    );
    call.on('data', (frame: ParticipantFrame) => {
      if (this.#closed || this.#ended.has(call)) return;
      try {
        if (session) this.#take(session, frame);
        else {
          session = this.#admit(call, frame);
          if (session) clearTimeout(timer);
        }
      } catch (error) {
        this.#fault(call, session, error);
      }
    });
    const gone = (): void => {
      clearTimeout(timer);
      if (this.#closed || !session) return;
      this.#uploads.drop(session);
      if (this.#sessions.get(session.participant) !== session) return;
      this.#sessions.delete(session.participant);
      this.rounds.leave(session.participant);
      this.#logger.info('participant left', { participant: session.participant });
    };
    call.on('end', () => {
      gone();
      this.#endCall(call);
    });
    call.on('cancelled', gone);
    call.on('error', gone);
    call.on('fault', (error) => this.#fault(call, session, error));
  }

  /** What a participant did wrong is its own affair: the round survives it. */
  #fault(call: ParticipantCall, session: Session | undefined, error: unknown): void {
    const reason = messageOf(error);
    if (!isShoalError(error)) {
      this.#break(error);
      return;
    }
    this.#logger.warn('refused', { participant: session?.participant ?? 'unknown', reason });
    if (!session) {
      this.#refuse(call, 0, reason, true);
      return;
    }
    const { round } = session.incoming ?? this.rounds;
    this.#uploads.drop(session);
    this.#dismiss(session, round, reason);
  }

  /** An update does not count, and the participant is told why. */
  #dismiss(session: Session, round: number, reason: string): void {
    this.#refuse(session.call, round, reason, false);
    if (round !== this.rounds.round) return; // of a round that is over
    this.#guard(() => this.rounds.failed(session.participant, reason, this.#clock.now()));
  }

  #refuse(call: ParticipantCall, round: number, reason: string, final: boolean): void {
    send(call, { case: 'refused', value: { round, reason, final } });
    if (final) this.#endCall(call);
  }

  /** Two processes of one name: the one that is here goes on, and people are told of the other. */
  #refuseSecond(participant: string, call: ParticipantCall): undefined {
    const reason = `a second process calls itself ${participant}; the first one is connected. If that is gone, the second is let in within half a minute`;
    this.#logger.warn('refused', { participant, reason });
    this.notify(reason);
    this.#options.onStalled?.(reason);
    this.#refuse(call, 0, reason, false);
    this.#endCall(call);
    return undefined;
  }

  #admit(call: ParticipantCall, frame: ParticipantFrame): Session | undefined {
    if (frame.frame.case !== 'join')
      throw new ShoalError('unauthenticated', 'the first frame must be Join');
    const { participant } = frame.frame.value;
    requireAdmission(frame.frame.value, {
      job: this.#federation.job,
      token: this.#options.token,
      names: this.#options.names,
      layout: this.#layout,
    });
    const { instance } = frame.frame.value;
    const session: Session = { participant, instance, call, incoming: undefined };
    const before = this.#sessions.get(participant);
    if (before && before.instance !== instance && before.instance !== '')
      return this.#refuseSecond(participant, call);
    if (before) this.#endCall(before.call);
    call.admit?.();
    this.#sessions.set(participant, session);
    const value = { round: this.rounds.round, trailingDigests: true };
    send(call, { case: 'admitted', value });
    this.#logger.info('participant joined', { participant });
    const { outcome } = this.rounds;
    if (outcome === undefined) this.rounds.join(participant, this.#clock.now());
    else this.#finish(session, outcome);
    return session;
  }

  /** Tells everyone who is here why the round waits: they carry it to where people look. */
  notify(reason: string): void {
    for (const { call } of this.#sessions.values())
      send(call, { case: 'notice', value: { reason } });
  }

  #ask(participant: string): void {
    const session = this.#sessions.get(participant);
    if (!session) return;
    const { deadlineMs } = this.#federation;
    const value = {
      round: this.rounds.round,
      attempt: this.rounds.attempt,
      model: this.rounds.digest,
      modelBytes: BigInt(this.rounds.size * 4),
      instructions: JSON.stringify(this.rounds.instructions()),
      deadlineMs,
      history: JSON.stringify(this.rounds.history.slice(-TOLD_ROUNDS)),
    };
    send(session.call, { case: 'task', value });
  }

  #tell(participant: string, value: SecureRequest): void {
    const call = this.#sessions.get(participant)?.call;
    if (call) send(call, { case: 'secure', value });
  }

  #take(session: Session, { frame }: ParticipantFrame): void {
    switch (frame.case) {
      case 'want':
        this.#sendModel(session, frame.value.digest, Number(frame.value.offset)).catch(
          () => undefined,
        );
        return;
      case 'update':
        this.#uploads.announce(session, frame.value);
        return;
      case 'chunk':
        this.#uploads.take(session, frame.value);
        return;
      case 'failed':
        this.#logger.warn('participant failed', {
          participant: session.participant,
          ...frame.value,
        });
        if (frame.value.round === this.rounds.round)
          this.rounds.failed(session.participant, frame.value.reason, this.#clock.now());
        return;
      case 'secure': {
        const { value } = frame;
        this.rounds.answer(session.participant, value, this.#clock.now());
        return;
      }
      case 'join':
      case undefined:
        throw new ShoalError(
          'invalid_argument',
          `unexpected frame ${frame.case ?? 'without content'}`,
        );
    }
  }

  async #sendModel(session: Session, digest: string, offset: number): Promise<void> {
    const runner = this.rounds;
    if (digest !== runner.digest) {
      // Of a round that is over: a new task is on its way, unless nobody waits for this one.
      if (runner.isAsynchronous) runner.join(session.participant, this.#clock.now());
      return;
    }
    const { call } = session;
    const { bytes, giveBack } = runner.lend();
    if (!(offset >= 0 && offset <= bytes.length)) return giveBack();
    try {
      const sent = await sendChunks(sinkOf(call), { digest, bytes, offset }, (chunk) => {
        // Where nobody tells when it was read, the memory is not ours any more.
        const data = call.flushed ? chunk.data : chunk.data.slice();
        return create(AggregatorFrameSchema, {
          frame: { case: 'chunk', value: { ...chunk, data } as never },
        });
      });
      runner.countDown(sent);
      await call.flushed?.();
    } finally {
      giveBack();
    }
  }

  /** Ends all streams; the state on disk stays. */
  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    if (this.#timer) clearInterval(this.#timer);
    for (const { call } of this.#sessions.values()) call.end();
    this.#sessions.clear();
    this.#server.forceShutdown();
    this.#listener?.close();
    this.#uploads.close();
    this.rounds.close();
    return Promise.resolve();
  }
}
