import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  type SecureAnswer,
  SecureAnswerSchema,
  type SecureRequest,
  SecureRequestSchema,
} from '@shoal/api';
import { ShoalError } from '@shoal/core';
import { requireScores } from './incoming.ts';
import type { RevealedShare } from './privacy/secure-aggregation/client.ts';
import {
  decodeFixedPoint,
  type FixedPointPlan,
  planFixedPoint,
} from './privacy/secure-aggregation/fixed-point.ts';
import { nativeCrypto } from './privacy/secure-aggregation/native-crypto.ts';
import {
  SecureAggregationServer,
  type SecureRequest as StageRequest,
} from './privacy/secure-aggregation/server.ts';
import type { RoundStore, StoredUpdate } from './round-store.ts';
import type { Masked } from './rounds.ts';

export interface SecureRoundsOptions {
  readonly job: string;
  readonly store: RoundStore;
  /** Values of a change. */
  readonly size: number;
  /** Time of a stage, in milliseconds. */
  readonly stageMs: number;
  readonly tell: (participant: string, request: SecureRequest) => void;
}

interface At {
  readonly round: number;
  readonly attempt: number;
}

/** What came of a secure aggregation. */
export interface SecureResult {
  /** Mean of the changes, weighted by samples. */
  readonly change: Float32Array;
  /** How many changes were within the bound. */
  readonly within: number;
  readonly survivors: readonly StoredUpdate[];
  /** Whole weights of the survivors. */
  readonly weights: readonly number[];
}

interface Session extends At {
  readonly server: SecureAggregationServer;
  readonly plan: FixedPointPlan;
  readonly range: number;
}

const EMPTY = new Uint8Array();

function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(
    bytes.byteOffset % 4 === 0
      ? bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
      : new Uint8Array(bytes).buffer,
  );
}

/** What an aggregation begins with. */
interface Begun {
  readonly participants: readonly string[];
  /** Largest magnitude of a value. */
  readonly range: number;
  /** The model and the instructions of the round, as participants were told; absent in older records. */
  readonly task?: string;
}

const KEY_BYTES = 32;

/**
 * Secure aggregation of a federation's rounds: every answer is kept before it counts, so that an
 * aggregator that was killed goes on in the stage where it was.
 */
export class SecureRounds {
  readonly #options: SecureRoundsOptions;
  #session: Session | undefined;
  #deadline = 0;

  constructor(options: SecureRoundsOptions) {
    this.#options = options;
  }

  get isRunning(): boolean {
    return this.#session !== undefined;
  }

  /** `done` once the sum can be opened, `failed` when it cannot, else `running`. */
  get state(): 'idle' | 'running' | 'done' | 'failed' {
    const stage = this.#session?.server.stage;
    if (stage === undefined) return 'idle';
    return stage === 'done' || stage === 'failed' ? stage : 'running';
  }

  /** Why it failed. */
  get reason(): string {
    return this.#session?.server.reason ?? '';
  }

  /**
   * A participant has trained: keeps its keys, samples and scores.
   *
   * @throws ShoalError for keys of another, or such that nobody could go on with.
   */
  keepReady(participant: string, at: At & { readonly range: number }, answer: SecureAnswer): void {
    const ready = answer.answer.case === 'ready' ? answer.answer.value : undefined;
    if (ready?.advert?.participant !== participant)
      throw new ShoalError(
        'permission_denied',
        `${participant} brings keys of another participant`,
      );
    requireScores(ready.samples, ready.metrics);
    if (BigInt(ready.advert.samples) !== ready.samples)
      throw new ShoalError(
        'invalid_argument',
        `samples must be as many as are signed: ${ready.samples}, ${ready.advert.samples}`,
      );
    const { encryptionKey, maskingKey, seedCommitment, range } = ready.advert;
    if ([encryptionKey, maskingKey, seedCommitment].some((k) => k.length !== KEY_BYTES))
      throw new ShoalError('invalid_argument', `keys have ${KEY_BYTES} bytes each`);
    if (range !== at.range)
      throw new ShoalError(
        'invalid_argument',
        `the range of this round is ${at.range}, ${participant} signs ${range}`,
      );
    const body = toBinary(SecureAnswerSchema, answer);
    this.#options.store.keepSecure(at, { stage: 'ready', participant, body });
  }

