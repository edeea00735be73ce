import { type Random, ShoalError, seededRandom } from '@shoal/core';
import {
  inspectModel,
  type LossName,
  type LossOptions,
  type OptimizerOptions,
  Trainer,
  type TrainerOptions,
} from '@shoal/training';
import { batches, type Samples, slice } from '../../data/samples.ts';
import { argMax, classificationMetrics } from '../../estimator/classification-metrics.ts';
import type { Metrics, TrainOptions } from '../../estimator/estimator.ts';
import { addSquares, projectGradients } from './gradients.ts';
import { Memory, type Remembered, remembered } from './memory.ts';

interface MemoryOptions {
  /** Samples kept over all tasks, ≥ 1. Default 200. */
  readonly memory?: number;
  /** Samples replayed beside each batch; default as many as the batch has. */
  readonly replayed?: number;
  /** Default `reservoir`. */
  readonly keep?: 'reservoir' | 'class-balanced';
}

/** What is done against forgetting while one model learns task after task. */
export type ContinualStrategy =
  /** Nothing: the baseline. */
  | { readonly name: 'fine-tune' }
  /** Experience replay: labels of kept samples beside every batch (Chaudhry et al. 2019, 1902.10486). */
  | ({ readonly name: 'rehearsal' } & MemoryOptions)
  /**
   * DER++ (Buzzega et al. 2020, 2004.07211, eq. 6): L = CE(x, y) + α·MSE(h(x′), z′) + β·CE(x″, y″).
   * Here z′ are the logits at the end of the task the sample came from, not at the step it was drawn.
   */
  | ({ readonly name: 'der++'; readonly alpha?: number; readonly beta?: number } & MemoryOptions)
  /** A-GEM (Chaudhry et al. 2019, 1812.00420, eq. 11): steps may not raise the loss on the memory. */
  | ({ readonly name: 'a-gem' } & MemoryOptions)
  /**
   * Online EWC (Schwarz et al. 2018, 1805.06370, eq. 8): λ/2 Σ F_i(θ_i − θ*_i)², F ← γF + F_task. F is
   * the diagonal Fisher information from per-sample gradients, in expectation over the model's labels.
   */
  | {
      readonly name: 'ewc';
      /** λ > 0. Default 100. A step is stable while rate · λ · F stays below 2. */
      readonly strength?: number;
      /** γ in [0, 1]. Default 1. */
      readonly decay?: number;
      /** Samples the Fisher information is measured on. Default 100. */
      readonly fisherSamples?: number;
    }
  /** Learning without forgetting (Li & Hoiem 2016, 1606.09282): λ·τ²·KL(old model ‖ new) on new samples. */
  | { readonly name: 'lwf'; readonly weight?: number; readonly temperature?: number };

export type ContinualName = ContinualStrategy['name'];

export const CONTINUAL_NAMES: readonly ContinualName[] = [
  'fine-tune',
  'rehearsal',
  'der++',
  'a-gem',
  'ewc',
  'lwf',
];

export interface ContinualOptions {
  /** A classifier in an ONNX file; its first output is taken as logits. */
  readonly model: Uint8Array;
  readonly strategy: ContinualStrategy;
  /** Default SGD with learning rate 0.05; its state is forgotten between tasks. */
  readonly optimizer?: OptimizerOptions;
  /** Passes over a task, ≥ 1. Default 3. */
  readonly epochs?: number;
  /** Default 32. */
  readonly batchSize?: number;
  readonly threads?: number;
  /** Which parameters are trained. Default all. */
  readonly trainable?: (name: string) => boolean;
  /** Patterns of parameters that stay as they are, `*` for any characters. */
  readonly freeze?: readonly string[];
  /** Default 1. */
  readonly seed?: number;
}

const EVALUATED = 256;

function lossFor(strategy: ContinualStrategy): LossName | LossOptions {
  switch (strategy.name) {
    case 'rehearsal':
    case 'der++':
      return { name: 'distillation', match: 'mse' };
    case 'lwf':
      return { name: 'distillation', match: 'kl', temperature: strategy.temperature ?? 2 };
    case 'fine-tune':
    case 'a-gem':
    case 'ewc':
      return { name: 'softmax-cross-entropy' };
    default:
      throw new ShoalError(
        'invalid_argument',
        `there is no strategy "${String((strategy as { name: unknown }).name)}"; choose one of ${CONTINUAL_NAMES.join(', ')}`,
      );
  }
}

/** One part of a combined batch. */
interface Part {
  readonly samples: readonly Remembered[];
  /** Weights of label and logits, before division by the part's size. */
  readonly label: number;
  readonly logits: number;
}

/** One model that learns task after task, with something done against forgetting. Release it when done. */
export class ContinualLearner {
  readonly #options: ContinualOptions;
  readonly #trainer: Trainer;
  readonly #random: Random;
  readonly #memory: Memory | undefined;
  #fisher = new Map<string, Float32Array>();
  #tasks = 0;
  readonly #usesDistillation: boolean;
  readonly #classes: number;

