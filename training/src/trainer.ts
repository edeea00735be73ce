import { messageOf, ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { type Batch, batchFeeds, type Feeds, floats, TYPE_NAMES } from './batch.ts';
import { blocksOf } from './blocks.ts';
import { readModel, readModelFile, writeModel, writeModelFile } from './onnx/model-file.ts';
import type { ModelProto } from './onnx/onnx_pb.ts';
import { revise } from './onnx/revise.ts';
import { DATA_TYPE, floatTensor, sizeOf } from './onnx/tensor-data.ts';
import {
  fixedBatch,
  nothingToTrain,
  type Parameter,
  type Plan,
  type PlanOptions,
  planTraining,
} from './plan.ts';
import { runInto } from './run-into.ts';
import { initialValues, type ShapedPlan, shapePlan } from './shaped-plan.ts';
import {
  applyGraph,
  type Companion,
  evaluateGraph,
  gradientName,
  gradientsGraph,
  influentialParameters,
  stepGraph,
  type TrainingGraph,
  targetsOf,
} from './training-graphs.ts';
import { TrainingState } from './training-state.ts';

/** Where the graphs run; names are ONNX Runtime's execution providers. */
export type ExecutionProvider = 'cpu' | 'cuda' | 'webgpu';

export interface TrainerOptions extends Omit<PlanOptions, 'model'> {
  /** The ONNX file to train: its bytes, or its path when tensors lie in files beside it. */
  readonly model: Uint8Array | string;
  /** Batch sizes kept compiled; the one used longest ago makes room. Default 8. */
  readonly compiledSizes?: number;
  /** Threads of the runtime; default 2. The same number gives the same result bit for bit. */
  readonly threads?: number;
  /** Tried in this order; default `['cpu']`. What the runtime on this machine lacks is an error. */
  readonly providers?: readonly ExecutionProvider[];
}

export interface StepResult {
  /** Mean loss of the batch, without the penalty. */
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
}

export interface EvaluationResult extends StepResult {
  /** The model's output, row-major. */
  readonly output: Float32Array;
}

type GraphKind = 'step' | 'gradients' | 'evaluate' | 'apply';

interface Session {
  readonly graph: TrainingGraph;
  readonly run: ort.InferenceSession;
}

/** Everything compiled for one batch size. */
interface Compiled {
  readonly shaped: ShapedPlan;
  readonly sessions: Map<GraphKind, Promise<Session>>;
}

const WRITERS: Readonly<Record<GraphKind, (shaped: ShapedPlan) => TrainingGraph>> = {
  step: stepGraph,
  gradients: gradientsGraph,
  evaluate: evaluateGraph,
  apply: applyGraph,
};

const COMPILED_SIZES = 8;
/** Batch size on which a model is checked before the first batch comes. */
const CHECK_BATCH = 2;

function scalarOf(results: ort.InferenceSession.OnnxValueMapType, name: string): number {
  const value = results[name]?.data[0];
  return typeof value === 'number' ? value : Number.NaN;
}

/**
 * Lets go of the file: trained tensors live in the state from now on, and what stays is copied out
 * of the file's bytes, so that a large model is not held twice.
 */
function dropTrained(plan: Plan, state: TrainingState): void {
  for (const tensor of plan.model.graph?.initializer ?? []) {
    if (state.has(tensor.name)) {
      tensor.rawData = new Uint8Array();
      tensor.floatData = [];
    } else if (tensor.rawData.length * 2 < tensor.rawData.buffer.byteLength) {
      tensor.rawData = tensor.rawData.slice();
    }
  }
}

/** @throws ShoalError `invalid_argument` for a rate below 0, infinite or NaN. */
function expectRate(learningRate: number): void {
  if (!(learningRate >= 0 && learningRate < Number.POSITIVE_INFINITY))
    throw new ShoalError(
      'invalid_argument',
      `the learning rate must be a number ≥ 0, got ${learningRate}`,
    );
}

/** @throws ShoalError `unsupported` for an output of integers, naming the others. */
function expectFloatOutput(shaped: ShapedPlan): void {
  const { output, model } = shaped.plan;
  const type = shaped.traced.facts.get(output)?.elementType;
  if (type === DATA_TYPE.float) return;
  const others = model.graph?.output.map((o) => o.name).filter((n) => n !== output);
  throw new ShoalError(
    'unsupported',
    `output "${output}" is ${TYPE_NAMES[type ?? 0] ?? `of ONNX element type ${type}`}, a loss needs float32${others && others.length > 0 ? `; choose another output: ${others.join(', ')}` : ''}`,
  );
}

/**
 * Trains an ONNX model on the stock runtime: the training step is itself an ONNX graph, written for
 * the size of the batch it gets. Parameters and optimizer state live in buffers the runtime reads
 * and writes from step to step; only the batch is copied. Not for concurrent use: await each call.
 * Release it when done.
 */
export class Trainer {
  readonly #plan: Plan;
  readonly #options: ort.InferenceSession.SessionOptions;
  readonly #learningRate: number;
  readonly #compiledSizes: number;
  readonly #state: TrainingState;
  #steps = 0;
  readonly #compiled = new Map<number, Promise<Compiled>>();

  private constructor(plan: Plan, state: TrainingState, options: TrainerOptions) {
    this.#plan = plan;
    this.#state = state;
    this.#learningRate = options.optimizer.learningRate;
    this.#compiledSizes = options.compiledSizes ?? COMPILED_SIZES;
    this.#options = {
      intraOpNumThreads: options.threads ?? 2,
      interOpNumThreads: 1,
      graphOptimizationLevel: 'all',
      logSeverityLevel: 3,
      ...(options.providers ? { executionProviders: options.providers } : {}),
    };
  }

  /**
   * Reads a model and prepares it for training.
   *
   * @throws ShoalError `data_corrupt`, `unsupported` or `invalid_argument` saying which node,
   *   operator or parameter stands in the way.
   */
  static async create(options: TrainerOptions): Promise<Trainer> {
    const model =
      typeof options.model === 'string' ? readModelFile(options.model) : readModel(options.model);
    const plan = planTraining({ ...options, model });
    const initial = initialValues(plan);
    const candidates = blocksOf(plan.candidates, 'shoal/parameters');
    const at = { batch: fixedBatch(plan) ?? CHECK_BATCH, values: initial, parameters: candidates };
    const shaped = await shapePlan(plan, {
      ...at,
      buffers: blocksOf(plan.buffers, 'shoal/buffers'),
    });
    expectFloatOutput(shaped);
    const parameters = influentialParameters(shaped);
    if (parameters.length === 0) throw nothingToTrain(plan.forward);
    const state = new TrainingState(plan, parameters, initial);
    dropTrained(plan, state);
    return new Trainer(plan, state, options);
  }

  /** What is trained, in a fixed order. */
  get parameters(): readonly Parameter[] {
    return this.#state.parameters;
  }

  /** Running statistics of BatchNormalization, which training replaces as well. */
  get buffers(): readonly Parameter[] {
    return this.#state.buffers;
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#steps;
  }

  #shape(batch: number): Promise<ShapedPlan> {
    const { blocks: parameters, bufferBlocks: buffers } = this.#state;
    const values = this.#state.memberFeeds();
    return shapePlan(this.#plan, { batch, values, parameters, buffers });
  }

  #compile(batch: number): Promise<Compiled> {
    const known = this.#compiled.get(batch);
    if (known) {
      this.#compiled.delete(batch);
      this.#compiled.set(batch, known);
      return known;
    }
    const compiled = this.#shape(batch).then((shaped) => ({ shaped, sessions: new Map() }));
    this.#compiled.set(batch, compiled);
    const [oldest] = this.#compiled.keys();
    if (this.#compiled.size > this.#compiledSizes && oldest !== undefined) {
      const dropped = this.#compiled.get(oldest);
      this.#compiled.delete(oldest);
      dropped?.then(releaseAll, () => undefined);
    }
    return compiled;
  }

  async #open(kind: GraphKind, graph: TrainingGraph): Promise<Session> {
    try {
      const run = await ort.InferenceSession.create(graph.bytes, this.#options);
      return { graph: { ...graph, bytes: new Uint8Array() }, run };
    } catch (error) {
      const on = this.#options.executionProviders?.map(String).join(', ') ?? 'cpu';
      throw new ShoalError(
        'unsupported',
        `the runtime cannot run the ${kind} graph on ${on}: ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  async #session(kind: GraphKind, batch: number): Promise<Session & { shaped: ShapedPlan }> {
    const { shaped, sessions } = await this.#compile(batch);
    let session = sessions.get(kind);
    if (!session) {
      const graph = WRITERS[kind](shaped);
      session = this.#open(kind, graph);
      sessions.set(kind, session);
    }
    return { ...(await session), shaped };
  }

  #batchFeeds(batch: Batch, shaped: ShapedPlan): Feeds {
    const targets = targetsOf(this.#plan, shaped.traced.facts);
    return batchFeeds(batch, this.#plan.inputs, targets);
  }

  #expectBatch(batch: Batch): void {
    const fixed = fixedBatch(this.#plan);
    if (fixed !== undefined && batch.size !== fixed)
      throw new ShoalError(
        'invalid_argument',
        `this model takes batches of ${fixed} samples only, got ${batch.size}; export it with a dynamic batch to train on others`,
      );
    if (Number.isInteger(batch.size) && batch.size > 0) return;
    throw new ShoalError(
      'invalid_argument',
      `a batch needs at least one sample, got ${batch.size}`,
    );
  }

  /** What an update reads beside parameters and gradients. */
  #updateFeeds(learningRate: number): Feeds {
    const feeds: Feeds = { ...this.#state.besideFeeds() };
    for (const scalar of this.#plan.optimizer.scalars)
      feeds[scalar.name] = floats(Float32Array.of(scalar.at(this.#steps + 1, learningRate)), []);
    return feeds;
  }

  #advance(): void {
    this.#state.swap();
    this.#steps++;
  }

  /**
   * One optimizer step on one batch.
   *
   * @param learningRate For this step; default the optimizer's.
   * @throws ShoalError `failed_precondition` when the loss or a new parameter is not finite; the parameters
   *   stay as they were before the step, the optimizer begins anew.
   */
  async step(batch: Batch, learningRate: number = this.#learningRate): Promise<StepResult> {
    this.#expectBatch(batch);
    expectRate(learningRate);
    const { graph, run, shaped } = await this.#session('step', batch.size);
    const feeds = {
      ...this.#batchFeeds(batch, shaped),
      ...this.#state.valueFeeds(),
      ...this.#updateFeeds(learningRate),
    };
    const fetches: Record<string, ort.Tensor | null> = this.#state.fetches(graph);
    fetches[graph.loss] = null;
    fetches[graph.size ?? ''] = null;
    for (const metric of Object.values(graph.metrics)) fetches[metric] = null;
    const results = await runInto(run, feeds, fetches);
    const loss = scalarOf(results, graph.loss);
    this.#expectFinite({ loss, size: scalarOf(results, graph.size ?? ''), learningRate });
    this.#advance();
    return { loss, metrics: this.#metrics(graph, results) };
  }

  /** Stops before a step takes effect that would leave nothing to go on with. */
  #expectFinite(at: { loss?: number; size: number; learningRate: number }): void {
    const { loss = 0, size, learningRate } = at;
    if (Number.isFinite(loss) && Number.isFinite(size)) return;
    const step = this.#steps + 1;
    const what = Number.isFinite(loss)
      ? 'the gradient is not finite, or the step is too large,'
      : `the loss is ${loss}`;
    this.resetOptimizer();
    throw new ShoalError(
      'failed_precondition',
      `${what} at step ${step}; training stopped with the last good parameters. Lower the learning rate (now ${learningRate}) or check the data`,
    );
  }

  /**
   * One optimizer step with gradients from elsewhere (projected, averaged, noised).
   *
   * @param gradients One per parameter, in its shape.
   * @throws ShoalError `invalid_argument` for a missing gradient or a wrong length; as {@link step} does when
   *   what comes of them is not finite.
   */
  async apply(
    gradients: ReadonlyMap<string, Float32Array>,
    learningRate: number = this.#learningRate,
  ): Promise<void> {
    expectRate(learningRate);
    const { graph, run } = await this.#session('apply', fixedBatch(this.#plan) ?? CHECK_BATCH);
    const feeds: Feeds = this.#updateFeeds(learningRate);
    for (const [name, tensor] of Object.entries(this.#state.join(gradients)))
      feeds[gradientName(name)] = tensor;
    const values = this.#state.valueFeeds();
    for (const { name } of this.#state.blocks) {
      const tensor = values[name];
      if (tensor) feeds[name] = tensor;
    }
    const fetches = { ...this.#state.fetches(graph), [graph.size ?? '']: null };
    const results = await runInto(run, feeds, fetches);
    this.#expectFinite({ size: scalarOf(results, graph.size ?? ''), learningRate });
    this.#state.keepBuffers();
    this.#advance();
  }

  #metrics(
    graph: TrainingGraph,
    results: ort.InferenceSession.OnnxValueMapType,
  ): Record<string, number> {
    return Object.fromEntries(
      Object.entries(graph.metrics).map(([k, v]) => [k, scalarOf(results, v)]),
    );
  }

  /** Gradient of the mean loss for every parameter; nothing is changed. */
  async gradients(
    batch: Batch,
  ): Promise<StepResult & { readonly gradients: Map<string, Float32Array> }> {
    this.#expectBatch(batch);
    const { graph, run, shaped } = await this.#session('gradients', batch.size);
    const results = await run.run({
      ...this.#batchFeeds(batch, shaped),
      ...this.#state.valueFeeds(),
    });
    const blocks = new Map(
      [...graph.results].map(([name, result]) => [name, results[result]?.data as Float32Array]),
    );
    return {
      loss: scalarOf(results, graph.loss),
      metrics: this.#metrics(graph, results),
      gradients: this.#state.cut(blocks),
    };
  }

  /** Loss, metrics and output on a batch, with running statistics and without dropout; nothing is changed. */
  async evaluate(batch: Batch): Promise<EvaluationResult> {
    this.#expectBatch(batch);
    const { graph, run, shaped } = await this.#session('evaluate', batch.size);
    const results = await run.run({
      ...this.#batchFeeds(batch, shaped),
      ...this.#state.valueFeeds(),
    });
    const output = results[this.#plan.output]?.data as Float32Array;
    return { loss: scalarOf(results, graph.loss), metrics: this.#metrics(graph, results), output };
  }

  /** Copies of all parameters, row-major, by name. */
  getParameters(): Map<string, Float32Array> {
    return new Map(this.parameters.map(({ name }) => [name, this.#state.values(name).slice()]));
  }

  /** Copies of the running statistics, by name. */
  getBuffers(): Map<string, Float32Array> {
    return new Map(this.buffers.map(({ name }) => [name, this.#state.values(name).slice()]));
  }

  #expectKnown(
    values: ReadonlyMap<string, Float32Array>,
    among: readonly Parameter[],
    what: string,
  ): void {
    for (const [name, value] of values) {
      const known = among.find((p) => p.name === name);
      if (!known) throw new ShoalError('invalid_argument', `the model has no ${what} "${name}"`);
      if (value.length !== sizeOf(known.shape)) {
        throw new ShoalError(
          'invalid_argument',
          `parameter "${name}" has shape [${known.shape.join(', ')}], got ${value.length} values`,
        );
      }
    }
  }

  /**
   * Replaces parameters; those not named stay.
   *
   * @throws ShoalError `invalid_argument` for an unknown name or a wrong length; then nothing changes.
   */
  setParameters(values: ReadonlyMap<string, Float32Array>): void {
    this.#expectKnown(values, this.parameters, 'trainable parameter');
    for (const [name, value] of values) this.#state.values(name).set(value);
  }

  /** Replaces running statistics; as {@link setParameters}. */
  setBuffers(values: ReadonlyMap<string, Float32Array>): void {
    this.#expectKnown(values, this.buffers, 'running statistic');
    for (const [name, value] of values) this.#state.values(name).set(value);
  }

  /**
   * Replaces what steps read beside the parameters: the `anchor` θ* of a penalty (at first the
   * initial parameters), the `importance` F of an elastic one (at first 0), the gradient `offset`
   * (at first 0). Those not named stay.
   *
   * @throws ShoalError `failed_precondition` when the trainer was created without it;
   *   `invalid_argument` for an unknown name or a wrong length.
   */
  setCompanion(companion: Companion, values: ReadonlyMap<string, Float32Array>): void {
    if (!this.#state.keeps(companion)) {
      throw new ShoalError(
        'failed_precondition',
        `this trainer has no ${companion}; create it with ${companion === 'offset' ? 'gradientOffset: true' : "penalty: { name: 'proximal' | 'elastic', … }"}`,
      );
    }
    this.#expectKnown(values, this.parameters, 'trainable parameter');
    for (const [name, value] of values) this.#state.companion(name, companion).set(value);
  }

  /** Forgets the optimizer's state and step count, as at the start of a federated round. */
  resetOptimizer(): void {
    this.#state.resetOptimizer();
    this.#steps = 0;
  }

  #trained(): ModelProto {
    const { model } = this.#plan;
    const { graph } = model;
    if (!graph) throw new Error('the model has no graph');
    const initializer = graph.initializer.map((t) =>
      this.#state.has(t.name)
        ? floatTensor(t.name, t.dims.map(Number), this.#state.values(t.name))
        : t,
    );
    return revise(model, { graph: revise(graph, { initializer }) });
  }

  /** The user's model with the trained parameters put back; opens in any ONNX consumer. */
  deploy(): Uint8Array {
    return writeModel(this.#trained());
  }

  /** Writes the trained model to a file; `externalData` puts large tensors beside it. */
  deployTo(path: string, options: { readonly externalData?: boolean } = {}): void {
    writeModelFile(path, this.#trained(), options);
  }

  /** Frees the runtime's sessions. The trainer cannot be used afterwards. */
  async release(): Promise<void> {
    const compiled = [...this.#compiled.values()];
    this.#compiled.clear();
    const opened = await Promise.allSettled(compiled);
    for (const each of opened) if (each.status === 'fulfilled') await releaseAll(each.value);
  }
}

async function releaseAll(compiled: Compiled): Promise<void> {
  const opened = await Promise.allSettled(compiled.sessions.values());
  for (const each of opened) if (each.status === 'fulfilled') await each.value.run.release();
}
