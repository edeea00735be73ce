import { imageData, OnnxEstimator } from '@shoal/lib';
import { inferWorker, runWorker } from '@shoal/workers';

// Serves digits at the edge and keeps hard ones for the cloud; a better model is swapped in between two
// requests.
const create = (): OnnxEstimator => new OnnxEstimator({ threads: 1 });

await runWorker(
  'digits-infer',
  async (context) =>
    await inferWorker({ create, describe: imageData, probe: new Float32Array(28 * 28) }, context),
);
