import type { ModuleContext } from '@shoal/benchmark';
import { seededRandom } from '@shoal/core';
import { DIGIT_SHAPE } from '@shoal/datasets';
import { OnnxEstimator } from '@shoal/lib';
import { conv2d, dense, flatten, type Layer, maxPool2d, relu, sequential } from '@shoal/training';

const LAYERS: Readonly<Record<string, readonly Layer[]>> = {
  little: [flatten(), dense(16), relu(), dense(10)],
  small: [conv2d(8, 3), relu(), maxPool2d(2), flatten(), dense(32), relu(), dense(10)],
  big: [
    conv2d(16, 3),
    relu(),
    maxPool2d(2),
    conv2d(32, 3),
    relu(),
    maxPool2d(2),
    flatten(),
    dense(64),
    relu(),
    dense(10),
  ],
};

/** An untrained network for digits: `little`, `small` or `big`. */
export function digitNetwork(size: string, seed: number): Uint8Array {
  const layers = LAYERS[size];
  if (!layers)
    throw new Error(`there is no network "${size}"; choose ${Object.keys(LAYERS).join(', ')}`);
  return sequential({ input: DIGIT_SHAPE, layers, random: seededRandom(seed) });
}

interface Parameters {
  readonly size?: string;
  readonly epochs?: number;
  readonly learning_rate?: number;
  readonly batch_size?: number;
}

/** A classifier of digits, not trained yet. */
export function digitClassifier(
  {
    size = 'small',
    epochs = 3,
    learning_rate: learningRate = 1e-3,
    batch_size: batchSize = 32,
  }: Parameters,
  { seed, threads }: ModuleContext,
): OnnxEstimator {
  return new OnnxEstimator({
    model: digitNetwork(size, seed),
    epochs,
    batchSize,
    threads,
    seed,
    optimizer: { name: 'adam', learningRate },
  });
}
