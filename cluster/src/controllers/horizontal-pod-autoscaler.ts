import { messageOf, rfc3339 } from '@shoal/core';
import { type ApiObject, digList, digNumber, digObject, digString } from '../object.ts';
import type { NodeUsage } from '../server/metrics.ts';
import { type ScalePaths, WORKLOAD_SCALE, withReplicas } from '../server/scale.ts';
import {
  isEmptySelector,
  matchesSelector,
  type Predicate,
  parseLabelSelector,
} from '../server/selectors.ts';
import type { Target } from '../server/verbs.ts';
import {
  bound,
  isFault,
  type MetricFault,
  type MetricReading,
  type PodUse,
  type Recommendation,
  type Resize,
  readMetric,
} from './autoscaling-plan.ts';
import {
  type Controller,
  type ControllerContext,
  type Kinds,
  keyOf,
  splitKey,
} from './control-loop.ts';
import { EventWriter } from './events.ts';

const PERIOD_MS = 15_000;
const REMEMBERED_MS = 3_600_000;
const MANAGER = 'horizontal-pod-autoscaler';

interface Condition {
  readonly type: 'AbleToScale' | 'ScalingActive' | 'ScalingLimited';
  readonly holds: boolean;
  readonly reason: string;
  readonly message: string;
}

/** Scales what has replicas by what its pods use. */
export class HorizontalPodAutoscalerController implements Controller {
  readonly name = 'horizontal-pod-autoscaler';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;
  readonly #events: EventWriter;
  readonly #usage: () => Promise<readonly NodeUsage[]>;
  readonly #past = new Map<string, Recommendation[]>();
  readonly #resizes = new Map<string, Resize[]>();

  /** @param usage What the pods of every node use now. */
  constructor(
    context: ControllerContext,
    kinds: Kinds,
    usage: () => Promise<readonly NodeUsage[]>,
  ) {
    this.#context = context;
    this.#kinds = kinds;
    this.#events = new EventWriter(kinds, context, MANAGER);
    this.#usage = usage;
  }

  keysOf(event: { type: string; resource: string; object: ApiObject }): string[] {
    // Its own status is no reason to look again: it looks every 15 seconds.
    const isNew = event.type === 'ADDED' && event.resource.endsWith('/horizontalpodautoscalers');
    return isNew ? [keyOf(event.object)] : [];
  }

