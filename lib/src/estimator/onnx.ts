import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fromNode, type Random, ShoalError, seededRandom } from '@shoal/core';
import { type Batch, type LossName, type OptimizerOptions, Trainer } from '@shoal/training';
import * as ort from 'onnxruntime-node';
import { batches, concatenate, type Samples, slice } from '../data/samples.ts';
import { ContinualLearner } from '../lifelong-learning/continual/continual-learner.ts';
import { argMax, classificationMetrics } from './classification-metrics.ts';
import type { Estimator, Metrics, Predictions, Rehearsal, TrainOptions } from './estimator.ts';

/** Losses that labels are enough for. */
export type ClassLoss = Exclude<LossName, 'cox-partial-likelihood' | 'distillation'>;

/** Labels as targets of a loss that compares values: one column per class. */
function columnsOf(labels: BigInt64Array, classes: number): Float32Array {
  if (classes === 1) return Float32Array.from(labels, Number);
  const columns = new Float32Array(labels.length * classes);
  for (const [i, label] of labels.entries()) columns[i * classes + Number(label)] = 1;
  return columns;
}

export interface OnnxEstimatorOptions {
  /** The ONNX file; or load one later. */
  readonly model?: Uint8Array;
  /** Default Adam with learning rate 1e-3. */
  readonly optimizer?: OptimizerOptions;
  /**
   * Default softmax cross-entropy on the model's first output, taken as logits. The others have 1 for the class and
   * 0 for the rest as targets, or the label itself where the model has one output.
   */
  readonly loss?: ClassLoss;
  /** Passes over the data, ≥ 1. Default 3. */
  readonly epochs?: number;
  /** Samples per step, ≥ 1. Default 32. */
  readonly batchSize?: number;
  /** Threads of the runtime. Default 2. */
  readonly threads?: number;
  /** μ ≥ 0: pulls parameters to where training began, g + μ(θ − θ₀). Default 0. */
  readonly proximal?: number;
  /** Which parameters are trained. Default all. */
  readonly trainable?: (name: string) => boolean;
  /** Patterns of parameters that stay as they are, `*` for any characters: `backbone.*`. */
  readonly freeze?: readonly string[];
  /** Seed of the order of samples. Default 1. */
  readonly seed?: number;
}

const PREDICT_BATCH = 256;

/** Numerically stable softmax of each row, in place. */
export function softmaxRows(values: Float32Array, classes: number): Float32Array {
  for (let from = 0; from < values.length; from += classes) {
    const row = values.subarray(from, from + classes);
    const top = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    let sum = 0;
    for (let i = 0; i < classes; i++) sum += row[i] = Math.exp((row[i] ?? 0) - top);
    for (let i = 0; i < classes; i++) row[i] = (row[i] ?? 0) / sum;
  }
  return values;
}

/** A classifier in an ONNX file: runs, trains and evaluates on ONNX Runtime. */
export class OnnxEstimator implements Estimator {
  readonly #options: OnnxEstimatorOptions;
  #model: Uint8Array | undefined;
  #session: ort.InferenceSession | undefined;

  constructor(options: OnnxEstimatorOptions = {}) {
    this.#options = options;
    this.#model = options.model;
  }

  get #bytes(): Uint8Array {
    if (!this.#model)
      throw new ShoalError(
        'failed_precondition',
        'no model: pass one to the constructor or call load(path) first',
      );
    return this.#model;
  }

