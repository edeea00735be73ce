import { messageOf, ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { type Batch, batchFeeds, type Feeds, floats, stackFeeds, TYPE_NAMES } from './batch.ts';
import { nothingToTrain, type Parameter } from './candidates.ts';
import { dropTrained } from './drop-trained.ts';
import { GroupSize, grouped, MOST_STEPS } from './groups.ts';
import { readModel, readModelFile, writeModel, writeModelFile } from './onnx/model-file.ts';
import type { ModelProto } from './onnx/onnx_pb.ts';
import { revise } from './onnx/revise.ts';
import { copyFloats, DATA_TYPE, floatTensor, sizeOf } from './onnx/tensor-data.ts';
import { fixedBatch, type Plan, type PlanOptions, planTraining } from './plan.ts';
import { runInto } from './run-into.ts';
import type { Schedule } from './schedules.ts';
import { type ExecutionProvider, type Session, Sessions } from './sessions.ts';
import { type ShapedPlan, shapePlan } from './shaped-plan.ts';
import { drawsNumbers } from './training-form.ts';
import {
  type Companion,
  gradientName,
  influentialParameters,
  type TrainingGraph,
  targetsOf,
} from './training-graphs.ts';
import { TrainingState } from './training-state.ts';

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

const COMPILED_SIZES = 8;
/** Parameters from which on a gradient less in memory is worth more than the time to ask for it again each step. */
const LARGE_MODEL = 2 ** 25;
/** Batch size on which a model is checked before the first batch comes. */
const CHECK_BATCH = 2;

function scalarOf(results: ort.InferenceSession.OnnxValueMapType, name: string, at = 0): number {
  const value = results[name]?.data[at];
  return typeof value === 'number' ? value : Number.NaN;
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
  readonly #learningRate: number;
  readonly #state: TrainingState;
  readonly #sessions: Sessions;
  readonly #groupSize = new GroupSize();
  /** Several steps go into one run where the runtime's loop is at home: on the CPU, outside of a browser. */
  readonly #stepKind: 'step' | 'steps';
  /** Whether steps draw random numbers: then none may be taken a second time. */
  readonly #draws: boolean;
  #steps = 0;
  /** Steps of the optimizer's present state. */
  #age = 0;

  private constructor(plan: Plan, state: TrainingState, options: TrainerOptions) {
    this.#plan = plan;
    this.#state = state;
    this.#learningRate = options.optimizer.learningRate;
    const { compiledSizes: most = COMPILED_SIZES, threads = 2, providers } = options;
    const keepsMemory = state.blocks.reduce((n, b) => n + b.size, 0) < LARGE_MODEL;
    const sessions = { most, threads, providers, keepsMemory };
    this.#sessions = new Sessions((batch) => this.#shape(batch), sessions);
    const onCpu = providers?.every((p) => p === 'cpu') ?? true;
    this.#draws = drawsNumbers(plan.forward, plan.form.dropout);
    this.#stepKind = onCpu && ort.env.versions.web === undefined ? 'steps' : 'step';
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
    const tensors = new Map(plan.forward.initializer.map((t) => [t.name, t]));
    const all = new TrainingState(plan, plan.candidates, (name, into) => {
      const tensor = tensors.get(name);
      if (tensor) copyFloats(tensor, into);
    });
    const batch = fixedBatch(plan) ?? CHECK_BATCH;
    const { blocks, bufferBlocks: buffers } = all;
    const values = all.memberFeeds();
    const shaped = await shapePlan(plan, { batch, values, parameters: blocks, buffers });
    expectFloatOutput(shaped);
    const parameters = influentialParameters(shaped);
    if (parameters.length === 0) throw nothingToTrain(plan.forward);
    const state =
      parameters.length === plan.candidates.length
        ? all
        : new TrainingState(plan, parameters, (name, into) => into.set(all.values(name)));
    dropTrained(plan, state, typeof options.model === 'string');
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

  #batchFeeds(batch: Batch, shaped: ShapedPlan): Feeds {
    const targets = targetsOf(this.#plan, shaped.traced.facts);
    return batchFeeds(batch, this.#plan.inputs, targets);
  }

  #expectBatch(size: number): void {
    const fixed = fixedBatch(this.#plan);
    if (fixed !== undefined && size !== fixed)
      throw new ShoalError(
        'invalid_argument',
        `this model takes batches of ${fixed} samples only, got ${size}; export it with a dynamic batch to train on others`,
      );
    if (Number.isInteger(size) && size > 0) return;
    throw new ShoalError('invalid_argument', `a batch needs at least one sample, got ${size}`);
  }

  /** The numbers that an update reads, `step` counted from 1 since the optimizer began. */
  #scalarFeeds(step: number, learningRate: number): Feeds {
    return Object.fromEntries(
      this.#plan.optimizer.scalars.map((scalar) => [
        scalar.name,
        floats(Float32Array.of(scalar.at(step, learningRate)), []),
      ]),
    );
  }

  /** What an update reads beside parameters and gradients. */
  #updateFeeds(learningRate: number): Feeds {
    return { ...this.#state.besideFeeds(), ...this.#scalarFeeds(this.#age + 1, learningRate) };
  }

  #advance(steps = 1): void {
    this.#state.swap();
    this.#steps += steps;
    this.#age += steps;
  }

  /**
   * One optimizer step on one batch.
   *
   * @param learningRate For this step; default the optimizer's.
   * @throws ShoalError `failed_precondition` when the loss or a new parameter is not finite; the parameters
   *   stay as they were before the step, the optimizer begins anew.
   */
  async step(batch: Batch, learningRate: number = this.#learningRate): Promise<StepResult> {
    expectRate(learningRate);
    const [result] = (await this.#take([batch], [learningRate])) ?? [];
    if (!result) throw new Error('a step gave nothing');
    return result;
  }

  /**
   * One optimizer step per batch, as {@link step} takes them and to the same bits, but several in one run of the
   * runtime where they are short: small models train up to twice as fast. Models that draw random numbers (dropout) are
   * trained step by step.
   *
   * @param batches Read as they are needed, and copied: a source may use its arrays again. What was read before the
   *   source fails is trained on.
   * @param learningRate For all steps, or by step, counted from 1; default the optimizer's.
   * @param options.together Most steps in one run, from 1 to 32. Default 32; 1 for batches that depend on what the step
   *   before gave.
   * @returns What each step gave, in order. Who leaves early finds up to 31 further steps taken.
   * @throws ShoalError As {@link step}, after the results of all steps before.
   */
  async *train(
    batches: Iterable<Batch> | AsyncIterable<Batch>,
    learningRate: number | Schedule = this.#learningRate,
    { together = MOST_STEPS }: { readonly together?: number } = {},
  ): AsyncGenerator<StepResult, void, undefined> {
    if (!(Number.isInteger(together) && together >= 1))
      throw new ShoalError(
        'invalid_argument',
        `together must be a whole number from 1 to ${MOST_STEPS}, got ${together}`,
      );
    const rate = typeof learningRate === 'number' ? (): number => learningRate : learningRate;
    const isSingle = this.#stepKind === 'step' || this.#draws;
    const most = (): number => (isSingle ? 1 : Math.min(together, this.#groupSize.most));
    for await (const group of grouped(batches, most)) yield* this.#takeAll(group, rate);
  }

  /** The steps of a group, in one run or one by one; up to the first whose rate is none. */
  async *#takeAll(group: readonly Batch[], rate: Schedule): AsyncGenerator<StepResult> {
    const rates: number[] = [];
    let refusal: unknown;
    try {
      for (const [i] of group.entries()) {
        const learningRate = rate(this.#steps + 1 + i);
        expectRate(learningRate);
        rates.push(learningRate);
      }
    } catch (error) {
      refusal = error;
    }
    const ready = group.slice(0, rates.length);
    // What stands in the way of several is told by the one it is about.
    const results =
      ready.length > 1 ? await this.#take(ready, rates).catch(() => undefined) : undefined;
    if (results) yield* results;
    else for (const [i, batch] of ready.entries()) yield await this.step(batch, rates[i]);
    if (refusal !== undefined) throw refusal;
  }

  /** What the steps of a group are fed. */
  #stepFeeds(group: readonly Batch[], rates: readonly number[], shaped: ShapedPlan): Feeds {
    const steps = group.map((batch, i) => ({
      ...this.#batchFeeds(batch, shaped),
      ...this.#scalarFeeds(this.#age + 1 + i, rates[i] ?? 0),
    }));
    const own = this.#stepKind === 'steps' ? stackFeeds(steps) : steps[0];
    return { ...this.#state.valueFeeds(), ...this.#state.besideFeeds(), ...own };
  }

  /** @throws ShoalError `invalid_argument` with what the runtime says against a batch. */
  async #run(
    { run, graph }: Session,
    given: Feeds,
    fetches: Record<string, ort.Tensor | null>,
  ): Promise<ort.InferenceSession.OnnxValueMapType> {
    const feeds = Object.fromEntries(
      Object.entries(given).map(([name, tensor]) => [graph.renamed?.get(name) ?? name, tensor]),
    );
    try {
      return await runInto(run, feeds, fetches);
    } catch (error) {
      throw new ShoalError(
        'invalid_argument',
        `step ${this.#steps + 1} cannot be taken: ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  /**
   * Takes all steps of a group in one run, or none of them.
   *
   * @returns undefined when one of several leaves something that is not finite.
   * @throws ShoalError When the only one does, and for batches that cannot be fed.
   */
  async #take(
    group: readonly Batch[],
    rates: readonly number[],
  ): Promise<StepResult[] | undefined> {
    const size = group[0]?.size ?? 0;
    this.#expectBatch(size);
    const session = await this.#sessions.get(this.#stepKind, size);
    const { graph, shaped } = session;
    const isOne = group.length === 1;
    const feeds = this.#stepFeeds(group, rates, shaped);
    const fetches = isOne ? this.#state.fetches(graph) : this.#state.fetchesOfMany(graph);
    for (const name of [graph.loss, graph.size ?? '', ...Object.values(graph.metrics)])
      fetches[name] = null;
    const startedAt = performance.now();
    const results = await this.#run(session, feeds, fetches);
    this.#groupSize.took(performance.now() - startedAt, group.length);
    const numbers = group.map((_, i) => ({
      loss: scalarOf(results, graph.loss, i),
      size: scalarOf(results, graph.size ?? '', i),
    }));
    if (isOne) this.#expectFinite({ size: 0, ...numbers[0], learningRate: rates[0] ?? 0 });
    else if (!numbers.every((n) => Number.isFinite(n.loss) && Number.isFinite(n.size)))
      return undefined;
    else this.#state.takeState(graph, results);
    this.#advance(group.length);
    return numbers.map(({ loss }, i) => ({ loss, metrics: this.#metrics(graph, results, i) }));
  }

  /** Stops before a step takes effect that would leave nothing to go on with. */
  #expectFinite(at: { loss?: number; size: number; learningRate: number }): void {
    const { loss = 0, size, learningRate } = at;
    if (Number.isFinite(loss) && Number.isFinite(size)) return;
    const step = this.#steps + 1;
    const name = Number.isFinite(loss) ? this.#state.notFinite() : undefined;
    const where = name === undefined ? '' : ` for parameter "${name}"`;
    const what = Number.isFinite(loss)
      ? `the gradient is not finite, or the step is too large,${where}`
      : `the loss is ${loss}`;
    this.#state.resetOptimizer();
    this.#age = 0;
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
    const { graph, run } = await this.#sessions.get('apply', fixedBatch(this.#plan) ?? CHECK_BATCH);
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
    at = 0,
  ): Record<string, number> {
    return Object.fromEntries(
      Object.entries(graph.metrics).map(([k, v]) => [k, scalarOf(results, v, at)]),
    );
  }

  /** Gradient of the mean loss for every parameter; nothing is changed. */
  async gradients(
    batch: Batch,
  ): Promise<StepResult & { readonly gradients: Map<string, Float32Array> }> {
    this.#expectBatch(batch.size);
    const { graph, run, shaped } = await this.#sessions.get('gradients', batch.size);
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
    this.#expectBatch(batch.size);
    const { graph, run, shaped } = await this.#sessions.get('evaluate', batch.size);
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
    this.#age = 0;
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
    await this.#sessions.release();
  }
}
