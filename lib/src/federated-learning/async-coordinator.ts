import type { Coordinator, ParticipantState, RoundAction } from './round.ts';

export interface AsyncOptions {
  /** Updates that make a new model (K), ≥ 1. */
  readonly bufferSize: number;
  /** Time without enough updates after which somebody is told why. */
  readonly deadlineMs: number;
}

/**
 * Rounds that wait for nobody (FedBuff, Nguyen et al. 2022, arXiv 2106.06639, algorithm 1): everyone trains
 * on the newest model it was given; as soon as K updates are here they make the next one. Slow
 * participants bring theirs into a later round. One that brought its update waits for the next model.
 */
export class AsyncCoordinator implements Coordinator {
  readonly #options: AsyncOptions;
  readonly #connected = new Set<string>();
  /** Who trains, and on the model of which round. */
  readonly #asked = new Map<string, number>();
  #arrived: string[] = [];
  #round: number;
  #deadline: number;

  constructor(
    options: AsyncOptions,
    at: { readonly round: number; readonly nowMs: number; readonly arrived: readonly string[] },
  ) {
    this.#options = options;
    this.#round = at.round;
    this.#deadline = at.nowMs + options.deadlineMs;
    this.#arrived = [...at.arrived];
  }

  get round(): number {
    return this.#round;
  }

  get attempt(): number {
    return 1;
  }

  get connected(): readonly string[] {
    return [...this.#connected];
  }

  get states(): ReadonlyMap<string, ParticipantState> {
    const asked = [...this.#asked.keys()].map((p) => [p, 'asked'] as const);
    return new Map([...asked, ...this.#arrived.map((p) => [p, 'received'] as const)]);
  }

  join(participant: string, _nowMs: number): RoundAction[] {
    this.#connected.add(participant);
    // What it was asked before went with its stream, or its model is gone.
    this.#asked.delete(participant);
    const full = this.#full();
    if (full.length > 0) return full;
    return this.#arrived.includes(participant) ? [] : [this.#ask(participant)];
  }

  leave(participant: string): void {
    this.#connected.delete(participant);
    this.#asked.delete(participant);
  }

  /** What is late is welcome: the runner knows what it has already. */
  expects(participant: string, base: number): boolean {
    // One of each in a buffer: nobody fills it alone.
    return base >= 1 && base <= this.#round && !this.#arrived.includes(participant);
  }

  received(participant: string, base: number): RoundAction[] {
    if (this.#asked.get(participant) === base) this.#asked.delete(participant);
    this.#arrived.push(participant);
    return this.#full();
  }

  failed(participant: string, _reason: string): RoundAction[] {
    this.#asked.delete(participant);
    return [];
  }

  tick(nowMs: number): RoundAction[] {
    if (nowMs < this.#deadline) return [];
    this.#deadline = nowMs + this.#options.deadlineMs;
    const reason = `round ${this.#round}: ${this.#arrived.length} of ${this.#options.bufferSize} updates are here, ${this.#connected.size} participants are connected`;
    return [
      { kind: 'stalled', round: this.#round, reason },
      ...this.#idle().map((p) => this.#ask(p)),
    ];
  }

  again(reason: string, nowMs: number): RoundAction[] {
    this.#arrived = [];
    this.#deadline = nowMs + this.#options.deadlineMs;
    return [
      { kind: 'stalled', round: this.#round, reason },
      ...this.#idle().map((p) => this.#ask(p)),
    ];
  }

  next(nowMs: number): RoundAction[] {
    this.#round++;
    this.#arrived = [];
    this.#deadline = nowMs + this.#options.deadlineMs;
    const asks = this.#idle().map((p) => this.#ask(p));
    const participants = [...this.#asked.keys()].toSorted();
    return [{ kind: 'started', round: this.#round, attempt: 1, participants }, ...asks];
  }

  /** Connected participants that have nothing to do. */
  #idle(): string[] {
    return [...this.#connected]
      .filter((p) => !this.#asked.has(p) && !this.#arrived.includes(p))
      .toSorted();
  }

  #ask(participant: string): RoundAction {
    this.#asked.set(participant, this.#round);
    return { kind: 'ask', participant, round: this.#round, attempt: 1 };
  }

  #full(): RoundAction[] {
    if (this.#arrived.length < this.#options.bufferSize) return [];
    return [{ kind: 'finish', round: this.#round, participants: [...new Set(this.#arrived)] }];
  }
}
