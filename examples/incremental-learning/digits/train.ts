import { DIGIT_SHAPE } from '@shoal/datasets';
import { OnnxEstimator, readImageLines } from '@shoal/lib';
import { runWorker, trainWorker } from '@shoal/workers';

// Fine-tunes the deployed model on the new samples, and on some of before.
const create = (): OnnxEstimator =>
  new OnnxEstimator({
    epochs: 10,
    batchSize: 32,
    threads: 2,
    optimizer: { name: 'adam', learningRate: 1e-3 },
  });

await runWorker(
  'digits-train',
  async (context) =>
    await trainWorker({ create, read: (path) => readImageLines(path, DIGIT_SHAPE) }, context),
);
