import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs';
import { join } from 'node:path';
import {
  digestOf,
  isDigest,
  type JsonObject,
  type Logger,
  messageOf,
  ShoalError,
} from '@shoal/core';
import { argMax } from '../estimator/classification-metrics.ts';
import type { Estimator, Predictions } from '../estimator/estimator.ts';
import { writeDurably } from '../transfer/durable-file.ts';
import type {
  KnowledgeBase,
  KnowledgeSnapshot,
  KnowledgeTask,
} from './knowledge-base/knowledge-base.ts';
import { NeighbourIndex } from './knowledge-base/neighbours.ts';
import type { LifelongComponents } from './task/components.ts';
import { detectorFromJson, detectorPValue, type TaskDetector } from './task/detector.ts';
import { extractorFromJson, type FeatureExtractor, featuresOf } from './task/features.ts';
import type { Opinion } from './task/integration.ts';
import { ALLOCATION } from './task-evaluation.ts';
import type { CreateEstimator } from './task-models.ts';
import { detectorOf, EXTRACTOR, GLOBAL_TASK } from './task-training.ts';

export interface EdgeTasksOptions {
  /** Folder for the snapshot and models; what makes a restart without network serve at once. */
  readonly dir: string;
  readonly components: LifelongComponents;
  readonly create: CreateEstimator;
  readonly knowledge: KnowledgeBase;
  readonly logger: Logger;
  /** Share of known samples that may be called unseen, in (0, 1). Default 0.05. */
  readonly alpha?: number;
  /** Bytes of task models kept on disk; those used longest ago go. Default 1 GiB. */
  readonly budgetBytes?: number;
  /** Task models kept loaded. Default 8. */
  readonly maxLoaded?: number;
}

/** What is said of a sample. */
export interface LifelongResult {
  readonly label: number;
  readonly probabilities: readonly number[];
  /** The task whose model answered; several joined by `+`. */
  readonly task: string;
  /** Whether the sample belongs to no known task. */
  readonly isUnseen: boolean;
  /** How likely a sample of the task looks at least this strange; 0 when allocation found no task. */
  readonly pValue: number;
  /** `task`: a known task's model; `nearest`: models of near tasks; `fallback`: the global model. */
  readonly source: 'task' | 'nearest' | 'fallback';
}

/** A sample to be answered. */
export interface LifelongSample {
  readonly inputs: Float32Array;
  readonly attributes: Readonly<Record<string, string>>;
}

/** Where a sample belongs. */
export interface Placement {
  /** Undefined when allocation knows no task for it. */
  readonly task: string | undefined;
  /** How likely a sample of the task looks at least this strange. */
  readonly pValue: number;
}

/** Everything one version of the knowledge needs to answer. */
interface Serving {
  readonly snapshot: KnowledgeSnapshot;
  readonly extractor: FeatureExtractor;
  readonly allocation: JsonObject;
  readonly tasks: ReadonlyMap<string, KnowledgeTask>;
  readonly neighbours: NeighbourIndex;
  /** Detectors of all tasks, once an allocation asked for them. */
  detectors?: Promise<Map<string, TaskDetector>>;
}

interface Loaded {
  readonly estimator: Estimator;
  readonly detector: TaskDetector | undefined;
}

const SNAPSHOT = 'knowledge.json';
/** A model that made room may still be answering. */
const CLOSE_AFTER_MS = 5_000;
/** How long after a fetch that failed the same is not tried again. */
const MISSING_MS = 5_000;

/** Merged tasks share a model, but each has a detector of its own. */
function keyOf(task: KnowledgeTask): string {
  return `${task.model} ${detectorOf(task) ?? ''}`;
}

function servingOf(snapshot: KnowledgeSnapshot): Serving {
  const shared = (name: string): JsonObject | undefined =>
    snapshot.shared.find((s) => s.name === name)?.value;
  const tasks = new Map(snapshot.tasks.map((t) => [t.name, t]));
  return {
    snapshot,
    extractor: extractorFromJson(shared(EXTRACTOR)),
    allocation: shared(ALLOCATION) ?? {},
    tasks,
    neighbours: new NeighbourIndex(snapshot.tasks.filter((t) => t.name !== GLOBAL_TASK)),
  };
}

/**
 * Tasks at the edge: places a sample, answers with its task's model, and notices what no task knows.
 * Models come from the knowledge base when they are first needed and stay within a budget; without
 * network, what is on this disk answers, the global model last.
 */
