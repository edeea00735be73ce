import { canonicalJson, digestOf, rfc3339 } from '@shoal/core';
import { type ApiObject, digList, digNumber, digObject, digString } from '../object.ts';
import { controllerOf } from '../server/verbs.ts';
import { claim, controllerReference, selects } from './adoption.ts';
import {
  type Controller,
  type ControllerContext,
  type Kinds,
  keyOf,
  splitKey,
} from './control-loop.ts';
import { EventWriter } from './events.ts';
import { planRollout, type SetSize, strategyOf } from './rollout-plan.ts';

/** What Kubernetes takes for "never". */
const NO_DEADLINE = 2 ** 31 - 1;
const HASH_LABEL = 'pod-template-hash';
const REVISION = 'deployment.kubernetes.io/revision';

function templateHash(deployment: ApiObject): string {
  return digestOf(canonicalJson(digObject(deployment, 'spec', 'template'))).slice(7, 17);
}

function sizeOf(set: ApiObject): SetSize {
  return {
    replicas: digNumber(set, 'spec', 'replicas') ?? 0,
    pods: digNumber(set, 'status', 'replicas') ?? 0,
    available: digNumber(set, 'status', 'availableReplicas') ?? 0,
  };
}

/** Rolls a Deployment's template out through ReplicaSets, within maxSurge and maxUnavailable. */
export class DeploymentController implements Controller {
  readonly name = 'deployment';
  readonly #context: ControllerContext;
  readonly #kinds: Kinds;
  readonly #events: EventWriter;

  constructor(context: ControllerContext, kinds: Kinds) {
    this.#context = context;
    this.#kinds = kinds;
    this.#events = new EventWriter(kinds, context, 'deployment-controller');
  }

  keysOf(event: { resource: string; object: ApiObject }): string[] {
    if (event.resource === 'apps/deployments') return [keyOf(event.object)];
    if (event.resource !== 'apps/replicasets') return [];
    const { object } = event;
    const owner = controllerOf(object);
    if (owner)
      return owner.kind === 'Deployment' ? [`${object.metadata.namespace}/${owner.name}`] : [];
    const deployments = this.#kinds.list('deployments', object.metadata.namespace);
    return deployments.filter((d) => selects(d, object)).map(keyOf);
  }

