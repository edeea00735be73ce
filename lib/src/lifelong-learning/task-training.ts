import { isJsonObject, type JsonObject, type Logger, type Random, ShoalError } from '@shoal/core';
import { inspectModel } from '@shoal/training';
import type { Estimator, Metrics, TrainOptions } from '../estimator/estimator.ts';
import type {
  Change,
  KnowledgeBase,
  KnowledgeSnapshot,
  KnowledgeTask,
} from './knowledge-base/knowledge-base.ts';
import type { LifelongComponents } from './task/components.ts';
import type { DefinedTask } from './task/definition.ts';
import { detectorToJson, fitDetector } from './task/detector.ts';
import {
  extractorFromJson,
  extractorToJson,
  type FeatureExtractor,
  featureRows,
  fitFeatures,
} from './task/features.ts';
import { centroid } from './task/relation.ts';
import { selectTask, type TaskSamples } from './task/task-samples.ts';
import { type CreateEstimator, ModelFiles } from './task-models.ts';

/** The model of all tasks: answers where no task's model can. */
export const GLOBAL_TASK = 'global';
/** Shared values of the knowledge base. */
export const EXTRACTOR = 'extractor';

/** Samples of a task that are kept for its detector's calibration, and how many at most. */
const CALIBRATION_SHARE = 0.25;
const MAX_CALIBRATION = 2_000;
const REFERENCES = 60;

export interface TrainingPorts {
  readonly components: LifelongComponents;
  readonly create: CreateEstimator;
  readonly knowledge: KnowledgeBase;
  readonly random: Random;
  readonly logger: Logger;
  readonly train: TrainOptions;
}

/** What a training stage made: candidates that wait for their evaluation. */
export interface TrainedTasks {
  readonly candidates: readonly KnowledgeTask[];
  /** Groups that wait for more samples. */
  readonly waiting: readonly { readonly task: string; readonly samples: number }[];
}

/** A group of defined tasks that share one model. */
interface Group {
  readonly name: string;
  readonly members: readonly DefinedTask[];
  readonly positions: readonly number[];
}

function finite(metrics: Metrics): Record<string, number> {
  return Object.fromEntries(Object.entries(metrics).filter(([, v]) => Number.isFinite(v)));
}

/** One training stage: parts samples into tasks, trains their models, and offers them as candidates. */
export class TaskTraining {
  readonly #ports: TrainingPorts;
  readonly #files = new ModelFiles();
  readonly #samples: TaskSamples;
  readonly #snapshot: KnowledgeSnapshot;
  readonly #extractor: FeatureExtractor;
  readonly #features: Float32Array;

  private constructor(
    ports: TrainingPorts,
    samples: TaskSamples,
    known: { snapshot: KnowledgeSnapshot; extractor: FeatureExtractor },
  ) {
    this.#ports = ports;
    this.#samples = samples;
    this.#snapshot = known.snapshot;
    this.#extractor = known.extractor;
    this.#features = featureRows(known.extractor, samples);
  }

  /**
   * Trains on samples. The feature extractor and the global model are made once, by the first stage.
   *
   * @throws ShoalError when there are no samples, an attribute is unknown, or the base is not reached;
   *   what the base holds stays as it is.
   */
  static async run(samples: TaskSamples, ports: TrainingPorts): Promise<TrainedTasks> {
    if (samples.size === 0)
      throw new ShoalError('invalid_argument', 'there are no samples to learn tasks from');
    const snapshot = await ports.knowledge.snapshot();
    const shared = snapshot.shared.find((s) => s.name === EXTRACTOR);
    const extractor = shared
      ? extractorFromJson(shared.value)
      : fitFeatures(samples, ports.random.fork('features'));
    const training = new TaskTraining(ports, samples, { snapshot, extractor });
    try {
      return await training.#run(shared === undefined);
    } finally {
      training.#files.close();
    }
  }

