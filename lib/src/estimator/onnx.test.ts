import { seededRandom } from '@shoal/core';
import { dense, relu, sequential } from '@shoal/training';
import { expect, test } from 'vitest';
import type { Samples } from '../data/samples.ts';
import { type ClassLoss, OnnxEstimator } from './onnx.ts';

/** Two classes that a line separates. */
function samples(size: number): Samples {
  const random = seededRandom(7);
  const inputs = Float32Array.from({ length: size * 3 }, () => random.normal());
  const labels = BigInt64Array.from({ length: size }, (_, i) =>
    (inputs[i * 3] ?? 0) + (inputs[i * 3 + 1] ?? 0) > 0 ? 1n : 0n,
  );
  return { inputs, labels, shape: [3], size };
}

const LOSSES: readonly (readonly [ClassLoss, number])[] = [
  ['softmax-cross-entropy', 2],
  ['binary-cross-entropy', 2],
  ['mean-squared-error', 2],
  ['huber', 2],
  ['mean-squared-error', 1],
];

test.each(LOSSES)('labels are enough for %s with %i outputs', async (loss, outputs) => {
  const layers = [dense(8), relu(), dense(outputs)];
  const model = sequential({ input: [3], layers, random: seededRandom(1) });
  const estimator = new OnnxEstimator({
    model,
    loss,
    epochs: 12,
    optimizer: { name: 'adam', learningRate: 0.02 },
  });
  const data = samples(200);
  await estimator.train(data);
  const { logits = new Float32Array() } = await estimator.predict(data.inputs, data.size);
  const right = data.labels.filter((label, i) => {
    const [a = 0, b = 0] = logits.subarray(i * outputs, (i + 1) * outputs);
    return (outputs === 1 ? a > 0.5 : b > a) === (label === 1n);
  });
  expect(right.length / data.size).toBeGreaterThan(0.93);
  await estimator.close();
});