  async reconcile(key: string): Promise<number | undefined> {
    const [namespace, name] = splitKey(key);
    const hpa = this.#kinds.find('horizontalpodautoscalers', namespace, name);
    if (!hpa || hpa.metadata.deletionTimestamp) {
      this.#past.delete(key);
      this.#resizes.delete(key);
      return undefined;
    }
    await this.#scale(key, hpa).catch((error: unknown) =>
      this.#context.logger.warn('autoscaling failed', { key, reason: messageOf(error) }),
    );
    return PERIOD_MS;
  }

  #targetOf(hpa: ApiObject): { target: Target; object: ApiObject } | undefined {
    const { registry, verbs } = this.#context;
    const ref = digObject(hpa, 'spec', 'scaleTargetRef');
    const resource = registry.ofKind(
      digString(ref, 'apiVersion') ?? 'apps/v1',
      digString(ref, 'kind') ?? '',
    );
    if (!resource?.scale) return undefined;
    const { namespace = '' } = hpa.metadata;
    const target: Target = { resource, namespace, name: String(ref['name']) };
    const [object] = verbs.list(resource, namespace, (o) => o.metadata.name === target.name).items;
    return object ? { target, object } : undefined;
  }

  async #scale(key: string, hpa: ApiObject): Promise<void> {
    const found = this.#targetOf(hpa);
    if (!found) {
      const { kind, name } = digObject(hpa, 'spec', 'scaleTargetRef');
      const message = `there is no ${String(kind)} "${String(name)}" that can be scaled`;
      return await this.#report(hpa, { conditions: [able(false, 'FailedGetScale', message)] });
    }
    const paths = found.target.resource.scale ?? WORKLOAD_SCALE;
    const replicas = digNumber(found.object, ...paths.specReplicas) ?? 1;
    if (replicas === 0) {
      const message = 'scaling is disabled since the replica count of the target is zero';
      const conditions = [active(false, 'ScalingDisabled', message)];
      return await this.#report(hpa, { replicas, desired: 0, conditions });
    }
    const min = digNumber(hpa, 'spec', 'minReplicas') ?? 1;
    const max = digNumber(hpa, 'spec', 'maxReplicas') ?? min;
    const bounded = Math.max(min, Math.min(max, replicas));
    if (bounded !== replicas) {
      await this.#resize(hpa, found.target, bounded);
      const conditions = [able(true, 'SucceededRescale', `the replica count is ${bounded} now`)];
      return await this.#report(hpa, { replicas, desired: bounded, scaled: true, conditions });
    }
    const uses = await this.#usesOf(found.object, found.target.resource.scale);
    const metrics = digList(hpa, 'spec', 'metrics');
    const readings = metrics.map((m) => readMetric(m, uses, replicas));
    await this.#act(key, hpa, { ...found, replicas, readings });
  }

  async #act(
    key: string,
    hpa: ApiObject,
    state: {
      readonly target: Target;
      readonly replicas: number;
      readonly readings: readonly (MetricReading | MetricFault)[];
    },
  ): Promise<void> {
    const { target, replicas, readings } = state;
    const good = readings.flatMap((r) => (isFault(r) ? [] : [r]));
    const fault = readings.find(isFault);
    const proposed = Math.max(...good.map((r) => r.replicas));
    // With a metric missing it may go up, but not down.
    if (good.length === 0 || (fault && proposed < replicas)) {
      const { reason, message } = fault ?? {
        reason: 'InvalidMetrics',
        message: 'no metrics given',
      };
      await this.#events.record(hpa, { type: 'Warning', reason, message });
      const conditions = [
        able(true, 'SucceededGetScale', 'scaled'),
        active(false, reason, message),
      ];
      return await this.#report(hpa, { replicas, desired: replicas, conditions });
    }
    const now = this.#context.clock.now();
    // What there was at the first look counts as a recommendation too.
    const known = this.#past.get(key) ?? [{ at: now, replicas }];
    const past = [...known, { at: now, replicas: proposed }];
    this.#past.set(
      key,
      past.filter((r) => now - r.at < REMEMBERED_MS),
    );
    const resizes = this.#resizes.get(key) ?? [];
    const scale = { current: replicas, desired: proposed, past, resizes };
    const plan = bound(hpa, scale, now);
    if (plan.replicas !== replicas) {
      await this.#resize(hpa, target, plan.replicas);
      const kept = resizes.filter((r) => now - r.at < REMEMBERED_MS);
      this.#resizes.set(key, [...kept, { at: now, by: plan.replicas - replicas }]);
    }
    const { reason = 'DesiredWithinRange', message = 'the desired count is within the bounds' } =
      plan.limited ?? {};
    await this.#report(hpa, {
      replicas,
      desired: plan.replicas,
      metrics: good.map((r) => r.current),
      scaled: plan.replicas !== replicas,
      conditions: [
        able(true, 'ReadyForNewScale', 'recommended size is known'),
        active(true, 'ValidMetricFound', 'the replica count follows from resource utilization'),
        { type: 'ScalingLimited', holds: plan.limited !== undefined, reason, message },
      ],
    });
  }

  async #resize(hpa: ApiObject, target: Target, replicas: number): Promise<void> {
    const apiVersion = 'autoscaling/v1';
    const manager = {
      name: MANAGER,
      operation: 'Update',
      apiVersion,
      subresource: 'scale',
    } as const;
    const paths = target.resource.scale ?? WORKLOAD_SCALE;
    const change = (o: ApiObject): unknown => withReplicas(o, paths, replicas);
    await this.#context.verbs.modify(target, change, { manager });
    await this.#events.record(hpa, {
      type: 'Normal',
      reason: 'SuccessfulRescale',
      message: `New size: ${replicas}; reason: resource utilization`,
    });
  }

  /** What the running pods of a target use. */
  async #usesOf(object: ApiObject, paths: ScalePaths | undefined): Promise<PodUse[]> {
    const selector = paths?.selector
      ? (digString(object, ...paths.selector) ?? '')
      : digObject(object, 'spec', 'selector');
    if (typeof selector === 'string' ? selector === '' : isEmptySelector(selector)) return [];
    const fits: Predicate =
      typeof selector === 'string'
        ? parseLabelSelector(selector)
        : (p) => matchesSelector(selector, p.metadata.labels ?? {});
    const pods = this.#kinds
      .list('pods', object.metadata.namespace ?? '')
      .filter(fits)
      .filter(
        (p) => !p.metadata.deletionTimestamp && digString(p, 'status', 'phase') === 'Running',
      );
    const usage = await this.#usage();
    return pods.map((pod) => {
      const containers = usage.flatMap((u) =>
        u.containers.filter((c) => c.uid === pod.metadata.uid),
      );
      if (containers.length === 0) return { pod, cpu: undefined, memory: undefined };
      return {
        pod,
        cpu: containers.reduce((sum, c) => sum + c.cores, 0),
        memory: containers.reduce((sum, c) => sum + c.memoryBytes, 0),
      };
    });
  }

  async #report(
    hpa: ApiObject,
    state: {
      readonly replicas?: number;
      readonly desired?: number;
      readonly metrics?: readonly object[];
      readonly scaled?: boolean;
      readonly conditions: readonly Condition[];
    },
  ): Promise<void> {
    const now = rfc3339(this.#context.clock.now());
    const before = digList(hpa, 'status', 'conditions');
    const conditions = state.conditions.map(({ type, holds, reason, message }) => {
      const status = holds ? 'True' : 'False';
      const old = before.find((c) => digString(c, 'type') === type);
      const since =
        digString(old, 'status') === status ? digString(old, 'lastTransitionTime') : now;
      return { type, status, reason, message, lastTransitionTime: since ?? now };
    });
    await this.#kinds.mergeStatus('horizontalpodautoscalers', hpa, {
      observedGeneration: hpa.metadata.generation,
      ...(state.replicas === undefined ? {} : { currentReplicas: state.replicas }),
      ...(state.desired === undefined ? {} : { desiredReplicas: state.desired }),
      ...(state.metrics ? { currentMetrics: state.metrics } : {}),
      ...(state.scaled ? { lastScaleTime: now } : {}),
      conditions,
    });
  }
}

function able(holds: boolean, reason: string, message: string): Condition {
  return { type: 'AbleToScale', holds, reason, message };
}

function active(holds: boolean, reason: string, message: string): Condition {
  return { type: 'ScalingActive', holds, reason, message };
}
