import { OnnxEstimator } from '@shoal/lib';
import { jointInferenceWorker, runWorker } from '@shoal/workers';

await runWorker(
  'bench-edge',
  async (context) => await jointInferenceWorker(new OnnxEstimator({ threads: 1 }), context),
);
