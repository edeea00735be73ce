import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { ShoalError } from '@shoal/core';
import { parseIdx, type Samples } from '@shoal/lib';
import { DIGIT_SHAPE } from './digits.ts';

/** Reads MNIST from the folder of {@link pullDataset}; pixels in [0, 1]. */
export function readMnist(folder: string): Samples {
  const read = (name: string): ReturnType<typeof parseIdx> =>
    parseIdx(gunzipSync(readFileSync(join(folder, name))), name);
  const images = read('t10k-images-idx3-ubyte.gz');
  const labels = read('t10k-labels-idx1-ubyte.gz');
  const [size = 0, height, width] = images.dims;
  if (height !== 28 || width !== 28 || labels.dims[0] !== size) {
    throw new ShoalError(
      'data_corrupt',
      `MNIST files do not fit: images [${images.dims.join(', ')}], labels [${labels.dims.join(', ')}]`,
    );
  }
  return {
    inputs: Float32Array.from(images.data, (b) => b / 255),
    labels: BigInt64Array.from(labels.data, BigInt),
    shape: DIGIT_SHAPE,
    size,
  };
}