  get #sessionOptions(): ort.InferenceSession.SessionOptions {
    return {
      intraOpNumThreads: this.#options.threads ?? 2,
      interOpNumThreads: 1,
      graphOptimizationLevel: 'all',
      logSeverityLevel: 3,
      // Threads that wait busily take the cores of whoever sends the next request.
      extra: { session: { intra_op: { allow_spinning: '0' } } },
    };
  }

  /**
   * Loads a model file. The old model stays in place until the new one runs.
   *
   * @throws ShoalError `not_found`, or `data_corrupt` when the runtime refuses the file.
   */
  async load(path: string): Promise<void> {
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch (error) {
      throw fromNode(error, `reading model ${path}`);
    }
    const session = await this.#open(bytes, path);
    const old = this.#session;
    this.#model = bytes;
    this.#session = session;
    await old?.release();
  }

  async #open(bytes: Uint8Array, what: string): Promise<ort.InferenceSession> {
    try {
      return await ort.InferenceSession.create(bytes, this.#sessionOptions);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new ShoalError(
        'data_corrupt',
        `${what} is not a model that ONNX Runtime can run: ${why}`,
        { cause: error },
      );
    }
  }

  /** Writes the model under a temporary name, then renames: a reader never sees half a file. */
  save(path: string): Promise<void> {
    try {
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(`${path}.tmp`, this.#bytes);
      renameSync(`${path}.tmp`, path);
      return Promise.resolve();
    } catch (error) {
      return Promise.reject(fromNode(error, `writing model ${path}`));
    }
  }

  /** Trains for the configured epochs and keeps the result; aborting keeps the model as it was. */
  async train(samples: Samples, options: TrainOptions = {}): Promise<Metrics> {
    const { epochs = 3, seed = 1, threads = 2, trainable, freeze, proximal = 0 } = this.#options;
    if (samples.size === 0)
      throw new ShoalError('invalid_argument', 'there are no samples to train on');
    const classes = await this.#expectLabels(samples);
    const { rehearsal } = options;
    if (rehearsal && rehearsal.samples.size > 0) {
      const { loss = 'softmax-cross-entropy' } = this.#options;
      if (loss === 'softmax-cross-entropy')
        return await this.#rehearse(samples, rehearsal, options);
      // Other losses learn both sets as one.
      const { rehearsal: _known, ...rest } = options;
      return await this.train(concatenate([samples, rehearsal.samples]), rest);
    }
    const trainer = await Trainer.create({
      model: this.#bytes,
      loss: this.#options.loss ?? 'softmax-cross-entropy',
      optimizer: this.#options.optimizer ?? { name: 'adam', learningRate: 1e-3 },
      threads,
      ...(trainable ? { trainable } : {}),
      ...(freeze ? { stopGradient: freeze } : {}),
      ...(proximal > 0 ? { penalty: { name: 'proximal', strength: proximal } } : {}),
    });
    try {
      const random = seededRandom(seed);
      let last: Metrics = {};
      for (let epoch = 1; epoch <= epochs; epoch++)
        last = await this.#epoch(trainer, samples, { epoch, random, options, classes });
      await this.#replace(trainer.deploy());
      return last;
    } finally {
      await trainer.release();
    }
  }

  /** Every batch has as many samples of before as new ones. */
  async #rehearse(samples: Samples, rehearsal: Rehearsal, options: TrainOptions): Promise<Metrics> {
    const { epochs = 3, batchSize = 32, seed = 1, threads = 2, trainable, freeze } = this.#options;
    const known = rehearsal.samples;
    await this.#expectLabels(known);
    const learner = await ContinualLearner.create({
      model: this.#bytes,
      strategy: {
        name: rehearsal.method === 'der++' ? 'der++' : 'rehearsal',
        memory: known.size,
      },
      optimizer: this.#options.optimizer ?? { name: 'adam', learningRate: 1e-3 },
      epochs,
      batchSize,
      threads,
      seed,
      ...(trainable ? { trainable } : {}),
      ...(freeze ? { freeze } : {}),
    });
    try {
      await learner.remember(known);
      await learner.learn(samples, options);
      await this.#replace(learner.deploy());
      return await this.evaluate(samples);
    } finally {
      await learner.release();
    }
  }

  /**
   * A class the model has no output for would teach it nothing, silently.
   *
   * @returns Outputs of the model.
   */
  async #expectLabels(samples: Samples): Promise<number> {
    const { classes } = await this.predict(slice(samples, 0, 1).inputs, 1);
    const bad = samples.labels.findIndex((l) => l < 0n || l >= BigInt(classes));
    if (bad >= 0 && classes > 1)
      throw new ShoalError(
        'invalid_argument',
        `label ${samples.labels[bad]} of sample ${bad} is not one of the model's ${classes} classes`,
      );
    return classes;
  }

  async #epoch(
    trainer: Trainer,
    samples: Samples,
    at: { epoch: number; random: Random; options: TrainOptions; classes: number },
  ): Promise<Metrics> {
    const { epochs = 3, batchSize = 32, loss: kind = 'softmax-cross-entropy' } = this.#options;
    const isByClass = kind === 'softmax-cross-entropy';
    const steps = Math.ceil(samples.size / batchSize);
    let step = 0;
    let loss = 0;
    let hits = 0;
    function* parts(): Generator<Batch> {
      for (const { inputs, labels, size } of batches(samples, batchSize, at.random)) {
        at.options.signal?.throwIfAborted();
        yield { inputs, targets: isByClass ? labels : columnsOf(labels, at.classes), size };
      }
    }
    for await (const result of trainer.train(parts())) {
      const size = Math.min(batchSize, samples.size - step * batchSize);
      step++;
      loss += result.loss * size;
      hits += (result.metrics['accuracy'] ?? 0) * size;
      at.options.onProgress?.({ epoch: at.epoch, epochs, step, steps, loss: result.loss });
    }
    return { loss: loss / samples.size, accuracy: hits / samples.size };
  }

  /** Serves a model given as bytes from now on. @throws ShoalError `data_corrupt`; the old one stays. */
  async adopt(model: Uint8Array): Promise<void> {
    const session = await this.#open(model, 'the model');
    const old = this.#session;
    this.#model = model;
    this.#session = session;
    await old?.release();
  }

  async #replace(model: Uint8Array): Promise<void> {
    await this.#session?.release();
    this.#session = undefined;
    this.#model = model;
  }

  /** The model file's bytes. @throws ShoalError `failed_precondition` when there is no model. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  async evaluate(samples: Samples): Promise<Metrics> {
    const predicted = new Uint32Array(samples.size);
    let classes = 1;
    for (let at = 0; at < samples.size; at += PREDICT_BATCH) {
      const part = slice(samples, at, at + PREDICT_BATCH);
      const predictions = await this.predict(part.inputs, part.size);
      classes = predictions.classes;
      for (let i = 0; i < part.size; i++)
        predicted[at + i] = argMax(predictions.probabilities, i * classes, classes);
    }
    return classificationMetrics(predicted, samples.labels, classes);
  }

  async predict(inputs: Float32Array, size: number): Promise<Predictions> {
    this.#session ??= await this.#open(this.#bytes, 'the model');
    const { inputNames, outputNames, inputMetadata } = this.#session;
    const [input = ''] = inputNames;
    const declared = inputMetadata[0];
    const shape = declared?.isTensor ? declared.shape.slice(1) : [];
    const open = shape.filter((d) => typeof d !== 'number' || d < 0);
    if (open.length > 1)
      throw new ShoalError(
        'unsupported',
        `input "${input}" has ${open.length} dimensions of no fixed size beside the batch (${open.join(', ')}); export the model with at most one`,
      );
    // The one that is open follows from what is given.
    const known = shape.reduce<number>((n, d) => (open.includes(d) ? n : n * Number(d)), 1);
    const rest = shape.map((d) => (open.includes(d) ? inputs.length / size / known : Number(d)));
    if (!rest.every(Number.isInteger))
      throw new ShoalError(
        'invalid_argument',
        `${inputs.length} input values do not divide into ${size} samples of shape [${shape.join(', ')}]`,
      );
    const wanted = size * rest.reduce((n, d) => n * d, 1);
    if (inputs.length !== wanted) {
      throw new ShoalError(
        'invalid_argument',
        `${inputs.length} input values given; ${size} samples of shape [${rest.join(', ')}] need ${wanted}`,
      );
    }
    const results = await this.#session.run({
      [input]: new ort.Tensor('float32', inputs, [size, ...rest]),
    });
    const output = results[outputNames[0] ?? ''];
    const logits = output?.data as Float32Array;
    const classes = logits.length / size;
    return { probabilities: softmaxRows(logits.slice(), classes), logits, classes, size };
  }

  async close(): Promise<void> {
    await this.#session?.release();
    this.#session = undefined;
  }
}
