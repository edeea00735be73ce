import { isDeepStrictEqual } from 'node:util';
import { type Dataset, type FaultReport } from '@shoal/api';
import { isShoalError, messageOf, rfc3339 } from '@shoal/core';
import type { KubeObject } from '../../kube/kube-api.ts';
import { onGroupChange, placedNodes } from '../../placement/groups.ts';
import { requireUnplaced } from '../../placement/overrides.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../../reconcile/controller.ts';
import { keyOf } from '../../reconcile/object-cache.ts';
import { lookAgainMs, rolloutPolicy } from '../../rollout/plan.ts';
import {
  nextMove,
  type PodPhase,
  type StageFacts,
  type StageMove,
  type StagePosition,
} from '../../stages/machine.ts';
import { recordEvent } from '../event-writer.ts';
import { hasEnded, nodeOf, nodesOf, workOf } from '../job-nodes.ts';
import { endedAt, phaseOf, troubleOf } from '../pod-trouble.ts';
import { writeStatus } from '../status-writer.ts';
import { JobPods } from './job-pods.ts';
import { ROUND_LABEL } from './pods.ts';
import type { StageJobPorts } from './ports.ts';
import { type RolledJob, rolledOut, rolloutNow, rolloutReport } from './rollouts.ts';
import { isPinnedOn, servedHistory } from './served-models.ts';
import { deletePod, ensureServing } from './serving-pods.ts';
import type {
  Observed,
  PlacedWorker,
  StageJob,
  StageJobKind,
  StageReferences,
} from './stage-job.ts';
import { StageReports } from './stage-reports.ts';
import {
  advanced,
  begun,
  currentInput,
  failuresInRow,
  figuresAsText,
  heldMs,
  positionOf,
  withServed,
} from './status.ts';
import { describeRollout, groupNames, placementOf } from './told.ts';

interface Resolved<Job extends StageJob, References extends StageReferences> {
  readonly job: Job;
  readonly references: References;
  readonly pods: JobPods;
  /** Nodes of the groups, for a job that has them. */
  readonly placed: readonly PlacedWorker[] | undefined;
  readonly observed?: Observed | undefined;
}

/** Pods of rounds older than this are removed; their logs go with them. */
const KEPT_ROUNDS = 2;

/** Figures of what goes on beside the stages are written at most this often. */
const NOTE_PERIOD_MS = 1_000;
/** A job that was refused is looked at again: what is missing may be of a kind that is not watched. */
const REFUSED_RETRY_MS = 15_000;

