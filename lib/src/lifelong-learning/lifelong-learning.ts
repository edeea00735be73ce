import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  flag,
  fromNode,
  integer,
  type Logger,
  messageOf,
  type Random,
  readConfig,
  real,
  type SettingTable,
  ShoalError,
  seededRandom,
  silentLogger,
  text,
} from '@shoal/core';
import type { TrainOptions } from '../estimator/estimator.ts';
import { hostPathOf } from '../incremental-learning/incremental-learning.ts';
import { type ModelResult, Reporter } from '../report/local-controller.ts';
import { WORKER_SETTINGS, type WorkerEnvironment } from '../report/worker-environment.ts';
import { EdgeTasks, type LifelongResult, type LifelongSample } from './edge-tasks.ts';
import { KnowledgeClient } from './knowledge-base/client.ts';
import type { KnowledgeBase, KnowledgeTask } from './knowledge-base/knowledge-base.ts';
import {
  type ComponentChoices,
  type LifelongComponents,
  resolveComponents,
} from './task/components.ts';
import { concatenateTasks, type TaskSamples } from './task/task-samples.ts';
import { type AdmissionCriterion, type EvaluatedTasks, TaskEvaluation } from './task-evaluation.ts';
import type { CreateEstimator } from './task-models.ts';
import { TaskTraining, type TrainedTasks } from './task-training.ts';
import { UnseenSpool } from './unseen-spool.ts';

export interface LifelongEnvironment extends WorkerEnvironment {
  /** `host:port` of the knowledge base. */
  readonly KB_SERVER: string;
  readonly KB_TOKEN: string;
  readonly KB_AUTHORITY: string;
  readonly KB_JOB: string;
  readonly HAS_COMPLETED_INITIAL_TRAINING: boolean;
  /** Index of the newest training, for a training that goes on. */
  readonly CLOUD_KB_INDEX: string;
  readonly OUTPUT_URL: string;
  readonly TRAIN_DATASET_URL: string;
  readonly TEST_DATASET_URL: string;
  /** Indexes to evaluate or to serve, `;`-joined. */
  readonly MODEL_URLS: string;
  readonly MIN_TRAIN_SAMPLE: number;
  readonly model_threshold: number;
  /** Folder of the edge's models and unseen samples. */
  readonly edge_output_url: string;
  readonly UNSEEN_ALPHA: number;
  readonly EDGE_BUDGET_BYTES: number;
  readonly NODE_NAME: string;
}

export const LIFELONG_SETTINGS: SettingTable<LifelongEnvironment> = {
  ...WORKER_SETTINGS,
  KB_SERVER: text('host:port of the knowledge base', ''),
  KB_TOKEN: text('token of this job', ''),
  KB_AUTHORITY: text('PEM of the authority of the knowledge base’s certificate', ''),
  KB_JOB: text('name of this job in the knowledge base; default NAMESPACE/JOB_NAME', ''),
  HAS_COMPLETED_INITIAL_TRAINING: flag('whether this training goes on from an earlier one', false),
  CLOUD_KB_INDEX: text('index of the newest training', ''),
  OUTPUT_URL: text('folder for the index of this stage', '/tmp'),
  TRAIN_DATASET_URL: text('samples to train on', ''),
  TEST_DATASET_URL: text('samples to evaluate on', ''),
  MODEL_URLS: text('indexes to evaluate or serve, joined by ;', ''),
  MIN_TRAIN_SAMPLE: integer('least samples of a task', { min: 1, max: 1e9 }, 10),
  model_threshold: real('least accuracy of an admitted task', { min: 0, max: 1 }, 0),
  edge_output_url: text('folder of the edge’s models and unseen samples', '/var/lib/sedna/kb'),
  UNSEEN_ALPHA: real('share of known samples that may be called unseen', { min: 0, max: 1 }, 0.05),
  EDGE_BUDGET_BYTES: integer(
    'bytes of task models kept at the edge',
    { min: 1, max: 2 ** 45 },
    2 ** 30,
  ),
  NODE_NAME: text('name of this node', ''),
};

/** What a stage leaves behind in a folder, for the next stage or for the edge. */
export interface KnowledgeIndex {
  readonly job: string;
  /** Version of the knowledge base that holds what is deployed. */
  readonly version?: number;
  readonly candidates?: readonly KnowledgeTask[];
}

