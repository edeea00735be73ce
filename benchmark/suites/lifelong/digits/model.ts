import type { LifelongBase, ModuleContext } from '@shoal/benchmark';
import { seededRandom } from '@shoal/core';
import { OnnxEstimator } from '@shoal/lib';
import { dense, relu, sequential } from '@shoal/training';

const PIXELS = 28 * 28;

/** A network of one hidden layer; every task of the knowledge base begins with the same. */
export function hiddenLayer(
  { hidden = 40, epochs = 14 }: { readonly hidden?: number; readonly epochs?: number },
  { seed, threads }: ModuleContext,
): LifelongBase {
  const model = sequential({
    input: [PIXELS],
    layers: [dense(hidden), relu(), dense(10)],
    random: seededRandom(seed),
  });
  const optimizer = { name: 'sgd', learningRate: 0.2 } as const;
  const create = (): OnnxEstimator =>
    new OnnxEstimator({ model, epochs, threads, optimizer, seed });
  return { model, optimizer, epochs, create };
}