  #ready(at: At): Map<string, Extract<SecureAnswer['answer'], { case: 'ready' }>['value']> {
    const rows = this.#options.store
      .secure(at.round, at.attempt)
      .filter((r) => r.stage === 'ready');
    return new Map(
      rows.flatMap((r) => {
        const { answer } = fromBinary(SecureAnswerSchema, r.body);
        return answer.case === 'ready' ? [[r.participant, answer.value] as const] : [];
      }),
    );
  }

  /** Begins with those who are ready. */
  begin(at: At, what: Begun, nowMs: number): void {
    const body = Buffer.from(JSON.stringify(what));
    this.#options.store.keepSecure(at, { stage: 'begin', participant: '', body });
    this.#open(at, what);
    this.#tellAll(nowMs);
  }

  #open(at: At, { participants, range, task = '' }: Begun): Session {
    const { job, size } = this.#options;
    const ready = this.#ready(at);
    const adverts = participants.flatMap((p) => ready.get(p)?.advert ?? []);
    const samples = new Map(adverts.map((a) => [a.participant, a.samples]));
    const server = new SecureAggregationServer({
      session: { job, ...at, task },
      adverts,
      size: size + 1,
      crypto: nativeCrypto,
    });
    this.#session = { ...at, server, plan: planFixedPoint(samples, range), range };
    return this.#session;
  }

  /** Takes up an aggregation where a killed process left it. @returns Whether there was one. */
  restore(at: At, nowMs: number): boolean {
    const { store } = this.#options;
    const records = store.secure(at.round, at.attempt);
    const begun = records.find((r) => r.stage === 'begin');
    if (!begun) return false;
    const what = JSON.parse(Buffer.from(begun.body).toString()) as Begun;
    const { server } = this.#open(at, what);
    for (const { stage, participant, body } of records) {
      if (stage === 'vector')
        server.takeVector(participant, wordsOf(store.read({ participant, base: at.round })));
      else if (stage.startsWith('expired')) server.expire();
      else if (stage.startsWith('dropped')) server.drop(participant);
      else if (stage !== 'begin' && stage !== 'ready')
        this.#give(participant, fromBinary(SecureAnswerSchema, body));
    }
    this.#deadline = nowMs + this.#options.stageMs;
    return true;
  }

  #give(participant: string, { answer }: SecureAnswer): boolean {
    const server = this.#session?.server;
    if (!server) return false;
    if (answer.case === 'shares') return server.takeShares(participant, answer.value.list);
    if (answer.case === 'confirmation')
      return server.takeConfirmation(participant, answer.value.signature);
    if (answer.case === 'reveals')
      return server.takeReveals(participant, answer.value.list as RevealedShare[]);
    return false;
  }

  /** Runs a step of the session and, when that begins a new stage, tells everyone what comes next. */
  #step(nowMs: number, body: (session: Session) => void): void {
    const session = this.#session;
    if (!session) return;
    const before = session.server.stage;
    body(session);
    if (session.server.stage !== before) this.#tellAll(nowMs);
  }

  /** An answer to a stage; what is late or doubled changes nothing. */
  answer(participant: string, answer: SecureAnswer, nowMs: number): void {
    this.#step(nowMs, (session) => {
      if (answer.round !== session.round || answer.attempt !== session.attempt) return;
      if (!session.server.awaited.has(participant)) return;
      const stage = session.server.stage;
      if (!this.#give(participant, answer)) return;
      const body = toBinary(SecureAnswerSchema, answer);
      this.#options.store.keepSecure(session, { stage, participant, body });
    });
  }

  awaitsVector(participant: string, at: At): boolean {
    const session = this.#session;
    return (
      session?.round === at.round &&
      session.attempt === at.attempt &&
      session.server.stage === 'vectors' &&
      session.server.awaited.has(participant)
    );
  }

  /** @throws ShoalError `invalid_argument` for a vector of another length. */
  takeVector(participant: string, { upload, bytes }: Masked, nowMs: number): void {
    this.#step(nowMs, (session) => {
      const { store, size } = this.#options;
      if (bytes !== (size + 1) * 4)
        throw new ShoalError(
          'invalid_argument',
          `${bytes} bytes of a masked change, ${(size + 1) * 4} are wanted`,
        );
      const update = this.#infoOf(participant, session, bytes);
      store.keep(session.round, [{ update, upload }]);
      store.keepSecure(session, { stage: 'vector', participant, body: EMPTY });
      session.server.takeVector(participant, wordsOf(store.read(update)));
    });
  }

  #infoOf(participant: string, at: At, bytes: number): StoredUpdate {
    const ready = this.#ready(at).get(participant);
    return {
      participant,
      base: at.round,
      samples: Number(ready?.samples ?? 1n),
      metrics: ready?.metrics ?? {},
      encoding: 'masked',
      bytes,
    };
  }

  /** A participant that came back, or never left, is told what is wanted of it. */
  rejoin(participant: string): void {
    this.#tell(participant);
  }

  drop(participant: string, nowMs: number): void {
    this.#step(nowMs, (session) => {
      const { server } = session;
      if (!server.awaited.has(participant)) return;
      const stage = `dropped ${server.stage}`;
      this.#options.store.keepSecure(session, { stage, participant, body: EMPTY });
      server.drop(participant);
    });
  }

  tick(nowMs: number): void {
    if (nowMs < this.#deadline || this.state !== 'running') return;
    this.#step(nowMs, (session) => {
      const stage = `expired ${session.server.stage}`;
      this.#options.store.keepSecure(session, { stage, participant: '', body: EMPTY });
      session.server.expire();
    });
  }

  #tellAll(nowMs: number): void {
    this.#deadline = nowMs + this.#options.stageMs;
    for (const participant of this.#session?.server.awaited ?? []) this.#tell(participant);
  }

  #tell(participant: string): void {
    const session = this.#session;
    const request = session?.server.requestFor(participant);
    if (!session || !request) return;
    const { round, attempt } = session;
    const frame = create(SecureRequestSchema, {
      round,
      attempt,
      request: frameOf(request) as never,
    });
    this.#options.tell(participant, frame);
  }

  /** Opens the sum and ends the session. @throws ShoalError when it cannot be opened. */
  async finish(): Promise<SecureResult> {
    const session = this.#session;
    if (!session) throw new ShoalError('failed_precondition', 'no secure aggregation is going on');
    const { server, plan, range } = session;
    const survivors = server.survivors.map((p) =>
      this.#infoOf(p, session, (this.#options.size + 1) * 4),
    );
    const sum = await server.sum();
    const weights = survivors.map((s) => plan.weights.get(s.participant) ?? 1);
    const totalWeight = weights.reduce((a, b) => a + b, 0);
    const within = sum[this.#options.size] ?? 0;
    const words = sum.subarray(0, this.#options.size);
    const change = decodeFixedPoint(words, { range, bits: plan.bits, totalWeight });
    return { change, within, survivors, weights };
  }

  /** Forgets the session, and what was sent for it when it failed. */
  end(failed: boolean): void {
    if (failed && this.#session) this.#options.store.discard(this.#session.round);
    this.#session = undefined;
  }
}

function frameOf(request: StageRequest): object {
  switch (request.stage) {
    case 'shares':
      return { case: 'shares', value: request };
    case 'vectors':
      return { case: 'vector', value: { shares: request.shares } };
    case 'confirmations':
      return { case: 'survivors', value: { names: request.survivors } };
    case 'reveals':
      return { case: 'confirmations', value: { list: request.confirmations } };
  }
}
