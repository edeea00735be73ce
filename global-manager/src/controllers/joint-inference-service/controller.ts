import {
  appendCondition,
  type Condition,
  type JointInferenceService,
  type PlacementGroup,
  type ServiceAssignment,
} from '@shoal/api';
import { type Clock, isShoalError, type Logger, messageOf, ShoalError } from '@shoal/core';
import type { Feed } from '../../edge-link/feed.ts';
import type { Records } from '../../edge-link/records.ts';
import { onGroupChange, type PlacedNode, placedNodes } from '../../placement/groups.ts';
import { miningOf, requireOverrides, requireUnplaced } from '../../placement/overrides.ts';
import { DONE, type ReconcileResult, type Reconciler } from '../../reconcile/controller.ts';
import { keyOf, type ObjectCache } from '../../reconcile/object-cache.ts';
import { recordEvent } from '../event-writer.ts';
import { admitAnew, nodesOf, workOf } from '../job-nodes.ts';
import { requireModel } from '../references.ts';
import { writeStatus } from '../status-writer.ts';
import { rollOutWorkers } from './rollout.ts';
import { serviceStatus } from './status.ts';
import {
  ensureAutoscaler,
  ensureDeployment,
  ensureService,
  removeOthers,
  type WantedDeployment,
  type Worker,
  type WorkerPorts,
  wantedDeployment,
} from './workers.ts';

export interface JointInferencePorts extends WorkerPorts {
  readonly jobs: ObjectCache;
  readonly models: ObjectCache;
  readonly pods: ObjectCache;
  readonly nodes: ObjectCache;
  readonly feed: Feed;
  readonly records: Records;
  readonly clock: Clock;
  readonly logger: Logger;
}

const KIND = 'JointInferenceService';
const REFUSED_RETRY_MS = 15_000;

type Placed = PlacedNode<PlacementGroup>;

/** Keeps the two workers of a JointInferenceService, and its status. */
export class JointInferenceReconciler implements Reconciler {
  readonly name = 'joint-inference-service';
  readonly #ports: JointInferencePorts;

  /** Since when this manager follows services: nobody is late by the time it was away. */
  readonly #startedMs: number;

  constructor(ports: JointInferencePorts) {
    this.#ports = ports;
    this.#startedMs = ports.clock.now();
  }

  watch(enqueue: (key: string) => void): void {
    const { jobs, models, pods, nodes, deployments, records } = this.#ports;
    onGroupChange(nodes, () => {
      for (const job of jobs.list())
        if ((job as unknown as JointInferenceService).spec.placement) enqueue(keyOf(job));
    });
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
    const { jobs, records, feed } = this.#ports;
    const found = jobs.get(namespace, name);
    if (!found) {
      feed.assign({ kind: KIND, namespace, name, uid: '' }, new Map());
      records.forget({ kind: KIND, namespace, name });
      return DONE;
    }
    const service = found as unknown as JointInferenceService;
    if (service.metadata.deletionTimestamp) return DONE;
    try {
      const ms = await this.#ensure(service);
      return ms === undefined ? DONE : { kind: 'requeueAfter', ms };
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
  }

  /** The workers at the edge: one, or one on every node of the groups. */
  #edgeWorkers(service: JointInferenceService, placed: readonly Placed[] | undefined): Worker[] {
    const { models } = this.#ports;
    const { namespace = '' } = service.metadata;
    const { edgeWorker, placement } = service.spec;
    const { template } = edgeWorker;
    const model = requireModel(models, namespace, {
      name: edgeWorker.model.name,
      field: 'spec.edgeWorker.model.name',
    });
    if (!placed) return [{ type: 'Edge', model, template }];
    return placed.map((p) => {
      const { name } = p.group.overrides?.model ?? {};
      const at = placement?.groups.indexOf(p.group) ?? 0;
      const field = `spec.placement.groups[${at}].overrides.model.name`;
      const own = name === undefined ? model : requireModel(models, namespace, { name, field });
      return { type: 'Edge', model: own, template, placed: p };
    });
  }

