import { isJsonObject, type JsonObject, type Logger, type Random } from '@shoal/core';
import type { Estimator, Metrics } from '../estimator/estimator.ts';
import type { Change, KnowledgeBase, KnowledgeTask } from './knowledge-base/knowledge-base.ts';
import type { LifelongComponents } from './task/components.ts';
import { extractorFromJson, featureRows } from './task/features.ts';
import { selectTask, type TaskSamples } from './task/task-samples.ts';
import { type CreateEstimator, ModelFiles } from './task-models.ts';
import { EXTRACTOR, GLOBAL_TASK, membersOf } from './task-training.ts';

/** Shared value that says which sample belongs to which task. */
export const ALLOCATION = 'allocation';

export interface EvaluationPorts {
  readonly components: LifelongComponents;
  readonly create: CreateEstimator;
  readonly knowledge: KnowledgeBase;
  readonly random: Random;
  readonly logger: Logger;
  readonly criterion: AdmissionCriterion;
}

/** When a task's model is admitted. */
export interface AdmissionCriterion {
  /** Score that decides. Default `accuracy`. */
  readonly metric?: string;
  /** Least score of a model, in the metric's units (`model_threshold`). Default none. */
  readonly threshold?: number;
  /** How much worse than what it replaces it may be. Default 0.02. */
  readonly tolerance?: number;
}

/** What became of a candidate. */
export interface Verdict {
  readonly task: string;
  readonly revision: number;
  readonly admitted: boolean;
  /** Not admitted, but known from now on: what it was held against answers for it. */
  readonly merged: boolean;
  readonly reason: string;
  readonly samples: number;
  readonly metrics: Metrics;
}

export interface EvaluatedTasks {
  readonly verdicts: readonly Verdict[];
  /** Version of the knowledge base that holds them. */
  readonly version: number;
}

function finite(metrics: Metrics): Record<string, number> {
  return Object.fromEntries(Object.entries(metrics).filter(([, v]) => Number.isFinite(v)));
}

/** What an evaluation said that was killed after its commit, before anybody heard of it. */
function alreadyDecided(
  candidate: KnowledgeTask,
  known: KnowledgeTask | undefined,
): Verdict | undefined {
  if (known?.revision !== candidate.revision) return undefined;
  const admitted = known.model === candidate.model;
  const { name: task, revision, metrics, reason = '' } = known;
  return { task, revision, admitted, merged: !admitted, reason, samples: 0, metrics };
}

/**
 * One evaluation stage: every candidate against what answers for its task now (the admitted
 * revision, else the global model), on the same held-out samples. What is admitted and what the
 * allocation then says become known in one commit.
 */
export class TaskEvaluation {
  readonly #ports: EvaluationPorts;
  readonly #files = new ModelFiles();

  constructor(ports: EvaluationPorts) {
    this.#ports = ports;
  }

  async run(candidates: readonly KnowledgeTask[], samples: TaskSamples): Promise<EvaluatedTasks> {
    try {
      return await this.#run(candidates, samples);
    } finally {
      this.#files.close();
    }
  }

  async #run(candidates: readonly KnowledgeTask[], samples: TaskSamples): Promise<EvaluatedTasks> {
    const { components, knowledge, random, logger } = this.#ports;
    const snapshot = await knowledge.snapshot();
    const extractor = extractorFromJson(snapshot.shared.find((s) => s.name === EXTRACTOR)?.value);
    const context = {
      features: featureRows(extractor, samples),
      width: extractor.width,
      random: random.fork('definition'),
    };
    const defined = samples.size > 0 ? components.taskDefinition.define(samples, context) : [];
    const verdicts: Verdict[] = [];
    const changes: Change[] = [];
    const admitted = new Map(snapshot.tasks.map((t) => [t.name, t]));
    for (const candidate of candidates) {
      const decided = alreadyDecided(candidate, admitted.get(candidate.name));
      if (decided) {
        verdicts.push(decided);
        continue;
      }
      const names = new Set(membersOf(candidate).map((m) => m.name));
      const positions =
        candidate.name === GLOBAL_TASK
          ? Array.from({ length: samples.size }, (_, i) => i)
          : defined.filter((d) => names.has(d.name)).flatMap((d) => d.positions);
      const rival = admitted.get(candidate.name) ?? admitted.get(GLOBAL_TASK);
      const held = selectTask(samples, positions);
      const verdict = await this.#judge(candidate, rival, held);
      logger.info('task evaluated', { ...verdict, metrics: undefined, ...verdict.metrics });
      changes.push({
        kind: 'verdict',
        task: candidate.name,
        revision: candidate.revision,
        model: candidate.model,
        state: verdict.admitted ? 'admitted' : 'refused',
        reason: verdict.reason,
        metrics: verdict.metrics,
      });
      const merged =
        verdict.admitted || admitted.has(candidate.name)
          ? undefined
          : await this.#merged(candidate, rival, held);
      if (merged) changes.push(...this.#mergeChanges(merged, verdict));
      const taken = verdict.admitted ? candidate : merged;
      if (taken) admitted.set(candidate.name, { ...taken, state: 'admitted' });
      verdicts.push({ ...verdict, merged: merged !== undefined });
    }
    const revision = (snapshot.shared.find((s) => s.name === ALLOCATION)?.revision ?? 0) + 1;
    const value = this.#allocation([...admitted.values()], extractor.width);
    changes.push({ kind: 'shared', shared: { name: ALLOCATION, revision, value } });
    return { verdicts, version: await knowledge.commit(changes) };
  }