export interface LifelongOptions {
  /** Makes estimators; every task has one of its own. */
  readonly create: CreateEstimator;
  /** Components by slot; those not named are the defaults. */
  readonly components?: ComponentChoices;
  /** Default: the one of the environment (`KB_SERVER`). */
  readonly knowledge?: KnowledgeBase;
  readonly criterion?: AdmissionCriterion;
  /** Default `process.env`. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Default 1. */
  readonly seed?: number;
  readonly logger?: Logger;
}

/** One upload: small enough to arrive within a call's deadline over a slow link. */
const UPLOAD_BATCH = 100;
const UPLOAD_BYTES = 512 * 1024;

function writeIndex(path: string, index: KnowledgeIndex): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(`${path}.tmp`, JSON.stringify(index));
    renameSync(`${path}.tmp`, path);
  } catch (error) {
    throw fromNode(error, `writing ${path}`);
  }
}

/** @throws ShoalError when the file is not there or is no index. */
export function readIndex(path: string): KnowledgeIndex {
  let content: string;
  try {
    content = readFileSync(path, 'utf8');
  } catch (error) {
    throw fromNode(error, `reading index ${path}`);
  }
  try {
    return JSON.parse(content) as KnowledgeIndex;
  } catch (error) {
    throw new ShoalError('data_corrupt', `${path} is not an index of a knowledge base`, {
      cause: error,
    });
  }
}

/**
 * Lifelong learning: tasks are found in samples, each gets a model in the knowledge base, and edges
 * answer with them and notice what no task knows. Inside a worker of a LifelongLearningJob everything
 * comes from the environment; elsewhere pass a knowledge base. Close it when done.
 */
export class LifelongLearning {
  readonly environment: LifelongEnvironment;
  readonly #options: LifelongOptions;
  readonly #components: LifelongComponents;
  readonly #knowledge: KnowledgeBase;
  readonly #client: KnowledgeClient | undefined;
  readonly #reporter: Reporter;
  readonly #logger: Logger;
  #edge: EdgeTasks | undefined;
  #spool: UnseenSpool | undefined;
  readonly #counters = { inferences: 0, unseen: 0, uploaded: 0, fallback: 0 };
  #unseenTask = false;

