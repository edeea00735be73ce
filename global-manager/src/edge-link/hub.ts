import { create } from '@bufbuild/protobuf';
import { CloudFrameSchema, type EdgeFrame } from '@shoal/api';
import { type Clock, type Logger, messageOf } from '@shoal/core';
import type { CloudStore } from './cloud-store.ts';
import type { Feed } from './feed.ts';
import type { Records } from './records.ts';
import {
  type Hello,
  isStream,
  type OutboxReport,
  type Peer,
  type RecordFrame,
  recordFault,
  Session,
  type SessionSocket,
} from './session.ts';

export interface HubPorts {
  readonly store: CloudStore;
  readonly feed: Feed;
  readonly records: Records;
  readonly clock: Pick<Clock, 'monotonic'>;
  readonly logger: Logger;
  /** Runs a function soon, after frames that have arrived already. */
  readonly soon: (body: () => void) => void;
}

/** What the hub knows of one node’s link. */
export interface LinkStatus {
  readonly node: string;
  readonly connectedForMs?: number;
  readonly epoch: number;
  /** Changes the edge has not acknowledged. */
  readonly lag: number;
  readonly head: number;
  readonly outbox: OutboxReport;
  readonly version: string;
  readonly refusals: number;
  readonly lastError?: string;
}

/** Silence after which the cloud asks whether an edge is there. */
export const PING_MS = 20_000;
/** It asks again this often. */
const PING_AGAIN_MS = 7_000;
/** Silence after which a session is over; three pings were not answered by then. */
const SILENCE_MS = 42_000;
/** How long a connection may take to be greeted. */
const GREETING_MS = 60_000;
/** How long a live session has to show that it lives when another device wants its place. */
const CHALLENGE_MS = 5_000;
/** An epoch rises by one with each session: what is beyond this is no epoch. */
const MAX_EPOCH = 2n ** 40n;
const TURN_FRAMES = 512;
const FRAMES_PER_NODE = 16;
/** Greetings that may wait; then edges are asked to come later. */
const MAX_GREETINGS = 4_096;

interface Work {
  readonly session: Session;
  readonly frames: readonly (Hello | RecordFrame)[];
}

interface Taken {
  readonly node: string;
  readonly stream: string;
  readonly key: string;
}

interface Challenge {
  readonly session: Session;
  readonly hello: Hello;
  readonly sinceMs: number;
  /** Frames that the session in place had sent by then. */
  readonly framesHeard: number;
}

/**
 * All sessions of one global manager. What must be stored is stored a turn at a time, in one
 * transaction, a few frames of each node in turn: a noisy node cannot starve the others, and a
 * storm of greetings costs one write of the disk for hundreds of nodes.
 */
export class LinkHub {
  readonly #ports: HubPorts;
  readonly #live = new Map<string, Session>();
  /** Connections that are not live yet. */
  readonly #waiting = new Set<Session>();
  /** Sessions that were let in and are welcomed in the next turn. */
  readonly #admitted = new Map<string, Session>();
  readonly #ready = new Set<Session>();
  readonly #challenges = new Map<string, Challenge>();
  readonly #lastErrors = new Map<string, string>();
  readonly #silentListeners: ((node: string) => void)[] = [];
  #greetings = 0;
  #turnPlanned = false;