  /**
   * A new task whose own model is no better is merged: it is known from now on, and the model it was
   * held against answers for it.
   */
  async #merged(
    candidate: KnowledgeTask,
    rival: KnowledgeTask | undefined,
    held: TaskSamples,
  ): Promise<KnowledgeTask | undefined> {
    if (!rival || held.size === 0 || candidate.name === GLOBAL_TASK) return undefined;
    const metrics = await this.#score(rival, held);
    const score = metrics[this.#metric] ?? Number.NaN;
    if (!(score >= (this.#ports.criterion.threshold ?? Number.NEGATIVE_INFINITY))) return undefined;
    return { ...candidate, model: rival.model, modelBytes: rival.modelBytes, metrics };
  }

  #mergeChanges(task: KnowledgeTask, verdict: Verdict): Change[] {
    const { state: _state, ...fields } = task;
    const { name, revision, model } = task;
    const reason = `merged: ${verdict.reason}`;
    return [
      { kind: 'task', task: fields },
      { kind: 'verdict', task: name, revision, model, state: 'admitted', reason },
    ];
  }

  get #metric(): string {
    return this.#ports.criterion.metric ?? 'accuracy';
  }

  async #judge(
    candidate: KnowledgeTask,
    rival: KnowledgeTask | undefined,
    held: TaskSamples,
  ): Promise<Verdict> {
    const { task, revision } = { task: candidate.name, revision: candidate.revision };
    const about = { task, revision, samples: held.size, merged: false };
    if (held.size === 0) {
      const reason = 'there are no held-out samples of this task';
      return { ...about, admitted: false, reason, metrics: {} };
    }
    const { threshold, tolerance = 0.02 } = this.#ports.criterion;
    const metric = this.#metric;
    const metrics = await this.#score(candidate, held);
    const score = metrics[metric] ?? Number.NaN;
    const shown = (v: number): string => v.toFixed(3);
    if (!Number.isFinite(score))
      return { ...about, admitted: false, reason: `its ${metric} is ${score}`, metrics };
    if (threshold !== undefined && score < threshold) {
      const reason = `its ${metric} ${shown(score)} is below ${threshold}`;
      return { ...about, admitted: false, reason, metrics };
    }
    if (!rival || rival.model === candidate.model)
      return { ...about, admitted: true, reason: `the first of its kind`, metrics };
    const other = (await this.#score(rival, held))[metric] ?? 0;
    const admitted = score >= other - tolerance;
    const reason = `${metric} ${shown(score)}, ${rival.name}@${rival.revision} has ${shown(other)}`;
    return { ...about, admitted, reason, metrics };
  }

  /** Scores; none for a model that cannot be run. */
  async #score(task: KnowledgeTask, held: TaskSamples): Promise<Record<string, number>> {
    const { create, knowledge, logger } = this.#ports;
    const estimator: Estimator = create({ task: task.name });
    try {
      await this.#files.load(estimator, await knowledge.getModel(task.model));
      return finite(await estimator.evaluate(held));
    } catch (error) {
      logger.warn('a task’s model cannot be evaluated', {
        task: task.name,
        reason: error instanceof Error ? error.message : String(error),
      });
      return {};
    } finally {
      await estimator.close();
    }
  }

  /** Fits the allocation on what the knowledge base remembers of its tasks. */
  #allocation(tasks: readonly KnowledgeTask[], width: number): JsonObject {
    const { taskAllocation } = this.#ports.components;
    const rows: number[][] = [];
    const taskOf: string[] = [];
    const attributes: Record<string, string>[] = [];
    for (const task of tasks.filter((t) => t.name !== GLOBAL_TASK)) {
      const { references } = task.knowledge;
      const list = Array.isArray(references) ? (references as number[][]) : [];
      const members = membersOf(task);
      // Every member is there at least once, however few references there are.
      const count = Math.max(list.length, members.length);
      for (let i = 0; i < count; i++) {
        rows.push(list[i % Math.max(1, list.length)] ?? []);
        taskOf.push(task.name);
        attributes.push({ ...members[i % Math.max(1, members.length)]?.attributes });
      }
    }
    if (rows.length === 0) return {};
    const names = new Set(attributes.flatMap((a) => Object.keys(a)));
    const columns = Object.fromEntries(
      [...names].map((n) => [n, attributes.map((a) => a[n] ?? '')]),
    );
    const size = rows.length;
    const samples: TaskSamples = {
      inputs: new Float32Array(),
      labels: new BigInt64Array(size),
      shape: [],
      size,
      attributes: columns,
    };
    const features = Float32Array.from(rows.flat());
    const random = this.#ports.random.fork('allocation');
    const state = taskAllocation.fit({ samples, features, width, taskOf, random });
    return isJsonObject(state) ? state : {};
  }
}
