import { DIGIT_SHAPE } from '@shoal/datasets';
import { OnnxEstimator, readImageLines } from '@shoal/lib';
import { evaluateWorker, runWorker } from '@shoal/workers';

// Holds the new model against the deployed one on the same samples.
const create = (): OnnxEstimator =>
  new OnnxEstimator({
    epochs: 4,
    batchSize: 32,
    threads: 2,
    optimizer: { name: 'adam', learningRate: 1e-3 },
  });

await runWorker(
  'digits-evaluate',
  async (context) =>
    await evaluateWorker({ create, read: (path) => readImageLines(path, DIGIT_SHAPE) }, context),
);
