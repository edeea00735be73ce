import type { SecureAnswer } from '@shoal/api';
import { isShoalError, messageOf, ShoalError } from '@shoal/core';
import { coordinatorOf } from './coordinator-of.ts';
import type { LocalTask } from './federated-model.ts';
import type { ResolvedFederation } from './federation-options.ts';
import { instructionsOf } from './instructions-of.ts';
import { type Loan, ModelMover } from './model-mover.ts';
import { PrivacyGuard } from './privacy/privacy-guard.ts';
import type { Coordinator, RoundAction } from './round.ts';
import { endReason, isBest, summaryOf } from './round-end.ts';
import { type Arrival, RoundStore, type StoredUpdate } from './round-store.ts';
import type { RoundSummary } from './round-summary.ts';
import type { FederationResult, Masked, RoundPorts, Rounds } from './rounds.ts';
import { SecureRounds } from './secure-rounds.ts';
import { requireFit } from './strategies/fit.ts';
import { strategyOfFederation } from './strategies/strategies.ts';
import type { Strategy, StrategyState } from './strategy.ts';
import type { UpdateSize, Upload } from './update-arena.ts';

export interface RoundRunnerOptions extends RoundPorts {
  readonly federation: ResolvedFederation;
  readonly dir: string;
  readonly initial: Float32Array;
  readonly nowMs: number;
  /** Scores of a model on samples the aggregator holds. */
  readonly evaluate?: (model: Float32Array) => Promise<Record<string, number>>;
  /** Values at the front of the vector that are trained. Default all. */
  readonly trained?: number;
}

/**
 * Runs the rounds of a federation over a durable store: the coordinator decides, the store
 * remembers, the strategy moves the model. After the last round one more asks for scores only.
 */
export class RoundRunner implements Rounds {
  readonly #options: RoundRunnerOptions;
  readonly #store: RoundStore;
  readonly #strategy: Strategy;
  readonly #guard: PrivacyGuard;
  readonly #secure: SecureRounds | undefined;
  #coordinator: Coordinator;
  readonly #mover: ModelMover;
  #digest: string;
  #startedAt: number;
  #bytesDown = 0;
  /** Scores of the model of this round on the aggregator's own samples. */
  #validation: Promise<Record<string, number>> | undefined;
  #finishing = false;
  /** Rounds in a row that made no model. */
  #skipped = 0;
  #nowMs: number;
  #closed = false;

  /** @throws ShoalError `invalid_argument` for a strategy that does not go with the other options. */
  constructor(options: RoundRunnerOptions) {
    const { federation, dir, initial, nowMs } = options;
    this.#options = options;
    this.#strategy = strategyOfFederation(federation);
    requireFit(this.#strategy, federation);
    new PrivacyGuard(federation, { bound: undefined, rounds: 0 }).requireBudget();
    this.#store = new RoundStore(dir);
    // Control variates travel behind the parameters, and start at 0.
    const first = this.#strategy.local.controlVariates
      ? new Float32Array(initial.length * 2)
      : initial.slice();
    first.set(initial);
    const current = this.#store.currentOr(first);
    this.#digest = current.digest;
    this.#startedAt = nowMs;
    this.#nowMs = nowMs;
    this.#guard = new PrivacyGuard(federation, {
      bound: this.#store.strategyState(current.round - 1)['clipping']?.[0],
      rounds: this.#store.history().length,
    });
    const parts = { strategy: this.#strategy, store: this.#store, guard: this.#guard };
    this.#mover = new ModelMover({ ...parts, trained: options.trained }, current.model);
    const { secureAggregation } = federation.privacy ?? {};
    this.#secure = secureAggregation && this.#secureRounds(secureAggregation.stageMs);
    this.#coordinator = this.#coordinatorFor(current.round);
    this.#validate();
  }

  #secureRounds(stageMs = 60_000): SecureRounds {
    const { federation, tell } = this.#options;
    const at = { job: federation.job, store: this.#store, size: this.#mover.model.length };
    return new SecureRounds({ ...at, stageMs, tell });
  }