  private constructor(
    options: LifelongOptions,
    parts: {
      environment: LifelongEnvironment;
      components: LifelongComponents;
      knowledge: KnowledgeBase;
      client: KnowledgeClient | undefined;
    },
  ) {
    this.#options = options;
    this.environment = parts.environment;
    this.#components = parts.components;
    this.#knowledge = parts.knowledge;
    this.#client = parts.client;
    this.#logger = options.logger ?? silentLogger;
    const { LC_SERVER, WORKER_NAME, NAMESPACE, JOB_NAME } = this.environment;
    this.#reporter = new Reporter({
      server: LC_SERVER,
      workerName: WORKER_NAME,
      namespace: NAMESPACE,
      ownerName: JOB_NAME,
      ownerKind: 'lifelonglearningjob',
    });
  }

  /** @throws ShoalError `invalid_argument` for an unknown component or a malformed environment. */
  static async open(options: LifelongOptions): Promise<LifelongLearning> {
    const environment = readConfig(LIFELONG_SETTINGS, options.environment ?? process.env);
    const minimum = {
      method: 'UpdateStrategyDefault',
      param: { min_train_sample: environment.MIN_TRAIN_SAMPLE },
    };
    const components = await resolveComponents({
      taskUpdateDecision: minimum,
      ...options.components,
    });
    const { KB_SERVER, KB_TOKEN, KB_AUTHORITY, KB_JOB, NAMESPACE, JOB_NAME } = environment;
    const client = options.knowledge
      ? undefined
      : new KnowledgeClient({
          address: KB_SERVER || '127.0.0.1:9020',
          job: KB_JOB || `${NAMESPACE}/${JOB_NAME}`,
          token: KB_TOKEN,
          ...(KB_AUTHORITY ? { authority: KB_AUTHORITY } : {}),
        });
    const knowledge = options.knowledge ?? client;
    if (!knowledge) throw new Error('no knowledge base');
    return new LifelongLearning(options, { environment, components, knowledge, client });
  }

  get #random(): Random {
    return seededRandom(this.#options.seed ?? 1);
  }

  #result(path: string, metrics: Readonly<Record<string, number>>): ModelResult {
    return { format: 'json', url: hostPathOf(path, this.environment.DATA_PATH_PREFIX), metrics };
  }

  /**
   * Learns tasks from samples, with labelled samples the edges could not place, and offers them as
   * candidates. Writes the index of the stage to `OUTPUT_URL`.
   */
  async train(samples: TaskSamples, options: TrainOptions = {}): Promise<TrainedTasks> {
    if (samples.size === 0)
      throw new ShoalError('invalid_argument', 'there are no samples to learn tasks from');
    const all = concatenateTasks([samples, ...(await this.#labelledUnseen(samples))]);
    const trained = await TaskTraining.run(all, {
      components: this.#components,
      create: this.#options.create,
      knowledge: this.#knowledge,
      random: this.#random,
      logger: this.#logger,
      train: options,
    });
    const path = join(this.environment.OUTPUT_URL, 'index.json');
    writeIndex(path, { job: this.#job, candidates: trained.candidates });
    const metrics = { number_of_candidates: trained.candidates.length };
    await this.#reporter.send({
      kind: 'train',
      status: 'completed',
      results: [this.#result(path, metrics)],
    });
    return trained;
  }

  get #job(): string {
    const { KB_JOB, NAMESPACE, JOB_NAME } = this.environment;
    return KB_JOB || `${NAMESPACE}/${JOB_NAME}`;
  }

  /** Labelled samples from the edges that have as many values as the others. */
  async #labelledUnseen(like: TaskSamples): Promise<TaskSamples[]> {
    const found = await this.#knowledge.samples({ labelled: true });
    const length = like.shape.reduce((n, d) => n * d, 1);
    const fitting = found.filter((s) => s.inputs.length === length);
    if (fitting.length === 0) return [];
    const names = new Set(fitting.flatMap((s) => Object.keys(s.attributes)));
    const inputs = new Float32Array(fitting.length * length);
    for (const [i, s] of fitting.entries()) inputs.set(s.inputs, i * length);
    return [
      {
        inputs,
        labels: BigInt64Array.from(fitting, (s) => BigInt(s.label ?? 0)),
        shape: like.shape,
        size: fitting.length,
        attributes: Object.fromEntries(
          [...names].map((n) => [n, fitting.map((s) => s.attributes[n] ?? '')]),
        ),
      },
    ];
  }

  /**
   * Evaluates the candidates of the index in `MODEL_URLS` on held-out samples, admits the good ones,
   * and reports what the knowledge base holds then.
   *
   * @param candidates Default: those of the index.
   */
  async evaluate(
    samples: TaskSamples,
    candidates?: readonly KnowledgeTask[],
  ): Promise<EvaluatedTasks> {
    const [index = ''] = this.environment.MODEL_URLS.split(';');
    const threshold = this.environment.model_threshold;
    const evaluation = new TaskEvaluation({
      components: this.#components,
      create: this.#options.create,
      knowledge: this.#knowledge,
      random: this.#random,
      logger: this.#logger,
      criterion: { ...(threshold > 0 ? { threshold } : {}), ...this.#options.criterion },
    });
    const evaluated = await evaluation.run(
      candidates ?? readIndex(index).candidates ?? [],
      samples,
    );
    const path = join(this.environment.OUTPUT_URL, 'index.json');
    writeIndex(path, { job: this.#job, version: evaluated.version });
    const scores = evaluated.verdicts
      .map((v) => v.metrics['accuracy'])
      .filter((a) => a !== undefined);
    const mean = scores.reduce((a, b) => a + b, 0) / Math.max(1, scores.length);
    const admitted = evaluated.verdicts.filter((v) => v.admitted || v.merged).length;
    await this.#reporter.send({
      kind: 'eval',
      status: 'completed',
      results: [this.#result(path, { accuracy: mean, admitted, version: evaluated.version })],
      ownerInfo: { knowledgeBase: await this.describe() },
    });
    return evaluated;
  }

  /** What the knowledge base holds, in the words of `status.knowledgeBase`. */
  async describe(): Promise<Readonly<Record<string, unknown>>> {
    const snapshot = await this.#knowledge.snapshot();
    const classes = [...new Set(snapshot.tasks.flatMap((t) => t.classes))].toSorted();
    return {
      AIModels: {
        numberOfAIModels: snapshot.tasks.length,
        listOfAIModels: snapshot.tasks.slice(0, 50).map((t) => ({
          modelID: `${t.name}@${t.revision}`,
          averagePrecision: t.metrics['precision'] ?? t.metrics['accuracy'] ?? 0,
          numberOfTrainSamples: t.samples,
        })),
      },
      AIClasses: { numberOfAIClasses: classes.length, listOfAIClasses: classes },
      samples: {
        numberOfLabeledUnseenSample: snapshot.labelledSamples,
        numberOfUnseenSample: snapshot.unseenSamples,
      },
    };
  }

  /** The edge's side, made when first asked for. */
  get edge(): EdgeTasks {
    const { edge_output_url: dir, EDGE_BUDGET_BYTES, UNSEEN_ALPHA } = this.environment;
    this.#edge ??= new EdgeTasks({
      dir,
      components: this.#components,
      create: this.#options.create,
      knowledge: this.#knowledge,
      logger: this.#logger,
      alpha: UNSEEN_ALPHA,
      budgetBytes: EDGE_BUDGET_BYTES,
    });
    return this.#edge;
  }

  get #unseen(): UnseenSpool {
    const { edge_output_url: dir, NODE_NAME, WORKER_NAME } = this.environment;
    this.#spool ??= new UnseenSpool({
      path: join(dir, 'unseen.db'),
      edge: NODE_NAME || WORKER_NAME,
    });
    return this.#spool;
  }

  /**
   * Answers one sample; what no task knows is kept for the cloud. Works without network once a
   * version was adopted ({@link EdgeTasks.adopt}).
   */
  async inference(sample: LifelongSample): Promise<LifelongResult & { isUnseenTask: boolean }> {
    const { nearest, ...result } = await this.edge.infer(sample);
    this.#counters.inferences++;
    if (result.source === 'fallback') this.#counters.fallback++;
    const window = this.#components.unseenTaskDetection.observe(Math.max(result.pValue, 1e-6));
    if (window) this.#unseenTask = window.unseen;
    if (result.isUnseen) {
      this.#counters.unseen++;
      this.#unseen.add({
        task: nearest,
        attributes: sample.attributes,
        shape: [sample.inputs.length],
        inputs: sample.inputs,
        recordedAtMs: Date.now(),
      });
    }
    return { ...result, isUnseenTask: this.#unseenTask };
  }

  /** Figures of this edge. */
  get metrics(): Readonly<Record<string, number>> {
    return {
      ...this.#counters,
      pending: this.#spool?.pendingCount ?? 0,
      dropped: this.#spool?.dropped ?? 0,
      version: this.#edge?.version ?? 0,
      unseenTask: this.#unseenTask ? 1 : 0,
    };
  }

  /**
   * Sends what is kept for the cloud; each sample is sent until it arrived, and counts once.
   *
   * @returns How many arrived now.
   * @throws ShoalError `unavailable` without network, `resource_exhausted` when the base is full;
   *   what did not arrive stays here.
   */
  async upload(): Promise<number> {
    let sent = 0;
    for (;;) {
      const batch = this.#unseen.pending(UPLOAD_BATCH, UPLOAD_BYTES);
      if (batch.length === 0) break;
      await this.#knowledge.commit(batch.map((sample) => ({ kind: 'sample', sample })));
      this.#unseen.arrived(batch.map((s) => s.id));
      sent += batch.length;
      this.#counters.uploaded += batch.length;
    }
    return sent;
  }

  /** Reports to the local controller; failures are logged, an edge goes on without. */
  async report(info: Parameters<Reporter['send']>[0]): Promise<void> {
    await this.#reporter.send(info).catch((error: unknown) => {
      this.#logger.warn('not reported', { reason: messageOf(error) });
    });
  }

  async close(): Promise<void> {
    await this.#edge?.close();
    this.#spool?.close();
    this.#spool = undefined;
    this.#client?.close();
  }
}