  async #run(first: boolean): Promise<TrainedTasks> {
    const { components, knowledge, random } = this.#ports;
    const width = this.#extractor.width;
    const context = { features: this.#features, width, random: random.fork('definition') };
    const tasks = components.taskDefinition.define(this.#samples, context);
    const changes: Change[] = [];
    if (first) {
      const value = extractorToJson(this.#extractor);
      changes.push({ kind: 'shared', shared: { name: EXTRACTOR, revision: 1, value } });
    }
    const candidates: KnowledgeTask[] = [];
    const global = await this.#globalModel(candidates);
    const groups = await this.#groups(tasks, global, changes);
    const waiting: { task: string; samples: number }[] = [];
    for (const group of groups) {
      const known = this.#snapshot.tasks.find((t) => t.name === group.name);
      const { length: count } = group.positions;
      const decision = components.taskUpdateDecision.decide({
        task: group.name,
        samples: count,
        known,
      });
      if (decision === 'wait') waiting.push({ task: group.name, samples: count });
      else candidates.push(await this.#learn(group, known, global));
    }
    for (const { state: _state, ...task } of candidates) changes.push({ kind: 'task', task });
    await knowledge.commit(changes);
    return { candidates, waiting };
  }

  /** The model of all tasks: the admitted one, or one trained on everything there is. */
  async #globalModel(candidates: KnowledgeTask[]): Promise<Uint8Array> {
    const { knowledge } = this.#ports;
    const known = this.#snapshot.tasks.find((t) => t.name === GLOBAL_TASK);
    if (known) return await knowledge.getModel(known.model);
    const everyone = Array.from({ length: this.#samples.size }, (_, i) => i);
    const group = { name: GLOBAL_TASK, members: [], positions: everyone };
    const candidate = await this.#learn(group, undefined, undefined);
    candidates.push(candidate);
    return await knowledge.getModel(candidate.model);
  }

  async #groups(
    tasks: readonly DefinedTask[],
    global: Uint8Array,
    changes: Change[],
  ): Promise<Group[]> {
    const { taskRelationDiscovery } = this.#ports.components;
    const found = await taskRelationDiscovery.discover(tasks, {
      features: this.#features,
      width: this.#extractor.width,
      transfer: async (from, to) => await this.#transfer(from, to, global),
    });
    const revision = this.#snapshot.version + 1;
    for (const relation of found.relations)
      changes.push({ kind: 'relation', relation: { ...relation, revision } });
    return found.groups.map((names) => {
      const members = tasks.filter((t) => names.includes(t.name));
      const name = names.toSorted().join('+');
      return { name, members, positions: members.flatMap((m) => m.positions) };
    });
  }

  /** Score on one task's samples of a model trained on another's; on its own, the held-out part's. */
  async #transfer(from: DefinedTask, to: DefinedTask, global: Uint8Array): Promise<number> {
    const { random, train } = this.#ports;
    const cut = (task: DefinedTask): { learn: number[]; test: number[] } => {
      const order = random.fork(`transfer ${task.name}`).permutation(task.positions.length);
      const list = Array.from(order, (i) => task.positions[i] ?? 0);
      const at = Math.ceil(list.length * 0.7);
      return { learn: list.slice(0, at), test: list.slice(at) };
    };
    const estimator = this.#ports.create({ task: from.name });
    try {
      await this.#files.load(estimator, global);
      await estimator.train(selectTask(this.#samples, cut(from).learn), { ...train });
      const scores = await estimator.evaluate(selectTask(this.#samples, cut(to).test));
      return scores['accuracy'] ?? 0;
    } finally {
      await estimator.close();
    }
  }

  /** Parameters that remodeling leaves to the task, if it leaves some out. */
  async #trainable(model: Uint8Array): Promise<((name: string) => boolean) | undefined> {
    const { trainable } = this.#ports.components.taskRemodeling;
    if (!trainable) return undefined;
    const names = (await inspectModel({ model })).parameters.map((p) => p.name);
    return (name) => trainable(name, names);
  }

  async #learn(
    group: Group,
    known: KnowledgeTask | undefined,
    global: Uint8Array | undefined,
  ): Promise<KnowledgeTask> {
    const { components, create, knowledge, random, logger, train } = this.#ports;
    const { from } = components.taskRemodeling;
    const base = known
      ? await knowledge.getModel(known.model)
      : from === 'global'
        ? global
        : undefined;
    const trainable = base && global ? await this.#trainable(base) : undefined;
    const order = random.fork(`task ${group.name}`).permutation(group.positions.length);
    const shuffled = Array.from(order, (i) => group.positions[i] ?? 0);
    const kept = Math.min(MAX_CALIBRATION, Math.floor(shuffled.length * CALIBRATION_SHARE));
    const [held, learned] = [shuffled.slice(0, kept), shuffled.slice(kept)];
    const estimator = create({ task: group.name, ...(trainable ? { trainable } : {}) });
    try {
      if (base) await this.#files.load(estimator, base);
      const metrics = await estimator.train(selectTask(this.#samples, learned), { ...train });
      const bytes = await this.#files.save(estimator);
      const model = await knowledge.putModel(bytes);
      const detector = await this.#detector(estimator, { held, learned });
      logger.info('task learned', {
        task: group.name,
        samples: learned.length,
        ...finite(metrics),
      });
      return {
        name: group.name,
        revision: (known?.revision ?? 0) + 1,
        state: 'candidate',
        attributes: group.members[0] ? { ...group.members[0].attributes } : {},
        model,
        modelBytes: bytes.length,
        samples: learned.length,
        metrics: finite(metrics),
        classes: this.#classesOf(group.positions),
        knowledge: { ...this.#knowledgeOf(group, learned), ...(detector ? { detector } : {}) },
      };
    } finally {
      await estimator.close();
    }
  }

  #classesOf(positions: readonly number[]): string[] {
    return [...new Set(positions.map((i) => String(this.#samples.labels[i])))].toSorted();
  }

  #row(position: number): Float32Array {
    const { width } = this.#extractor;
    return this.#features.subarray(position * width, (position + 1) * width);
  }

  /** What allocation needs to know of a task without its samples. */
  #knowledgeOf(group: Group, learned: readonly number[]): JsonObject {
    const plain = (row: Float32Array): number[] => Array.from(row, (v) => Number(v.toPrecision(6)));
    const step = Math.max(1, learned.length / REFERENCES);
    const references = Array.from({ length: Math.min(REFERENCES, learned.length) }, (_, i) =>
      plain(this.#row(learned[Math.floor(i * step)] ?? 0)),
    );
    return {
      centroid: plain(centroid(this.#features, this.#extractor.width, learned)),
      members: group.members.map((m) => ({ name: m.name, attributes: { ...m.attributes } })),
      references,
    };
  }

  /** Fits the unseen-sample detector on samples the model did not train on, and stores it beside the model. */
  async #detector(
    estimator: Estimator,
    at: { readonly held: readonly number[]; readonly learned: readonly number[] },
  ): Promise<string | undefined> {
    if (at.learned.length < 2) return undefined;
    const { components, random, knowledge } = this.#ports;
    const recognition = components.unseenSampleRecognition;
    const held = selectTask(this.#samples, at.held);
    const predictions =
      recognition.needsLogits && held.size > 0
        ? await estimator.predict(held.inputs, held.size)
        : undefined;
    const logits =
      predictions?.logits ?? predictions?.probabilities.map((p) => Math.log(p + 1e-12));
    const learned = selectTask(this.#samples, at.learned);
    const data = { learned, held, logits: logits ?? new Float32Array() };
    const detector = fitDetector(recognition, data, random.fork('detector'));
    return await knowledge.putModel(Buffer.from(JSON.stringify(detectorToJson(detector))));
  }
}

/** Digest of a task's detector, if it has one. */
export function detectorOf(task: KnowledgeTask): string | undefined {
  const { detector } = task.knowledge;
  return typeof detector === 'string' ? detector : undefined;
}

/** Names and attributes of what a task's model was trained for. */
export function membersOf(
  task: KnowledgeTask,
): { readonly name: string; readonly attributes: Readonly<Record<string, string>> }[] {
  const { members } = task.knowledge;
  if (!Array.isArray(members)) return [];
  return members.filter(isJsonObject).map((m) => ({
    name: String(m['name']),
    attributes: Object.fromEntries(
      Object.entries(isJsonObject(m['attributes']) ? m['attributes'] : {}).map(([k, v]) => [
        k,
        String(v),
      ]),
    ),
  }));
}
