import { seededRandom } from '@shoal/core';
import { locateDataset, readMnist } from '@shoal/datasets';
import { type Samples, select } from '@shoal/lib';
import {
  type Batch,
  conv2d,
  cosineDecay,
  dense,
  flatten,
  maxPool2d,
  relu,
  sequential,
  Trainer,
} from '@shoal/training';

/**
 * `npm run bench:mnist`: a LeNet-size network trained on 8,000 MNIST digits, scored on 2,000 held
 * out. Each epoch shows every digit shifted by up to two pixels, the usual augmentation.
 */
const EPOCHS = 16;
const BATCH = 32;
const SIDE = 28;

const located = locateDataset('mnist');
if (!located) throw new Error('MNIST is not here: shoal dataset pull mnist');
const all = readMnist(located.folder);
const random = seededRandom(1);
const order = random.permutation(all.size);
const train = select(all, order.subarray(0, 8_000));
const held = select(all, order.subarray(8_000));

/** The digits at some positions, each moved by −2 to 2 pixels both ways. */
function shifted(samples: Samples, positions: Uint32Array): Samples {
  const part = select(samples, positions);
  const inputs = new Float32Array(part.inputs.length);
  for (let i = 0; i < part.size; i++) {
    const [dy, dx] = [random.int(5) - 2, random.int(5) - 2];
    for (let y = Math.max(0, dy); y < SIDE + Math.min(0, dy); y++) {
      for (let x = Math.max(0, dx); x < SIDE + Math.min(0, dx); x++)
        inputs[(i * SIDE + y) * SIDE + x] = part.inputs[(i * SIDE + y - dy) * SIDE + x - dx] ?? 0;
    }
  }
  return { ...part, inputs };
}

function* shiftedBatches(positions: Uint32Array): Generator<Batch> {
  for (let at = 0; at < train.size; at += BATCH) {
    const { inputs, labels, size } = shifted(train, positions.subarray(at, at + BATCH));
    yield { inputs, targets: labels, size };
  }
}

const layers = [
  conv2d(6, 5, { padding: 2 }),
  relu(),
  maxPool2d(2),
  conv2d(16, 5),
  relu(),
  maxPool2d(2),
  flatten(),
  dense(120),
  relu(),
  dense(84),
  relu(),
  dense(10),
];
const trainer = await Trainer.create({
  model: sequential({ input: [1, SIDE, SIDE], layers, random }),
  loss: 'softmax-cross-entropy',
  optimizer: { name: 'adam', learningRate: 0.002 },
});
const rate = cosineDecay(0.002, (EPOCHS * train.size) / BATCH);
const startedAt = performance.now();
let accuracy = 0;
for (let epoch = 1; epoch <= EPOCHS; epoch++) {
  const positions = random.permutation(train.size);
  for await (const _ of trainer.train(shiftedBatches(positions), rate));
  const scores = await trainer.evaluate({
    inputs: held.inputs,
    targets: held.labels,
    size: held.size,
  });
  accuracy = scores.metrics['accuracy'] ?? 0;
  console.log(`epoch ${epoch}: ${(accuracy * 100).toFixed(2)} % of ${held.size} held-out digits`);
}
const seconds = (performance.now() - startedAt) / 1000;
const parameters = trainer.parameters.reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0);
await trainer.release();
console.log(
  JSON.stringify({ accuracy, seconds, parameters, trained: train.size, held: held.size }),
);
