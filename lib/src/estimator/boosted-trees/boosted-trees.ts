import { ShoalError } from '@shoal/core';
import { treeEnsembleModel } from '@shoal/training';
import { type Samples, slice } from '../../data/samples.ts';
import type { Estimator, Metrics, Predictions, TrainOptions } from '../estimator.ts';
import { OnnxEstimator } from '../onnx.ts';
import { type BoostedTrees, type BoostingOptions, boostTrees } from './boosting.ts';

export interface BoostedTreesOptions extends Omit<BoostingOptions, 'onRound'> {
  /** Classes, ≥ 2; default as many as the largest label says. */
  readonly classes?: number;
  /** Threads of the runtime. Default 2. */
  readonly threads?: number;
}

/** The trees as an ONNX file: input `x` `[batch, width]`, output `logits` `[batch, classes]`. */
export function treesToOnnx({ trees, width, base, classes }: BoostedTrees): Uint8Array {
  return treeEnsembleModel({
    width,
    base: [...base],
    trees: trees.map((tree, t) => ({ ...tree, output: t % classes })),
  });
}

/**
 * Gradient-boosted trees for tabular samples; missing values are NaN. The model file is ONNX
 * (`ai.onnx.ml`), so {@link OnnxEstimator} runs it too. Training starts afresh each time.
 */
export class BoostedTreesEstimator implements Estimator {
  readonly #options: BoostedTreesOptions;
  readonly #runtime: OnnxEstimator;

  constructor(options: BoostedTreesOptions = {}) {
    this.#options = options;
    this.#runtime = new OnnxEstimator({ threads: options.threads ?? 2 });
  }

  async load(path: string): Promise<void> {
    await this.#runtime.load(path);
  }

  async save(path: string): Promise<void> {
    await this.#runtime.save(path);
  }

  /** @throws ShoalError `invalid_argument` for samples that are not rows of features. */
  async train(samples: Samples, options: TrainOptions = {}): Promise<Metrics> {
    const [width = 0, ...rest] = samples.shape;
    if (rest.length > 0)
      throw new ShoalError(
        'invalid_argument',
        `trees need rows of features, got samples of shape [${samples.shape.join(', ')}]`,
      );
    const largest = samples.labels.reduce((a, b) => (b > a ? b : a), 0n);
    const { classes = Math.max(2, Number(largest) + 1) } = this.#options;
    const rows = { ...samples, width, classes };
    const trees = boostTrees(rows, {
      ...this.#options,
      onRound: (round, rounds) => {
        options.signal?.throwIfAborted();
        options.onProgress?.({ epoch: 1, epochs: 1, step: round, steps: rounds, loss: Number.NaN });
      },
    });
    await this.#runtime.adopt(treesToOnnx(trees));
    const seen = slice(samples, 0, Math.min(samples.size, 10_000));
    return await this.#runtime.evaluate(seen);
  }

  async evaluate(samples: Samples): Promise<Metrics> {
    return await this.#runtime.evaluate(samples);
  }

  async predict(inputs: Float32Array, size: number): Promise<Predictions> {
    return await this.#runtime.predict(inputs, size);
  }

  async close(): Promise<void> {
    await this.#runtime.close();
  }
}