export class EdgeTasks {
  readonly #options: EdgeTasksOptions;
  readonly #models: string;
  #serving: Serving | undefined;
  /** Loaded models with their detectors, the one used longest ago first. */
  readonly #loaded = new Map<string, Promise<Loaded>>();
  readonly #missing = new Map<string, number>();
  readonly #whole = new Set<string>();

  constructor(options: EdgeTasksOptions) {
    this.#options = options;
    this.#models = join(options.dir, 'models');
    mkdirSync(this.#models, { recursive: true });
  }

  /** Version of the knowledge that answers; undefined before the first. */
  get version(): number | undefined {
    return this.#serving?.snapshot.version;
  }

  /** Names of the tasks that are known. */
  get tasks(): readonly string[] {
    return [...(this.#serving?.tasks.keys() ?? [])].filter((t) => t !== GLOBAL_TASK);
  }

  /** Serves what this disk holds, if it holds something. @returns Whether it does. */
  restore(): boolean {
    const path = join(this.#options.dir, SNAPSHOT);
    if (!existsSync(path)) return false;
    try {
      this.#serving = servingOf(JSON.parse(readFileSync(path, 'utf8')) as KnowledgeSnapshot);
      return true;
    } catch (error) {
      this.#options.logger.warn('the stored knowledge cannot be read', {
        reason: messageOf(error),
      });
      return false;
    }
  }

  /**
   * Takes a version of the knowledge: the global model is fetched first, then answers change between
   * two samples. A version that cannot be served is refused, and the old one goes on.
   *
   * @param version Default the newest.
   * @throws ShoalError `unavailable` when the base is not reached, or why the version is no good.
   */
  async adopt(version?: number): Promise<number> {
    const { knowledge, dir } = this.#options;
    const snapshot = await knowledge.snapshot(version);
    const serving = servingOf(snapshot);
    const global = serving.tasks.get(GLOBAL_TASK);
    if (!global)
      throw new ShoalError(
        'failed_precondition',
        `version ${snapshot.version} has no global model: no training was admitted yet`,
      );
    await this.#selfTest(await this.#model(global), serving.extractor.inputs);
    const path = join(dir, SNAPSHOT);
    writeDurably(path, [Buffer.from(JSON.stringify(snapshot))]);
    this.#serving = serving;
    this.#missing.clear();
    return snapshot.version;
  }

  async #selfTest({ estimator }: Loaded, inputs: number): Promise<void> {
    const { probabilities } = await estimator.predict(new Float32Array(inputs), 1);
    if (!probabilities.every(Number.isFinite))
      throw new ShoalError('data_corrupt', 'the model answers with numbers that are not finite');
  }

  /** A file of the knowledge base by digest, from this disk or from the base. */
  async #file(digest: string): Promise<string> {
    if (!isDigest(digest)) throw new ShoalError('data_corrupt', `"${digest}" is not a digest`);
    const path = join(this.#models, `${digest.slice(7)}.onnx`);
    if (this.#isWhole(path, digest)) {
      const now = new Date();
      utimesSync(path, now, now); // what is used stays
      return path;
    }
    const bytes = await this.#options.knowledge.getModel(digest);
    if (digestOf(bytes) !== digest)
      throw new ShoalError('data_corrupt', `what came as ${digest} is something else`);
    this.#makeRoom(bytes.length);
    writeDurably(path, [bytes]);
    return path;
  }

  /** Whether a file is here and is what its name says; looked at once in the life of a process. */
  #isWhole(path: string, digest: string): boolean {
    if (!existsSync(path)) return false;
    if (this.#whole.has(digest)) return true;
    if (digestOf(readFileSync(path)) !== digest) return false;
    this.#whole.add(digest);
    return true;
  }

  /** Removes files used longest ago until there is room; the global model stays. */
  #makeRoom(bytes: number): void {
    const { budgetBytes = 2 ** 30 } = this.#options;
    const kept = this.#serving?.tasks.get(GLOBAL_TASK);
    const files = readdirSync(this.#models)
      .filter((name) => name.endsWith('.onnx'))
      .map((name) => ({ name, ...this.#statOf(name) }))
      .toSorted((a, b) => a.usedMs - b.usedMs);
    let total = files.reduce((n, f) => n + f.size, 0);
    for (const { name, size } of files) {
      if (total + bytes <= budgetBytes) return;
      if (kept && name.startsWith(kept.model.slice(7))) continue;
      rmSync(join(this.#models, name), { force: true });
      total -= size;
    }
  }

  #statOf(name: string): { size: number; usedMs: number } {
    const { size, mtimeMs } = statSync(join(this.#models, name));
    return { size, usedMs: mtimeMs };
  }

  /** A task's model, loaded; a model that is fetched by two samples at once is fetched once. */
  async #model(task: KnowledgeTask): Promise<Loaded> {
    const key = keyOf(task);
    const known = this.#loaded.get(key);
    if (known) {
      this.#loaded.delete(key);
      this.#loaded.set(key, known);
      return await known;
    }
    const loading = this.#open(task);
    this.#loaded.set(key, loading);
    try {
      const loaded = await loading;
      this.#unload();
      return loaded;
    } catch (error) {
      this.#loaded.delete(key);
      throw error;
    }
  }

  async #open(task: KnowledgeTask): Promise<Loaded> {
    const estimator = this.#options.create({ task: task.name });
    await estimator.load(await this.#file(task.model));
    const digest = detectorOf(task);
    const detector = digest === undefined ? undefined : await this.#detector(digest);
    return { estimator, detector };
  }

  async #detector(digest: string): Promise<TaskDetector> {
    return detectorFromJson(JSON.parse(readFileSync(await this.#file(digest), 'utf8')));
  }

  /** Detectors of all tasks, for an allocation that asks them; a task whose detector is not here is left out. */
  async #allDetectors(serving: Serving): Promise<Map<string, TaskDetector>> {
    const missing = (): void => {
      // Asked for again after a while: the network may be back.
      setTimeout(() => delete serving.detectors, MISSING_MS).unref();
    };
    let complete = true;
    const found = new Map<string, TaskDetector>();
    for (const [name, task] of serving.tasks) {
      const digest = name === GLOBAL_TASK ? undefined : detectorOf(task);
      if (digest === undefined) continue;
      try {
        found.set(name, await this.#detector(digest));
      } catch (error) {
        complete = false;
        this.#options.logger.warn('a task’s detector is not here', {
          task: name,
          reason: messageOf(error),
        });
      }
    }
    if (!complete) missing();
    return found;
  }

  #unload(): void {
    const { maxLoaded = 8 } = this.#options;
    const global = this.#serving?.tasks.get(GLOBAL_TASK);
    for (const [key, loaded] of this.#loaded) {
      if (this.#loaded.size <= maxLoaded + 1) return;
      if (global && key === keyOf(global)) continue;
      this.#loaded.delete(key);
      // Not awaited: another task's slow or failed fetch is none of this sample's business.
      void loaded.then(
        async ({ estimator }) => {
          await new Promise((resolve) => setTimeout(resolve, CLOSE_AFTER_MS).unref());
          await estimator.close();
        },
        () => undefined,
      );
    }
  }

  /** The model of a task by name; undefined when it is neither here nor reachable. */
  async #tryModel(serving: Serving, name: string): Promise<Loaded | undefined> {
    const task = serving.tasks.get(name);
    if (!task) return undefined;
    const failed = this.#missing.get(task.model);
    if (failed !== undefined && Date.now() - failed < MISSING_MS) return undefined;
    try {
      return await this.#model(task);
    } catch (error) {
      this.#missing.set(task.model, Date.now());
      this.#options.logger.warn('a task’s model is not here, the global one answers', {
        task: name,
        reason: messageOf(error),
      });
      return undefined;
    }
  }

  #expectServing(): Serving {
    if (this.#serving) return this.#serving;
    throw new ShoalError(
      'failed_precondition',
      'no knowledge is here yet: adopt a version of the knowledge base first',
    );
  }

  /** Where a sample belongs, without running a model: what allocation and feature detectors say. */
  async place(sample: LifelongSample): Promise<Placement> {
    const serving = this.#expectServing();
    const { task, pValue } = await this.#allocate(serving, sample);
    const { unseenSampleRecognition: recognition } = this.#options.components;
    if (task === undefined || pValue !== undefined) return { task, pValue: pValue ?? 0 };
    const loaded = await this.#tryModel(serving, task);
    if (!loaded?.detector || recognition.needsLogits) return { task, pValue: 1 };
    const { inputs } = sample;
    return { task, pValue: detectorPValue(recognition, loaded.detector, { inputs, logits: [] }) };
  }

  /** The task of a sample, with its detector's p-value where the allocation asked for that. */
  async #allocate(
    serving: Serving,
    { inputs, attributes }: LifelongSample,
  ): Promise<{ readonly task: string | undefined; readonly pValue?: number }> {
    const { taskAllocation, unseenSampleRecognition } = this.#options.components;
    const isKnown = (name: string | undefined): name is string =>
      name !== undefined && serving.tasks.has(name);
    if (!taskAllocation.needsDetectors) {
      const features = featuresOf(serving.extractor, inputs);
      const name = taskAllocation.allocate(serving.allocation, { attributes, features });
      return { task: isKnown(name) ? name : undefined };
    }
    const detectors = await (serving.detectors ??= this.#allDetectors(serving));
    const pValues = new Map<string, number>();
    for (const [name, detector] of detectors)
      pValues.set(name, detectorPValue(unseenSampleRecognition, detector, { inputs, logits: [] }));
    const features = new Float32Array();
    const name = taskAllocation.allocate(serving.allocation, { attributes, features, pValues });
    const pValue = pValues.get(name ?? '');
    if (!isKnown(name)) return { task: undefined };
    return { task: name, ...(pValue === undefined ? {} : { pValue }) };
  }

  /**
   * Answers one sample.
   *
   * @throws ShoalError `failed_precondition` before any knowledge is here; `invalid_argument` for a
   *   sample of another size or without an attribute that allocation needs.
   */
  async infer(sample: LifelongSample): Promise<LifelongResult & { readonly nearest: string }> {
    const serving = this.#expectServing();
    this.#expectSize(serving, sample);
    const { alpha = 0.05, components } = this.#options;
    const placed = await this.#allocate(serving, sample);
    const { task } = placed;
    const loaded = task === undefined ? undefined : await this.#tryModel(serving, task);
    let pValue = task === undefined ? 0 : (placed.pValue ?? 1);
    if (task !== undefined && loaded && pValue > alpha) {
      const predictions = await loaded.estimator.predict(sample.inputs, 1);
      const logits =
        predictions.logits ?? predictions.probabilities.map((p) => Math.log(p + 1e-12));
      if (loaded.detector && placed.pValue === undefined) {
        const { inputs } = sample;
        const recognition = components.unseenSampleRecognition;
        pValue = detectorPValue(recognition, loaded.detector, { inputs, logits });
      }
      if (pValue > alpha)
        return { ...this.#answer(predictions.probabilities, task, 'task'), pValue, nearest: task };
    }
    const isUnseen = pValue <= alpha;
    const near = serving.neighbours.nearest(featuresOf(serving.extractor, sample.inputs), 8);
    const answer = isUnseen
      ? await this.#answerUnseen(serving, sample, near)
      : await this.#answerGlobal(serving, sample);
    return { ...answer, isUnseen, pValue, nearest: task ?? near[0]?.task ?? '' };
  }

  #expectSize(serving: Serving, { inputs }: LifelongSample): void {
    const { inputs: wanted } = serving.extractor;
    if (inputs.length !== wanted)
      throw new ShoalError(
        'invalid_argument',
        `a sample has ${wanted} values, got ${inputs.length}`,
      );
  }

  #answer(
    probabilities: Float32Array,
    task: string,
    source: LifelongResult['source'],
  ): Omit<LifelongResult, 'pValue'> {
    const label = argMax(probabilities, 0, probabilities.length);
    return { label, probabilities: [...probabilities], task, isUnseen: false, source };
  }

  async #answerUnseen(
    serving: Serving,
    sample: LifelongSample,
    near: ReturnType<NeighbourIndex['nearest']>,
  ): Promise<Omit<LifelongResult, 'pValue'>> {
    const { unseenTaskAllocation, inferenceIntegrate } = this.#options.components;
    const opinions: (Opinion & { readonly task: string })[] = [];
    for (const { task, weight } of unseenTaskAllocation.weights(near)) {
      const loaded = await this.#tryModel(serving, task);
      if (!loaded) continue;
      const { probabilities }: Predictions = await loaded.estimator.predict(sample.inputs, 1);
      opinions.push({ probabilities, weight, task });
    }
    if (opinions.length === 0) return await this.#answerGlobal(serving, sample);
    const total = opinions.reduce((sum, o) => sum + o.weight, 0);
    const weighed = opinions.map((o) => ({ ...o, weight: o.weight / total }));
    const names = opinions.map((o) => o.task).join('+');
    return this.#answer(inferenceIntegrate.integrate(weighed), names, 'nearest');
  }

  async #answerGlobal(
    serving: Serving,
    sample: LifelongSample,
  ): Promise<Omit<LifelongResult, 'pValue'>> {
    const global = serving.tasks.get(GLOBAL_TASK);
    if (!global) throw new Error('a serving version has a global model');
    const { estimator } = await this.#model(global);
    const { probabilities } = await estimator.predict(sample.inputs, 1);
    return this.#answer(probabilities, GLOBAL_TASK, 'fallback');
  }

  /** Frees the models. */
  async close(): Promise<void> {
    const loaded = [...this.#loaded.values()];
    this.#loaded.clear();
    for (const each of loaded) await (await each).estimator.close();
  }
}
