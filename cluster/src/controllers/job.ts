import { isJsonObject, rfc3339 } from '@shoal/core';
import { type ApiObject, dig, digList, digNumber, digObject, digString } from '../object.ts';
import { controllerOf } from '../server/verbs.ts';
import {
  type Controller,
  type ControllerContext,
  ignoreNotFound,
  type Kinds,
  keyOf,
  splitKey,
} from './control-loop.ts';
import { EventWriter } from './events.ts';
import { type JobEnd, type JobSpec, type JobState, planJob } from './job-plan.ts';
import { isActive, isOwnedBy, isReady } from './pod-state.ts';

/** Keeps a finished pod until it is counted, so that none is forgotten and none counts twice. */
const TRACKING = 'batch.kubernetes.io/job-tracking';

function specOf(job: ApiObject): JobSpec {
  return {
    parallelism: digNumber(job, 'spec', 'parallelism') ?? 1,
    completions: digNumber(job, 'spec', 'completions'),
    backoffLimit: digNumber(job, 'spec', 'backoffLimit') ?? 6,
    activeDeadlineSeconds: digNumber(job, 'spec', 'activeDeadlineSeconds'),
    suspend: dig(job, 'spec', 'suspend') === true,
  };
}

function isEnded(job: ApiObject): boolean {
  return digList(job, 'status', 'conditions').some(
    (c) =>
      /^(Complete|Failed)$/.test(digString(c, 'type') ?? '') && digString(c, 'status') === 'True',
  );
}

function restartsOf(pod: ApiObject): number {
  return digList(pod, 'status', 'containerStatuses').reduce<number>(
    (n, c) => n + (digNumber(c, 'restartCount') ?? 0),
    0,
  );
}

/** When the last container of a pod ended, milliseconds since the epoch. */
function endedMs(pod: ApiObject): number {
  const times = digList(pod, 'status', 'containerStatuses').map((c) =>
    Date.parse(digString(c, 'state', 'terminated', 'finishedAt') ?? ''),
  );
  return Math.max(0, ...times.filter((t) => !Number.isNaN(t)));
}

