import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import { type Samples, TfjsEstimator } from '../src/index.ts';

/** Two clouds of points. */
function points(count: number, seed: number): Samples {
  const random = seededRandom(seed);
  const labels = BigInt64Array.from({ length: count }, (_, i) => BigInt(i % 2));
  const inputs = Float32Array.from(
    { length: count * 2 },
    (_, i) => random.normal() * 0.4 + (Math.floor(i / 2) % 2 === 0 ? -1 : 1),
  );
  return { inputs, labels, shape: [2], size: count };
}

test('a tf.js model trains, evaluates, is saved and loaded, behind the same interface', {
  timeout: 60_000,
}, async () => {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-tfjs-'));
  const estimator = new TfjsEstimator({
    learningRate: 0.05,
    epochs: 4,
    build: (tf) => {
      // Drawn by chance, the first weights now and then know it all already.
      const kernelInitializer = tf.initializers.glorotUniform({ seed: 4 });
      return tf.sequential({
        layers: [
          tf.layers.dense({ inputShape: [2], units: 8, activation: 'relu', kernelInitializer }),
          tf.layers.dense({ units: 2, activation: 'softmax', kernelInitializer }),
        ],
      });
    },
  });
  const before = await estimator.evaluate(points(200, 2));
  await estimator.train(points(400, 1));
  const after = await estimator.evaluate(points(200, 2));
  expect(after['accuracy']).toBeGreaterThan(0.95);
  expect(before['accuracy']).toBeLessThan(0.9);
  await estimator.save(join(dir, 'model.json'));
  const again = new TfjsEstimator();
  await again.load(join(dir, 'model.json'));
  expect(await again.evaluate(points(200, 2))).toEqual(after);
  await expect(again.predict(new Float32Array(3), 2)).rejects.toThrow(
    /3 input values given; 2 samples of shape \[2\] need 4/,
  );
  writeFileSync(join(dir, 'bad.json'), '{}');
  await expect(again.load(join(dir, 'bad.json'))).rejects.toThrow(
    /is not a model saved by TfjsEstimator/,
  );
  await expect(new TfjsEstimator().evaluate(points(2, 1))).rejects.toThrow(/no model: pass build/);
  await Promise.all([estimator.close(), again.close()]);
  rmSync(dir, { recursive: true, force: true });
});
