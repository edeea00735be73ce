import { ShoalError, seededRandom } from '@shoal/core';
import { type Batch, type LossName, type OptimizerOptions, Trainer } from '@shoal/training';
import { batches, type Samples, slice } from '../data/samples.ts';
import type {
  Carried,
  FederatedModel,
  LayoutEntry,
  LocalResult,
  LocalTask,
  Vectors,
} from './federated-model.ts';

/** How this participant trains where that differs from what the federation asks. */
export type LocalTraining = Partial<Pick<LocalTask, 'epochs' | 'batchSize' | 'learningRate'>>;

export interface TrainerModelOptions {
  /** The ONNX file every participant starts from. */
  readonly model: Uint8Array;
  readonly samples: Samples;
  /** Samples the given model is scored on before training; default the training samples. */
  readonly validation?: Samples;
  /** Default softmax cross-entropy. */
  readonly loss?: LossName;
  /** Local optimizer; its learning rate is the federation's. Default plain SGD. */
  readonly optimizer?: OptimizerOptions;
  readonly threads?: number;
  readonly localTraining?: LocalTraining;
  /** Batch sizes the trainer keeps compiled; many participants on one runtime have many. */
  readonly compiledSizes?: number;
}

const EVALUATION_BATCH = 256;

function valuesOf(layout: readonly LayoutEntry[]): number {
  return layout.reduce((n, { shape }) => n + shape.reduce((a, b) => a * b, 1), 0);
}

function* untilAborted(parts: Iterable<Samples>, signal: AbortSignal): Generator<Batch> {
  for (const { inputs, labels, size } of parts) {
    signal.throwIfAborted();
    yield { inputs, targets: labels, size };
  }
}

/**
 * An ONNX model as a participant's: parameters and running statistics are one vector, which stays
 * with the runtime between rounds.
 */
export class TrainerModel implements FederatedModel {
  readonly layout: readonly LayoutEntry[];
  readonly size: number;
  readonly trainedSize: number;
  readonly samples: number;
  readonly #options: TrainerModelOptions;
  readonly #trainer: Trainer;
  readonly #isOwner: boolean;
  /** The vector of the model as it was given. */
  readonly #initial: Float32Array;
  /** c_k of SCAFFOLD. */
  #control: Float32Array | undefined;
  /** The personal model of Ditto. */
  #personal: Float32Array | undefined;
  #personalTrainer: Trainer | undefined;

  private constructor(
    options: TrainerModelOptions,
    trainer: Trainer,
    owner?: Pick<TrainerModel, 'initial'>,
  ) {
    this.#options = options;
    this.#trainer = trainer;
    this.#isOwner = owner === undefined;
    this.samples = options.samples.size;
    this.layout = [...trainer.parameters, ...trainer.buffers];
    this.size = valuesOf(this.layout);
    this.trainedSize = valuesOf(trainer.parameters);
    this.#initial = owner?.initial() ?? this.#read(trainer);
  }

  /** @param local What the federation's strategy asks of local training. */
  static async create(
    options: TrainerModelOptions,
    local: Pick<LocalTask, 'proximal' | 'controlVariates'> = {
      proximal: 0,
      controlVariates: false,
    },
  ): Promise<TrainerModel> {
    const trainer = await Trainer.create({
      model: options.model,
      loss: options.loss ?? 'softmax-cross-entropy',
      optimizer: options.optimizer ?? { name: 'sgd', learningRate: 0.01 },
      threads: options.threads ?? 1,
      ...(options.compiledSizes ? { compiledSizes: options.compiledSizes } : {}),
      ...(local.proximal > 0 ? { penalty: { name: 'proximal', strength: local.proximal } } : {}),
      ...(local.controlVariates ? { gradientOffset: true } : {}),
    });
    return new TrainerModel(options, trainer);
  }

