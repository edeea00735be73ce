import { ShoalError } from '@shoal/core';
import { decompress } from './compression.ts';
import type { LocalResult, LocalTask } from './federated-model.ts';
import type { ResolvedFederation } from './federation-options.ts';
import { meanMetrics } from './metrics.ts';
import type { Loan } from './model-mover.ts';
import { OrderedSum } from './ordered-sum.ts';
import { type RoundAction, RoundCoordinator } from './round.ts';
import { type Arrival, RoundStore, type StoredUpdate } from './round-store.ts';
import type { RoundSummary } from './round-summary.ts';
import type { FederationResult, RoundPorts, Rounds } from './rounds.ts';
import { createStrategy } from './strategies/strategies.ts';
import type { ModelUpdate, Strategy } from './strategy.ts';
import type { UpdateSize, Upload } from './update-arena.ts';

interface Wanted {
  readonly task: LocalTask;
  readonly done: (result: LocalResult) => void;
  readonly failed: (error: Error) => void;
}

/**
 * Rounds of a group inside a larger federation: the model and the work come from above, the mean of the
 * members' changes goes back as the change of one participant with all their samples.
 */
export class GroupRounds implements Rounds {
  readonly isAsynchronous: boolean = false;
  readonly #federation: ResolvedFederation;
  readonly #ports: RoundPorts;
  readonly #store: RoundStore;
  readonly #strategy: Strategy = createStrategy('FedAvg');
  readonly #connected = new Set<string>();
  #coordinator: RoundCoordinator | undefined;
  #wanted: Wanted | undefined;
  #model: Float32Array = new Float32Array();
  #digest = '';
  #sum: OrderedSum | undefined;
  #history: readonly RoundSummary[] = [];
  #outcome: string | undefined;

  /** @param federation The members: how many, their quorum, their deadline. */
  constructor(federation: ResolvedFederation, dir: string, ports: RoundPorts) {
    this.#federation = federation;
    this.#ports = ports;
    this.#store = new RoundStore(dir);
  }

  get round(): number {
    return this.#coordinator?.round ?? 0;
  }

  get attempt(): number {
    return this.#coordinator?.attempt ?? 1;
  }

  get isEvaluation(): boolean {
    return this.#wanted?.task.evaluateOnly ?? false;
  }

  get digest(): string {
    return this.#digest;
  }

  lend(): Loan {
    const { buffer, byteOffset, byteLength } = this.#model;
    return { bytes: new Uint8Array(buffer, byteOffset, byteLength), giveBack: () => undefined };
  }

  get size(): number {
    return this.#model.length;
  }

  get history(): readonly RoundSummary[] {
    return this.#history;
  }

  get outcome(): string | undefined {
    return this.#outcome;
  }

  /** What people may see of the whole federation. */
  tell(history: readonly RoundSummary[]): void {
    this.#history = history;
  }

  /**
   * Runs a round of the group on a model from above. The same round again, after a restart, goes on
   * with the updates that are here.
   *
   * @returns The mean of the changes, the sum of the samples, the mean of the scores.
   * @throws ShoalError `deadline_exceeded` when too few members answered in time.
   */
  run(model: Float32Array, task: LocalTask, nowMs: number): Promise<LocalResult> {
    const current = this.#store.current();
    this.#digest =
      current === undefined
        ? this.#store.begin(model, task.round)
        : this.#replaced(current, model, task.round);
    // Members may still read it when the memory it came in holds the next one.
    this.#model = model.slice();
    this.#sum = undefined;
    const restored = this.#store.restored(task.round);
    const at = { round: task.round, nowMs };
    this.#coordinator = new RoundCoordinator(this.#federation, restored ? { ...at, restored } : at);
    return new Promise((done, failed) => {
      this.#wanted = { task, done, failed };
      for (const p of this.#connected) this.#act(this.#coordinator?.join(p, nowMs) ?? []);
      this.#fold();
      this.tick(nowMs);
    });
  }

  #replaced(
    current: { readonly round: number; readonly digest: string },
    model: Float32Array,
    round: number,
  ): string {
    const same = this.#store.digestOf(model) === current.digest && round === current.round;
    return same ? current.digest : this.#store.replace(round, model);
  }