/** Moves a job with stages through them: the one writer of its status. */
export class StageJobReconciler<Job extends StageJob, References extends StageReferences>
  implements Reconciler
{
  readonly name: string;
  readonly #kind: StageJobKind<Job, References>;
  readonly #ports: StageJobPorts;
  /** Prefix of the labels of its pods. */
  readonly #prefix: string;
  /** Since when nodes can reach this manager. */
  readonly #listeningSinceMs: number;
  /** When what goes on beside a job's stages was last written. */
  readonly #noted = new Map<string, number>();

  constructor(kind: StageJobKind<Job, References>, ports: StageJobPorts) {
    this.name = kind.name;
    this.#kind = kind;
    this.#ports = ports;
    this.#prefix = `${kind.kind.toLowerCase()}.sedna.io`;
    this.#listeningSinceMs = ports.clock.now();
  }

  watch(enqueue: (key: string) => void): void {
    const { jobs, models, datasets, pods, nodes, records } = this.#ports;
    onGroupChange(nodes, () => {
      for (const job of jobs.list())
        if ((job as unknown as StageJob).spec.placement) enqueue(keyOf(job));
    });
    const all = (o: KubeObject): void => {
      for (const j of jobs.list(o.metadata.namespace)) enqueue(keyOf(j));
    };
    jobs.onChange((o) => enqueue(keyOf(o)));
    models.onChange(all);
    datasets.onChange(all);
    pods.onChange((p) => {
      const name = p.metadata.labels?.[`${this.#prefix}/name`];
      if (name) enqueue(`${p.metadata.namespace}/${name}`);
    });
    this.#kind.watch?.((namespace, name) => enqueue(`${namespace}/${name}`));
    records.onRecord((_node, key) => {
      const [kind, namespace, name] = key.split('/');
      if (kind === this.#kind.kind) enqueue(`${namespace}/${name}`);
    });
  }

  async reconcile(namespace: string, name: string): Promise<ReconcileResult> {
    const { jobs, feed, records } = this.#ports;
    const found = jobs.get(namespace, name);
    if (!found || found.metadata.deletionTimestamp) {
      const { kind } = this.#kind;
      feed.assign({ kind, namespace, name, uid: found?.metadata.uid ?? '' }, new Map());
      if (!found) {
        records.forget({ kind: this.#kind.kind, namespace, name });
        this.#kind.forget?.(namespace, name, '');
      }
      return DONE;
    }
    const job = found as unknown as Job;
    try {
      return await this.#advance(this.#resolve(job));
    } catch (error) {
      if (!isShoalError(error) || (error.code !== 'not_found' && error.code !== 'invalid_argument'))
        throw error;
      await this.#say(job, messageOf(error));
      return { kind: 'requeueAfter', ms: REFUSED_RETRY_MS };
    }
  }

  #resolve(job: Job): Resolved<Job, References> {
    const { namespace = '', uid } = job.metadata;
    const own = this.#ports.pods
      .list(namespace)
      .filter((p) => p.metadata.labels?.[`${this.#prefix}/uid`] === uid);
    this.#ports.records.admit(workOf(this.#kind.kind, job), nodesOf(own));
    return {
      job,
      references: this.#kind.resolve(job),
      placed: this.#placed(job),
      pods: new JobPods(own, this.#prefix),
    };
  }

  /** Nodes of the groups; undefined for a job without placement. @throws ShoalError `invalid_argument`. */
  #placed(job: Job): readonly PlacedWorker[] | undefined {
    const { placement, deploySpec } = job.spec;
    if (!placement) return undefined;
    this.#kind.checkPlacement(job, placement);
    requireUnplaced(deploySpec.template, 'spec.deploySpec.template');
    return placedNodes(placement, this.#ports.nodes.list());
  }

  /** A job with a rollout policy. */
  #rolled(known: Resolved<Job, References>): RolledJob | undefined {
    const { job, placed } = known;
    const rollout = this.#kind.rollout?.(job);
    if (!rollout) return undefined;
    const serving = known.pods.servingNodes();
    return { kind: this.#kind.kind, job, policy: rolloutPolicy(rollout), placed, serving };
  }

  /** Says in the status what is in the way, without touching the stages. */
  async #say(job: Job, message: string): Promise<void> {
    const { api, jobs } = this.#ports;
    await writeStatus(api, jobs, job, {
      ...job.status,
      message,
      observedGeneration: job.metadata.generation,
    });
  }

  async #advance(found: Resolved<Job, References>): Promise<ReconcileResult> {
    const { api, jobs, clock } = this.#ports;
    const { job } = found;
    const position = positionOf(job);
    const observed = await this.#kind.observe?.(job, found.references);
    const known = { ...found, observed };
    const noteMs = position ? await this.#note(known) : undefined;
    // A written status brings the job here again, as it is then.
    if (noteMs === 0 || (position && (await this.#pin(known)))) return DONE;
    const rolled = position && this.#rolled(known);
    if (position && rolled && (await this.#roll(rolled, position))) return DONE;
    const restartMs = this.#kind.isServed(job, position)
      ? await ensureServing(
          known.pods,
          {
            placed: known.placed,
            create: async (placed, digest) =>
              await this.#kind.createInferencePod(job, known.references, { placed, digest }),
            digest: (at) => this.#kind.servingDigest(job, known.references, at),
          },
          this.#ports,
        )
      : undefined;
    if (!position) {
      await writeStatus(api, jobs, job, begun(job, clock.now()));
      return DONE;
    }
    const lookMs = await this.#step(known, position);
    const rollMs = rolled && this.#rolloutLookMs(rolled, position);
    const waits = [restartMs, noteMs, rollMs, lookMs].filter((ms) => ms !== undefined);
    return waits.length > 0 ? { kind: 'requeueAfter', ms: Math.min(...waits) } : DONE;
  }

  /** Tells the nodes, and makes the next move. @returns Milliseconds until another may be due. */
  async #step(
    known: Resolved<Job, References>,
    position: StagePosition,
  ): Promise<number | undefined> {
    const { job, placed } = known;
    this.#assign(known, position);
    const facts = this.#facts(known, position);
    const move = nextMove(position, facts);
    await this.#perform(known, position, move);
    const unplaced = placed?.length === 0 ? `no node is in ${groupNames(job)}` : undefined;
    if (move.kind === 'stay')
      await this.#explain(job, position, facts.pod.message ?? this.#fault(job) ?? unplaced);
    await this.#removeOldPods(known, position.round);
    return move.kind === 'stay' ? move.lookAgainMs : undefined;
  }

  #rolloutLookMs({ job, policy }: RolledJob, { stage }: StagePosition): number | undefined {
    const { rollout } = job.status ?? {};
    return stage === 'Deploy' && rollout
      ? lookAgainMs(rollout, policy, {
          nowMs: this.#ports.clock.now(),
          listeningSinceMs: this.#listeningSinceMs,
        })
      : undefined;
  }

  /**
   * Writes what goes on beside the stages; figures that change all the time are not written all the time.
   *
   * @returns Milliseconds until there is something to write; 0 when it was written now.
   */
  async #note(known: Resolved<Job, References>): Promise<number | undefined> {
    const { api, jobs, clock } = this.#ports;
    const { job, observed } = known;
    const { placement: _old, ...before } = job.status ?? {};
    const placement = placementOf(known, (group) => this.#kind.resolvedGroup(job, group));
    const status = { ...before, ...(placement ? { placement } : {}), ...observed?.status };
    if (isDeepStrictEqual(status, job.status)) return undefined;
    const key = job.metadata.uid ?? '';
    const wait = (this.#noted.get(key) ?? 0) + NOTE_PERIOD_MS - clock.now();
    if (wait > 0) return wait;
    this.#noted.set(key, clock.now());
    await writeStatus(api, jobs, job, status);
    return 0;
  }

  /** Moves the rollout of a model on. True when that was written. */
  async #roll(rolled: RolledJob, position: StagePosition): Promise<boolean> {
    const { api, jobs, clock, records } = this.#ports;
    const { job } = rolled;
    const next = rolloutNow(rolled, position, {
      records,
      nowMs: clock.now(),
      listeningSinceMs: this.#listeningSinceMs,
    });
    const before = job.status?.rollout;
    if (!next || next === before) return false;
    await writeStatus(api, jobs, job, { ...job.status, rollout: next });
    if (next.phase !== before?.phase || next.group !== before?.group)
      await recordEvent(this.#ports, job, {
        type: next.phase === 'RolledBack' ? 'Warning' : 'Normal',
        reason: `Rollout${next.phase}`,
        message: describeRollout(next),
      });
    return true;
  }

  /** Once every serving node has the pinned model, it is the one that is served. True when that changed. */
  async #pin(known: Resolved<Job, References>): Promise<boolean> {
    const { api, jobs, clock } = this.#ports;
    const { job } = known;
    const pin = this.#kind.pinned?.(job);
    if (pin === undefined || job.status?.deployedModel === pin) return false;
    const nodes = known.pods.serving().map(nodeOf);
    if (!isPinnedOn(nodes, pin, { records: this.#ports.records, kind: this.#kind.kind, job }))
      return false;
    if (!this.#kind.hotUpdate(job))
      for (const pod of known.pods.of('inference')) await deletePod(api, pod);
    const round = job.status?.models?.find((m) => m.digest === pin)?.round ?? 0;
    const deployedAt = rfc3339(clock.now());
    await writeStatus(api, jobs, job, {
      ...job.status,
      ...known.observed?.status,
      deployedModel: pin,
      models: withServed(job.status?.models, { digest: pin, round, deployedAt }),
    });
    await recordEvent(this.#ports, job, {
      type: 'Normal',
      reason: 'ModelPinned',
      message: `the model of round ${round} (${pin.slice(0, 19)}) is served until the pin is removed`,
    });
    return true;
  }

  /** What keeps a node from doing its part. */
  #fault(job: Job): string | undefined {
    const faults = this.#ports.records
      .said<FaultReport>(workOf(this.#kind.kind, job), 'Fault')
      .filter((r) => r.body.uid === job.metadata.uid && r.body.message !== '');
    return faults[0] && `node ${faults[0].node}: ${faults[0].body.message}`;
  }

  /** A job that stays where it is says what its pod is waiting for, and stops saying it afterwards. */
  async #explain(job: Job, position: StagePosition, trouble: string | undefined): Promise<void> {
    const { api, jobs } = this.#ports;
    if (trouble !== undefined) return await this.#say(job, trouble);
    if (job.status?.message === undefined || position.state === 'Failed') return;
    const { message: _gone, ...rest } = job.status;
    await writeStatus(api, jobs, job, rest);
  }

  #assign(known: Resolved<Job, References>, position: StagePosition): void {
    const { name, namespace = '', uid = '' } = known.job.metadata;
    const deployNodes = known.pods.servingNodes();
    const stagePod = position.stage === 'Deploy' ? undefined : known.pods.ofStage(position);
    const workerNode = stagePod && nodeOf(stagePod);
    const assignments = this.#kind.assignments({ ...known, position, deployNodes, workerNode });
    const rolled = this.#rolled(known);
    this.#ports.feed.assign(
      { kind: this.#kind.kind, namespace, name, uid },
      rolled ? rolledOut(assignments, rolled) : assignments,
    );
  }

  #facts(known: Resolved<Job, References>, position: StagePosition): StageFacts {
    const { job } = known;
    const { dataset } = known.references;
    const pod = known.pods.ofStage(position);
    const reports = new StageReports(this.#ports.records, { kind: this.#kind.kind, job, position });
    const rolled = this.#rolled(known);
    const ended = pod ? endedAt(pod) : undefined;
    const trouble = pod ? troubleOf(pod) : undefined;
    const now = this.#ports.clock.now();
    return {
      report: reports.stage({
        datasetNode: dataset.spec.nodeName,
        workerNode: pod && nodeOf(pod),
      }),
      deployment: rolled
        ? rolloutReport(rolled, position)
        : reports.deployment(known.pods.serving().map(nodeOf)),
      pod: {
        phase: (pod ? phaseOf(pod) : 'None') as PodPhase,
        endedForMs:
          ended === undefined ? 0 : Math.min(now - ended, this.#reachableMs(dataset, pod)),
        ...(trouble ? { message: trouble } : {}),
      },
      hotUpdate: this.#kind.hotUpdate(job),
      heldMs: heldMs(job, now),
      failures: failuresInRow(job) - (position.state === 'Failed' ? 1 : 0),
    };
  }

  /** How long the node that has the worker's report has been able to deliver it. */
  #reachableMs(dataset: Dataset, pod: KubeObject | undefined): number {
    const node = (pod && nodeOf(pod)) ?? dataset.spec.nodeName;
    return node === undefined ? 0 : (this.#ports.presence.connectedForMs(node) ?? 0);
  }

  async #perform(
    known: Resolved<Job, References>,
    position: StagePosition,
    move: StageMove,
  ): Promise<void> {
    const { api, jobs, clock, pods } = this.#ports;
    const { job, references } = known;
    if (move.kind === 'stay') return;
    if (move.kind === 'createPod') {
      const stage = position.stage === 'Train' ? 'Train' : 'Eval';
      const input = currentInput(job, stage) ?? {};
      const at = { stage, round: position.round, input } as const;
      pods.observe(await this.#kind.createStagePod(job, references, at));
      await writeStatus(
        api,
        jobs,
        job,
        advanced(job, { kind: 'go', to: { ...position, state: 'Starting' } }, clock.now()),
      );
      return;
    }
    if (move.kind === 'restartInference') {
      for (const pod of known.pods.of('inference')) await deletePod(api, pod);
      await writeStatus(
        api,
        jobs,
        job,
        this.#afterMove(job, position, { kind: 'go', to: { ...position, state: 'Completed' } }),
      );
      return;
    }
    if (move.to.state === 'Failed') await this.#endWorker(known, position);
    await writeStatus(api, jobs, job, this.#afterMove(job, position, move));
    await recordEvent(this.#ports, job, {
      type: move.to.state === 'Failed' ? 'Warning' : 'Normal',
      reason: `${move.to.stage}${move.to.state}`,
      message: `round ${move.to.round}: ${move.to.stage} is ${move.to.state}${move.message ? `: ${move.message}` : ''}`,
    });
  }

  /** A failed stage takes its worker with it: it must not go on beside that of the next round. */
  async #endWorker(known: Resolved<Job, References>, position: StagePosition): Promise<void> {
    const pod = position.stage === 'Deploy' ? undefined : known.pods.ofStage(position);
    if (!pod || hasEnded(pod)) return;
    await deletePod(this.#ports.api, pod);
  }

  /** A deployment that completes (rather than being declined while waiting) changes what is served. */
  #afterMove(job: Job, from: StagePosition, move: Extract<StageMove, { kind: 'go' }>): object {
    const { output } = move.data ?? {};
    const now = this.#ports.clock.now();
    const status = {
      ...advanced(job, move, now),
      ...(output ? this.#kind.extendStatus?.(output) : {}),
    };
    const deployed =
      move.to.stage === 'Deploy' && move.to.state === 'Completed' && from.state !== 'Waiting';
    const [model] = deployed ? (currentInput(job, 'Deploy')?.models ?? []) : [];
    if (model?.digest === undefined) return status;
    const { digest, metrics } = model;
    const models = withServed(servedHistory(this.#ports.records, this.#kind.kind, job), {
      digest,
      round: from.round,
      deployedAt: rfc3339(now),
      metrics: figuresAsText(metrics),
    });
    return { ...status, deployedModel: digest, models };
  }

  async #removeOldPods(known: Resolved<Job, References>, round: number): Promise<void> {
    for (const pod of known.pods.all()) {
      const of = Number(pod.metadata.labels?.[ROUND_LABEL] ?? Number.NaN);
      if (of <= round - KEPT_ROUNDS) await deletePod(this.#ports.api, pod);
    }
  }
}
