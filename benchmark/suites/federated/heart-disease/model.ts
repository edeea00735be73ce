import type { FederatedBase, ModuleContext } from '@shoal/benchmark';
import { seededRandom } from '@shoal/core';
import { dense, sequential, zeros } from '@shoal/training';

/** Logistic regression from zero, FLamby's model for this data. */
export function logisticRegression(
  _parameters: object,
  { seed, inputShape }: ModuleContext,
): FederatedBase {
  const layers = [dense(2, { initializer: zeros })];
  return { model: sequential({ input: inputShape, layers, random: seededRandom(seed) }) };
}