  #coordinatorFor(round: number): Coordinator {
    const { federation } = this.#options;
    const { bufferSize } = this.#strategy;
    const [store, secure, nowMs] = [this.#store, this.#secure, this.#nowMs];
    return coordinatorOf(federation, { round, nowMs, store, secure, bufferSize });
  }

  get round(): number {
    return this.#coordinator.round;
  }

  get attempt(): number {
    return this.#coordinator.attempt;
  }

  get digest(): string {
    return this.#digest;
  }

  lend(): Loan {
    return this.#mover.lend();
  }

  get size(): number {
    return this.#mover.model.length;
  }

  get history(): readonly RoundSummary[] {
    return this.#store.history();
  }

  get outcome(): string | undefined {
    return this.#store.outcome;
  }

  get isEvaluation(): boolean {
    return this.round > this.#options.federation.rounds;
  }

  get isAsynchronous(): boolean {
    return this.#strategy.bufferSize !== undefined && !this.isEvaluation;
  }

  /** Largest magnitude of a value in secure aggregation. */
  get #range(): number {
    return this.#guard.bound ?? this.#options.federation.privacy?.secureAggregation?.range ?? 1;
  }

  /** Scores the model of this round while participants train on it. */
  #validate(): void {
    const { evaluate, federation } = this.#options;
    const isWanted =
      this.isEvaluation || (this.round - 1) % (federation.evaluation?.every ?? 1) === 0;
    this.#validation =
      evaluate && isWanted && this.outcome === undefined ? evaluate(this.#mover.model) : undefined;
    // Told when the round ends.
    this.#validation?.catch(() => undefined);
  }

  instructions(): LocalTask {
    const { round, isEvaluation, isAsynchronous } = this;
    const { bound } = this.#guard;
    const range = this.#secure && this.#range;
    const at = { round, isEvaluation, isAsynchronous, bound, range };
    return instructionsOf(this.#options.federation, this.#strategy, at);
  }

  countDown(bytes: number): void {
    this.#bytesDown += bytes;
  }

  join(participant: string, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#act(this.#coordinator.join(participant, nowMs));
    this.#secure?.rejoin(participant);
  }

  leave(participant: string): void {
    this.#coordinator.leave(participant);
  }

  failed(participant: string, reason: string, nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.outcome !== undefined) return;
    if (this.#secure?.isRunning) {
      this.#secure.drop(participant, nowMs);
      this.#settleSecure();
    } else this.#act(this.#coordinator.failed(participant, reason));
  }

  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#store.outcome !== undefined || this.#finishing) return;
    if (this.#secure?.isRunning) {
      this.#secure.tick(nowMs);
      this.#settleSecure();
    } else this.#act(this.#coordinator.tick(nowMs));
  }

  expects(participant: string, round: number): boolean {
    if ((this.#secure && !this.isEvaluation) || this.outcome !== undefined) return false;
    if (!this.#coordinator.expects(participant, round)) return false;
    return !this.isAsynchronous || !this.hasUpdate(participant, round);
  }

  hasUpdate(participant: string, round: number): boolean {
    if (this.#store.hasCounted(round, participant)) return true;
    return this.#store
      .updates(this.round)
      .some((u) => u.participant === participant && u.base === round);
  }

  reserve(size: UpdateSize): Upload {
    return this.#store.reserve(size);
  }

  peek(upload: Upload, bytes: number): Uint8Array {
    return this.#store.peek(upload, bytes);
  }

  keep(arrivals: readonly Arrival[]): void {
    const { round } = this;
    const marked = ({ update, upload }: Arrival): Arrival => {
      const metrics = { ...update.metrics, staleness: round - update.base };
      return { upload, update: { ...update, metrics } };
    };
    this.#store.keep(round, this.isAsynchronous ? arrivals.map(marked) : arrivals);
  }

  received(participant: string, round: number, nowMs: number): void {
    this.#nowMs = nowMs;
    const actions = this.#coordinator.received(participant, round);
    if (!this.isAsynchronous && !this.isEvaluation && this.#strategy.rule.kind === 'mean')
      this.#fold();
    this.#act(actions);
  }

  /** Adds up what counts already; what came too much must not. */
  #fold(): void {
    if (this.#finishing) return;
    const { states } = this.#coordinator;
    const updates = this.#store
      .updates(this.round)
      .filter((u) => states.get(u.participant) === 'received');
    this.#mover.fold(updates, [...states.keys()]);
  }

  answer(participant: string, answer: SecureAnswer, nowMs: number): void {
    this.#nowMs = nowMs;
    if (answer.answer.case !== 'ready') {
      this.#secure?.answer(participant, answer, nowMs);
      this.#settleSecure();
      return;
    }
    const { round, attempt } = this;
    if (answer.round !== round || answer.attempt !== attempt) return;
    if (!this.#secure || !this.#coordinator.expects(participant, round)) return;
    this.#secure.keepReady(participant, { round, attempt, range: this.#range }, answer);
    this.#act(this.#coordinator.received(participant, round));
  }

  expectsMasked(
    participant: string,
    at: { readonly round: number; readonly attempt: number },
  ): boolean {
    return this.#secure?.awaitsVector(participant, at) ?? false;
  }

  keepMasked(participant: string, masked: Masked, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#secure?.takeVector(participant, masked, nowMs);
    this.#settleSecure();
  }

  /** What the updates of this round make of the model; the state the strategy keeps. */
  #combine(infos: readonly StoredUpdate[]): StrategyState {
    if (this.isEvaluation) return this.#store.strategyState(this.round - 1);
    const order = this.isAsynchronous ? [] : [...this.#coordinator.states.keys()];
    return this.#mover.combine(infos, { round: this.round, order });
  }

  /** Ends the round when the sum can be opened; tries again when it never can. */
  #settleSecure(): void {
    const secure = this.#secure;
    if (!secure || this.#finishing) return;
    if (secure.state === 'failed') this.#againSecurely(secure.reason);
    if (secure.state !== 'done') return;
    this.#inBackground(async () => {
      try {
        const { change, within, survivors, weights } = await secure.finish();
        secure.end(false);
        const at = { round: this.round, within, weights };
        await this.#finish(
          () => survivors,
          () => this.#mover.move(change, at),
        );
      } catch (error) {
        if (!(error instanceof ShoalError) || !secure.isRunning) throw error;
        this.#skip(messageOf(error));
      }
    });
  }

  /** Shares were opened, so nobody will open others of this round: the model stays, the next round begins. */
  #skip(reason: string): void {
    this.#secure?.end(true);
    this.#finishing = false;
    const { rounds, retries } = this.#options.federation;
    const why = `${++this.#skipped} rounds in a row made no model: ${reason}`;
    // All of them: what is there is the model it began with.
    if (this.#skipped >= rounds) return this.#options.ended(why, true);
    this.#options.onStalled(`round ${this.round} is skipped: ${reason}`);
    this.#conclude([], this.#store.strategyState(this.round - 1), undefined);
    // The round is over all the same: a restarted aggregator goes on behind it.
    if (this.#skipped > retries && this.outcome === undefined) this.#options.ended(why, true);
  }

  #againSecurely(reason: string): void {
    this.#secure?.end(true);
    this.#act(this.#coordinator.again(`round ${this.round}: ${reason}`, this.#nowMs));
  }

  /** Runs the end of a round; nothing else happens to it meanwhile. */
  #inBackground(body: () => Promise<void>): void {
    this.#finishing = true;
    body()
      .finally(() => {
        this.#finishing = false;
      })
      .catch((error: unknown) => {
        if (!this.#closed) this.#options.broken(error);
      });
  }

  #act(actions: readonly RoundAction[]): void {
    for (const action of actions) {
      switch (action.kind) {
        case 'started':
          this.#startedAt = this.#nowMs;
          this.#bytesDown = 0;
          this.#store.select(action.round, action.attempt, action.participants);
          break;
        case 'ask':
          this.#options.ask(action.participant);
          break;
        case 'stalled':
          this.#options.onStalled(action.reason);
          break;
        case 'abandon':
          // Not written down: a restarted aggregator tries the round again.
          this.#options.ended(action.reason, true);
          break;
        case 'finish':
          this.#close(action.participants);
          break;
      }
    }
  }

  /** Enough have answered: their updates make the model, or, where they are masked, the sum is asked for. */
  #close(participants: readonly string[]): void {
    if (this.#finishing || this.#secure?.isRunning) return;
    const { round } = this;
    if (this.#secure && !this.isEvaluation) {
      const task = `${this.#digest} ${JSON.stringify(this.instructions())}`;
      const what = { participants, range: this.#range, task };
      const { attempt } = this;
      this.#secure.begin({ round, attempt }, what, this.#nowMs);
      this.#settleSecure();
      return;
    }
    const wanted = new Set(participants);
    // An asynchronous round takes what came while its model was being scored as well.
    const infos = (): StoredUpdate[] =>
      this.#store.updates(round).filter((u) => this.isAsynchronous || wanted.has(u.participant));
    if (this.#validation)
      this.#inBackground(() => this.#finish(infos, (updates) => this.#combine(updates)));
    else this.#moveBy(infos(), (updates) => this.#combine(updates), undefined);
  }

  /** Moves the model, or, where the updates make no model, leaves it and goes on. */
  #moveBy(
    updates: readonly StoredUpdate[],
    combine: (updates: readonly StoredUpdate[]) => StrategyState,
    validation: Readonly<Record<string, number>> | undefined,
  ): void {
    let state: StrategyState;
    try {
      state = combine(updates);
    } catch (error) {
      if (!isShoalError(error) || error.code !== 'out_of_range') throw error;
      this.#skip(error.message);
      return;
    }
    this.#skipped = 0;
    this.#conclude(updates, state, validation);
  }

  async #finish(
    infos: () => readonly StoredUpdate[],
    combine: (updates: readonly StoredUpdate[]) => StrategyState,
  ): Promise<void> {
    const validation = await this.#validation;
    if (this.#closed) return;
    this.#finishing = false;
    this.#moveBy(infos(), combine, validation);
  }

  #conclude(
    infos: readonly StoredUpdate[],
    state: StrategyState,
    validation: Readonly<Record<string, number>> | undefined,
  ): void {
    const { bound, epsilon } = this.#guard;
    if (this.#options.federation.privacy?.adaptive && bound !== undefined)
      // Vectors of a state are of one length.
      state['clipping'] = new Float32Array(Object.values(state)[0]?.length ?? 1).fill(bound);
    const history = this.#store.history();
    const summary = summaryOf(infos, history, {
      round: this.round,
      bytesDown: this.#bytesDown,
      durationMs: this.#nowMs - this.#startedAt,
      changeNorm: this.#mover.changeNorm(),
      validation,
      epsilon,
    });
    this.#digest = this.#store.finish(this.round, {
      model: this.#mover.model,
      state,
      summary,
      best: isBest(summary, history),
      counted: infos,
    });
    this.#options.onRound(summary);
    this.#continue();
  }

  #continue(): void {
    const { federation } = this.#options;
    const done = this.round;
    const best = this.#store.bestRound ?? done;
    const { epsilon: spent = 0, epsilonAfterNext: next = 0 } = this.#guard;
    const reason = endReason(federation, { done, best, spent, next });
    if (reason !== undefined) {
      this.#store.end(reason);
      this.#options.ended(reason, false);
      return;
    }
    const wasAsynchronous = this.isAsynchronous;
    if (wasAsynchronous && done === federation.rounds) {
      const connected = this.#coordinator.connected;
      this.#coordinator = this.#coordinatorFor(done + 1);
      this.#validate();
      for (const p of connected) this.#act(this.#coordinator.join(p, this.#nowMs));
      return;
    }
    const actions = this.#coordinator.next(this.#nowMs);
    this.#validate();
    this.#act(actions);
  }

  result(reason: string): FederationResult {
    return {
      reason,
      model: this.#mover.model,
      best: this.#store.best(),
      history: this.#store.history(),
    };
  }

  close(): void {
    this.#closed = true;
    this.#store.close();
  }
}
