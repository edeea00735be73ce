import { appendCondition, type Condition, type FederatedLearningJob } from '@shoal/api';
import { type Clock, isShoalError, type Logger, messageOf } from '@shoal/core';
import type { Records } from '../../edge-link/records.ts';
import { type KubeObject, POD } from '../../kube/kube-api.ts';
import { onGroupChange } from '../../placement/groups.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../../reconcile/object-cache.ts';
import { recordEvent } from '../event-writer.ts';
import { admitAnew, nodesOf, workOf } from '../job-nodes.ts';
import { endedAt, phaseOf } from '../pod-trouble.ts';
import { requireDataset, requireModel } from '../references.ts';
import { writeStatus } from '../status-writer.ts';
import { groupsOf, participantGroups, participantPlaces } from './groups.ts';
import { ensureSecret } from './secrets.ts';
import { isAggregated, jobStatus } from './status.ts';
import {
  createWorkerPod,
  ensureServices,
  participantName,
  type Resolved,
  SLOT_LABEL,
  type Slot,
  SPEC_DIGEST,
  slotDigest,
  slotsOf,
  type WorkerPorts,
} from './workers.ts';

export interface FederatedLearningPorts extends WorkerPorts {
  readonly jobs: ObjectCache;
  readonly models: ObjectCache;
  readonly datasets: ObjectCache;
  readonly pods: ObjectCache;
  readonly nodes: ObjectCache;
  readonly records: Records;
  readonly clock: Clock;
  readonly logger: Logger;
}

const KIND = 'FederatedLearningJob';
const LABEL = 'federatedlearningjob.sedna.io';
const REFUSED_RETRY_MS = 15_000;
/** Time participants have to end by themselves once the model is written. */
const FAREWELL_MS = 10_000;

function isOver(job: FederatedLearningJob): boolean {
  return job.status?.phase === 'Succeeded' || job.status?.phase === 'Failed';
}

/** Keeps the aggregator and the participants of a FederatedLearningJob, and its status. */
export class FederatedLearningReconciler implements Reconciler {
  readonly name = 'federated-learning-job';
  readonly #ports: FederatedLearningPorts;

  constructor(ports: FederatedLearningPorts) {
    this.#ports = ports;
  }

  watch(enqueue: (key: string) => void): void {
    const { jobs, models, datasets, pods, nodes, records } = this.#ports;
    onGroupChange(nodes, () => {
      for (const job of jobs.list())
        if ((job as unknown as FederatedLearningJob).spec.placement?.groups) enqueue(keyOf(job));
    });
    jobs.onChange((o) => enqueue(keyOf(o)));
    for (const cache of [models, datasets]) {
      cache.onChange((o) => {
        for (const j of jobs.list(o.metadata.namespace)) enqueue(keyOf(j));
      });
    }
    pods.onChange((p) => {
      const name = p.metadata.labels?.[`${LABEL}/name`];
      if (name) enqueue(`${p.metadata.namespace}/${name}`);
    });
    records.onRecord((_node, key) => {
      const [kind, namespace, name] = key.split('/');
      if (kind === KIND) enqueue(`${namespace}/${name}`);
    });
  }

  async reconcile(namespace: string, name: string): Promise<ReconcileResult> {
    const { jobs, records } = this.#ports;
    const found = jobs.get(namespace, name);
    if (!found) {
      records.forget({ kind: KIND, namespace, name });
      return DONE;
    }
    const job = found as unknown as FederatedLearningJob;
    if (job.metadata.deletionTimestamp) return DONE;
    try {
      if (await this.#ensure(job)) return { kind: 'requeueAfter', ms: FAREWELL_MS };
    } catch (error) {
      if (!isShoalError(error) || (error.code !== 'not_found' && error.code !== 'invalid_argument'))
        throw error;
      await this.#refuse(
        job,
        error.code === 'not_found' ? 'ReferenceNotFound' : 'InvalidTemplate',
        messageOf(error),
      );
      return { kind: 'requeueAfter', ms: REFUSED_RETRY_MS };
    }
    return DONE;
  }

