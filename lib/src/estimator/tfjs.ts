import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { fromNode, type Logger, ShoalError, seededRandom, silentLogger } from '@shoal/core';
import type * as TfTypes from '@tensorflow/tfjs';
import { batches, type Samples, slice } from '../data/samples.ts';
import { argMax, classificationMetrics } from './classification-metrics.ts';
import type { Estimator, Metrics, Predictions, TrainOptions } from './estimator.ts';

type Tf = typeof TfTypes;

export interface TfjsEstimatorOptions {
  /** Makes the model; its output is class probabilities `[batch, classes]`. */
  readonly build?: (tf: Tf) => TfTypes.LayersModel;
  /** Step size of Adam. Default 1e-3. */
  readonly learningRate?: number;
  readonly epochs?: number;
  readonly batchSize?: number;
  readonly seed?: number;
  readonly logger?: Logger;
}

/** tfjs-node 4.22 uses two functions Node 23 took out of `util`. */
function restoreUtil(): void {
  const util = createRequire(import.meta.url)('node:util') as Record<string, unknown>;
  util['isNullOrUndefined'] ??= (v: unknown) => v === null || v === undefined;
  util['isArray'] ??= Array.isArray;
}

let loaded: Promise<{ tf: Tf; backend: string }> | undefined;

/** tfjs with the fastest backend this machine has: TensorFlow's own library, else wasm. */
async function load(): Promise<{ tf: Tf; backend: string }> {
  try {
    restoreUtil();
    const native = (await import('@tensorflow/tfjs-node' as string)) as Tf;
    return { tf: native, backend: 'tensorflow' };
  } catch {
    // Its install script downloads a library; where that failed, the package is not there.
  }
  try {
    const tf = await import('@tensorflow/tfjs');
    await import('@tensorflow/tfjs-backend-wasm');
    await tf.setBackend('wasm');
    await tf.ready();
    return { tf, backend: tf.getBackend() };
  } catch (error) {
    throw new ShoalError(
      'unsupported',
      'TensorFlow.js is not installed: npm install @tensorflow/tfjs @tensorflow/tfjs-backend-wasm (or @tensorflow/tfjs-node)',
      { cause: error },
    );
  }
}

interface Artifacts {
  readonly modelTopology: object;
  readonly weightSpecs: TfTypes.io.WeightsManifestEntry[];
  readonly weights: string;
}

/**
 * A classifier of TensorFlow.js (`tf.LayersModel`), for people who have one. Runs on
 * `@tensorflow/tfjs-node` where it loads, else on wasm, and says so in the log. Convolutions cannot
 * be trained on wasm (tfjs lacks the kernel); for those use an ONNX model.
 *
 * A model file is one JSON document: topology, weight specifications, weights as base64.
 */
export class TfjsEstimator implements Estimator {
  readonly #options: TfjsEstimatorOptions;
  #model: TfTypes.LayersModel | undefined;
  #tf: Tf | undefined;

  constructor(options: TfjsEstimatorOptions = {}) {
    this.#options = options;
  }

