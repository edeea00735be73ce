import { OnnxEstimator } from '@shoal/lib';
import { jointInferenceWorker, runWorker } from '@shoal/workers';

// The small model at the edge. What it finds hard goes to the cloud: which algorithm decides, and
// where the cloud is, stands in the manifest and comes in through the environment.
await runWorker(
  'digits-edge',
  async (context) => await jointInferenceWorker(new OnnxEstimator({ threads: 1 }), context),
);