  /**
   * Another participant on the same runtime, for simulations: a thousand of them take the memory of one.
   * Its owner, the model that was created, is closed last.
   */
  withSamples(samples: Samples): TrainerModel {
    return new TrainerModel({ ...this.#options, samples }, this.#trainer, this);
  }

  #read(trainer: Trainer): Float32Array {
    const vector = new Float32Array(this.size);
    const values = new Map([...trainer.getParameters(), ...trainer.getBuffers()]);
    let at = 0;
    for (const { name } of this.layout) {
      const part = values.get(name) ?? new Float32Array();
      vector.set(part, at);
      at += part.length;
    }
    return vector;
  }

  #cut(vector: Float32Array): Map<string, Float32Array> {
    let at = 0;
    return new Map(
      this.layout.map(({ name, shape }) => {
        const size = shape.reduce((a, b) => a * b, 1);
        const part = vector.subarray(at, at + size);
        at += size;
        return [name, part];
      }),
    );
  }

  #parametersOf(vector: Float32Array): Map<string, Float32Array> {
    const parts = this.#cut(vector);
    return new Map(
      this.#trainer.parameters.map(({ name }) => [name, parts.get(name) ?? new Float32Array()]),
    );
  }

  #write(trainer: Trainer, vector: Float32Array): void {
    const parts = this.#cut(vector);
    trainer.setParameters(this.#parametersOf(vector));
    trainer.setBuffers(
      new Map(trainer.buffers.map(({ name }) => [name, parts.get(name) ?? new Float32Array()])),
    );
  }

  initial(): Float32Array {
    return this.#initial.slice();
  }

  /** The model file with a vector's values put in. */
  deploy(vector: Float32Array): Uint8Array {
    this.#write(this.#trainer, vector.subarray(0, this.size));
    return this.#trainer.deploy();
  }

  /** Loss and accuracy of a vector on samples. */
  async score(vector: Float32Array, samples: Samples): Promise<Record<string, number>> {
    this.#write(this.#trainer, vector.subarray(0, this.size));
    return await scores(this.#trainer, samples);
  }

  async train(vector: Float32Array, asked: LocalTask, signal: AbortSignal): Promise<LocalResult> {
    const task = { ...asked, ...this.#options.localTraining };
    const weights = vector.subarray(0, this.size);
    const { samples, validation = samples } = this.#options;
    const trainer = this.#trainer;
    this.#write(trainer, weights);
    const metrics: Record<string, number> = await scores(trainer, validation);
    if (task.evaluateOnly) return { delta: new Float32Array(), samples: samples.size, metrics };
    const shared = vector.subarray(this.size);
    const control = this.#begin(weights, shared, task);
    const steps = await this.#epochs(trainer, task, signal);
    const after = this.#read(trainer);
    const change = after.map((v, i) => v - (weights[i] ?? 0));
    if (task.personal > 0) Object.assign(metrics, await this.#trainPersonal(weights, task, signal));
    if (!control) return { delta: change, samples: samples.size, metrics };
    return {
      delta: this.#withControl(change, { control, shared, scale: 1 / (steps * task.learningRate) }),
      samples: samples.size,
      metrics,
    };
  }

  /** Puts anchor and control variates in place; the latter only for SCAFFOLD. */
  #begin(weights: Float32Array, shared: Float32Array, task: LocalTask): Float32Array | undefined {
    const trainer = this.#trainer;
    trainer.resetOptimizer();
    if (task.proximal > 0) trainer.setCompanion('anchor', this.#parametersOf(weights));
    if (!task.controlVariates) return undefined;
    this.#control ??= new Float32Array(this.size);
    const control = this.#control;
    const offset = control.map((c, i) => (shared[i] ?? 0) - c);
    trainer.setCompanion('offset', this.#parametersOf(offset));
    return control;
  }

  /** Δc = (c_k⁺ − c_k) with c_k⁺ = c_k − c + (w − y)/(K·η), behind the change of the model. */
  #withControl(
    change: Float32Array,
    at: { control: Float32Array; shared: Float32Array; scale: number },
  ): Float32Array {
    const delta = new Float32Array(this.size * 2);
    delta.set(change);
    const control = at.control.slice();
    for (let i = 0; i < this.trainedSize; i++) {
      const moved = -(at.shared[i] ?? 0) - (change[i] ?? 0) * at.scale;
      delta[this.size + i] = moved;
      control[i] = (control[i] ?? 0) + moved;
    }
    this.#control = control;
    return delta;
  }

  async #epochs(trainer: Trainer, task: LocalTask, signal: AbortSignal): Promise<number> {
    const random = seededRandom(task.seed).fork(`round ${task.round}`);
    const { samples } = this.#options;
    let steps = 0;
    for (let epoch = 0; epoch < task.epochs; epoch++) {
      const taken = trainer.train(
        untilAborted(batches(samples, task.batchSize, random), signal),
        task.learningRate,
      );
      for await (const _ of taken) steps++;
    }
    return steps;
  }

  /** Ditto: the personal model takes as many steps, pulled towards the shared one. */
  async #trainPersonal(
    weights: Float32Array,
    task: LocalTask,
    signal: AbortSignal,
  ): Promise<Record<string, number>> {
    this.#personalTrainer ??= await Trainer.create({
      model: this.#options.model,
      loss: this.#options.loss ?? 'softmax-cross-entropy',
      optimizer: this.#options.optimizer ?? { name: 'sgd', learningRate: 0.01 },
      threads: this.#options.threads ?? 1,
      penalty: { name: 'proximal', strength: task.personal },
    });
    const trainer = this.#personalTrainer;
    this.#write(trainer, this.#personal ?? weights);
    trainer.resetOptimizer();
    trainer.setCompanion('anchor', this.#parametersOf(weights));
    await this.#epochs(trainer, task, signal);
    this.#personal = this.#read(trainer);
    const { samples, validation = samples } = this.#options;
    const { accuracy = 0 } = await scores(trainer, validation);
    return { personalAccuracy: accuracy };
  }

  carried(): Carried {
    return {
      shared: this.#control ? { control: this.#control } : {},
      own: this.#personal ? { personal: this.#personal } : {},
    };
  }

  /** @throws ShoalError `data_corrupt` for a vector of another model. */
  carry({ control, personal }: Vectors): void {
    for (const vector of [control, personal])
      if (vector && vector.length !== this.size)
        throw new ShoalError(
          'data_corrupt',
          `a vector of ${vector.length} values does not fit a model of ${this.size}`,
        );
    this.#control = control;
    this.#personal = personal;
  }

  /** The personal model of Ditto as an ONNX file; undefined before the first round. */
  deployPersonal(): Uint8Array | undefined {
    return this.#personal && this.deploy(this.#personal);
  }

  async close(): Promise<void> {
    if (this.#isOwner) await this.#trainer.release();
    await this.#personalTrainer?.release();
  }
}

async function scores(trainer: Trainer, samples: Samples): Promise<Record<string, number>> {
  const sums: Record<string, number> = { loss: 0 };
  let part: Samples;
  for (let at = 0; at < samples.size; at += part.size) {
    // Sizes are powers of two: few graphs are compiled, whatever the participants hold.
    const rest = Math.min(EVALUATION_BATCH, samples.size - at);
    part = slice(samples, at, at + 2 ** Math.floor(Math.log2(rest)));
    const { loss, metrics } = await trainer.evaluate({
      inputs: part.inputs,
      targets: part.labels,
      size: part.size,
    });
    for (const [name, value] of Object.entries({ loss, ...metrics }))
      sums[name] = (sums[name] ?? 0) + value * part.size;
  }
  return Object.fromEntries(
    Object.entries(sums).map(([k, v]) => [k, v / Math.max(1, samples.size)]),
  );
}
