import { digestOf } from '@shoal/core';
import { aggregateRound, MeanAccumulator } from './aggregate.ts';
import { decompress } from './compression.ts';
import type { LocalTask } from './federated-model.ts';
import type { ResolvedFederation } from './federation-options.ts';
import { squaredDistance } from './kernels.ts';
import { RdpAccountant } from './privacy/accountant.ts';
import { clipTo, nextBound } from './privacy/clipping.ts';
import { addGaussianNoise, noiseForMean } from './privacy/noise.ts';
import { type RoundAction, RoundCoordinator } from './round.ts';
import { RoundStore, type RoundSummary, type StoredUpdate } from './round-store.ts';
import { createStrategy } from './strategies/strategies.ts';
import type { ModelUpdate, Strategy, StrategyState } from './strategy.ts';

/** What a federation ended with. */
export interface FederationResult {
  readonly reason: string;
  readonly model: Float32Array;
  /** The model with the best scores, and the round that measured it. */
  readonly best: { readonly model: Float32Array; readonly round: number } | undefined;
  readonly history: readonly RoundSummary[];
}

export interface RoundRunnerOptions {
  readonly federation: ResolvedFederation;
  readonly dir: string;
  readonly initial: Float32Array;
  readonly nowMs: number;
  readonly ask: (participant: string) => void;
  readonly ended: (reason: string, failed: boolean) => void;
  readonly onRound: (summary: RoundSummary) => void;
  readonly onStalled: (reason: string) => void;
}

const ADAPTIVE = { quantile: 0.5, learningRate: 0.2 } as const;

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Means of the participants' scores, weighted by samples. */
function meanMetrics(updates: readonly StoredUpdate[]): Record<string, number> {
  const sums: Record<string, [number, number]> = {};
  for (const { metrics, samples } of updates) {
    for (const [name, value] of Object.entries(metrics)) {
      const [sum, weight] = sums[name] ?? [0, 0];
      sums[name] = [sum + value * samples, weight + samples];
    }
  }
  return Object.fromEntries(Object.entries(sums).map(([k, [sum, weight]]) => [k, sum / weight]));
}

/**
 * Runs the rounds of a federation over a durable store: the coordinator decides, the store
 * remembers, the strategy moves the model. After the last round one more asks for scores only.
 */
export class RoundRunner {
  readonly #options: RoundRunnerOptions;
  readonly #store: RoundStore;
  readonly #coordinator: RoundCoordinator;
  readonly #strategy: Strategy;
  readonly #accountant: RdpAccountant | undefined;
  #model: Float32Array;
  #digest: string;
  #sum: MeanAccumulator | undefined;
  #within = 0;
  #folded = 0;
  #startedAt: number;
  #bytesDown = 0;
  /** The update that came last, decoded. */
  #fresh: { participant: string; delta: Float32Array } | undefined;
  #bound: number;
  #nowMs: number;

  constructor(options: RoundRunnerOptions) {
    const { federation, dir, initial, nowMs } = options;
    this.#options = options;
    this.#strategy = createStrategy(federation.strategy.name, federation.strategy.parameters);
    this.#store = new RoundStore(dir);
    // Control variates travel behind the parameters, and start at 0.
    const first = this.#strategy.local.controlVariates
      ? new Float32Array(initial.length * 2)
      : initial.slice();
    first.set(initial);
    const current = this.#store.current() ?? {
      round: 1,
      digest: this.#store.begin(first),
      model: first,
    };
    this.#model = current.model;
    this.#digest = current.digest;
    this.#startedAt = nowMs;
    this.#nowMs = nowMs;
    const { privacy } = federation;
    this.#bound =
      this.#store.strategyState(current.round - 1)['clipping']?.[0] ?? privacy?.clipping ?? 0;
    this.#accountant =
      privacy && privacy.noiseMultiplier > 0 ? new RdpAccountant(privacy.delta ?? 1e-5) : undefined;
    for (const _ of this.#store.history()) this.#spend();
    const restored = this.#store.restored(current.round);
    const at = { round: current.round, nowMs };
    this.#coordinator = new RoundCoordinator(federation, restored ? { ...at, restored } : at);
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

  get bytes(): Uint8Array {
    return bytesOf(this.#model);
  }

  /** Values of the vector that travels. */
  get size(): number {
    return this.#model.length;
  }

  get history(): readonly RoundSummary[] {
    return this.#store.history();
  }

  get outcome(): string | undefined {
    return this.#store.outcome;
  }

  get #evaluating(): boolean {
    return this.round > this.#options.federation.rounds;
  }

  #spend(): void {
    const { participants, selected, privacy } = this.#options.federation;
    this.#accountant?.add(1, selected / participants, privacy?.noiseMultiplier ?? 1);
  }