/** Runs pods until enough of them have succeeded. */
export class JobController implements Controller {
  readonly name = 'job';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;
  readonly #events: EventWriter;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
    this.#events = new EventWriter(kinds, context, 'job-controller');
  }

  keysOf(event: { resource: string; object: ApiObject }): string[] {
    if (event.resource === 'batch/jobs') return [keyOf(event.object)];
    const owner = event.resource === '/pods' ? controllerOf(event.object) : undefined;
    return owner?.kind === 'Job' ? [`${event.object.metadata.namespace}/${owner.name}`] : [];
  }

  async reconcile(key: string): Promise<number | void> {
    const [namespace, name] = splitKey(key);
    const found = this.#kinds.find('jobs', namespace, name);
    if (!found || found.metadata.deletionTimestamp) return await this.#releaseAll(namespace, name);
    const job = await this.#count(found, this.#podsOf(found));
    return isEnded(job) ? await this.#afterEnd(job) : await this.#proceed(job);
  }

  #podsOf(job: ApiObject): ApiObject[] {
    const { namespace, uid } = job.metadata;
    return this.#kinds.list('pods', namespace).filter((p) => isOwnedBy(p, uid));
  }

  /** Nobody counts the pods of a job that is gone: who waits to go may. */
  async #releaseAll(namespace: string, name: string): Promise<void> {
    for (const pod of this.#kinds.list('pods', namespace)) {
      const owner = controllerOf(pod);
      if (owner?.kind === 'Job' && owner.name === name) await this.#release(pod);
    }
  }

  #stateOf(job: ApiObject, pods: readonly ApiObject[]): JobState {
    const active = pods.filter(isActive);
    const failed = pods.filter((p) => digString(p, 'status', 'phase') === 'Failed');
    const started = digString(job, 'status', 'startTime');
    return {
      active: active.length,
      succeeded: digNumber(job, 'status', 'succeeded') ?? 0,
      failed: digNumber(job, 'status', 'failed') ?? 0,
      restarts: active.reduce((n, p) => n + restartsOf(p), 0),
      startedMs: started === undefined ? undefined : Date.parse(started),
      lastFailureMs: Math.max(0, ...failed.map(endedMs)),
    };
  }

  async #proceed(job: ApiObject): Promise<number | void> {
    const pods = this.#podsOf(job);
    const active = pods.filter(isActive);
    const nowMs = this.#context.clock.now();
    const spec = specOf(job);
    const plan = planJob(spec, this.#stateOf(job, pods), nowMs);
    for (const pod of active.slice(0, plan.remove)) await this.#removePod(job, pod);
    for (let i = 0; i < plan.create; i++) await this.#createPod(job);
    const startTime =
      digString(job, 'status', 'startTime') ?? (spec.suspend ? undefined : rfc3339(nowMs));
    await this.#kinds.mergeStatus('jobs', job, {
      ...(startTime === undefined ? {} : { startTime }),
      active: plan.end ? 0 : active.length - plan.remove + plan.create,
      ready: active.filter(isReady).length,
      ...(plan.end ? this.#ending(job, plan.end, nowMs) : this.#suspension(job, nowMs)),
    });
    if (plan.end) await this.#tell(job, plan.end);
    return plan.againMs;
  }

  /** Counts pods that have ended: noted first, released then, so that a crash between loses nothing. */
  async #count(job: ApiObject, pods: readonly ApiObject[]): Promise<ApiObject> {
    const { namespace = '', name } = job.metadata;
    const target = {
      ...this.#kinds.target('jobs', namespace, name),
      subresource: 'status' as const,
    };
    const ended = pods.filter(
      (p) => !isActive(p) && (p.metadata.finalizers ?? []).includes(TRACKING),
    );
    const noted = digObject(job, 'status', 'uncountedTerminatedPods');
    const before = [...digList(noted, 'succeeded'), ...digList(noted, 'failed')];
    if (ended.length === 0 && before.length === 0) return job;
    const uidsOf = (succeeded: boolean): string[] =>
      ended
        .filter((p) => (digString(p, 'status', 'phase') === 'Succeeded') === succeeded)
        .map((p) => p.metadata.uid ?? '');
    const uncounted = {
      succeeded: [...new Set([...digList(noted, 'succeeded'), ...uidsOf(true)])],
      failed: [...new Set([...digList(noted, 'failed'), ...uidsOf(false)])],
    };
    await this.#context.verbs.modify(target, (o) => ({
      ...o,
      status: { ...o.status, uncountedTerminatedPods: uncounted },
    }));
    for (const pod of ended) await this.#release(pod);
    const counted = await this.#context.verbs.modify(target, (o) => ({
      ...o,
      status: {
        ...o.status,
        succeeded: (digNumber(o, 'status', 'succeeded') ?? 0) + uncounted.succeeded.length,
        failed: (digNumber(o, 'status', 'failed') ?? 0) + uncounted.failed.length,
        uncountedTerminatedPods: {},
      },
    }));
    return counted.object;
  }

  async #release(pod: ApiObject): Promise<void> {
    const { namespace = '', name, finalizers = [] } = pod.metadata;
    if (!finalizers.includes(TRACKING)) return;
    await ignoreNotFound(
      this.#context.verbs.modify(this.#kinds.target('pods', namespace, name), (o) => ({
        ...o,
        metadata: {
          ...o.metadata,
          finalizers: (o.metadata.finalizers ?? []).filter((f) => f !== TRACKING),
        },
      })),
    );
  }

  #conditions(
    job: ApiObject,
    types: readonly [string, string, string?, string?][],
    nowMs: number,
  ): object {
    const now = rfc3339(nowMs);
    const kept = digList(job, 'status', 'conditions').filter(
      (c) => !types.some(([type]) => type === digString(c, 'type')),
    );
    const added = types.map(([type, status, reason, message]) => ({
      type,
      status,
      lastProbeTime: now,
      lastTransitionTime: now,
      ...(reason === undefined ? {} : { reason }),
      ...(message === undefined ? {} : { message }),
    }));
    return { conditions: [...kept, ...added] };
  }

  #ending(job: ApiObject, end: JobEnd, nowMs: number): object {
    if (end.type === 'Failed') {
      const { reason, message } = end;
      const types = [
        ['FailureTarget', 'True', reason, message],
        ['Failed', 'True', reason, message],
      ] as [string, string, string, string][];
      return this.#conditions(job, types, nowMs);
    }
    const why = ['CompletionsReached', 'Reached expected number of succeeded pods'] as const;
    return {
      completionTime: rfc3339(nowMs),
      ...this.#conditions(
        job,
        [
          ['SuccessCriteriaMet', 'True', ...why],
          ['Complete', 'True', ...why],
        ],
        nowMs,
      ),
    };
  }

  #suspension(job: ApiObject, nowMs: number): object {
    const wanted = specOf(job).suspend;
    const now = digList(job, 'status', 'conditions').find(
      (c) => digString(c, 'type') === 'Suspended',
    );
    if (!wanted && now === undefined) return {};
    if ((digString(now, 'status') === 'True') === wanted) return {};
    const [status, reason, message] = wanted
      ? ['True', 'JobSuspended', 'Job suspended']
      : ['False', 'JobResumed', 'Job resumed'];
    return this.#conditions(job, [['Suspended', status ?? '', reason, message]], nowMs);
  }

  async #tell(job: ApiObject, end: JobEnd): Promise<void> {
    await this.#events.record(
      job,
      end.type === 'Complete'
        ? { type: 'Normal', reason: 'Completed', message: 'Job completed' }
        : { type: 'Warning', reason: end.reason, message: end.message },
    );
  }

  /** A finished job goes by itself when it says so. */
  async #afterEnd(job: ApiObject): Promise<number | void> {
    const ttl = digNumber(job, 'spec', 'ttlSecondsAfterFinished');
    if (ttl === undefined) return undefined;
    const ended = digList(job, 'status', 'conditions').map((c) =>
      Date.parse(digString(c, 'lastTransitionTime') ?? ''),
    );
    const left = Math.max(0, ...ended) + ttl * 1000 - this.#context.clock.now();
    if (left > 0) return left;
    await this.#kinds.remove('jobs', job);
    return undefined;
  }

  async #createPod(job: ApiObject): Promise<void> {
    const { namespace = '', name, uid = '' } = job.metadata;
    const template = digObject(job, 'spec', 'template');
    const given = digObject(template, 'metadata');
    const pod = await this.#kinds.create('pods', namespace, {
      metadata: {
        ...given,
        generateName: `${name}-`,
        finalizers: [...(isJsonObject(given) ? digList(given, 'finalizers') : []), TRACKING],
        ownerReferences: [
          {
            apiVersion: job.apiVersion,
            kind: job.kind,
            name,
            uid,
            controller: true,
            blockOwnerDeletion: true,
          },
        ],
      },
      spec: structuredClone(digObject(template, 'spec')),
    });
    await this.#events.record(job, {
      type: 'Normal',
      reason: 'SuccessfulCreate',
      message: `Created pod: ${pod.metadata.name}`,
    });
  }

  async #removePod(job: ApiObject, pod: ApiObject): Promise<void> {
    await this.#release(pod);
    await this.#kinds.remove('pods', pod);
    await this.#events.record(job, {
      type: 'Normal',
      reason: 'SuccessfulDelete',
      message: `Deleted pod: ${pod.metadata.name}`,
    });
  }
}
