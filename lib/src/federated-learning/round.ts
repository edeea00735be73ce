import { randomInt } from 'node:crypto';
import { seededRandom } from '@shoal/core';
import type { ResolvedFederation } from './federation-options.ts';

export type ParticipantState = 'asked' | 'received' | 'failed';

/** What the coordinator wants done. */
export type RoundAction =
  | {
      readonly kind: 'ask';
      readonly participant: string;
      readonly round: number;
      readonly attempt: number;
    }
  | {
      readonly kind: 'started';
      readonly round: number;
      readonly attempt: number;
      readonly participants: readonly string[];
    }
  /** Aggregate these, in this order. */
  | { readonly kind: 'finish'; readonly round: number; readonly participants: readonly string[] }
  /** Nothing is lost, but the round cannot go on yet; says why. */
  | { readonly kind: 'stalled'; readonly round: number; readonly reason: string }
  | { readonly kind: 'abandon'; readonly round: number; readonly reason: string };

/** A round in progress, as the store brings it back after a restart. */
export interface RestoredRound {
  readonly round: number;
  readonly attempt: number;
  /** Asked participants, in the order their updates are added. */
  readonly selected: readonly string[];
  readonly received: readonly string[];
}

type Options = Pick<
  ResolvedFederation,
  'participants' | 'selected' | 'overSelection' | 'quorum' | 'deadlineMs' | 'retries' | 'seed'
> & {
  /** Whether what was received counts in its attempt only, as in secure aggregation. Default false. */
  readonly freshAttempts?: boolean;
  /** Whether nobody can know beforehand who is asked. Default false: the seed says. */
  readonly isSecretDraw?: boolean;
};

/** Decides who is asked when, and when a round ends. */
export interface Coordinator {
  readonly round: number;
  readonly attempt: number;
  readonly connected: readonly string[];
  /** Participants of the round in the order their updates are added; empty between rounds. */
  readonly states: ReadonlyMap<string, ParticipantState>;
  join(participant: string, nowMs: number): RoundAction[];
  leave(participant: string): void;
  /** Whether an update of a participant, trained on the model of a round, is waited for. */
  expects(participant: string, base: number): boolean;
  /** An update is durable. */
  received(participant: string, base: number): RoundAction[];
  failed(participant: string, reason: string): RoundAction[];
  /** Looks at the time. */
  tick(nowMs: number): RoundAction[];
  /** What was received cannot be used: the same round again. */
  again(reason: string, nowMs: number): RoundAction[];
  /** The round was aggregated: the next one may start. */
  next(nowMs: number): RoundAction[];
}

/**
 * Decides who trains in a round and when it ends. No clock, no network: events and the time come in,
 * actions go out. Every phase has a deadline, and a round that cannot end says why.
 */
export class RoundCoordinator implements Coordinator {
  readonly #options: Options;
  readonly #connected = new Set<string>();
  #round: number;
  #attempt = 1;
  #states = new Map<string, ParticipantState>();
  /** Why participants failed. */
  readonly #faults = new Map<string, string>();
  #running = false;
  #deadline: number;
  /** Attempts of this round that failed while this process lives. */
  #failures = 0;

