import { OnnxEstimator } from '@shoal/lib';
import { inferWorker, runWorker } from '@shoal/workers';

// Serves digits at the edge; a better model is swapped in between two requests.
const create = (): OnnxEstimator => new OnnxEstimator({ threads: 1 });

await runWorker(
  'digits-infer',
  async (context) => await inferWorker({ create, probe: new Float32Array(28 * 28) }, context),
);
