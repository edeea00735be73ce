import { OnnxEstimator } from '@shoal/lib';
import { bigModelWorker, runWorker } from '@shoal/workers';

// The big model in the cloud, behind POST /<service>/predict.
await runWorker(
  'digits-cloud',
  async (context) => await bigModelWorker(new OnnxEstimator({ threads: 1 }), context),
);
