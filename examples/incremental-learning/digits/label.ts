import { DIGIT_SHAPE } from '@shoal/datasets';
import { OnnxEstimator, parseImageData } from '@shoal/lib';
import { labelWorker, runWorker } from '@shoal/workers';

// Labels hard digits in the cloud with a larger model, where it is sure.
await runWorker(
  'digits-label',
  async (context) =>
    await labelWorker(
      {
        estimator: new OnnxEstimator({ threads: 1 }),
        parse: (data) => parseImageData(data, DIGIT_SHAPE),
      },
      context,
    ),
);