  /** What participants are told to do in this round. */
  instructions(): LocalTask {
    const { localEpochs, batchSize, learningRate, seed, compression } = this.#options.federation;
    const { proximal = 0, controlVariates = false, personal = 0 } = this.#strategy.local;
    return {
      round: this.round,
      evaluateOnly: this.#evaluating,
      epochs: localEpochs,
      batchSize,
      learningRate,
      proximal,
      controlVariates,
      personal,
      seed,
      encoding: compression,
    };
  }

  countDown(bytes: number): void {
    this.#bytesDown += bytes;
  }

  join(participant: string, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#act(this.#coordinator.join(participant, nowMs));
  }

  leave(participant: string): void {
    this.#coordinator.leave(participant);
  }

  failed(participant: string, _reason: string, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#act(this.#coordinator.failed(participant));
  }

  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#store.outcome === undefined) this.#act(this.#coordinator.tick(nowMs));
  }

  expects(participant: string, round: number): boolean {
    return round === this.round && this.#coordinator.states.get(participant) === 'asked';
  }

  hasUpdate(participant: string, round: number): boolean {
    if (round < this.round) return this.#store.hasCounted(round, participant);
    return this.#coordinator.states.get(participant) === 'received';
  }

  /** @param delta What the bytes hold, decoded already: saves reading them back when it is their turn. */
  keep(round: number, info: StoredUpdate, bytes: Uint8Array, delta: Float32Array): void {
    if (this.#store.keep(round, info, bytes))
      this.#fresh = { participant: info.participant, delta };
  }

  received(participant: string, nowMs: number): void {
    this.#nowMs = nowMs;
    const actions = this.#coordinator.received(participant);
    this.#fold();
    this.#act(actions);
  }

  #read(info: StoredUpdate): ModelUpdate {
    const fresh = this.#fresh?.participant === info.participant ? this.#fresh.delta : undefined;
    this.#fresh = undefined;
    const delta =
      fresh ?? decompress(info.encoding, this.#store.read(this.round, info.participant), this.size);
    const within = this.#options.federation.privacy ? clipTo(delta, this.#bound) : true;
    if (within) this.#within++;
    return { ...info, delta };
  }

  /**
   * Adds what is here and next in order to the running sum: a later one waits on disk for those
   * before it, so that the order of arrival changes no bit.
   */
  #fold(): void {
    if (this.#evaluating || this.#strategy.rule.kind !== 'mean') return;
    this.#sum ??= new MeanAccumulator(this.#strategy, this.size);
    const infos = new Map(this.#store.updates(this.round).map((u) => [u.participant, u]));
    const order = [...this.#coordinator.states.keys()];
    for (
      let info = infos.get(order[this.#folded] ?? '');
      info;
      info = infos.get(order[this.#folded] ?? '')
    ) {
      this.#sum.add(this.#read(info));
      this.#folded++;
    }
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
          this.#finish(action.participants);
          break;
      }
    }
  }

  /** The combined change of a round, in the fixed order of its participants. */
  #combine(infos: readonly StoredUpdate[], state: StrategyState): void {
    const { rule } = this.#strategy;
    const before = this.#model;
    this.#model = before.slice();
    if (rule.kind === 'joint') {
      const updates = infos.map((i) => this.#read(i));
      aggregateRound(this.#strategy, this.#model, { updates, state, round: this.round });
      return;
    }
    this.#fold();
    const order = [...this.#coordinator.states.keys()];
    const folded = new Set(order.slice(0, this.#folded));
    const sum = this.#sum ?? new MeanAccumulator(this.#strategy, this.size);
    for (const info of infos) if (!folded.has(info.participant)) sum.add(this.#read(info));
    const change = sum.finish();
    this.#noise(change, infos);
    this.#strategy.step(this.#model, change, { state, round: this.round });
  }

  #noise(change: Float32Array, infos: readonly StoredUpdate[]): void {
    const { privacy } = this.#options.federation;
    if (!privacy) return;
    if (privacy.noiseMultiplier > 0) {
      const weights = infos.map((i) => i.samples);
      addGaussianNoise(change, noiseForMean(privacy.noiseMultiplier, this.#bound, weights));
      this.#spend();
    }
    if (privacy.adaptive)
      this.#bound = nextBound(this.#bound, this.#within / infos.length, ADAPTIVE);
  }

  #finish(participants: readonly string[]): void {
    const wanted = new Set(participants);
    const infos = this.#store.updates(this.round).filter((u) => wanted.has(u.participant));
    const state = this.#store.strategyState(this.round - 1);
    const before = this.#model;
    if (!this.#evaluating) this.#combine(infos, state);
    if (this.#options.federation.privacy?.adaptive)
      state['clipping'] = new Float32Array(this.size).fill(this.#bound);
    const summary: RoundSummary = {
      round: this.round,
      participants: infos.length,
      samples: infos.reduce((n, u) => n + u.samples, 0),
      metrics: meanMetrics(infos),
      bytesUp: infos.reduce((n, u) => n + u.bytes, 0),
      bytesDown: this.#bytesDown,
      durationMs: this.#nowMs - this.#startedAt,
      changeNorm: Math.sqrt(squaredDistance(this.#model, before)),
      ...(this.#accountant ? { epsilon: this.#accountant.epsilon } : {}),
    };
    const best = this.#isBest(summary);
    this.#digest = this.#store.finish(this.round, {
      model: this.#model,
      state,
      summary,
      best,
      counted: participants,
    });
    this.#sum = undefined;
    this.#folded = 0;
    this.#within = 0;
    this.#options.onRound(summary);
    this.#continue();
  }

  /** Whether the model this round started from scored better than any before. */
  #isBest({ metrics }: RoundSummary): boolean {
    const score = metrics['accuracy'] ?? -(metrics['loss'] ?? Number.POSITIVE_INFINITY);
    return this.#store
      .history()
      .every(
        (h) => (h.metrics['accuracy'] ?? -(h.metrics['loss'] ?? Number.POSITIVE_INFINITY)) < score,
      );
  }

  #continue(): void {
    const { rounds, patience, privacy } = this.#options.federation;
    const done = this.round;
    const best = this.#store.best()?.round ?? done;
    const spent = this.#accountant?.epsilon ?? 0;
    let reason: string | undefined;
    if (done > rounds) reason = `all ${rounds} rounds are done`;
    else if (done - best >= patience) reason = `no better score for ${patience} rounds`;
    else if (privacy?.epsilonBudget !== undefined && spent >= privacy.epsilonBudget)
      reason = `the privacy budget is spent: ε = ${spent.toFixed(3)} of ${privacy.epsilonBudget}`;
    if (reason !== undefined) {
      this.#store.end(reason);
      this.#options.ended(reason, false);
      return;
    }
    this.#act(this.#coordinator.next(this.#nowMs));
  }

  result(reason: string): FederationResult {
    return { reason, model: this.#model, best: this.#store.best(), history: this.#store.history() };
  }

  /** Digest of the model as it is now, for tests of equality. */
  get modelDigest(): string {
    return digestOf(this.bytes);
  }

  close(): void {
    this.#store.close();
  }
}