  private constructor(options: ContinualOptions, trainer: Trainer, classes: number) {
    const { strategy, seed = 1 } = options;
    this.#options = options;
    this.#trainer = trainer;
    this.#classes = classes;
    this.#random = seededRandom(seed);
    this.#usesDistillation = ['rehearsal', 'der++', 'lwf'].includes(strategy.name);
    if (strategy.name === 'rehearsal' || strategy.name === 'der++' || strategy.name === 'a-gem')
      this.#memory = new Memory({
        capacity: strategy.memory ?? 200,
        random: this.#random.fork('memory'),
        ...(strategy.keep ? { kind: strategy.keep } : {}),
      });
  }

  /** @throws ShoalError `invalid_argument` for an unknown strategy, and as {@link Trainer.create}. */
  static async create(options: ContinualOptions): Promise<ContinualLearner> {
    const { strategy, threads = 2 } = options;
    const trainer: TrainerOptions = {
      model: options.model,
      loss: lossFor(strategy),
      optimizer: options.optimizer ?? { name: 'sgd', learningRate: 0.05 },
      threads,
      ...(options.trainable ? { trainable: options.trainable } : {}),
      ...(options.freeze ? { stopGradient: options.freeze } : {}),
      ...(strategy.name === 'ewc'
        ? { penalty: { name: 'elastic', strength: strategy.strength ?? 100 } }
        : {}),
    };
    const classes = (await inspectModel({ model: options.model })).outputs[0]?.dims.at(-1);
    if (typeof classes !== 'number')
      throw new ShoalError('unsupported', 'the model does not declare how many classes it has');
    return new ContinualLearner(options, await Trainer.create(trainer), classes);
  }

  /** Samples kept against forgetting. */
  get remembered(): number {
    return this.#memory?.size ?? 0;
  }

  /** The diagonal of the Fisher information so far, by parameter; empty but for EWC. */
  get fisher(): ReadonlyMap<string, Float32Array> {
    return this.#fisher;
  }

  /** Learns one task. @throws ShoalError `invalid_argument` for no samples. */
  async learn(samples: Samples, options: TrainOptions = {}): Promise<void> {
    if (samples.size === 0) throw new ShoalError('invalid_argument', 'the task has no samples');
    const { epochs = 3, batchSize = 32 } = this.#options;
    this.#trainer.resetOptimizer();
    const { strategy } = this.#options;
    const teacher =
      strategy.name === 'lwf' && this.#tasks > 0 ? await this.logits(samples) : undefined;
    const positions = {
      ...samples,
      labels: BigInt64Array.from(samples.labels, (_, i) => BigInt(i)),
    };
    const steps = Math.ceil(samples.size / batchSize);
    for (let epoch = 1; epoch <= epochs; epoch++) {
      let step = 0;
      for (const batch of batches(positions, batchSize, this.#random)) {
        options.signal?.throwIfAborted();
        const rows = Array.from(batch.labels, (p) => this.#row(samples, Number(p), teacher));
        const loss = await this.#step(rows);
        options.onProgress?.({ epoch, epochs, step: ++step, steps, loss });
      }
    }
    await this.#consolidate(samples);
    this.#tasks++;
  }

  #row(samples: Samples, position: number, teacher: Float32Array | undefined): Remembered {
    const classes = teacher ? teacher.length / samples.size : 0;
    const logits = teacher?.subarray(position * classes, (position + 1) * classes);
    return remembered(samples, position, logits ?? new Float32Array());
  }

  async #step(rows: readonly Remembered[]): Promise<number> {
    const { strategy } = this.#options;
    const fresh: Part = { samples: rows, label: 1, logits: 0 };
    const drawn = (options: MemoryOptions): Remembered[] =>
      this.#memory?.draw(options.replayed ?? rows.length) ?? [];
    switch (strategy.name) {
      case 'rehearsal':
        return await this.#stepOn([fresh, { samples: drawn(strategy), label: 1, logits: 0 }]);
      case 'der++':
        return await this.#stepOn([
          fresh,
          { samples: drawn(strategy), label: 0, logits: strategy.alpha ?? 0.5 },
          { samples: drawn(strategy), label: strategy.beta ?? 0.5, logits: 0 },
        ]);
      case 'lwf':
        return await this.#stepOn([
          { ...fresh, logits: this.#tasks > 0 ? (strategy.weight ?? 1) : 0 },
        ]);
      case 'a-gem':
        return await this.#projectedStep(rows, drawn(strategy));
      case 'fine-tune':
      case 'ewc':
        return await this.#stepOn([fresh]);
    }
  }

  /** Parts become one batch; every part's loss is a mean over that part. */
  #batch(parts: readonly Part[]): Parameters<Trainer['step']>[0] {
    const rows = parts.flatMap((p) => p.samples);
    const length = rows[0]?.input.length ?? 0;
    const inputs = new Float32Array(rows.length * length);
    for (const [i, row] of rows.entries()) inputs.set(row.input, i * length);
    const labels = BigInt64Array.from(rows, (r) => r.label);
    if (!this.#usesDistillation) return { inputs, targets: labels, size: rows.length };
    const weights = (pick: (p: Part) => number): Float32Array =>
      Float32Array.from(
        parts.flatMap((p) => p.samples.map(() => (pick(p) * rows.length) / p.samples.length)),
      );
    const classes = this.#classes;
    const logits = new Float32Array(rows.length * classes);
    for (const [i, row] of rows.entries()) logits.set(row.logits, i * classes);
    return {
      inputs,
      targets: {
        labels,
        labelWeights: weights((p) => p.label),
        logits,
        logitWeights: weights((p) => p.logits),
      },
      size: rows.length,
    };
  }

  async #stepOn(parts: readonly Part[]): Promise<number> {
    const used = parts.filter((p) => p.samples.length > 0);
    const { loss } = await this.#trainer.step(this.#batch(used));
    return loss;
  }

  async #projectedStep(rows: readonly Remembered[], kept: readonly Remembered[]): Promise<number> {
    const part = (samples: readonly Remembered[]): Part => ({ samples, label: 1, logits: 0 });
    if (kept.length === 0) return await this.#stepOn([part(rows)]);
    const { loss, gradients } = await this.#trainer.gradients(this.#batch([part(rows)]));
    const reference = await this.#trainer.gradients(this.#batch([part(kept)]));
    await this.#trainer.apply(projectGradients(gradients, reference.gradients));
    return loss;
  }

  /** What is kept of a task once it is learned. */
  async #consolidate(samples: Samples): Promise<void> {
    await this.remember(samples);
    if (this.#options.strategy.name === 'ewc') await this.#addFisher(samples);
  }

  /** Offers samples to the memory without learning them: of tasks the model knows already. */
  async remember(samples: Samples): Promise<void> {
    const memory = this.#memory;
    if (!memory || samples.size === 0) return;
    const logits = await this.logits(samples);
    const classes = logits.length / samples.size;
    for (const i of this.#random.permutation(samples.size))
      memory.offer(remembered(samples, i, logits.slice(i * classes, (i + 1) * classes)));
  }

  /** F = 1/n Σ_x Σ_k p_k(x)·(∂ log p_k / ∂θ)², each gradient of one sample by itself. */
  async #addFisher(samples: Samples): Promise<void> {
    const { strategy } = this.#options;
    if (strategy.name !== 'ewc') return;
    const { decay = 1, fisherSamples = 100 } = strategy;
    const chosen = this.#random.permutation(samples.size).subarray(0, fisherSamples);
    const fresh = new Map<string, Float32Array>();
    for (const i of chosen) {
      const one = slice(samples, i, i + 1);
      const logits = await this.logits(one);
      const top = Math.max(...logits);
      const powers = logits.map((z) => Math.exp(z - top));
      const sum = powers.reduce((a, b) => a + b, 0);
      for (const [k, power] of powers.entries()) {
        const p = power / sum;
        if (p < 1e-4) continue; // adds nothing that counts
        const targets = BigInt64Array.of(BigInt(k));
        const { gradients } = await this.#trainer.gradients({
          inputs: one.inputs,
          targets,
          size: 1,
        });
        addSquares(fresh, gradients, p / chosen.length);
      }
    }
    for (const [name, values] of fresh) {
      const old = this.#fisher.get(name);
      this.#fisher.set(name, old ? values.map((v, i) => v + decay * (old[i] ?? 0)) : values);
    }
    this.#trainer.setCompanion('importance', this.#fisher);
    this.#trainer.setCompanion('anchor', this.#trainer.getParameters());
  }

  /** The model's logits, `[size, classes]`. */
  async logits(samples: Samples): Promise<Float32Array> {
    const parts: Float32Array[] = [];
    for (let at = 0; at < samples.size; at += EVALUATED) {
      const part = slice(samples, at, at + EVALUATED);
      parts.push(await this.#forward(part));
    }
    const all = new Float32Array(parts.reduce((n, p) => n + p.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  async #forward(part: Samples): Promise<Float32Array> {
    const rows = Array.from({ length: part.size }, (_, i) =>
      remembered(part, i, new Float32Array()),
    );
    const batch = this.#batch([{ samples: rows, label: 1, logits: 0 }]);
    return (await this.#trainer.evaluate(batch)).output;
  }

  async evaluate(samples: Samples): Promise<Metrics> {
    const logits = await this.logits(samples);
    const classes = logits.length / samples.size;
    const predicted = Array.from({ length: samples.size }, (_, i) =>
      argMax(logits, i * classes, classes),
    );
    return classificationMetrics(predicted, samples.labels, classes);
  }

  /** The model as an ONNX file. */
  deploy(): Uint8Array {
    return this.#trainer.deploy();
  }

  async release(): Promise<void> {
    await this.#trainer.release();
  }
}
