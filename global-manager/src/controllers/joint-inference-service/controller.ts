import { appendCondition, type Condition, type JointInferenceService, recordKey } from '@shoal/api';
import { type Clock, isShoalError, type Logger, messageOf } from '@shoal/core';
import type { Records } from '../../edge-link/records.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../../reconcile/object-cache.ts';
import { recordEvent } from '../event-writer.ts';
import { requireModel } from '../references.ts';
import { writeStatus } from '../status-writer.ts';
import { serviceStatus } from './status.ts';
import { ensureAutoscaler, ensureDeployment, ensureService, type WorkerPorts } from './workers.ts';

export interface JointInferencePorts extends WorkerPorts {
  readonly jobs: ObjectCache;
  readonly models: ObjectCache;
  readonly pods: ObjectCache;
  readonly records: Records;
  readonly clock: Clock;
  readonly logger: Logger;
}

const KIND = 'JointInferenceService';
const REFUSED_RETRY_MS = 15_000;

/** Keeps the two workers of a JointInferenceService, and its status. */
export class JointInferenceReconciler implements Reconciler {
  readonly name = 'joint-inference-service';
  readonly #ports: JointInferencePorts;

  constructor(ports: JointInferencePorts) {
    this.#ports = ports;
  }

  watch(enqueue: (key: string) => void): void {
    const { jobs, models, pods, deployments, records } = this.#ports;
    jobs.onChange((o) => enqueue(keyOf(o)));
    models.onChange((m) => {
      for (const j of jobs.list(m.metadata.namespace)) enqueue(keyOf(j));
    });
    deployments.onChange((d) => {
      const owner = d.metadata.ownerReferences?.find((r) => r.kind === KIND);
      if (owner) enqueue(`${d.metadata.namespace}/${owner.name}`);
    });
    pods.onChange((p) => {
      const name = p.metadata.labels?.['jointinferenceservice.sedna.io/name'];
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
      records.forgetRecords(`${recordKey(KIND, { namespace, name })}/`);
      return DONE;
    }
    const service = found as unknown as JointInferenceService;
    if (service.metadata.deletionTimestamp) return DONE;
    try {
      await this.#ensure(service);
    } catch (error) {
      if (!isShoalError(error) || (error.code !== 'not_found' && error.code !== 'invalid_argument'))
        throw error;
      await this.#refuse(
        service,
        error.code === 'not_found' ? 'ReferenceNotFound' : 'InvalidTemplate',
        messageOf(error),
      );
      // What is missing may be of a kind that is not watched (a Secret): look again.
      return { kind: 'requeueAfter', ms: REFUSED_RETRY_MS };
    }
    return DONE;
  }

  async #ensure(service: JointInferenceService): Promise<void> {
    const { models, pods, jobs, records, clock, api } = this.#ports;
    const { namespace = '', uid } = service.metadata;
    const { cloudWorker, edgeWorker } = service.spec;
    const bigModel = requireModel(models, namespace, {
      name: cloudWorker.model.name,
      field: 'spec.cloudWorker.model.name',
    });
    const littleModel = requireModel(models, namespace, {
      name: edgeWorker.model.name,
      field: 'spec.edgeWorker.model.name',
    });
    // The Service comes first: its address must be known when the edge worker starts.
    await ensureService(service, this.#ports);
    const cloud = await ensureDeployment(
      service,
      { type: 'Cloud', model: bigModel, template: cloudWorker.template },
      this.#ports,
    );
    const edge = await ensureDeployment(
      service,
      { type: 'Edge', model: littleModel, template: edgeWorker.template },
      this.#ports,
    );
    await ensureAutoscaler(service, 'Cloud', this.#ports);
    await ensureAutoscaler(service, 'Edge', this.#ports);
    const own = pods
      .list(namespace)
      .filter(
        (p) =>
          p.metadata.labels?.['jointinferenceservice.sedna.io/uid'] === uid &&
          !p.metadata.deletionTimestamp,
      );
    const status = serviceStatus({
      service,
      deployments: [cloud, edge],
      pods: own,
      records,
      nowMs: clock.now(),
    });
    await writeStatus(api, jobs, service, status);
    await this.#tell(service, status.conditions);
  }

  /** A condition that is new becomes an Event as well. */
  async #tell(service: JointInferenceService, conditions: readonly Condition[]): Promise<void> {
    const last = conditions.at(-1);
    const before = service.status?.conditions?.at(-1);
    if (!last || (before?.reason === last.reason && before?.message === last.message)) return;
    const type = last.type === 'Failed' ? 'Warning' : 'Normal';
    await recordEvent(this.#ports, service, {
      type,
      reason: last.reason ?? last.type,
      message: last.message ?? last.type,
    });
  }

  /** Says in the status why nothing is started; a change of the job or of what it names tries again. */
  async #refuse(service: JointInferenceService, reason: string, message: string): Promise<void> {
    const { api, jobs, clock } = this.#ports;
    const condition = { type: 'Failed', status: 'True' as const, reason, message };
    const conditions = appendCondition(service.status?.conditions, condition, clock.now());
    await writeStatus(api, jobs, service, {
      ...service.status,
      conditions,
      observedGeneration: service.metadata.generation,
    });
    await this.#tell(service, conditions);
  }
}
