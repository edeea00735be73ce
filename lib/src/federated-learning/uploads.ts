import type { ParticipantFrame } from '@shoal/api';
import { type Clock, isShoalError } from '@shoal/core';
import { type Incoming, incomingOf, requireChange } from './incoming.ts';
import type { Arrival } from './round-store.ts';
import type { Rounds } from './rounds.ts';

/** Encoding of words of secure aggregation. */
const MASKED = 'masked';

type FrameValue<C> = Extract<ParticipantFrame['frame'], { case: C }>['value'];

/** Who sends updates, one after the other. */
export interface Sender {
  readonly participant: string;
  incoming: Incoming | undefined;
}

interface Ports<S> {
  readonly rounds: Rounds;
  readonly clock: Clock;
  readonly accept: (sender: S, round: number) => void;
  /** Nobody waits for it. */
  readonly refuse: (sender: S, round: number, reason: string) => void;
  /** It was waited for, and cannot be taken. */
  readonly dismiss: (sender: S, round: number, reason: string) => void;
  /** Runs something that must not fail. */
  readonly guard: (body: () => void) => void;
}

/** Takes updates in: checks them while they come, keeps them, and only then says so. */
export class Uploads<S extends Sender> {
  readonly #ports: Ports<S>;
  /** Updates that are here but not kept yet. */
  readonly #arrived: (Arrival & { readonly sender: S })[] = [];
  #closed = false;

  constructor(ports: Ports<S>) {
    this.#ports = ports;
  }

  /** An update is announced; its chunks follow. */
  announce(sender: S, update: FrameValue<'update'>): void {
    this.drop(sender);
    if (!this.#isExpected(sender, update)) {
      this.#answerLate(sender, update.round);
      return;
    }
    sender.incoming = incomingOf(update, this.#ports.rounds);
    if (update.bytes === 0n) this.#complete(sender, sender.incoming);
  }

  /** A chunk of what was announced; of an update that was refused, nothing. */
  take(sender: S, chunk: FrameValue<'chunk'>): void {
    const { incoming } = sender;
    if (incoming?.intake.add(chunk)) this.#complete(sender, incoming);
  }

  /** Forgets what a sender has begun to send. */
  drop(sender: S): void {
    sender.incoming?.upload?.drop();
    sender.incoming = undefined;
  }

  #isExpected(
    { participant }: S,
    update: Pick<Incoming, 'round' | 'attempt' | 'encoding'>,
  ): boolean {
    const { rounds } = this.#ports;
    if (update.encoding === MASKED) return rounds.expectsMasked(participant, update);
    return rounds.expects(participant, update.round);
  }

  /** An update nobody waits for is late or doubled: it is counted already, or never will be. */
  #answerLate(sender: S, round: number): void {
    const { rounds, accept, refuse } = this.#ports;
    this.drop(sender);
    if (rounds.hasUpdate(sender.participant, round)) accept(sender, round);
    else refuse(sender, round, `round ${round} does not wait for ${sender.participant}`);
  }

  /** Checks an update that arrived in full, and keeps it with those that come in the same turn. */
  #complete(sender: S, incoming: Incoming): void {
    const { round, samples, metrics, encoding, upload, intake } = incoming;
    const { participant } = sender;
    const { rounds, clock, accept, guard } = this.#ports;
    // Its round may have ended with a quorum while the chunks were on their way.
    if (!this.#isExpected(sender, incoming)) {
      this.#answerLate(sender, round);
      return;
    }
    const bytes = intake.size;
    if (encoding === MASKED && upload) {
      rounds.keepMasked(participant, { upload, bytes }, clock.now());
      this.drop(sender);
      accept(sender, round);
      return;
    }
    requireChange(incoming, rounds);
    sender.incoming = undefined;
    const update = { participant, base: round, samples, metrics, encoding, bytes };
    // What comes in one turn of the event loop goes to disk in one write.
    if (this.#arrived.length === 0) setImmediate(() => guard(() => this.#settle()));
    this.#arrived.push({ sender, update, upload });
  }

  #settle(): void {
    if (this.#closed) return;
    const arrived = this.#arrived.splice(0);
    const { rounds } = this.#ports;
    const { isAsynchronous } = rounds;
    for (const group of isAsynchronous ? arrived.map((a) => [a]) : [arrived])
      this.#keep(group, isAsynchronous);
  }

  /** Keeps what has arrived, and only then says so. */
  #keep(group: readonly (Arrival & { readonly sender: S })[], isAsynchronous: boolean): void {
    const { rounds, clock, accept } = this.#ports;
    const wanted = new Set(group.filter((a) => this.#isWanted(a)));
    try {
      rounds.keep([...wanted]);
    } catch (error) {
      this.#dismissAll(group, error);
      return;
    }
    for (const arrival of group) {
      const { sender, update } = arrival;
      if (!wanted.has(arrival)) arrival.upload?.drop();
      // The ones before it may have ended the round.
      if (!wanted.has(arrival) || !(isAsynchronous || this.#isWanted(arrival))) {
        this.#answerLate(sender, update.base);
        continue;
      }
      accept(sender, update.base);
      rounds.received(update.participant, update.base, clock.now());
    }
  }

  /** A full disk costs the updates that do not fit, and not the federation. */
  #dismissAll(group: readonly (Arrival & { readonly sender: S })[], error: unknown): void {
    if (!isShoalError(error) || error.code !== 'resource_exhausted') throw error;
    for (const { sender, update, upload } of group) {
      upload?.drop();
      this.#ports.dismiss(sender, update.base, error.message);
    }
  }

  #isWanted({ update }: Arrival): boolean {
    return this.#ports.rounds.expects(update.participant, update.base);
  }

  close(): void {
    this.#closed = true;
  }
}
