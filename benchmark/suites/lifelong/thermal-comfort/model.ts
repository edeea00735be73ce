import type { LifelongBase, ModuleContext } from '@shoal/benchmark';
import { seededRandom } from '@shoal/core';
import { OnnxEstimator } from '@shoal/lib';
import { dense, dropout, relu, sequential } from '@shoal/training';

interface Parameters {
  readonly hidden?: number;
  readonly epochs?: number;
}

/** Conditions in a room to what someone would like changed; a city's copy is pulled to where it began. */
export function comfortNetwork(
  { hidden = 32, epochs = 30 }: Parameters,
  { seed, threads, inputShape }: ModuleContext,
): LifelongBase {
  const layers = [dense(hidden), relu(), dropout(0.1), dense(hidden), relu(), dense(3)];
  const model = sequential({ input: inputShape, layers, random: seededRandom(seed) });
  const optimizer = { name: 'adam', learningRate: 3e-3 } as const;
  const create = (): OnnxEstimator =>
    new OnnxEstimator({ model, epochs, batchSize: 64, threads, seed, optimizer, proximal: 0.01 });
  return { model, optimizer, epochs, batchSize: 64, create };
}