  /** Nodes of the groups; undefined for a service without placement. @throws ShoalError. */
  #placed({ spec }: JointInferenceService): readonly Placed[] | undefined {
    const { placement, edgeWorker } = spec;
    if (edgeWorker.rollout && !placement)
      throw new ShoalError(
        'invalid_argument',
        'spec.edgeWorker.rollout goes through the groups of spec.placement, which is missing',
      );
    if (!placement) return undefined;
    requireOverrides(placement.groups, [
      'model',
      'parameters',
      'threshold',
      'endpoint',
      'resources',
      'env',
    ]);
    requireUnplaced(edgeWorker.template, 'spec.edgeWorker.template');
    if (edgeWorker.hpa)
      throw new ShoalError(
        'invalid_argument',
        'spec.edgeWorker.hpa and spec.placement do not go together: there is one worker on every node of the groups',
      );
    for (const { overrides } of placement.groups) miningOf(edgeWorker.hardExampleMining, overrides);
    return placedNodes(placement, this.#ports.nodes.list());
  }

  /** @returns Milliseconds until time alone may change something. */
  async #ensure(service: JointInferenceService): Promise<number | undefined> {
    const { models, pods, jobs, records, clock, api } = this.#ports;
    const { namespace = '', uid } = service.metadata;
    const { cloudWorker } = service.spec;
    const placed = this.#placed(service);
    const bigModel = requireModel(models, namespace, {
      name: cloudWorker.model.name,
      field: 'spec.cloudWorker.model.name',
    });
    const edgeWorkers = this.#edgeWorkers(service, placed);
    this.#assign(service, edgeWorkers);
    // The Service comes first: its address must be known when the edge worker starts.
    await ensureService(service, this.#ports);
    const cloud = { type: 'Cloud', model: bigModel, template: cloudWorker.template } as const;
    const wanted: WantedDeployment[] = [];
    for (const worker of edgeWorkers)
      wanted.push(await wantedDeployment(service, worker, this.#ports));
    const ofCloud = await wantedDeployment(service, cloud, this.#ports);
    const inCloud = await ensureDeployment(service, ofCloud, this.#ports);
    const { rollout, lookAgainMs, ...atEdge } = await rollOutWorkers(service, wanted, {
      ...this.#ports,
      nowMs: clock.now(),
      listeningSinceMs: this.#startedMs,
    });
    const deployments = [inCloud, ...atEdge.deployments];
    await removeOthers(service, deployments, this.#ports);
    await ensureAutoscaler(service, 'Cloud', this.#ports);
    await ensureAutoscaler(service, 'Edge', this.#ports);
    const all = pods
      .list(namespace)
      .filter((p) => p.metadata.labels?.['jointinferenceservice.sedna.io/uid'] === uid);
    admitAnew(records, workOf(KIND, service), nodesOf(all));
    const own = all.filter((p) => !p.metadata.deletionTimestamp);
    const status = serviceStatus({
      service,
      deployments,
      placed,
      rollout,
      pods: own,
      records,
      nowMs: clock.now(),
    });
    await writeStatus(api, jobs, service, status);
    await this.#tell(service, status.conditions);
    return lookAgainMs;
  }

  /** Tells the nodes of groups what they run, so that models are there before their workers. */
  #assign(service: JointInferenceService, workers: readonly Worker[]): void {
    const { name, namespace = '', uid = '', generation = 1 } = service.metadata;
    const metadata = { name, namespace, uid, generation };
    const bodies = workers.flatMap(({ placed, model }): [string, ServiceAssignment][] =>
      placed
        ? [
            [
              placed.node,
              {
                metadata,
                group: placed.group.name,
                model: { format: model.spec.format, url: model.spec.url },
              },
            ],
          ]
        : [],
    );
    this.#ports.feed.assign({ kind: KIND, namespace, name, uid }, new Map(bodies));
  }

  /** A condition that is new becomes an Event as well. */
  async #tell(service: JointInferenceService, conditions: readonly Condition[]): Promise<void> {
    const last = conditions.at(-1);
    const before = service.status?.conditions?.at(-1);
    if (!last) return;
    const isSame = before?.reason === last.reason && before?.message === last.message;
    // How many workers are there already is in the status; an Event for each would be one too many.
    const isCount = last.type === 'Pending' && before?.reason === last.reason;
    if (isSame || isCount) return;
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
