import { isDeepStrictEqual } from 'node:util';
import { type Dataset, type FaultReport, recordKey, type StageReport } from '@shoal/api';
import { type Clock, isShoalError, type Logger, messageOf, rfc3339 } from '@shoal/core';
import type { Feed } from '../../edge-link/feed.ts';
import type { Records } from '../../edge-link/records.ts';
import { type KubeApi, type KubeObject, POD } from '../../kube/kube-api.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../../reconcile/object-cache.ts';
import {
  nextMove,
  type PodPhase,
  type StageFacts,
  type StageMove,
  type StagePosition,
} from '../../stages/machine.ts';
import { recordEvent } from '../event-writer.ts';
import { endedAt, phaseOf, troubleOf } from '../pod-trouble.ts';
import { writeStatus } from '../status-writer.ts';
import { ROUND_LABEL, workerTypeOf } from './pods.ts';
import { isPinnedOn, servedHistory } from './served-models.ts';
import type { Observed, StageJob, StageJobKind, StageReferences } from './stage-job.ts';
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

export interface StageJobPorts {
  readonly api: KubeApi;
  readonly jobs: ObjectCache;
  readonly models: ObjectCache;
  readonly datasets: ObjectCache;
  readonly pods: ObjectCache;
  readonly feed: Feed;
  readonly records: Records;
  readonly presence: EdgePresence;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Which edges are connected. */
export interface EdgePresence {
  /** How long a node has been connected, in milliseconds; undefined when it is not. */
  connectedForMs(node: string): number | undefined;
}

interface Resolved<Job extends StageJob, References extends StageReferences> {
  readonly job: Job;
  readonly references: References;
  /** Pods of this job that are not being deleted. */
  readonly pods: readonly KubeObject[];
  /** True while an inference pod is being deleted: its ports and files are still in use. */
  readonly inferenceGoing: boolean;
  readonly observed?: Observed | undefined;
}

/** Pods of rounds older than this are removed; their logs go with them. */
const KEPT_ROUNDS = 2;

/** A pod that serves and ended is started again after this long. */
const RESTART_DELAY_MS = 10_000;
/** Figures of what goes on beside the stages are written at most this often. */
const NOTE_PERIOD_MS = 1_000;
/** A job that was refused is looked at again: what is missing may be of a kind that is not watched. */
const REFUSED_RETRY_MS = 15_000;

function hasEnded(pod: KubeObject): boolean {
  return ['Succeeded', 'Failed'].includes(phaseOf(pod));
}

function nodeOf(pod: KubeObject): string | undefined {
  return (pod as unknown as { spec?: { nodeName?: string } }).spec?.nodeName;
}

/** Moves a job with stages through them: the one writer of its status. */
export class StageJobReconciler<Job extends StageJob, References extends StageReferences>
  implements Reconciler
{
  readonly name: string;
  readonly #kind: StageJobKind<Job, References>;
  readonly #ports: StageJobPorts;
  /** Prefix of the labels of its pods. */
  readonly #prefix: string;
  /** When what goes on beside a job's stages was last written. */
  readonly #noted = new Map<string, number>();

  constructor(kind: StageJobKind<Job, References>, ports: StageJobPorts) {
    this.name = kind.name;
    this.#kind = kind;
    this.#ports = ports;
    this.#prefix = `${kind.kind.toLowerCase()}.sedna.io`;
  }

  watch(enqueue: (key: string) => void): void {
    const { jobs, models, datasets, pods, records } = this.#ports;
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
        records.forgetRecords(`${recordKey(this.#kind.kind, { namespace, name })}/`);
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
    const label = (pod: KubeObject, name: string): string | undefined =>
      pod.metadata.labels?.[`${this.#prefix}/${name}`];
    const own = this.#ports.pods.list(namespace).filter((p) => label(p, 'uid') === uid);
    return {
      job,
      references: this.#kind.resolve(job),
      pods: own.filter((p) => !p.metadata.deletionTimestamp),
      inferenceGoing: own.some(
        (p) => p.metadata.deletionTimestamp && label(p, 'worker-type') === 'inference',
      ),
    };
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
    const noteMs = position ? await this.#note(job, observed) : undefined;
    // A written status brings the job here again, as it is then.
    if (noteMs === 0 || (position && (await this.#pin(known)))) return DONE;
    const restartMs = this.#kind.isServed(job, position)
      ? await this.#ensureInference(known)
      : undefined;
    if (!position) {
      await writeStatus(api, jobs, job, begun(job, clock.now()));
      return DONE;
    }
    this.#assign(known, position);
    const facts = this.#facts(known, position);
    const move = nextMove(position, facts);
    await this.#perform(known, position, move);
    if (move.kind === 'stay')
      await this.#explain(job, position, facts.pod.message ?? this.#fault(job));
    await this.#removeOldPods(known, position.round);
    const waits = [restartMs, noteMs, move.kind === 'stay' ? move.lookAgainMs : undefined].filter(
      (ms) => ms !== undefined,
    );
    return waits.length > 0 ? { kind: 'requeueAfter', ms: Math.min(...waits) } : DONE;
  }

  /**
   * Writes what goes on beside the stages; figures that change all the time are not written all the time.
   *
   * @returns Milliseconds until there is something to write; 0 when it was written now.
   */
  async #note(job: Job, observed: Observed | undefined): Promise<number | undefined> {
    const { api, jobs, clock } = this.#ports;
    const status = { ...job.status, ...observed?.status };
    if (!observed || isDeepStrictEqual(status, job.status)) return undefined;
    const key = job.metadata.uid ?? '';
    const wait = (this.#noted.get(key) ?? 0) + NOTE_PERIOD_MS - clock.now();
    if (wait > 0) return wait;
    this.#noted.set(key, clock.now());
    await writeStatus(api, jobs, job, status);
    return 0;
  }

  /** Once every serving node has the pinned model, it is the one that is served. True when that changed. */
  async #pin(known: Resolved<Job, References>): Promise<boolean> {
    const { api, jobs, clock } = this.#ports;
    const { job } = known;
    const pin = this.#kind.pinned?.(job);
    if (pin === undefined || job.status?.deployedModel === pin) return false;
    const nodes = [...new Set(this.#serving(known).map(nodeOf))];
    if (!isPinnedOn(nodes, pin, { records: this.#ports.records, kind: this.#kind.kind, job }))
      return false;
    if (!this.#kind.hotUpdate(job))
      for (const pod of this.#podsOf(known, 'inference'))
        await api.delete(POD, pod.metadata.namespace ?? '', pod.metadata.name);
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
    const key = recordKey(this.#kind.kind, job.metadata, 'Fault');
    const faults = this.#ports.records
      .records<FaultReport>(key)
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

  #podsOf(known: Resolved<Job, References>, type: string, round?: number): KubeObject[] {
    return known.pods.filter(
      (p) =>
        p.metadata.labels?.[`${this.#prefix}/worker-type`] === type &&
        (round === undefined || p.metadata.labels?.[ROUND_LABEL] === String(round)),
    );
  }

  #serving(known: Resolved<Job, References>): KubeObject[] {
    return this.#podsOf(known, 'inference').filter((p) => !hasEnded(p));
  }

  /**
   * The model is served from the start, and again, after a while, when its pod has ended.
   *
   * @returns Milliseconds until a new pod is due, while there is none.
   */
  async #ensureInference(known: Resolved<Job, References>): Promise<number | undefined> {
    const { api, pods, clock } = this.#ports;
    if (this.#serving(known).length > 0 || known.inferenceGoing) return undefined;
    const ended = this.#podsOf(known, 'inference');
    const last = Math.max(0, ...ended.map((p) => endedAt(p) ?? 0));
    const wait = last + RESTART_DELAY_MS - clock.now();
    if (ended.length > 0 && wait > 0) return wait;
    for (const pod of ended) await api.delete(POD, pod.metadata.namespace ?? '', pod.metadata.name);
    pods.observe(await this.#kind.createInferencePod(known.job, known.references));
    return undefined;
  }

  #assign(known: Resolved<Job, References>, position: StagePosition): void {
    const { name, namespace = '', uid = '' } = known.job.metadata;
    const deployNodes = this.#serving(known)
      .map(nodeOf)
      .filter((n) => n !== undefined);
    const stagePod = position.stage === 'Deploy' ? undefined : this.#stagePod(known, position);
    const workerNode = stagePod && nodeOf(stagePod);
    this.#ports.feed.assign(
      { kind: this.#kind.kind, namespace, name, uid },
      this.#kind.assignments({ ...known, position, deployNodes, workerNode }),
    );
  }

  #facts(known: Resolved<Job, References>, position: StagePosition): StageFacts {
    const { job } = known;
    const { dataset } = known.references;
    const pod = this.#stagePod(known, position);
    const ended = pod ? endedAt(pod) : undefined;
    const trouble = pod ? troubleOf(pod) : undefined;
    const now = this.#ports.clock.now();
    return {
      report: this.#stageReport(known, position, pod && nodeOf(pod)),
      deployment: this.#deployment(known, position),
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

  #stagePod(known: Resolved<Job, References>, position: StagePosition): KubeObject | undefined {
    if (position.stage === 'Deploy') return this.#serving(known).at(-1);
    return this.#podsOf(known, workerTypeOf(position.stage), position.round).at(-1);
  }

  /** What the dataset's node says of this stage, or, once its worker ended, the worker's node. */
  #stageReport(
    known: Resolved<Job, References>,
    position: StagePosition,
    workerNode: string | undefined,
  ): StageReport | undefined {
    const at = (node: string | undefined): StageReport | undefined =>
      this.#report(known.job, { node, part: position.stage, position });
    const byWorker = position.stage === 'Deploy' ? undefined : at(workerNode);
    return byWorker && byWorker.status !== 'ready'
      ? byWorker
      : at(known.references.dataset.spec.nodeName);
  }

  #report(
    job: Job,
    of: { node: string | undefined; part: string; position: StagePosition },
  ): StageReport | undefined {
    const report =
      of.node === undefined
        ? undefined
        : this.#ports.records.record<StageReport>(
            of.node,
            recordKey(this.#kind.kind, job.metadata, of.part),
          );
    const fits =
      report?.uid === job.metadata.uid &&
      report?.round === of.position.round &&
      report.stage === of.position.stage;
    return fits ? report : undefined;
  }

  /** What the serving nodes say: a failure of any, else completed once all are. */
  #deployment(known: Resolved<Job, References>, position: StagePosition): StageReport | undefined {
    if (position.stage !== 'Deploy') return undefined;
    const nodes = new Set(this.#serving(known).map(nodeOf));
    const reports = [...nodes].map((node) =>
      this.#report(known.job, { node, part: 'Serving', position }),
    );
    if (reports.length === 0 || reports.some((r) => r === undefined))
      return reports.find((r) => r?.status === 'failed');
    return reports.find((r) => r?.status === 'failed') ?? reports[0];
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
      for (const pod of this.#podsOf(known, 'inference'))
        await api.delete(POD, pod.metadata.namespace ?? '', pod.metadata.name);
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
    const pod = position.stage === 'Deploy' ? undefined : this.#stagePod(known, position);
    if (!pod || hasEnded(pod)) return;
    await this.#ports.api.delete(POD, pod.metadata.namespace ?? '', pod.metadata.name);
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
    for (const pod of known.pods) {
      const of = Number(pod.metadata.labels?.[ROUND_LABEL] ?? Number.NaN);
      if (of <= round - KEPT_ROUNDS)
        await this.#ports.api.delete(POD, pod.metadata.namespace ?? '', pod.metadata.name);
    }
  }
}
