import { join } from 'node:path';
import { type Clock, type KeyPair, type Logger, systemClock } from '@shoal/core';
import { AggregationServer } from './aggregation-server.ts';
import type { FederatedModel, LayoutEntry, LocalResult, LocalTask } from './federated-model.ts';
import { resolveFederation } from './federation-options.ts';
import { GroupRounds } from './group-rounds.ts';
import { fileProgress } from './participant/file-progress.ts';
import type { FrameTransport } from './participant/frame-stream.ts';
import { nodePlatform } from './participant/grpc-transport.ts';
import { Participant, type ParticipantResult } from './participant/participant.ts';

export interface GroupAggregatorOptions {
  readonly job: string;
  /** Name under which the group takes part above; unique in the federation. */
  readonly group: string;
  /** Participants of the group, ≥ 1. */
  readonly members: number;
  /** The way to the aggregator above. */
  readonly above: FrameTransport;
  readonly token?: string;
  /** Who may take part in the group; default whoever has the token. */
  readonly names?: readonly string[] | undefined;
  readonly dir: string;
  /** Names and shapes in the vector, in order. */
  readonly layout: readonly LayoutEntry[];
  /** Fewest updates a round of the group can end with. Default all members. */
  readonly quorum?: number;
  /** Time of a round of the group, in milliseconds; shorter than that above. */
  readonly deadlineMs?: number;
  readonly host?: string;
  readonly port?: number;
  readonly tls?: KeyPair;
  readonly clock?: Clock;
  readonly logger?: Logger;
}

/** A whole group as one participant: its training is a round of the members. */
class GroupModel implements FederatedModel {
  readonly layout: readonly LayoutEntry[];
  readonly size: number;
  /** Not known before the first round. */
  readonly samples = 0;
  readonly #run: (vector: Float32Array, task: LocalTask) => Promise<LocalResult>;

  constructor(
    layout: readonly LayoutEntry[],
    run: (vector: Float32Array, task: LocalTask) => Promise<LocalResult>,
  ) {
    this.layout = layout;
    this.size = layout.reduce((n, { shape }) => n + shape.reduce((a, b) => a * b, 1), 0);
    this.#run = run;
  }

  initial(): Float32Array {
    return new Float32Array(this.size);
  }

  train(vector: Float32Array, task: LocalTask): Promise<LocalResult> {
    return this.#run(vector, task);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/**
 * The aggregator of a group in a hierarchical federation (Liu et al. 2020, "Client-Edge-Cloud Hierarchical
 * Federated Learning", arXiv 1905.06641, with one edge round per cloud round): an aggregator to its
 * members, a participant to the one above. One update per group goes up, one model comes down. The
 * weighted mean of the groups' means is that of all members.
 */
export class GroupAggregator {
  readonly #options: GroupAggregatorOptions;
  readonly #server: AggregationServer<GroupRounds>;
  readonly #model: GroupModel;

  /** @throws ShoalError `invalid_argument` listing every fault of the options. */
  constructor(options: GroupAggregatorOptions) {
    this.#options = options;
    const { job, members, quorum, deadlineMs, dir, layout, clock = systemClock } = options;
    const federation = resolveFederation({
      job,
      rounds: 1,
      participants: members,
      retries: 0,
      ...(quorum === undefined ? {} : { quorum }),
      ...(deadlineMs === undefined ? {} : { deadlineMs }),
    });
    const { host, port, tls, token, names, logger } = options;
    this.#server = new AggregationServer(
      {
        ...federation,
        privacy: undefined,
        evaluation: undefined,
        dir,
        layout,
        initial: new Float32Array(),
        clock,
        host,
        port,
        tls,
        token,
        names,
        logger,
      },
      (ports) => new GroupRounds(federation, dir, ports),
    );
    this.#model = new GroupModel(layout, (vector, task) =>
      this.#server.rounds.run(vector, task, clock.now()),
    );
  }

  /** Starts listening for members; resolves with `host:port`. */
  start(): Promise<string> {
    return this.#server.start();
  }

  /** Takes part above until the federation ends, and tells the members. */
  async run(signal: AbortSignal): Promise<ParticipantResult> {
    const { job, group, above, token, logger, dir } = this.#options;
    const participant = new Participant(
      {
        transport: above,
        platform: nodePlatform,
        job,
        participant: group,
        progress: fileProgress(join(dir, 'above')),
        ...(token === undefined ? {} : { token }),
        ...(logger ? { logger } : {}),
        onTask: (history) => this.#server.rounds.tell(history),
        onNotice: (reason) => this.#server.notify(reason),
      },
      this.#model,
    );
    const result = await participant.run(signal);
    this.#server.rounds.tell(result.history);
    this.#server.rounds.end(result.reason);
    return result;
  }

  close(): Promise<void> {
    return this.#server.close();
  }
}
