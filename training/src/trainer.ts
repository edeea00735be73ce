import { create } from '@bufbuild/protobuf';
import { ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { floatsOf, floatTensor, readModel, sizeOf, writeModel } from './onnx/model-file.ts';
import { GraphProtoSchema, ModelProtoSchema } from './onnx/onnx_pb.ts';
import {
  evaluateGraph,
  gradientsGraph,
  type Parameter,
  type Plan,
  type PlanOptions,
  planTraining,
  stateName,
  stepGraph,
  TARGETS,
  type TrainingGraph,
} from './training-graphs.ts';

export interface TrainerOptions extends Omit<PlanOptions, 'model'> {
  /** The ONNX file to train. */
  readonly model: Uint8Array;
  /** Threads of the runtime; default 2. The same number gives the same result bit for bit. */
  readonly threads?: number;
}

/** One batch. `targets`: class indices for cross-entropy, values for mean squared error. */
export interface Batch {
  /** Flattened input, row-major. */
  readonly inputs: Float32Array;
  readonly targets: BigInt64Array | Float32Array;
  /** Number of samples. */
  readonly size: number;
}

export interface StepResult {
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
}

export interface EvaluationResult extends StepResult {
  /** The model's output, row-major. */
  readonly output: Float32Array;
}

type Feeds = Record<string, ort.Tensor>;

interface Session {
  readonly graph: TrainingGraph;
  readonly run: ort.InferenceSession;
}

function floatTensorOf(values: Float32Array, dims: readonly number[]): ort.Tensor {
  return new ort.Tensor('float32', values, dims);
}

function scalarOf(results: ort.InferenceSession.OnnxValueMapType, name: string): number {
  const value = results[name]?.data[0];
  return typeof value === 'number' ? value : Number.NaN;
}

/**
 * Trains an ONNX model on the stock runtime: the training step is itself an ONNX graph.
 * Parameters and optimizer state live in runtime tensors that swap roles (input, preallocated
 * output) from step to step; only the batch is copied. Release it when done.
 */
export class Trainer {
  readonly #plan: Plan;
  readonly #options: ort.InferenceSession.SessionOptions;
  readonly #learningRate: number;
  #current: Feeds = {};
  #spare: Feeds = {};
  #steps = 0;
  #sessions = new Map<string, Promise<Session>>();

  private constructor(plan: Plan, options: TrainerOptions) {
    this.#plan = plan;
    this.#learningRate = options.optimizer.learningRate;
    this.#options = {
      intraOpNumThreads: options.threads ?? 2,
      interOpNumThreads: 1,
      graphOptimizationLevel: 'all',
      logSeverityLevel: 3,
    };
    const values = new Map(plan.forward.initializer.map((t) => [t.name, t]));
    for (const { name, shape } of plan.parameters) {
      const tensor = values.get(name);
      this.#current[name] = floatTensorOf(
        tensor ? floatsOf(tensor).slice() : new Float32Array(sizeOf(shape)),
        shape,
      );
      for (const slot of plan.optimizer.slots)
        this.#current[stateName(name, slot)] = floatTensorOf(
          new Float32Array(sizeOf(shape)),
          shape,
        );
    }
    for (const [name, tensor] of Object.entries(this.#current)) {
      this.#spare[name] = floatTensorOf(new Float32Array(sizeOf(tensor.dims)), tensor.dims);
    }
  }

  /**
   * Reads a model and prepares it for training.
   *
   * @throws ShoalError `data_corrupt`, `unsupported` or `invalid_argument` saying which node,
   *   operator or parameter stands in the way.
   */
  static async create(options: TrainerOptions): Promise<Trainer> {
    const plan = planTraining({ ...options, model: readModel(options.model) });
    const trainer = new Trainer(plan, options);
    await trainer.#session('step', stepGraph);
    return trainer;
  }

  /** What is trained, in a fixed order. */
  get parameters(): readonly Parameter[] {
    return this.#plan.parameters;
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#steps;
  }

  #session(kind: string, write: (plan: Plan) => TrainingGraph): Promise<Session> {
    const known = this.#sessions.get(kind);
    if (known) return known;
    const open = async (): Promise<Session> => {
      const graph = write(this.#plan);
      return { graph, run: await ort.InferenceSession.create(graph.bytes, this.#options) };
    };
    const session = open();
    this.#sessions.set(kind, session);
    return session;
  }

  #feeds(batch: Batch): Feeds {
    const { input, output, loss, shapes } = this.#plan;
    const rest = input.shape.slice(1).map(Number);
    const wanted = batch.size * sizeOf(rest);
    if (batch.inputs.length !== wanted) {
      throw new ShoalError(
        'invalid_argument',
        `the batch has ${batch.inputs.length} input values; ${batch.size} samples of shape [${rest.join(', ')}] need ${wanted}`,
      );
    }
    const targetRest = loss
      .targets(shapes.get(output.name) ?? [])
      .shape.slice(1)
      .map(Number);
    if (batch.targets.length !== batch.size * sizeOf(targetRest)) {
      throw new ShoalError(
        'invalid_argument',
        `the batch has ${batch.targets.length} target values; ${batch.size} samples need ${batch.size * sizeOf(targetRest)}`,
      );
    }
    const dims = [batch.size, ...targetRest];
    const targets =
      batch.targets instanceof Float32Array
        ? floatTensorOf(batch.targets, dims)
        : new ort.Tensor('int64', batch.targets, dims);
    return { [input.name]: floatTensorOf(batch.inputs, [batch.size, ...rest]), [TARGETS]: targets };
  }

  #parameterFeeds(): Feeds {
    return Object.fromEntries(
      this.#plan.parameters.map(({ name }) => [name, this.#current[name]]),
    ) as Feeds;
  }

  /**
   * One optimizer step on one batch.
   *
   * @param learningRate For this step; default the optimizer's.
   * @throws ShoalError `failed_precondition` when the loss is not finite; the parameters stay as
   *   they were before the step.
   */
  async step(batch: Batch, learningRate: number = this.#learningRate): Promise<StepResult> {
    const { graph, run } = await this.#session('step', stepGraph);
    const feeds: Feeds = { ...this.#feeds(batch), ...this.#current };
    for (const scalar of this.#plan.optimizer.scalars) {
      feeds[scalar.name] = floatTensorOf(
        Float32Array.of(scalar.at(this.#steps + 1, learningRate)),
        [],
      );
    }
    const fetches: Record<string, ort.Tensor | null> = { [graph.loss]: null };
    for (const metric of Object.values(graph.metrics)) fetches[metric] = null;
    for (const [name, result] of [...graph.results, ...graph.state])
      fetches[result] = this.#spare[name] ?? null;
    const results = await run.run(feeds, fetches);
    const loss = scalarOf(results, graph.loss);
    if (!Number.isFinite(loss)) {
      throw new ShoalError(
        'failed_precondition',
        `the loss is ${loss} at step ${this.#steps + 1}; training stopped with the last good parameters. Lower the learning rate (now ${learningRate}) or check the data`,
      );
    }
    [this.#current, this.#spare] = [this.#spare, this.#current];
    this.#steps++;
    return { loss, metrics: this.#metrics(graph, results) };
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
    const { graph, run } = await this.#session('gradients', gradientsGraph);
    const results = await run.run({ ...this.#feeds(batch), ...this.#parameterFeeds() });
    const gradients = new Map(
      [...graph.results].map(([name, result]) => [name, results[result]?.data as Float32Array]),
    );
    return {
      loss: scalarOf(results, graph.loss),
      metrics: this.#metrics(graph, results),
      gradients,
    };
  }

  /** Loss, metrics and output on a batch; nothing is changed. */
  async evaluate(batch: Batch): Promise<EvaluationResult> {
    const { graph, run } = await this.#session('evaluate', evaluateGraph);
    const results = await run.run({ ...this.#feeds(batch), ...this.#parameterFeeds() });
    const output = results[this.#plan.output.name]?.data as Float32Array;
    return { loss: scalarOf(results, graph.loss), metrics: this.#metrics(graph, results), output };
  }

  #values(name: string): Float32Array {
    const data = this.#current[name]?.data;
    if (!(data instanceof Float32Array)) throw new Error(`parameter ${name} is not float32`);
    return data;
  }

  /** Copies of all parameters, row-major, by name. */
  getParameters(): Map<string, Float32Array> {
    return new Map(this.#plan.parameters.map(({ name }) => [name, this.#values(name).slice()]));
  }

  /**
   * Replaces parameters; those not named stay.
   *
   * @throws ShoalError `invalid_argument` for an unknown name or a wrong length; then nothing changes.
   */
  setParameters(values: ReadonlyMap<string, Float32Array>): void {
    for (const [name, value] of values) {
      const known = this.#plan.parameters.find((p) => p.name === name);
      if (!known)
        throw new ShoalError('invalid_argument', `the model has no trainable parameter "${name}"`);
      if (value.length !== sizeOf(known.shape)) {
        throw new ShoalError(
          'invalid_argument',
          `parameter "${name}" has shape [${known.shape.join(', ')}], got ${value.length} values`,
        );
      }
    }
    for (const [name, value] of values) this.#values(name).set(value);
  }

  /** The user's model with the trained parameters put back; opens in any ONNX consumer. */
  deploy(): Uint8Array {
    const { model, forward } = this.#plan;
    const trained = this.getParameters();
    const initializer = forward.initializer.map((t) => {
      const values = trained.get(t.name);
      return values ? floatTensor(t.name, t.dims.map(Number), values) : t;
    });
    return writeModel(
      create(ModelProtoSchema, {
        ...model,
        graph: create(GraphProtoSchema, { ...forward, initializer }),
      }),
    );
  }

  /** Frees the runtime's sessions. The trainer cannot be used afterwards. */
  async release(): Promise<void> {
    const sessions = [...this.#sessions.values()];
    this.#sessions = new Map();
    for (const session of sessions) await (await session).run.release();
  }
}
