import type { FederatedBase, ModuleContext } from '@shoal/benchmark';
import { seededRandom } from '@shoal/core';
import { HEART_FEATURES } from '@shoal/datasets';
import { dense, sequential, zeros } from '@shoal/training';

/** Features of a patient. */
const WIDTH = HEART_FEATURES.length;

/** Logistic regression from zero, FLamby's model for this data. */
export function logisticRegression(
  { width = WIDTH }: { readonly width?: number },
  { seed }: ModuleContext,
): FederatedBase {
  const layers = [dense(2, { initializer: zeros })];
  return { model: sequential({ input: [width], layers, random: seededRandom(seed) }) };
}
