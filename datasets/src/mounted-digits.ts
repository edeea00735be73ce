import { seededRandom } from '@shoal/core';
import type { Samples, TaskSamples } from '@shoal/lib';

const SIDE = 28;
const PIXELS = SIDE * SIDE;

/** A way to mount a scanner: which pixel of a digit it puts where. */
export interface DigitMounting {
  readonly name: string;
  readonly order: Uint32Array;
}

/** How a scanner was mounted: upright, on its side, or with its lines mixed up by a broken cable. */
export const DIGIT_MOUNTINGS: readonly DigitMounting[] = [
  { name: 'upright', order: Uint32Array.from({ length: PIXELS }, (_, k) => k) },
  { name: 'cable A', order: seededRandom(11).permutation(PIXELS) },
  {
    name: 'on its side',
    order: Uint32Array.from(
      { length: PIXELS },
      (_, k) => (k % SIDE) * SIDE + SIDE - 1 - Math.floor(k / SIDE),
    ),
  },
  { name: 'cable B', order: seededRandom(12).permutation(PIXELS) },
  { name: 'cable C', order: seededRandom(13).permutation(PIXELS) },
];

/** Digits as a scanner mounted so sees them. */
export function mountedDigits(mounting: DigitMounting, digits: Samples): TaskSamples {
  const inputs = new Float32Array(digits.inputs.length);
  for (let i = 0; i < digits.size; i++)
    for (let k = 0; k < PIXELS; k++)
      inputs[i * PIXELS + k] = digits.inputs[i * PIXELS + (mounting.order[k] ?? 0)] ?? 0;
  const attributes = { mounting: Array.from({ length: digits.size }, () => mounting.name) };
  return { inputs, labels: digits.labels, shape: [PIXELS], size: digits.size, attributes };
}
