import { seededRandom } from '@shoal/core';
import { type Samples, select, slice } from '@shoal/lib';
import { type Drift, generateDigits } from './digits.ts';
import { pullDataset } from './locate.ts';
import { readMnist } from './mnist.ts';

/** Digits to train on, and some held out. */
export interface DigitSplit {
  readonly train: Samples;
  readonly test: Samples;
}

/** Generated digits, or (`mnist`) MNIST's published test set cut into 8,000 and 2,000. */
export async function digitData(
  kind: string,
  sizes: { train: number; test: number },
  seed: number = 1,
): Promise<DigitSplit> {
  if (kind !== 'mnist') {
    return {
      train: generateDigits({ count: sizes.train, seed: 2 * seed - 1 }),
      test: generateDigits({ count: sizes.test, seed: 2 * seed }),
    };
  }
  const { folder } = await pullDataset('mnist');
  const all = readMnist(folder);
  const shuffled = select(all, seededRandom(seed).permutation(all.size));
  const trainable = slice(shuffled, 0, 8_000);
  const heldOut = slice(shuffled, 8_000, 10_000);
  return { train: slice(trainable, 0, sizes.train), test: slice(heldOut, 0, sizes.test) };
}

/** Pixels after the world has changed: blurred and faded as {@link Drift} says, for any digits. */
export function driftPixels(samples: Samples, drift: Drift, seed: number): Samples {
  const random = seededRandom(seed);
  const side = 28;
  const inputs = new Float32Array(samples.inputs.length);
  for (let i = 0; i < samples.size; i++) {
    const from = samples.inputs.subarray(i * side * side, (i + 1) * side * side);
    const changed = rotateAndFade(blurred(from, side, drift.blur ?? 0), side, {
      angle: drift.rotation ?? 0,
      fading: drift.fading ?? 0,
      noise: () => random.normal() * 0.04,
    });
    inputs.set(changed, i * side * side);
  }
  return { ...samples, inputs };
}

/** The samples, each changed in a way of its own: what a model for any scanner and lamp learns from. */
export function augmented(samples: Samples, seed: number): Samples {
  const random = seededRandom(seed);
  const length = samples.inputs.length / samples.size;
  const inputs = new Float32Array(samples.inputs.length);
  for (let i = 0; i < samples.size; i++) {
    const drift: Drift = {
      rotation: (random.next() * 2 - 1) * 40,
      fading: random.next() * 0.5,
      blur: random.int(3),
    };
    const { inputs: one } = driftPixels(slice(samples, i, i + 1), drift, random.int(1e9));
    inputs.set(one, i * length);
  }
  return { ...samples, inputs };
}

/** Passes of a 3×3 mean over an image; beyond its edge there is nothing. */
function blurred(image: Float32Array, side: number, passes: number): Float32Array {
  let from = image;
  for (let pass = 0; pass < passes; pass++) {
    const before = from;
    from = Float32Array.from({ length: side * side }, (_, p) => {
      const [x, y] = [p % side, Math.floor(p / side)];
      let sum = 0;
      for (let dy = -1; dy <= 1; dy++)
        for (let dx = -1; dx <= 1; dx++) {
          const [nx, ny] = [x + dx, y + dy];
          if (nx >= 0 && ny >= 0 && nx < side && ny < side) sum += before[ny * side + nx] ?? 0;
        }
      return sum / 9;
    });
  }
  return from;
}

interface Change {
  readonly angle: number;
  readonly fading: number;
  readonly noise: () => number;
}

/** Rotates about the centre (bilinear), fades, adds noise. */
function rotateAndFade(from: Float32Array, side: number, change: Change): Float32Array {
  const radians = (-change.angle * Math.PI) / 180;
  const [cos, sin] = [Math.cos(radians), Math.sin(radians)];
  const middle = (side - 1) / 2;
  const to = new Float32Array(from.length);
  const at = (x: number, y: number): number =>
    x < 0 || y < 0 || x >= side || y >= side ? 0 : (from[y * side + x] ?? 0);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const sx = cos * (x - middle) - sin * (y - middle) + middle;
      const sy = sin * (x - middle) + cos * (y - middle) + middle;
      const [x0, y0] = [Math.floor(sx), Math.floor(sy)];
      const [fx, fy] = [sx - x0, sy - y0];
      const top = at(x0, y0) * (1 - fx) + at(x0 + 1, y0) * fx;
      const bottom = at(x0, y0 + 1) * (1 - fx) + at(x0 + 1, y0 + 1) * fx;
      const value =
        (top * (1 - fy) + bottom * fy) * (1 - change.fading) +
        change.fading * 0.25 +
        change.noise();
      to[y * side + x] = Math.min(1, Math.max(0, value));
    }
  }
  return to;
}
