import { OnnxEstimator } from '@shoal/lib';
import { bigModelWorker, runWorker } from '@shoal/workers';

await runWorker(
  'bench-cloud',
  async (context) => await bigModelWorker(new OnnxEstimator({ threads: 1 }), context),
);