  constructor(ports: HubPorts) {
    this.#ports = ports;
    ports.feed.onAppend((node) => this.#live.get(node)?.pump());
  }

  open(peer: Peer, socket: SessionSocket): Session {
    return new Session(peer, socket, {
      feed: this.#ports.feed,
      nowMs: this.#ports.clock.monotonic(),
    });
  }

  receive(session: Session, frame: EdgeFrame): void {
    if (session.isClosed) return;
    session.lastHeardMs = this.#ports.clock.monotonic();
    session.framesHeard++;
    if (!session.hello && frame.frame.case !== 'hello')
      return this.#end(session, 'the greeting did not come first');
    switch (frame.frame.case) {
      case 'hello':
        return this.#greet(session, frame.frame.value);
      case 'record':
        if (!session.enqueue(frame.frame.value))
          return this.#end(session, 'more records than the window allows');
        return this.#plan(session);
      case 'ack':
      case 'resync':
      case 'inventory': {
        const fault = session.heard(frame.frame.value);
        if (fault !== undefined) return this.#end(session, fault);
        if (frame.frame.case === 'ack' && frame.frame.value.nacks.length > 0)
          this.#noteRefusals(session.peer.node, frame.frame.value.nacks);
        return;
      }
      case 'ping': {
        const pong = { case: 'pong' as const, value: { nonce: frame.frame.value.nonce } };
        return session.send(create(CloudFrameSchema, { frame: pong }));
      }
      case 'pong':
        session.outbox = outboxOf(frame.frame.value.outbox);
        return;
      case undefined:
        return this.#ports.logger.warn('unknown frame ignored', { node: session.peer.node });
    }
  }

  #noteRefusals(node: string, nacks: readonly { rev: bigint; error: string }[]): void {
    const error = `refused change ${nacks[0]?.rev}: ${nacks[0]?.error}`;
    this.#lastErrors.set(node, error);
    this.#ports.logger.warn('edge refused changes', { node, nacks: nacks.length, error });
  }

