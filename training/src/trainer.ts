import { ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { readModel, readModelFile, writeModel, writeModelFile } from './onnx/model-file.ts';
import type { ModelProto } from './onnx/onnx_pb.ts';
import { revise } from './onnx/revise.ts';
import { DATA_TYPE, floatsOf, floatTensor, sizeOf } from './onnx/tensor-data.ts';
import { trace } from './onnx/trace.ts';
import {
  type ModelInput,
  nothingToTrain,
  type Parameter,
  type Plan,
  type PlanOptions,
  planTraining,
  targetName,
} from './plan.ts';
import {
  applyGraph,
  type Companion,
  companionName,
  companionsOf,
  evaluateGraph,
  gradientName,
  gradientsGraph,
  influentialParameters,
  type ShapedPlan,
  stateName,
  stepGraph,
  targetsOf,
  type TrainingGraph,
} from './training-graphs.ts';

/** Where the graphs run; names are ONNX Runtime's execution providers. */
export type ExecutionProvider = 'cpu' | 'cuda' | 'webgpu';

export interface TrainerOptions extends Omit<PlanOptions, 'model'> {
  /** The ONNX file to train: its bytes, or its path when tensors lie in files beside it. */
  readonly model: Uint8Array | string;
  /** Threads of the runtime; default 2. The same number gives the same result bit for bit. */
  readonly threads?: number;
  /** Tried in this order; default `['cpu']`. What the runtime on this machine lacks is an error. */
  readonly providers?: readonly ExecutionProvider[];
}

export type InputValues = Float32Array | BigInt64Array | Int32Array | Uint8Array;

/** One batch. */
export interface Batch {
  /** Flattened input, row-major; one per input, by name, when the model has several. */
  readonly inputs: InputValues | Readonly<Record<string, InputValues>>;
  /**
   * What the loss compares with: class indices for cross-entropy, values for mean squared error;
   * by name for losses that want several (see the loss).
   */
  readonly targets:
    | BigInt64Array
    | Float32Array
    | Readonly<Record<string, BigInt64Array | Float32Array>>;
  /** Number of samples. */
  readonly size: number;
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

type Feeds = Record<string, ort.Tensor>;
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

/** Batch sizes kept compiled; the one used longest ago makes room. */
const MAX_COMPILED = 4;
/** Batch size on which a model is checked before the first batch comes. */
const CHECK_BATCH = 2;

const TYPE_NAMES: Readonly<Record<number, 'float32' | 'int64' | 'int32' | 'bool'>> = {
  [DATA_TYPE.float]: 'float32',
  [DATA_TYPE.int64]: 'int64',
  [DATA_TYPE.int32]: 'int32',
  [DATA_TYPE.bool]: 'bool',
};

function floats(values: Float32Array, dims: readonly number[]): ort.Tensor {
  return new ort.Tensor('float32', values, dims);
}

function scalarOf(results: ort.InferenceSession.OnnxValueMapType, name: string): number {
  const value = results[name]?.data[0];
  return typeof value === 'number' ? value : Number.NaN;
}

function zeroInput({ elementType, rest }: ModelInput, batch: number): ort.Tensor {
  const dims = [batch, ...rest];
  const size = sizeOf(dims);
  switch (elementType) {
    case DATA_TYPE.int64:
      return new ort.Tensor('int64', new BigInt64Array(size), dims);
    case DATA_TYPE.int32:
      return new ort.Tensor('int32', new Int32Array(size), dims);
    case DATA_TYPE.bool:
      return new ort.Tensor('bool', new Uint8Array(size), dims);
    default:
      return floats(new Float32Array(size), dims);
  }
}

const ARRAY_NAMES = {
  float32: 'Float32Array',
  int64: 'BigInt64Array',
  int32: 'Int32Array',
  bool: 'Uint8Array',
} as const;

/** A tensor to feed, checked against what the graph wants. */
function fed(
  what: string,
  values: InputValues,
  wanted: { readonly elementType: number; readonly dims: readonly number[] },
): ort.Tensor {
  const type = TYPE_NAMES[wanted.elementType] ?? 'float32';
  if (values.constructor.name !== ARRAY_NAMES[type]) {
    throw new ShoalError(
      'invalid_argument',
      `${what} is ${type}; pass a ${ARRAY_NAMES[type]}, not a ${values.constructor.name}`,
    );
  }
  if (values.length !== sizeOf(wanted.dims)) {
    const [size = 0, ...rest] = wanted.dims;
    throw new ShoalError(
      'invalid_argument',
      `the batch has ${values.length} values of ${what}; ${size} samples of shape [${rest.join(', ')}] need ${sizeOf(wanted.dims)}`,
    );
  }
  return new ort.Tensor(type, values as Float32Array, wanted.dims);
}

/** The named array of a batch, or the only one. */
function named<T extends object>(given: T | Readonly<Record<string, T>>, name: string, only: boolean, what: string): T {
  if (ArrayBuffer.isView(given)) {
    if (only) return given as T;
    throw new ShoalError('invalid_argument', `there are several ${what}; pass them by name: { ${name}: … }`);
  }
  const found = (given as Readonly<Record<string, T>>)[name];
  if (found) return found;
  const names = Object.keys(given).join(', ') || 'none';
  throw new ShoalError('invalid_argument', `the batch has no ${what} "${name}"; it has: ${names}`);
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
  readonly #companions: readonly Companion[];
  /** Parameters and running statistics: the next values go to the spare, then the two swap. */
  #current: Feeds = {};
  #spare: Feeds = {};
  /** Optimizer state and companions: the runtime replaces them in place. */
  readonly #beside: Feeds = {};
  #parameters: readonly Parameter[];
  #buffers: readonly Parameter[] = [];
  #steps = 0;
  readonly #compiled = new Map<number, Promise<Compiled>>();

  private constructor(plan: Plan, options: TrainerOptions) {
    this.#plan = plan;
    this.#learningRate = options.optimizer.learningRate;
    this.#companions = companionsOf(plan);
    this.#parameters = plan.candidates;
    this.#options = {
      intraOpNumThreads: options.threads ?? 2,
      interOpNumThreads: 1,
      graphOptimizationLevel: 'all',
      logSeverityLevel: 3,
      ...(options.providers ? { executionProviders: options.providers } : {}),
    };
    const values = new Map(plan.forward.initializer.map((t) => [t.name, t]));
    const load = (name: string, shape: readonly number[]): void => {
      const tensor = values.get(name);
      this.#current[name] = floats(
        tensor ? floatsOf(tensor).slice() : new Float32Array(sizeOf(shape)),
        shape,
      );
    };
    for (const { name, shape } of plan.candidates) load(name, shape);
    const statistics = plan.forward.node.flatMap((n) =>
      n.opType === 'BatchNormalization' && plan.form.batchNormalization === 'train'
        ? n.input.slice(3, 5)
        : [],
    );
    this.#buffers = [...new Set(statistics)].flatMap((name) => {
      const tensor = values.get(name);
      return tensor ? [{ name, shape: tensor.dims.map(Number) }] : [];
    });
    for (const { name, shape } of this.#buffers) load(name, shape);
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
    const trainer = new Trainer(plan, options);
    await trainer.#settle();
    return trainer;
  }

  /** Finds out which parameters the loss depends on, and lays out what is kept for each. */
  async #settle(): Promise<void> {
    const shaped = await this.#shape(CHECK_BATCH);
    this.#expectFloatOutput(shaped);
    this.#parameters = influentialParameters(shaped);
    if (this.#parameters.length === 0) throw nothingToTrain(this.#plan.forward);
    const kept = new Set([...this.#parameters, ...this.#buffers].map((p) => p.name));
    for (const name of Object.keys(this.#current)) if (!kept.has(name)) delete this.#current[name];
    for (const [name, tensor] of Object.entries(this.#current))
      this.#spare[name] = floats(new Float32Array(sizeOf(tensor.dims)), tensor.dims);
    for (const { name, shape } of this.#parameters) {
      const zeros = (): ort.Tensor => floats(new Float32Array(sizeOf(shape)), shape);
      for (const slot of this.#plan.optimizer.slots) this.#beside[stateName(name, slot)] = zeros();
      for (const companion of this.#companions)
        this.#beside[companionName(name, companion)] =
          companion === 'anchor' ? floats(this.#values(name).slice(), shape) : zeros();
    }
  }

  #expectFloatOutput(shaped: ShapedPlan): void {
    const { output, model } = this.#plan;
    const type = shaped.traced.facts.get(output)?.elementType;
    if (type === DATA_TYPE.float) return;
    const others = model.graph?.output.map((o) => o.name).filter((n) => n !== output);
    throw new ShoalError(
      'unsupported',
      `output "${output}" is ${TYPE_NAMES[type ?? 0] ?? `of ONNX element type ${type}`}, a loss needs float32${others && others.length > 0 ? `; choose another output: ${others.join(', ')}` : ''}`,
    );
  }

  /** What is trained, in a fixed order. */
  get parameters(): readonly Parameter[] {
    return this.#parameters;
  }

  /** Running statistics of BatchNormalization, which training replaces as well. */
  get buffers(): readonly Parameter[] {
    return this.#buffers;
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#steps;
  }

  async #shape(batch: number): Promise<ShapedPlan> {
    const plan = this.#plan;
    const feeds: Feeds = { ...this.#current };
    for (const input of plan.inputs) feeds[input.name] = zeroInput(input, batch);
    if (!('write' in plan.loss)) {
      for (const { value, info } of plan.loss.targets) {
        const tensor = info.type?.value.case === 'tensorType' ? info.type.value.value : undefined;
        const rest = tensor?.shape?.dim.slice(1).map((d) => Number(d.value.value ?? 1)) ?? [];
        feeds[value] = zeroInput({ name: value, elementType: tensor?.elemType ?? 1, rest }, batch);
      }
    }
    const traced = await trace({
      graph: plan.forward,
      opset: plan.opset,
      feeds,
      outputs: 'write' in plan.loss ? [plan.output] : [plan.output, plan.loss.value],
    });
    return { plan, traced, batch, parameters: this.#parameters, buffers: this.#buffers };
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
    if (this.#compiled.size > MAX_COMPILED && oldest !== undefined) {
      const dropped = this.#compiled.get(oldest);
      this.#compiled.delete(oldest);
      dropped?.then(releaseAll, () => undefined);
    }
    return compiled;
  }

  async #session(kind: GraphKind, batch: number): Promise<Session & { shaped: ShapedPlan }> {
    const { shaped, sessions } = await this.#compile(batch);
    let session = sessions.get(kind);
    if (!session) {
      const graph = WRITERS[kind](shaped);
      session = ort.InferenceSession.create(graph.bytes, this.#options).then((run) => ({
        graph: { ...graph, bytes: new Uint8Array() },
        run,
      }));
      sessions.set(kind, session);
    }
    return { ...(await session), shaped };
  }

  #batchFeeds(batch: Batch, shaped: ShapedPlan): Feeds {
    const { inputs } = this.#plan;
    const feeds: Feeds = {};
    for (const { name, elementType, rest } of inputs) {
      const values = named<InputValues>(batch.inputs, name, inputs.length === 1, 'inputs');
      const wanted = { elementType, dims: [batch.size, ...rest] };
      feeds[name] = fed(inputs.length === 1 ? 'inputs' : `input "${name}"`, values, wanted);
    }
    const targets = Object.entries(targetsOf(this.#plan, shaped.traced.facts));
    for (const [name, spec] of targets) {
      const values = named<BigInt64Array | Float32Array>(batch.targets, name, targets.length === 1, 'targets');
      feeds[targetName(name)] = fed(name === 'targets' ? name : `target "${name}"`, values, spec);
    }
    return feeds;
  }

  #expectBatch(batch: Batch): void {
    if (Number.isInteger(batch.size) && batch.size > 0) return;
    throw new ShoalError('invalid_argument', `a batch needs at least one sample, got ${batch.size}`);
  }

  /** Feeds of the optimizer and places for its results. */
  #updateIo(graph: TrainingGraph, learningRate: number): { feeds: Feeds; fetches: Record<string, ort.Tensor | null> } {
    const feeds: Feeds = { ...this.#beside };
    for (const scalar of this.#plan.optimizer.scalars)
      feeds[scalar.name] = floats(Float32Array.of(scalar.at(this.#steps + 1, learningRate)), []);
    const fetches: Record<string, ort.Tensor | null> = {};
    for (const [name, result] of graph.results) fetches[result] = this.#spare[name] ?? null;
    for (const [name, result] of graph.state)
      fetches[result] = this.#spare[name] ?? this.#beside[name] ?? null;
    return { feeds, fetches };
  }

  #swap(): void {
    [this.#current, this.#spare] = [this.#spare, this.#current];
    this.#steps++;
  }

  /**
   * One optimizer step on one batch.
   *
   * @param learningRate For this step; default the optimizer's.
   * @throws ShoalError `failed_precondition` when the loss is not finite; the parameters stay as
   *   they were before the step, the optimizer's state does not.
   */
  async step(batch: Batch, learningRate: number = this.#learningRate): Promise<StepResult> {
    this.#expectBatch(batch);
    const { graph, run, shaped } = await this.#session('step', batch.size);
    const update = this.#updateIo(graph, learningRate);
    const feeds = { ...this.#batchFeeds(batch, shaped), ...this.#current, ...update.feeds };
    const fetches: Record<string, ort.Tensor | null> = { ...update.fetches, [graph.loss]: null };
    for (const metric of Object.values(graph.metrics)) fetches[metric] = null;
    const results = await run.run(feeds, fetches);
    const loss = scalarOf(results, graph.loss);
    if (!Number.isFinite(loss)) {
      throw new ShoalError(
        'failed_precondition',
        `the loss is ${loss} at step ${this.#steps + 1}; training stopped with the last good parameters. Lower the learning rate (now ${learningRate}) or check the data`,
      );
    }
    this.#swap();
    return { loss, metrics: this.#metrics(graph, results) };
  }

  /**
   * One optimizer step with gradients from elsewhere (projected, averaged, noised).
   *
   * @param gradients One per parameter, in its shape.
   * @throws ShoalError `invalid_argument` for a missing gradient or a wrong length.
   */
  async apply(
    gradients: ReadonlyMap<string, Float32Array>,
    learningRate: number = this.#learningRate,
  ): Promise<void> {
    const { graph, run } = await this.#session('apply', CHECK_BATCH);
    const update = this.#updateIo(graph, learningRate);
    const feeds: Feeds = { ...update.feeds };
    for (const { name, shape } of this.#parameters) {
      const gradient = gradients.get(name);
      if (gradient?.length !== sizeOf(shape)) {
        throw new ShoalError(
          'invalid_argument',
          `parameter "${name}" of shape [${shape.join(', ')}] got a gradient of ${gradient?.length ?? 'no'} values`,
        );
      }
      feeds[gradientName(name)] = floats(gradient, shape);
      feeds[name] = this.#tensor(name);
    }
    await run.run(feeds, update.fetches);
    for (const { name } of this.#buffers) this.#copy(name);
    this.#swap();
  }

  /** A value the step did not touch must not be lost in the swap. */
  #copy(name: string): void {
    const to = this.#spare[name]?.data;
    if (to instanceof Float32Array) to.set(this.#values(name));
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
    const results = await run.run({ ...this.#batchFeeds(batch, shaped), ...this.#current });
    const gradients = new Map(
      [...graph.results].map(([name, result]) => [name, results[result]?.data as Float32Array]),
    );
    return {
      loss: scalarOf(results, graph.loss),
      metrics: this.#metrics(graph, results),
      gradients,
    };
  }

  /** Loss, metrics and output on a batch, with running statistics and without dropout; nothing is changed. */
  async evaluate(batch: Batch): Promise<EvaluationResult> {
    this.#expectBatch(batch);
    const { graph, run, shaped } = await this.#session('evaluate', batch.size);
    const results = await run.run({ ...this.#batchFeeds(batch, shaped), ...this.#current });
    const output = results[this.#plan.output]?.data as Float32Array;
    return { loss: scalarOf(results, graph.loss), metrics: this.#metrics(graph, results), output };
  }

  #tensor(name: string): ort.Tensor {
    const tensor = this.#current[name];
    if (!tensor) throw new Error(`parameter ${name} is not kept`);
    return tensor;
  }

  #values(name: string): Float32Array {
    const { data } = this.#tensor(name);
    if (!(data instanceof Float32Array)) throw new Error(`parameter ${name} is not float32`);
    return data;
  }

  /** Copies of all parameters, row-major, by name. */
  getParameters(): Map<string, Float32Array> {
    return new Map(this.#parameters.map(({ name }) => [name, this.#values(name).slice()]));
  }

  /** Copies of the running statistics, by name. */
  getBuffers(): Map<string, Float32Array> {
    return new Map(this.#buffers.map(({ name }) => [name, this.#values(name).slice()]));
  }

  #expectKnown(values: ReadonlyMap<string, Float32Array>, among: readonly Parameter[], what: string): void {
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
    this.#expectKnown(values, this.#parameters, 'trainable parameter');
    for (const [name, value] of values) this.#values(name).set(value);
  }

  /** Replaces running statistics; as {@link setParameters}. */
  setBuffers(values: ReadonlyMap<string, Float32Array>): void {
    this.#expectKnown(values, this.#buffers, 'running statistic');
    for (const [name, value] of values) this.#values(name).set(value);
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
    if (!this.#companions.includes(companion)) {
      throw new ShoalError(
        'failed_precondition',
        `this trainer has no ${companion}; create it with ${companion === 'offset' ? 'gradientOffset: true' : "penalty: { name: 'proximal' | 'elastic', … }"}`,
      );
    }
    this.#expectKnown(values, this.#parameters, 'trainable parameter');
    for (const [name, value] of values) {
      const { data } = this.#beside[companionName(name, companion)] ?? {};
      if (data instanceof Float32Array) data.set(value);
    }
  }

  /** Forgets the optimizer's state and step count, as at the start of a federated round. */
  resetOptimizer(): void {
    for (const { name } of this.#parameters) {
      for (const slot of this.#plan.optimizer.slots) {
        const { data } = this.#beside[stateName(name, slot)] ?? {};
        if (data instanceof Float32Array) data.fill(0);
      }
    }
    this.#steps = 0;
  }

  #trained(): ModelProto {
    const { model } = this.#plan;
    const { graph } = model;
    if (!graph) throw new Error('the model has no graph');
    const initializer = graph.initializer.map((t) =>
      t.name in this.#current
        ? floatTensor(t.name, t.dims.map(Number), this.#values(t.name))
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
    for (const each of compiled) await releaseAll(await each);
  }
}

async function releaseAll(compiled: Compiled): Promise<void> {
  for (const session of compiled.sessions.values()) await (await session).run.release();
}