  /** @param round The round to run next, from 1. */
  constructor(
    options: Options,
    at: { readonly round: number; readonly nowMs: number; readonly restored?: RestoredRound },
  ) {
    this.#options = options;
    this.#round = at.round;
    this.#deadline = at.nowMs + options.deadlineMs;
    if (!at.restored) return;
    this.#running = true;
    this.#round = at.restored.round;
    this.#attempt = at.restored.attempt;
    const received = new Set(at.restored.received);
    this.#states = new Map(
      at.restored.selected.map((p) => [p, received.has(p) ? 'received' : 'asked']),
    );
  }

  get round(): number {
    return this.#round;
  }

  get attempt(): number {
    return this.#attempt;
  }

  get connected(): readonly string[] {
    return [...this.#connected];
  }

  get states(): ReadonlyMap<string, ParticipantState> {
    return this.#states;
  }

  get running(): boolean {
    return this.#running;
  }

  join(participant: string, nowMs: number): RoundAction[] {
    this.#connected.add(participant);
    if (!this.#running) return this.tick(nowMs);
    // It left in the middle, or the aggregator was restarted: the same work again.
    return this.#states.get(participant) === 'asked' ? [this.#ask(participant)] : [];
  }

  leave(participant: string): void {
    this.#connected.delete(participant);
  }

  expects(participant: string, base: number): boolean {
    return base === this.#round && this.#states.get(participant) === 'asked';
  }

  received(participant: string, _base: number): RoundAction[] {
    if (this.#states.has(participant)) this.#states.set(participant, 'received');
    return this.#settled();
  }

  failed(participant: string, reason: string): RoundAction[] {
    if (this.#states.get(participant) === 'asked') {
      this.#states.set(participant, 'failed');
      this.#faults.set(participant, reason);
    }
    return this.#settled();
  }

  tick(nowMs: number): RoundAction[] {
    const due = nowMs >= this.#deadline;
    if (!this.#running) return this.#tryStart(due, nowMs);
    const settled = this.#settled();
    return settled.length > 0 || !due ? settled : this.#overdue(nowMs);
  }

  again(reason: string, nowMs: number): RoundAction[] {
    for (const p of this.#states.keys()) this.#states.set(p, 'asked');
    return this.#retry(reason, nowMs);
  }

  next(nowMs: number): RoundAction[] {
    this.#round++;
    this.#attempt = 1;
    this.#failures = 0;
    this.#running = false;
    this.#states = new Map();
    this.#deadline = nowMs + this.#options.deadlineMs;
    return this.tick(nowMs);
  }

  #ask(participant: string): RoundAction {
    return { kind: 'ask', participant, round: this.#round, attempt: this.#attempt };
  }

  #tryStart(due: boolean, nowMs: number): RoundAction[] {
    const { participants, quorum, selected, overSelection, deadlineMs, seed, isSecretDraw } =
      this.#options;
    const here = [...this.#connected].toSorted();
    // Until its time is over the first round waits for everyone, the later ones for enough.
    const wanted =
      this.#round === 1 ? participants : Math.min(participants, selected + overSelection);
    if (here.length < wanted && !(due && here.length >= quorum)) {
      if (!due) return [];
      this.#deadline = nowMs + deadlineMs;
      return [
        {
          kind: 'stalled',
          round: this.#round,
          reason: `round ${this.#round} waits for participants: ${here.length} of ${wanted} are connected (${here.join(', ') || 'none'}), ${quorum} are needed`,
        },
      ];
    }
    const order = isSecretDraw
      ? shuffled(here.length)
      : seededRandom(seed).fork(`round ${this.#round}`).permutation(here.length);
    const chosen = [...order]
      .slice(0, selected + overSelection)
      .map((i) => here[i] ?? '')
      .toSorted();
    this.#states = new Map(chosen.map((p) => [p, 'asked']));
    this.#running = true;
    this.#deadline = nowMs + deadlineMs;
    return [
      { kind: 'started', round: this.#round, attempt: this.#attempt, participants: chosen },
      ...chosen.map((p) => this.#ask(p)),
    ];
  }

  #with(state: ParticipantState): string[] {
    return [...this.#states].filter(([, s]) => s === state).map(([p]) => p);
  }

  /** Ends the round when enough have answered, or everyone who could. */
  #settled(): RoundAction[] {
    if (!this.#running) return [];
    const received = this.#with('received');
    const open = this.#with('asked').length;
    const enough = received.length >= Math.min(this.#options.selected, this.#states.size);
    if (!enough && !(open === 0 && received.length >= this.#options.quorum)) return [];
    return [{ kind: 'finish', round: this.#round, participants: received }];
  }

  /** Time is over: ends with a quorum, else tries again with whoever is there. */
  #overdue(nowMs: number): RoundAction[] {
    const { quorum, deadlineMs } = this.#options;
    const received = this.#with('received');
    if (received.length >= quorum)
      return [{ kind: 'finish', round: this.#round, participants: received }];
    const silent = this.#with('asked').map((p) =>
      this.#connected.has(p) ? `${p} (still working)` : `${p} (not connected)`,
    );
    const failed = this.#with('failed').map((p) => `${p} (${this.#faults.get(p)})`);
    const reason = `round ${this.#round}: ${received.length} updates after ${deadlineMs} ms, ${quorum} are needed; missing: ${[...silent, ...failed].join(', ')}`;
    return this.#retry(reason, nowMs);
  }

  /** Another attempt of the round: with those who are there, and others in place of those who are not. */
  #retry(reason: string, nowMs: number): RoundAction[] {
    const { retries, deadlineMs } = this.#options;
    if (++this.#failures > retries) return [{ kind: 'abandon', round: this.#round, reason }];
    if (this.#options.freshAttempts)
      for (const p of this.#states.keys()) this.#states.set(p, 'asked');
    this.#attempt++;
    this.#deadline = nowMs + deadlineMs;
    for (const p of this.#with('failed')) this.#states.set(p, 'asked');
    const again = this.#with('asked').filter((p) => this.#connected.has(p));
    const fresh = [...this.#connected].filter((p) => !this.#states.has(p)).toSorted();
    const missing = this.#states.size - this.#with('received').length - again.length;
    const substitutes = fresh.slice(0, missing);
    for (const p of substitutes) this.#states.set(p, 'asked');
    return [
      { kind: 'stalled', round: this.#round, reason },
      {
        kind: 'started',
        round: this.#round,
        attempt: this.#attempt,
        participants: [...this.#states.keys()],
      },
      ...[...again, ...substitutes].map((p) => this.#ask(p)),
    ];
  }
}

/** An order of 0 … n − 1 that only this process knows (Fisher and Yates). */
function shuffled(n: number): number[] {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = randomInt(i + 1);
    [order[i], order[j]] = [order[j] ?? 0, order[i] ?? 0];
  }
  return order;
}