  instructions(): LocalTask {
    if (!this.#wanted) throw new ShoalError('failed_precondition', 'no round is going on');
    return this.#wanted.task;
  }

  countDown(): void {
    // Bytes are counted above.
  }

  join(participant: string, nowMs: number): void {
    this.#connected.add(participant);
    if (this.#wanted) this.#act(this.#coordinator?.join(participant, nowMs) ?? []);
  }

  leave(participant: string): void {
    this.#connected.delete(participant);
    this.#coordinator?.leave(participant);
  }

  failed(participant: string, reason: string): void {
    this.#act(this.#coordinator?.failed(participant, reason) ?? []);
  }

  tick(nowMs: number): void {
    if (this.#wanted) this.#act(this.#coordinator?.tick(nowMs) ?? []);
  }

  expects(participant: string, round: number): boolean {
    return this.#wanted !== undefined && (this.#coordinator?.expects(participant, round) ?? false);
  }

  hasUpdate(participant: string, round: number): boolean {
    if (this.#store.hasCounted(round, participant)) return true;
    return this.#store
      .updates(round)
      .some((u) => u.participant === participant && u.base === round);
  }

  reserve(size: UpdateSize): Upload {
    return this.#store.reserve(size);
  }

  peek(upload: Upload, bytes: number): Uint8Array {
    return this.#store.peek(upload, bytes);
  }

  keep(arrivals: readonly Arrival[]): void {
    this.#store.keep(this.round, arrivals);
  }

  received(participant: string, round: number): void {
    const actions = this.#coordinator?.received(participant, round) ?? [];
    this.#fold();
    this.#act(actions);
  }

  answer(): void {
    throw new ShoalError('failed_precondition', 'groups do not aggregate securely');
  }

  expectsMasked(): boolean {
    return false;
  }

  keepMasked(): void {
    this.answer();
  }

  readonly #read = (info: StoredUpdate): ModelUpdate => ({
    ...info,
    delta: decompress(info.encoding, this.#store.read(info), this.size),
  });

  #ordered(): OrderedSum {
    const order = [...(this.#coordinator?.states.keys() ?? [])];
    this.#sum ??= new OrderedSum(this.#strategy, new Float32Array(this.size), order);
    return this.#sum;
  }

  #fold(): void {
    if (!this.#coordinator?.running || this.#wanted?.task.evaluateOnly) return;
    const { states } = this.#coordinator;
    const updates = this.#store
      .updates(this.round)
      .filter((u) => states.get(u.participant) === 'received');
    this.#ordered().fold(updates, this.#read);
  }

  #act(actions: readonly RoundAction[]): void {
    for (const action of actions) {
      switch (action.kind) {
        case 'started':
          this.#store.select(action.round, action.attempt, action.participants);
          break;
        case 'ask':
          this.#ports.ask(action.participant);
          break;
        case 'stalled':
          this.#ports.onStalled(action.reason);
          break;
        case 'abandon':
          this.#wanted?.failed(new ShoalError('deadline_exceeded', action.reason));
          this.#wanted = undefined;
          break;
        case 'finish':
          this.#finish(action.participants);
          break;
      }
    }
  }

  #finish(participants: readonly string[]): void {
    const wanted = this.#wanted;
    if (!wanted) return;
    this.#wanted = undefined;
    const among = new Set(participants);
    const infos = this.#store.updates(this.round).filter((u) => among.has(u.participant));
    const delta = wanted.task.evaluateOnly
      ? new Float32Array()
      : this.#ordered().finish(infos, this.#read);
    this.#sum = undefined;
    this.#store.count(infos);
    const samples = infos.reduce((n, u) => n + u.samples, 0);
    wanted.done({ delta, samples, metrics: meanMetrics(infos) });
  }

  /** The whole federation has ended. */
  end(reason: string): void {
    this.#outcome = reason;
    this.#store.end(reason);
    this.#ports.ended(reason, false);
  }

  result(reason: string): FederationResult {
    return { reason, model: this.#model, best: undefined, history: this.#history };
  }

  close(): void {
    this.#wanted?.failed(new ShoalError('cancelled', 'the group is closed'));
    this.#wanted = undefined;
    this.#store.close();
  }
}