  #greet(session: Session, hello: Hello): void {
    if (session.hello) return this.#end(session, 'a second greeting');
    if (hello.epoch > MAX_EPOCH || hello.cursor > BigInt(Number.MAX_SAFE_INTEGER))
      return this.#end(session, 'a greeting with numbers nobody can have', 60_000);
    if (this.#greetings >= MAX_GREETINGS)
      return session.goAway('many edges are connecting', { afterMs: 5_000, spreadMs: 30_000 });
    session.hello = hello;
    session.outbox = outboxOf(hello.outbox);
    const { node } = session.peer;
    const present = this.#admitted.get(node) ?? this.#live.get(node);
    if (!present || present.hello?.bootId === hello.bootId) return this.#admit(session, hello);
    if (this.#challenges.has(node)) return this.#refuse(session);
    const sinceMs = this.#ports.clock.monotonic();
    this.#challenges.set(node, {
      session,
      hello,
      sinceMs,
      framesHeard: present.framesHeard,
    });
    present.ping(sinceMs);
  }

  #admit(session: Session, hello: Hello): void {
    if (session.isClosed) return;
    this.#greetings++;
    this.#admitted.set(session.peer.node, session);
    session.enqueue(hello);
    this.#plan(session);
  }

  /** Another device, or another process, lives under this name: it is not swapped out. */
  #refuse(session: Session): void {
    const { node } = session.peer;
    const reason = `node ${node} is connected from another device or process; a second one is refused`;
    this.#lastErrors.set(node, reason);
    this.#ports.logger.warn('second device of a node refused', { node });
    session.goAway(reason, { afterMs: 30_000, spreadMs: 30_000 });
  }

  #plan(session: Session): void {
    this.#ready.add(session);
    if (this.#turnPlanned) return;
    this.#turnPlanned = true;
    this.#ports.soon(() => {
      this.#turnPlanned = false;
      this.#turn();
    });
  }

  /** Stores what has arrived, some of each node, and only then answers. */
  #turn(): void {
    const work: Work[] = [];
    for (let room = TURN_FRAMES; room > 0; ) {
      const [session] = this.#ready;
      if (!session) break;
      this.#ready.delete(session);
      const frames = session.takeInbox(Math.min(FRAMES_PER_NODE, room));
      this.#greetings -= frames.filter(isHello).length;
      if (frames.length > 0 && !session.isClosed) work.push({ session, frames });
      room -= Math.max(1, frames.length);
      if (session.hasInbox) this.#ready.add(session);
    }
    try {
      if (!this.#store(work)) for (const one of work) this.#storeAlone(one);
    } finally {
      const [next] = this.#ready;
      if (next) this.#plan(next);
    }
  }

  /** One transaction for what several sessions said; then the answers. False when it failed. */
  #store(work: readonly Work[]): boolean {
    const answers: (() => void)[] = [];
    const upTo = new Map<Session, Map<string, number>>();
    const taken: Taken[] = [];
    try {
      this.#ports.store.transaction(() => {
        for (const { session, frames } of work)
          for (const frame of frames)
            answers.push(
              isHello(frame) ? this.#raise(session) : this.#take(session, frame, { taken, upTo }),
            );
      });
    } catch (error) {
      const reason = messageOf(error);
      this.#ports.logger.error('records could not be stored', { reason, sessions: work.length });
      return false;
    }
    for (const answer of answers) answer();
    for (const [session, streams] of upTo)
      for (const [stream, seq] of streams) session.acknowledge(stream, seq);
    this.#ports.records.announce(taken);
    return true;
  }

  /** Something in a turn could not be stored: whoever sent it must not keep the others from it. */
  #storeAlone(work: Work): void {
    work.session.forgetChain();
    if (this.#store([work])) return;
    // Nothing was acknowledged: the edge has it still, and sends it to its next session.
    this.#end(work.session, 'the cloud cannot store records now', 5_000);
  }

  #raise(session: Session): () => void {
    const { feed, records, clock, logger } = this.#ports;
    const { node } = session.peer;
    const hello = session.hello;
    const epoch = feed.raiseEpoch(node, Number(hello?.epoch ?? 0n));
    const positions = records.positions(node, hello?.edgeStoreId ?? '');
    return () => {
      if (this.#admitted.get(node) === session) this.#admitted.delete(node);
      const before = this.#live.get(node);
      if (before && before !== session)
        before.goAway('another session of this node began', { afterMs: 1_000, spreadMs: 1_000 });
      if (session.isClosed) return;
      this.#live.set(node, session);
      this.#waiting.delete(session);
      const mode = session.welcome({ epoch, positions, pingMs: PING_MS, nowMs: clock.monotonic() });
      logger.info('edge connected', { node, epoch, mode });
    };
  }

  #take(
    session: Session,
    record: RecordFrame,
    turn: { taken: Taken[]; upTo: Map<Session, Map<string, number>> },
  ): () => void {
    const { feed, records, logger } = this.#ports;
    const { node } = session.peer;
    if (!session.isLive || feed.epoch(node) !== session.epoch)
      return () => this.#end(session, 'a newer session of this node is live');
    if (record.seq < 1n || record.seq > BigInt(Number.MAX_SAFE_INTEGER))
      return () => this.#end(session, 'a record with a number nobody can have', 60_000);
    if (!isStream(record.stream)) return () => this.#end(session, 'a record of no stream', 60_000);
    const fault = recordFault(record);
    const order = session.follows(record);
    if (order === 'again') return () => undefined;
    if (order === 'gap')
      return () =>
        this.#end(session, `records of ${record.stream} before ${record.seq} are missing`);
    const { stream, key, body, idempotencyKey } = record;
    if (fault !== undefined) logger.warn('record refused', { node, key: key.slice(0, 200), fault });
    const edgeStore = session.hello?.edgeStoreId ?? '';
    const numbers = { seq: Number(record.seq), first: Number(record.first) };
    // A record that is refused is used up all the same: one bad record must not block a node.
    const entry = { stream, key, body, idempotencyKey, ...numbers };
    const result = records.take(node, edgeStore, entry, fault === undefined);
    if (result === 'gap')
      return () => this.#end(session, `records of ${stream} before ${record.seq} are missing`);
    if (result === 'taken' && fault === undefined) turn.taken.push({ node, stream, key });
    const streams = turn.upTo.get(session) ?? new Map<string, number>();
    turn.upTo.set(session, streams.set(stream, Math.max(numbers.seq, streams.get(stream) ?? 0)));
    return () => undefined;
  }

  /** The transport says that the stream is over. */
  closed(session: Session): void {
    session.close();
    this.#forget(session);
  }

  #end(session: Session, reason: string, afterMs = 1_000): void {
    this.#lastErrors.set(session.peer.node, reason);
    session.goAway(reason, { afterMs, spreadMs: afterMs });
    this.#forget(session);
  }

  #forget(session: Session): void {
    this.#ready.delete(session);
    this.#waiting.delete(session);
    this.#greetings -= session.takeInbox(Number.POSITIVE_INFINITY).filter(isHello).length;
    const { node } = session.peer;
    if (this.#admitted.get(node) === session) this.#admitted.delete(node);
    const challenge = this.#challenges.get(node);
    if (challenge?.session === session) this.#challenges.delete(node);
    if (this.#live.get(node) !== session) return;
    this.#live.delete(node);
    this.#ports.logger.info('edge disconnected', { node });
    if (challenge && challenge.session !== session) {
      this.#challenges.delete(node);
      this.#admit(challenge.session, challenge.hello);
    }
  }

  /** Called with nodes that do not answer any more: whatever else goes over their connection is dead too. */
  onSilent(listener: (node: string) => void): void {
    this.#silentListeners.push(listener);
  }

  /** To be called about once a second: pings the silent, ends the dead, settles challenges. */
  tick(): void {
    const now = this.#ports.clock.monotonic();
    for (const session of this.#live.values()) {
      const silentMs = now - session.lastHeardMs;
      if (silentMs >= SILENCE_MS) {
        const { node } = session.peer;
        this.#lastErrors.set(node, 'the edge did not answer for 42 s');
        session.close();
        this.#forget(session);
        for (const listener of this.#silentListeners) listener(node);
      } else if (silentMs >= PING_MS && now - session.lastPingMs >= PING_AGAIN_MS)
        session.ping(now);
    }
    for (const session of this.#waiting)
      if (now - session.openedMs >= GREETING_MS) this.#end(session, 'no greeting came in time');
    for (const [node, challenge] of this.#challenges) {
      const elapsed = now - challenge.sinceMs;
      if (elapsed < CHALLENGE_MS) continue;
      this.#challenges.delete(node);
      const present = this.#live.get(node);
      if (present && present.framesHeard > challenge.framesHeard) this.#refuse(challenge.session);
      else this.#admit(challenge.session, challenge.hello);
    }
  }

  /** How long a node has been connected, in milliseconds; undefined when it is not. */
  connectedForMs(node: string): number | undefined {
    const session = this.#live.get(node);
    return session ? this.#ports.clock.monotonic() - session.liveSinceMs : undefined;
  }

  /** Asks a node to connect its relay. False when the node is not here. */
  inviteRelay(node: string): boolean {
    const session = this.#live.get(node);
    session?.send(create(CloudFrameSchema, { frame: { case: 'openRelay', value: {} } }));
    return session !== undefined;
  }

  get connected(): number {
    return this.#live.size;
  }

  /** Ends the session of a node, and tells it when to come back. */
  disconnect(node: string, reason: string, retry = { afterMs: 1_000, spreadMs: 1_000 }): void {
    const session = this.#live.get(node);
    this.#lastErrors.set(node, reason);
    for (const other of this.#waiting)
      if (other.peer.node === node) {
        other.goAway(reason, retry);
        this.#forget(other);
      }
    if (!session) return;
    session.goAway(reason, retry);
    this.#forget(session);
  }

  /** Sends every edge away: this manager stops. Those of a large fleet come back spread in time. */
  drain(reason: string): void {
    const spreadMs = Math.min(60_000, this.#live.size * 5);
    for (const session of this.#live.values()) session.goAway(reason, { afterMs: 500, spreadMs });
    this.#live.clear();
  }

  /** One line per node that ever was, or is told about. */
  status(more: readonly string[] = []): LinkStatus[] {
    const { feed } = this.#ports;
    const nodes = [...new Set([...feed.nodes(), ...more])].toSorted((a, b) => (a < b ? -1 : 1));
    return nodes.map((node) => {
      const session = this.#live.get(node);
      const head = feed.head(node);
      const connectedForMs = this.connectedForMs(node);
      const lastError = this.#lastErrors.get(node);
      return {
        node,
        ...(connectedForMs !== undefined && { connectedForMs }),
        epoch: feed.epoch(node),
        lag: session ? head - session.acked : head,
        head,
        outbox: session?.outbox ?? { records: 0, ageMs: 0, dropped: 0 },
        version: session?.hello?.version ?? '',
        refusals: feed.refusals(node).length,
        ...(lastError !== undefined && { lastError }),
      };
    });
  }
}

function isHello(frame: Hello | RecordFrame): frame is Hello {
  return 'bootId' in frame;
}

function outboxOf(
  report: { records: number; ageMs: bigint; dropped: bigint } | undefined,
): OutboxReport {
  return {
    records: report?.records ?? 0,
    ageMs: Number(report?.ageMs ?? 0n),
    dropped: Number(report?.dropped ?? 0n),
  };
}