  async #ready(): Promise<Tf> {
    if (this.#tf) return this.#tf;
    loaded ??= load();
    const { tf, backend } = await loaded;
    (this.#options.logger ?? silentLogger).info('TensorFlow.js backend', { backend });
    this.#tf = tf;
    return tf;
  }

  async #open(): Promise<{ tf: Tf; model: TfTypes.LayersModel }> {
    const tf = await this.#ready();
    this.#model ??= this.#options.build?.(tf);
    if (!this.#model)
      throw new ShoalError('failed_precondition', 'no model: pass build or call load(path) first');
    return { tf, model: this.#model };
  }

  /** @throws ShoalError `not_found`, or `data_corrupt` for something that is no saved model. */
  async load(path: string): Promise<void> {
    const tf = await this.#ready();
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch (error) {
      throw fromNode(error, `reading model ${path}`);
    }
    try {
      const { modelTopology, weightSpecs, weights } = JSON.parse(text) as Artifacts;
      const weightData = new Uint8Array(Buffer.from(weights, 'base64')).buffer;
      const model = await tf.loadLayersModel(
        tf.io.fromMemory({ modelTopology, weightSpecs, weightData }),
      );
      this.#model?.dispose();
      this.#model = model;
    } catch (error) {
      throw new ShoalError('data_corrupt', `${path} is not a model saved by TfjsEstimator`, {
        cause: error,
      });
    }
  }

  async save(path: string): Promise<void> {
    const { tf, model } = await this.#open();
    await model.save(
      tf.io.withSaveHandler(({ modelTopology, weightSpecs = [], weightData }) => {
        const parts = Array.isArray(weightData) ? weightData : [weightData ?? new ArrayBuffer()];
        const weights = Buffer.concat(parts.map((p) => Buffer.from(p))).toString('base64');
        mkdirSync(dirname(path), { recursive: true });
        writeFileSync(`${path}.tmp`, JSON.stringify({ modelTopology, weightSpecs, weights }));
        renameSync(`${path}.tmp`, path);
        return Promise.resolve({
          modelArtifactsInfo: { dateSaved: new Date(), modelTopologyType: 'JSON' as const },
        });
      }),
    );
  }

  #tensors(tf: Tf, part: Samples, classes: number): { x: TfTypes.Tensor; y: TfTypes.Tensor } {
    const x = tf.tensor(part.inputs, [part.size, ...part.shape]);
    const y = tf.oneHot(tf.tensor1d(Array.from(part.labels, Number), 'int32'), classes);
    return { x, y };
  }

  async train(samples: Samples, options: TrainOptions = {}): Promise<Metrics> {
    const { epochs = 3, batchSize = 32, seed = 1, learningRate = 1e-3 } = this.#options;
    if (samples.size === 0)
      throw new ShoalError('invalid_argument', 'there are no samples to train on');
    const { tf, model } = await this.#open();
    const classes = model.outputs[0]?.shape.at(-1) ?? 1;
    model.compile({ optimizer: tf.train.adam(learningRate), loss: 'categoricalCrossentropy' });
    const random = seededRandom(seed);
    const steps = Math.ceil(samples.size / batchSize);
    let mean = 0;
    for (let epoch = 1; epoch <= epochs; epoch++) {
      let [step, total] = [0, 0];
      for (const part of batches(samples, batchSize, random)) {
        options.signal?.throwIfAborted();
        const { x, y } = this.#tensors(tf, part, classes);
        const loss = Number(await model.trainOnBatch(x, y));
        tf.dispose([x, y]);
        total += loss * part.size;
        options.onProgress?.({ epoch, epochs, step: ++step, steps, loss });
      }
      mean = total / samples.size;
    }
    return { loss: mean };
  }

  async evaluate(samples: Samples): Promise<Metrics> {
    const predicted = new Uint32Array(samples.size);
    let classes = 1;
    for (let at = 0; at < samples.size; at += 256) {
      const part = slice(samples, at, at + 256);
      const { probabilities, classes: width } = await this.#predict(part);
      classes = width;
      for (let i = 0; i < part.size; i++)
        predicted[at + i] = argMax(probabilities, i * width, width);
    }
    return classificationMetrics(predicted, samples.labels, classes);
  }

  async #predict(part: Samples): Promise<Predictions> {
    const { tf, model } = await this.#open();
    const probabilities = tf.tidy(() => {
      const y = model.predict(tf.tensor(part.inputs, [part.size, ...part.shape]));
      return (Array.isArray(y) ? y[0] : y)?.dataSync() as Float32Array;
    });
    return {
      probabilities: probabilities.slice(),
      classes: probabilities.length / part.size,
      size: part.size,
    };
  }

  async predict(inputs: Float32Array, size: number): Promise<Predictions> {
    const { model } = await this.#open();
    const shape = (model.inputs[0]?.shape.slice(1) ?? []).map((d) => d ?? 1);
    const wanted = size * shape.reduce((a, b) => a * b, 1);
    if (inputs.length !== wanted)
      throw new ShoalError(
        'invalid_argument',
        `${inputs.length} input values given; ${size} samples of shape [${shape.join(', ')}] need ${wanted}`,
      );
    return await this.#predict({ inputs, shape, size, labels: new BigInt64Array(size) });
  }

  close(): Promise<void> {
    this.#model?.dispose();
    this.#model = undefined;
    return Promise.resolve();
  }
}