  #resolve(job: FederatedLearningJob): Resolved {
    const { models, datasets, nodes } = this.#ports;
    const { namespace = '' } = job.metadata;
    const { aggregationWorker, pretrainedModel, trainingWorkers, evaluation } = job.spec;
    const model = requireModel(models, namespace, {
      name: aggregationWorker.model.name,
      field: 'spec.aggregationWorker.model.name',
    });
    const shares = trainingWorkers.map(({ dataset }, i) =>
      requireDataset(datasets, namespace, {
        name: dataset.name,
        field: `spec.trainingWorkers[${i}].dataset.name`,
      }),
    );
    return {
      groups: groupsOf(job, shares, nodes),
      overrides: participantGroups(job, participantPlaces(job, shares, nodes)),
      evaluation: evaluation?.dataset
        ? requireDataset(datasets, namespace, {
            name: evaluation.dataset.name,
            field: 'spec.evaluation.dataset.name',
          })
        : undefined,
      model,
      pretrained: pretrainedModel
        ? requireModel(models, namespace, {
            name: pretrainedModel.name,
            field: 'spec.pretrainedModel.name',
          })
        : undefined,
      datasets: shares,
    };
  }

  /** Pods of this job that are not on their way out, by slot. */
  #podsOf(job: FederatedLearningJob): Map<string, KubeObject> {
    const all = this.#ports.pods
      .list(job.metadata.namespace)
      .filter((p) => p.metadata.labels?.[`${LABEL}/uid`] === job.metadata.uid);
    admitAnew(this.#ports.records, workOf(KIND, job), nodesOf(all));
    const own = all.filter((p) => !p.metadata.deletionTimestamp);
    return new Map(own.map((p) => [p.metadata.labels?.[SLOT_LABEL] ?? '', p]));
  }

  /** @returns Whether to look again soon. */
  async #ensure(job: FederatedLearningJob): Promise<boolean> {
    const { jobs, records, clock, api } = this.#ports;
    const changed = job.status?.observedGeneration !== job.metadata.generation;
    const pods = this.#podsOf(job);
    let workers = pods.size;
    let waits = false;
    let slots: readonly Slot[] = [];
    if (!isOver(job) || changed) {
      const resolved = this.#resolve(job);
      slots = slotsOf(job, resolved);
      const trainers = slots.filter((s) => s.type === 'train');
      const names = new Map(trainers.map((s) => [s.name, participantName(job, s)]));
      await ensureSecret(job, names, { api, nowMs: clock.now() });
      await ensureServices(job, slots, this.#ports);
      workers = slots.length;
      if (isAggregated(pods.values())) waits = await this.#dismiss(pods);
      else for (const slot of slots) await this.#ensurePod(job, slot, { resolved, pods });
    }
    if (isOver(job) && !changed) return false;
    const status = jobStatus({
      job,
      pods: [...pods.values()],
      slots,
      workers,
      records,
      nowMs: clock.now(),
    });
    await writeStatus(api, jobs, job, status);
    await this.#tell(job, status.conditions);
    return waits;
  }

  /**
   * Once the model is written, participants end by themselves. One that was restarted too late to
   * hear of it would dial for ever: it is removed.
   *
   * @returns Whether some are still given time.
   */
  async #dismiss(pods: Map<string, KubeObject>): Promise<boolean> {
    const { api, clock } = this.#ports;
    const aggregator = pods.get('aggregation');
    const since = clock.now() - (aggregator ? (endedAt(aggregator) ?? clock.now()) : 0);
    const left = [...pods].filter(([, p]) => ['Running', 'Pending'].includes(phaseOf(p)));
    if (since < FAREWELL_MS) return left.length > 0;
    for (const [slot, pod] of left) {
      pods.delete(slot);
      await api.delete(POD, pod.metadata.namespace ?? '', pod.metadata.name);
    }
    return false;
  }

  /** Creates a missing worker; one made from an older spec is replaced. */
  async #ensurePod(
    job: FederatedLearningJob,
    slot: Slot,
    at: { readonly resolved: Resolved; readonly pods: Map<string, KubeObject> },
  ): Promise<void> {
    const { api, pods: cache } = this.#ports;
    const current = at.pods.get(slot.name);
    const digest = slotDigest(job, slot, at.resolved);
    if (current?.metadata.labels?.[SPEC_DIGEST] === digest) return;
    if (current) {
      at.pods.delete(slot.name);
      await api.delete(POD, current.metadata.namespace ?? '', current.metadata.name);
    }
    const pod = await createWorkerPod(job, { slot, resolved: at.resolved }, this.#ports);
    cache.observe(pod);
    at.pods.set(slot.name, pod);
  }

  async #tell(job: FederatedLearningJob, conditions: readonly Condition[]): Promise<void> {
    const last = conditions.at(-1);
    const before = job.status?.conditions?.at(-1);
    if (!last || (before?.reason === last.reason && before?.message === last.message)) return;
    await recordEvent(this.#ports, job, {
      type: last.type === 'Failed' ? 'Warning' : 'Normal',
      reason: last.reason ?? last.type,
      message: last.message ?? last.type,
    });
  }

  async #refuse(job: FederatedLearningJob, reason: string, message: string): Promise<void> {
    const { api, jobs, clock } = this.#ports;
    const condition = { type: 'Pending', status: 'True' as const, reason, message };
    const conditions = appendCondition(job.status?.conditions, condition, clock.now());
    await writeStatus(api, jobs, job, {
      ...job.status,
      conditions,
      phase: 'Pending',
      observedGeneration: job.metadata.generation,
    });
    await this.#tell(job, conditions);
  }
}
