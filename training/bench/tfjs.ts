import type * as Tf from '@tensorflow/tfjs';

type Tfjs = typeof Tf;

/** tfjs with its wasm backend, or undefined where the optional packages are missing. */
async function load(): Promise<Tfjs | undefined> {
  try {
    const tf = await import('@tensorflow/tfjs');
    await import('@tensorflow/tfjs-backend-wasm');
    return tf;
  } catch {
    return undefined;
  }
}

/** Least time of one tfjs training step by backend; empty when tfjs is not installed. */
export async function tfjsStepMs(): Promise<Record<string, { model: string; ms: number }>> {
  const tf = await load();
  if (!tf) return {};
  await tf.setBackend('cpu');
  const results: Record<string, { model: string; ms: number }> = {};
  const time = async (steps: number, step: () => Promise<unknown>): Promise<number> => {
    await step();
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < steps; i++) {
      const startedAt = performance.now();
      await step();
      least = Math.min(least, performance.now() - startedAt);
    }
    return least;
  };
  const labels = tf.oneHot(
    Array.from({ length: 32 }, (_, i) => i % 10),
    10,
  );
  const cnn = tf.sequential({
    layers: [
      tf.layers.conv2d({ inputShape: [28, 28, 1], filters: 16, kernelSize: 3, activation: 'relu' }),
      tf.layers.maxPooling2d({ poolSize: 2 }),
      tf.layers.conv2d({ filters: 32, kernelSize: 3, activation: 'relu' }),
      tf.layers.maxPooling2d({ poolSize: 2 }),
      tf.layers.flatten(),
      tf.layers.dense({ units: 10, activation: 'softmax' }),
    ],
  });
  cnn.compile({ optimizer: tf.train.sgd(0.01), loss: 'categoricalCrossentropy' });
  const images = tf.randomNormal([32, 28, 28, 1]);
  results['cpu'] = { model: 'cnn', ms: await time(3, () => cnn.trainOnBatch(images, labels)) };
  try {
    await tf.setBackend('wasm');
    await tf.ready();
    const mlp = tf.sequential({
      layers: [
        tf.layers.dense({ inputShape: [784], units: 256, activation: 'relu' }),
        tf.layers.dense({ units: 128, activation: 'relu' }),
        tf.layers.dense({ units: 10, activation: 'softmax' }),
      ],
    });
    mlp.compile({ optimizer: tf.train.sgd(0.01), loss: 'categoricalCrossentropy' });
    const rows = tf.randomNormal([32, 784]);
    const classes = tf.oneHot(
      Array.from({ length: 32 }, (_, i) => i % 10),
      10,
    );
    results['wasm'] = { model: 'mlp', ms: await time(50, () => mlp.trainOnBatch(rows, classes)) };
  } catch (error) {
    console.log(`tfjs wasm does not run here: ${String(error)}`);
  }
  return results;
}