  async reconcile(key: string): Promise<number | undefined> {
    const [namespace, name] = splitKey(key);
    const deployment = this.#kinds.find('deployments', namespace, name);
    if (!deployment || deployment.metadata.deletionTimestamp) return undefined;
    const ports = { context: this.#context, kinds: this.#kinds };
    const sets = await claim('replicasets', deployment, ports);
    const hash = templateHash(deployment);
    const current =
      sets.find((s) => s.metadata.labels?.[HASH_LABEL] === hash) ??
      (await this.#createSet(deployment, hash, sets));
    const old = sets.filter((s) => s.metadata.uid !== current.metadata.uid);
    await this.#number(deployment, current, old);
    if (deployment.spec?.['paused'] !== true) await this.#roll(deployment, current, old);
    await this.#prune(deployment, old);
    const done = await this.#report(deployment, current, old);
    const deadline = digNumber(deployment, 'spec', 'progressDeadlineSeconds') ?? 600;
    return done || deadline >= NO_DEADLINE ? undefined : deadline * 1000 + 100;
  }

  async #createSet(
    deployment: ApiObject,
    hash: string,
    sets: readonly ApiObject[],
  ): Promise<ApiObject> {
    const { namespace = '', name } = deployment.metadata;
    const template = structuredClone(digObject(deployment, 'spec', 'template'));
    const labels = { ...digObject(template, 'metadata', 'labels'), [HASH_LABEL]: hash };
    const selector = digObject(deployment, 'spec', 'selector');
    const revision =
      Math.max(0, ...sets.map((s) => Number(s.metadata.annotations?.[REVISION]) || 0)) + 1;
    return await this.#kinds.create('replicasets', namespace, {
      metadata: {
        name: `${name}-${hash}`,
        labels,
        annotations: { [REVISION]: String(revision) },
        ownerReferences: [controllerReference(deployment)],
      },
      spec: {
        replicas: 0,
        selector: {
          ...selector,
          matchLabels: { ...digObject(selector, 'matchLabels'), [HASH_LABEL]: hash },
        },
        template: { ...template, metadata: { ...digObject(template, 'metadata'), labels } },
      },
    });
  }

  /** A template that is used again (`rollout undo`) is the newest revision. */
  async #number(
    deployment: ApiObject,
    current: ApiObject,
    old: readonly ApiObject[],
  ): Promise<void> {
    const revisionOf = (o: ApiObject): number => Number(o.metadata.annotations?.[REVISION]) || 0;
    const newest = Math.max(0, ...old.map(revisionOf));
    const own = revisionOf(current);
    const revision = String(own > newest ? own : newest + 1);
    const note = (o: ApiObject): ApiObject => ({
      ...o,
      metadata: { ...o.metadata, annotations: { ...o.metadata.annotations, [REVISION]: revision } },
    });
    for (const [plural, { metadata }] of [
      ['replicasets', current],
      ['deployments', deployment],
    ] as const) {
      if (metadata.annotations?.[REVISION] === revision) continue;
      const { namespace = '', name } = metadata;
      await this.#context.verbs.modify(this.#kinds.target(plural, namespace, name), note);
    }
  }

  async #roll(deployment: ApiObject, current: ApiObject, old: readonly ApiObject[]): Promise<void> {
    const wanted = digNumber(deployment, 'spec', 'replicas') ?? 1;
    const plan = planRollout(wanted, strategyOf(deployment, wanted), {
      current: sizeOf(current),
      old: old.map(sizeOf),
    });
    await this.#scale(deployment, current, plan.current);
    for (const [i, set] of old.entries()) await this.#scale(deployment, set, plan.old[i] ?? 0);
  }

  async #scale(deployment: ApiObject, set: ApiObject, replicas: number): Promise<void> {
    const { namespace = '', name } = set.metadata;
    const from = digNumber(set, 'spec', 'replicas') ?? 0;
    if (from === replicas) return;
    await this.#context.verbs.modify(this.#kinds.target('replicasets', namespace, name), (o) => ({
      ...o,
      spec: { ...o.spec, replicas },
    }));
    const word = replicas > from ? 'up' : 'down';
    await this.#events.record(deployment, {
      type: 'Normal',
      reason: 'ScalingReplicaSet',
      message: `Scaled ${word} replica set ${name} from ${from} to ${replicas}`,
    });
  }

  /** Old, empty ReplicaSets beyond the history limit go. */
  async #prune(deployment: ApiObject, old: readonly ApiObject[]): Promise<void> {
    const limit = digNumber(deployment, 'spec', 'revisionHistoryLimit') ?? 10;
    const empty = old.filter(
      (s) => digNumber(s, 'spec', 'replicas') === 0 && !digNumber(s, 'status', 'replicas'),
    );
    const byAge = empty.toSorted(
      (a, b) =>
        Number(a.metadata.annotations?.[REVISION]) - Number(b.metadata.annotations?.[REVISION]),
    );
    for (const set of byAge.slice(0, Math.max(0, byAge.length - limit)))
      await this.#kinds.remove('replicasets', set);
  }

  async #report(
    deployment: ApiObject,
    current: ApiObject,
    old: readonly ApiObject[],
  ): Promise<boolean> {
    const wanted = digNumber(deployment, 'spec', 'replicas') ?? 1;
    const sum = (field: string): number =>
      [current, ...old].reduce((n, s) => n + (digNumber(s, 'status', field) ?? 0), 0);
    const available = sum('availableReplicas');
    const updated = digNumber(current, 'status', 'replicas') ?? 0;
    const done = updated >= wanted && available >= wanted && sum('replicas') === wanted;
    const status = {
      observedGeneration: deployment.metadata.generation,
      replicas: sum('replicas'),
      updatedReplicas: updated,
      readyReplicas: sum('readyReplicas'),
      availableReplicas: available,
      unavailableReplicas: Math.max(0, wanted - available),
      conditions: [
        this.#condition(
          deployment,
          'Available',
          available >= wanted,
          available >= wanted ? 'MinimumReplicasAvailable' : 'MinimumReplicasUnavailable',
        ),
        this.#progressing(deployment, current, { done, updated, available }),
      ],
    };
    await this.#kinds.mergeStatus('deployments', deployment, status);
    return done;
  }

  /** False once nothing has moved for `progressDeadlineSeconds`; every step starts the time anew. */
  #progressing(
    deployment: ApiObject,
    current: ApiObject,
    state: { readonly done: boolean; readonly updated: number; readonly available: number },
  ): object {
    const { done, updated, available } = state;
    if (done) return this.#condition(deployment, 'Progressing', true, 'NewReplicaSetAvailable');
    const before = digList(deployment, 'status', 'conditions').find(
      (c) => digString(c, 'type') === 'Progressing',
    );
    const changed =
      digNumber(deployment, 'status', 'observedGeneration') !== deployment.metadata.generation;
    const moved =
      changed ||
      digNumber(deployment, 'status', 'updatedReplicas') !== updated ||
      digNumber(deployment, 'status', 'availableReplicas') !== available;
    const since = Date.parse(digString(before, 'lastUpdateTime') ?? '');
    const deadline = (digNumber(deployment, 'spec', 'progressDeadlineSeconds') ?? 600) * 1000;
    const now = this.#context.clock.now();
    // Once rolled out it stays so, whatever becomes of its pods, until the template changes.
    const reason = digString(before, 'reason');
    if (reason === 'NewReplicaSetAvailable' && !changed)
      return this.#condition(deployment, 'Progressing', true, reason);
    const late =
      deadline < NO_DEADLINE * 1000 &&
      !moved &&
      deployment.spec?.['paused'] !== true &&
      now - since >= deadline;
    const stuck = reason === 'ProgressDeadlineExceeded' && !moved;
    if (late || stuck) {
      const name = current.metadata.name;
      const message = `ReplicaSet "${name}" has timed out progressing.`;
      const why = 'ProgressDeadlineExceeded';
      return { ...this.#condition(deployment, 'Progressing', false, why), message };
    }
    const condition = this.#condition(deployment, 'Progressing', true, 'ReplicaSetUpdated');
    return moved ? { ...condition, lastUpdateTime: rfc3339(now) } : condition;
  }

  #condition(deployment: ApiObject, type: string, holds: boolean, reason: string): object {
    const status = holds ? 'True' : 'False';
    const previous = digList(deployment, 'status', 'conditions').find(
      (c) => digString(c, 'type') === type,
    );
    const same =
      digString(previous, 'status') === status && digString(previous, 'reason') === reason;
    const now = rfc3339(this.#context.clock.now());
    const since = same ? (digString(previous, 'lastTransitionTime') ?? now) : now;
    return {
      type,
      status,
      reason,
      message: `Deployment ${type.toLowerCase()}: ${reason}`,
      lastTransitionTime: since,
      lastUpdateTime: same ? (digString(previous, 'lastUpdateTime') ?? since) : now,
    };
  }
}
