import { create } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import {
  type AggregatorFrame,
  AggregatorFrameSchema,
  FEDERATION_METHODS,
  type ParticipantFrame,
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
import { listen } from '../transfer/listen.ts';
import { requireAdmission } from './admission.ts';
import type { AggregationServerOptions } from './aggregation-options.ts';
import { layoutText } from './federated-model.ts';
import { type ResolvedFederation, resolveFederation } from './federation-options.ts';
import { decodeUpdate, type Incoming, incomingOf } from './incoming.ts';
import { type ParticipantCall, send } from './participant-call.ts';
import { RoundRunner } from './round-runner.ts';
import type { RoundSummary } from './round-summary.ts';
import type { DecodedArrival, FederationResult, RoundPorts, Rounds } from './rounds.ts';

const TICK_MS = 200;
/** Rounds of the history that participants are told. */
const TOLD_ROUNDS = 50;
const JOIN_TIMEOUT_MS = 10_000;
/** Encoding of words of secure aggregation. */
const MASKED = 'masked';

interface Session {
  readonly participant: string;
  /** The participant’s process. */
  readonly instance: string;
  readonly call: ParticipantCall;
  incoming: Incoming | undefined;
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
  /** Updates that are here but not kept yet. */
  readonly #arrived: (DecodedArrival & { readonly session: Session })[] = [];
  readonly #layout: string;
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
    const at = { address: `${host}:${port}`, tls, what: 'the aggregator' };
    const bound = await listen(this.#server, at);
    const { outcome } = this.rounds;
    if (outcome !== undefined) this.#end(outcome, false);
    else {
      const tick = (): void => this.#guard(() => this.rounds.tick(this.#clock.now()));
      this.#timer = setInterval(tick, TICK_MS);
      tick();
    }
    return `${host}:${bound}`;
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
      if (failed) session.call.end();
      else this.#finish(session, reason);
    if (failed) this.#reject(new ShoalError('deadline_exceeded', reason));
    else this.#resolve(this.rounds.result(reason));
  }

  #finish({ call }: Session, reason: string): void {
    const history = JSON.stringify(this.rounds.history.slice(-TOLD_ROUNDS));
    const value = { reason, history, model: this.rounds.digest };
    send(call, { case: 'finished', value });
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
      if (this.#closed) return;
      try {
        if (session) this.#take(session, frame);
        else {
          clearTimeout(timer);
          session = this.#admit(call, frame);
        }
      } catch (error) {
        this.#fault(call, session, error);
      }
    });
    const gone = (): void => {
      clearTimeout(timer);
      if (this.#closed || !session) return;
      if (this.#sessions.get(session.participant) !== session) return;
      this.#sessions.delete(session.participant);
      this.rounds.leave(session.participant);
      this.#logger.info('participant left', { participant: session.participant });
    };
    call.on('end', () => {
      gone();
      call.end();
    });
    call.on('cancelled', gone);
    call.on('error', gone);
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
    const round = session.incoming?.round ?? this.rounds.round;
    session.incoming = undefined;
    this.#refuse(call, round, reason, false);
    if (round !== this.rounds.round) return; // of a round that is over
    this.#guard(() => this.rounds.failed(session.participant, reason, this.#clock.now()));
  }

  #refuse(call: ParticipantCall, round: number, reason: string, final: boolean): void {
    send(call, { case: 'refused', value: { round, reason, final } });
    if (final) call.end();
  }

  /** Two processes of one name: the one that is here goes on, and people are told of the other. */
  #refuseSecond(participant: string, call: ParticipantCall): undefined {
    const reason = `a second process calls itself ${participant}; the first one is connected. If that is gone, the second is let in within half a minute`;
    this.#logger.warn('refused', { participant, reason });
    this.notify(reason);
    this.#options.onStalled?.(reason);
    this.#refuse(call, 0, reason, false);
    call.end();
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
    before?.call.end();
    this.#sessions.set(participant, session);
    send(call, { case: 'admitted', value: { round: this.rounds.round } });
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
      modelBytes: BigInt(this.rounds.bytes.length),
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
        this.#announce(session, frame.value);
        return;
      case 'chunk': {
        const { incoming } = session;
        if (!incoming) return; // of an update that was refused
        const bytes = incoming.assembly.add(frame.value);
        if (bytes) this.#complete(session, incoming, bytes);
        return;
      }
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
    const sent = await sendChunks(
      sinkOf(session.call),
      { digest, bytes: runner.bytes, offset },
      (chunk) => create(AggregatorFrameSchema, { frame: { case: 'chunk', value: chunk } }),
    );
    runner.countDown(sent);
  }

  #announce(
    session: Session,
    update: Extract<ParticipantFrame['frame'], { case: 'update' }>['value'],
  ): void {
    const { round, bytes } = update;
    if (!this.#isExpected(session, update)) {
      this.#answerLate(session, round);
      return;
    }
    session.incoming = incomingOf(update, this.rounds.size);
    if (bytes === 0n) this.#complete(session, session.incoming, new Uint8Array());
  }

  #isExpected(
    { participant }: Session,
    update: Pick<Incoming, 'round' | 'attempt' | 'encoding'>,
  ): boolean {
    if (update.encoding === MASKED) return this.rounds.expectsMasked(participant, update);
    return this.rounds.expects(participant, update.round);
  }

  /** An update nobody waits for is late or doubled: it is counted already, or never will be. */
  #answerLate(session: Session, round: number): void {
    session.incoming = undefined;
    if (this.rounds.hasUpdate(session.participant, round)) this.#accept(session, round);
    else {
      const reason = `round ${round} does not wait for ${session.participant}`;
      this.#refuse(session.call, round, reason, false);
    }
  }

  #accept(session: Session, round: number): void {
    send(session.call, { case: 'accepted', value: { round } });
  }

  /** Checks an update that arrived in full, keeps it, and only then says so. */
  #complete(session: Session, incoming: Incoming, bytes: Uint8Array): void {
    session.incoming = undefined;
    const { round, samples, metrics, encoding } = incoming;
    const { participant } = session;
    // Its round may have ended with a quorum while the chunks were on their way.
    if (!this.#isExpected(session, incoming)) {
      this.#answerLate(session, round);
      return;
    }
    if (encoding === MASKED) {
      this.rounds.keepMasked(participant, bytes, this.#clock.now());
      this.#accept(session, round);
      return;
    }
    const delta = decodeUpdate(incoming, bytes, this.rounds);
    const update = { participant, base: round, samples, metrics, encoding, bytes: bytes.length };
    // What comes in one turn of the event loop goes to disk in one write.
    if (this.#arrived.length === 0) setImmediate(() => this.#guard(() => this.#settle()));
    this.#arrived.push({ session, update, values: bytes, delta });
  }

  /** Keeps what has arrived, and only then says so. */
  #settle(): void {
    if (this.#closed) return;
    const arrived = this.#arrived.splice(0);
    const { isAsynchronous } = this.rounds;
    for (const group of isAsynchronous ? arrived.map((a) => [a]) : [arrived]) {
      const wanted = new Set(group.filter((a) => this.#isWanted(a)));
      this.rounds.keep([...wanted]);
      for (const arrival of group) {
        const { session, update } = arrival;
        // The ones before it may have ended the round.
        if (!wanted.has(arrival) || !(isAsynchronous || this.#isWanted(arrival))) {
          this.#answerLate(session, update.base);
          continue;
        }
        this.#accept(session, update.base);
        this.rounds.received(update.participant, update.base, this.#clock.now());
      }
    }
  }

  #isWanted({ update }: DecodedArrival): boolean {
    return this.rounds.expects(update.participant, update.base);
  }

  /** Ends all streams; the state on disk stays. */
  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    if (this.#timer) clearInterval(this.#timer);
    for (const { call } of this.#sessions.values()) call.end();
    this.#sessions.clear();
    this.#server.forceShutdown();
    this.rounds.close();
    return Promise.resolve();
  }
}
