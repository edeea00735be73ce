import { seededRandom } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { expect, test } from 'vitest';
import { type Batch, Trainer } from '../index.ts';
import { dense, embedding, sequential } from '../layers.ts';
import { GraphBuilder, modelOf } from '../onnx/graph-builder.ts';
import { writeModel } from '../onnx/model-file.ts';
import { DATA_TYPE, sizeOf } from '../onnx/tensor-data.ts';
import { type LossOptions, lossDefinition } from './losses.ts';

type Values = Float32Array | BigInt64Array;

/** Loss and gradient of a loss on given logits, by the graph it writes. */
async function lossAt(
  options: Exclude<LossOptions, { name: 'graph' }>,
  z: Float32Array,
  dims: readonly number[],
  targets: Readonly<Record<string, Values>>,
): Promise<{ loss: number; gradient: number[] }> {
  const definition = lossDefinition(options);
  const builder = new GraphBuilder();
  const name = builder.input('z', dims);
  const names: Record<string, string> = {};
  const feeds: Record<string, ort.Tensor> = { z: new ort.Tensor('float32', z, dims) };
  for (const [key, spec] of Object.entries(definition.targets(dims))) {
    names[key] = builder.input(key, spec.dims, spec.elementType);
    const values = targets[key];
    if (values?.length !== sizeOf(spec.dims)) throw new Error(`target ${key} has the wrong size`);
    feeds[key] =
      values instanceof BigInt64Array
        ? new ort.Tensor('int64', values, spec.dims)
        : new ort.Tensor('float32', values, spec.dims);
  }
  const { loss, gradient } = definition.write(builder, { name, dims }, names);
  builder.output(loss, []);
  builder.output(gradient, dims);
  const session = await ort.InferenceSession.create(writeModel(modelOf(builder.graph('l'), 18)));
  const results = await session.run(feeds);
  await session.release();
  return {
    loss: Number(results[loss]?.data[0]),
    gradient: Array.from(results[gradient]?.data as Float32Array),
  };
}

const Z = Float32Array.of(0.2, -1.3, 2.1, 0.7, 0.4, -0.2, -2, 1.5, 0.1, 0.9, -0.6, 0.3);
const DIMS = [4, 3];
const LABELS = BigInt64Array.of(2n, 0n, 1n, 2n);
const TEACHER = Z.map((v, i) => Math.cos(i) - v / 2);

function logSoftmax(row: readonly number[]): number[] {
  const top = Math.max(...row);
  const total = Math.log(row.reduce((s, v) => s + Math.exp(v - top), 0)) + top;
  return row.map((v) => v - total);
}

function rows(values: ArrayLike<number>, width: number): number[][] {
  return Array.from({ length: values.length / width }, (_, i) =>
    Array.from({ length: width }, (__, k) => values[i * width + k] ?? 0),
  );
}

const mean = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / values.length;
const sigmoid = (v: number): number => 1 / (1 + Math.exp(-v));

/** Each loss by its textbook formula, in float64. */
const CASES: readonly {
  readonly options: Exclude<LossOptions, { name: 'graph' }>;
  readonly dims?: readonly number[];
  readonly targets: Readonly<Record<string, Values>>;
  readonly oracle: (z: readonly number[]) => number;
}[] = [
  {
    options: { name: 'softmax-cross-entropy' },
    targets: { targets: LABELS },
    oracle: (z) => -mean(rows(z, 3).map((r, i) => logSoftmax(r)[Number(LABELS[i])] ?? 0)),
  },
  {
    options: { name: 'softmax-cross-entropy', labelSmoothing: 0.1 },
    targets: { targets: LABELS },
    oracle: (z) =>
      -mean(
        rows(z, 3).map((r, i) =>
          logSoftmax(r).reduce(
            (s, l, k) => s + l * (0.1 / 3 + (k === Number(LABELS[i]) ? 0.9 : 0)),
            0,
          ),
        ),
      ),
  },
  {
    options: { name: 'softmax-cross-entropy', classWeights: [1, 2, 0.5] },
    targets: { targets: LABELS },
    oracle: (z) => {
      const w = [1, 2, 0.5];
      const each = rows(z, 3).map((r, i) => {
        const y = Number(LABELS[i]);
        return [(w[y] ?? 0) * (logSoftmax(r)[y] ?? 0), w[y] ?? 0] as const;
      });
      return -each.reduce((s, [l]) => s + l, 0) / each.reduce((s, [, v]) => s + v, 0);
    },
  },
  {
    options: { name: 'softmax-cross-entropy', targets: 'distribution' },
    targets: { targets: Float32Array.from({ length: 12 }, (_, i) => ((i * 7) % 5) / 6) },
    oracle: (z) =>
      -mean(
        rows(z, 3).map((r, i) =>
          logSoftmax(r).reduce((s, l, k) => s + (l * (((i * 3 + k) * 7) % 5)) / 6, 0),
        ),
      ),
  },
  {
    options: { name: 'softmax-cross-entropy', classAxis: 'last', labelSmoothing: 0.2 },
    dims: [2, 2, 3],
    targets: { targets: LABELS },
    oracle: (z) =>
      -mean(
        rows(z, 3).map((r, i) =>
          logSoftmax(r).reduce(
            (s, l, k) => s + l * (0.2 / 3 + (k === Number(LABELS[i]) ? 0.8 : 0)),
            0,
          ),
        ),
      ),
  },
  {
    options: {
      name: 'softmax-cross-entropy',
      classAxis: 'second',
      ignoreIndex: -100,
      classWeights: [1, 2, 0.5],
    },
    dims: [2, 3, 2],
    targets: { targets: BigInt64Array.of(2n, -100n, 1n, 0n) },
    oracle: (z) => {
      // Places (0, 0), (1, 0), (1, 1); the scores of a place are two apart.
      const places = [
        [0, 2],
        [6, 1],
        [7, 0],
      ] as const;
      const w = [1, 2, 0.5];
      const terms = places.map(([at, y]) => {
        const l = logSoftmax([z[at] ?? 0, z[at + 2] ?? 0, z[at + 4] ?? 0])[y] ?? 0;
        return [(w[y] ?? 0) * l, w[y] ?? 0] as const;
      });
      return -terms.reduce((s, [l]) => s + l, 0) / terms.reduce((s, [, v]) => s + v, 0);
    },
  },
  {
    options: { name: 'softmax-cross-entropy', ignoreIndex: 9 },
    targets: { targets: BigInt64Array.of(2n, 9n, 1n, 9n) },
    oracle: (z) => {
      const [first = [], , third = []] = rows(z, 3).map(logSoftmax);
      return -((first[2] ?? 0) + (third[1] ?? 0)) / 2;
    },
  },
  {
    options: { name: 'softmax-cross-entropy', targets: 'distribution', classAxis: 'second' },
    dims: [2, 3, 2],
    targets: { targets: Float32Array.from({ length: 12 }, (_, i) => ((i * 7) % 5) / 6) },
    oracle: (z) =>
      -mean(
        [0, 1, 6, 7].map((at) => {
          const places = [at, at + 2, at + 4];
          return logSoftmax(places.map((i) => z[i] ?? 0)).reduce(
            (s, l, k) => s + (l * (((places[k] ?? 0) * 7) % 5)) / 6,
            0,
          );
        }),
      ),
  },
  {
    options: { name: 'binary-cross-entropy' },
    targets: {
      targets: Float32Array.from({ length: 12 }, (_, i) =>
        i % 3 === 0 ? 1 : i % 3 === 1 ? 0 : 0.3,
      ),
    },
    oracle: (z) =>
      -mean(
        z.map((v, i) => {
          const y = i % 3 === 0 ? 1 : i % 3 === 1 ? 0 : 0.3;
          return y * Math.log(sigmoid(v)) + (1 - y) * Math.log(1 - sigmoid(v));
        }),
      ),
  },
  {
    options: { name: 'mean-squared-error' },
    targets: { targets: TEACHER },
    oracle: (z) => mean(z.map((v, i) => (v - (TEACHER[i] ?? 0)) ** 2)),
  },
  {
    options: { name: 'huber', delta: 0.7 },
    targets: { targets: TEACHER },
    oracle: (z) =>
      mean(
        z.map((v, i) => {
          const d = Math.abs(v - (TEACHER[i] ?? 0));
          return d <= 0.7 ? d ** 2 / 2 : 0.7 * (d - 0.35);
        }),
      ),
  },
  {
    options: { name: 'cox-partial-likelihood' },
    dims: [12, 1],
    targets: {
      time: Float32Array.of(5, 3, 9, 2, 7, 7, 1, 4, 8, 6, 3, 2),
      event: Float32Array.of(1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0),
    },
    oracle: (z) => {
      const t = [5, 3, 9, 2, 7, 7, 1, 4, 8, 6, 3, 2];
      const e = [1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0];
      let total = 0;
      for (const [i, h] of z.entries()) {
        if (e[i] === 0) continue;
        const inner = z.reduce((s, v, j) => s + ((t[j] ?? 0) >= (t[i] ?? 0) ? Math.exp(v) : 0), 0);
        total -= h - Math.log(inner);
      }
      return total / e.reduce((a, b) => a + b, 0);
    },
  },
  {
    options: { name: 'distillation', temperature: 3 },
    targets: {
      labels: LABELS,
      labelWeights: Float32Array.of(1, 0.5, 0, 2),
      logits: TEACHER,
      logitWeights: Float32Array.of(0, 1, 2, 0.25),
    },
    oracle: (z) => {
      const [a, b] = [
        [1, 0.5, 0, 2],
        [0, 1, 2, 0.25],
      ];
      return mean(
        rows(z, 3).map((r, i) => {
          const q = logSoftmax((rows(TEACHER, 3)[i] ?? []).map((v) => v / 3));
          const p = logSoftmax(r.map((v) => v / 3));
          const kl = q.reduce((s, lq, k) => s + Math.exp(lq) * (lq - (p[k] ?? 0)), 0);
          return -(a?.[i] ?? 0) * (logSoftmax(r)[Number(LABELS[i])] ?? 0) + (b?.[i] ?? 0) * 9 * kl;
        }),
      );
    },
  },
  {
    options: { name: 'distillation', match: 'mse' },
    targets: {
      labels: LABELS,
      labelWeights: Float32Array.of(1, 1, 0.5, 0.5),
      logits: TEACHER,
      logitWeights: Float32Array.of(0, 0, 0.3, 0.3),
    },
    oracle: (z) =>
      mean(
        rows(z, 3).map((r, i) => {
          const ce = -(logSoftmax(r)[Number(LABELS[i])] ?? 0);
          const square = mean(r.map((v, k) => (v - (rows(TEACHER, 3)[i]?.[k] ?? 0)) ** 2));
          return i < 2 ? ce : 0.5 * ce + 0.3 * square;
        }),
      ),
  },
];

test.each(CASES)(
  '$options has its formula’s value and slope',
  async ({ options, dims = DIMS, targets, oracle }) => {
    const { loss, gradient } = await lossAt(options, Z, dims, targets);
    expect(loss).toBeCloseTo(oracle(Array.from(Z)), 5);
    const h = 1e-5;
    for (const [i, g] of gradient.entries()) {
      const moved = (d: number): number => oracle(Array.from(Z, (v, k) => (k === i ? v + d : v)));
      expect(g).toBeCloseTo((moved(h) - moved(-h)) / (2 * h), 4);
    }
  },
);

test('large logits stay finite in every classification loss', async () => {
  const z = Float32Array.of(1e4, -1e4, 0, 500, -500, 0, 80, 90, -100, 1e6, 0, -1e6);
  for (const name of ['softmax-cross-entropy', 'binary-cross-entropy'] as const) {
    const targets: Record<string, Values> = {
      targets: name === 'binary-cross-entropy' ? new Float32Array(12) : LABELS,
    };
    const { loss, gradient } = await lossAt({ name }, z, DIMS, targets);
    expect(Number.isFinite(loss)).toBe(true);
    expect(gradient.every(Number.isFinite)).toBe(true);
  }
});

test('a batch without an event has Cox loss 0 and gradient 0', async () => {
  const targets = { time: Float32Array.of(1, 2, 3), event: new Float32Array(3) };
  const { loss, gradient } = await lossAt(
    { name: 'cox-partial-likelihood' },
    Z.slice(0, 3),
    [3, 1],
    targets,
  );
  expect(Math.abs(loss)).toBe(0);
  expect(gradient.map(Math.abs)).toEqual([0, 0, 0]);
});

test('a loss given as an ONNX graph trains like the built-in one', async () => {
  const graph = new GraphBuilder('');
  const y = graph.input('prediction', ['batch', 2]);
  const t = graph.input('goal', ['batch', 2], DATA_TYPE.float);
  const d = graph.node('Sub', [y, t]);
  const loss = graph.node('ReduceMean', [graph.node('Mul', [d, d])], { keepdims: 0 });
  graph.output(loss, []);
  const own = writeModel(modelOf(graph.graph('loss'), 17));
  const model = sequential({ input: [3], layers: [dense(2)], random: seededRandom(1) });
  const optimizer = { name: 'sgd', learningRate: 0.1 } as const;
  const goal = Float32Array.of(1, 0, 0, 1);
  const batch: Batch = { inputs: Z.slice(0, 6), targets: goal, size: 2 };
  const a = await Trainer.create({ model, optimizer, loss: 'mean-squared-error' });
  const b = await Trainer.create({ model, optimizer, loss: { name: 'graph', model: own } });
  for (let i = 0; i < 3; i++) {
    const first = await a.step(batch);
    const second = await b.step({ ...batch, targets: { goal } });
    expect(second.loss).toBeCloseTo(first.loss, 6);
  }
  for (const [name, values] of a.getParameters())
    for (const [i, v] of (b.getParameters().get(name) ?? []).entries())
      expect(v).toBeCloseTo(values[i] ?? 0, 6);
  await Promise.all([a.release(), b.release()]);
});

test('unknown losses and numbers out of range are named', () => {
  expect(() => lossDefinition({ name: 'hinge' as 'huber' })).toThrow(
    /no loss "hinge"; choose one of softmax/,
  );
  expect(() => lossDefinition({ name: 'huber', delta: 0 })).toThrow(/delta must be > 0, got 0/);
  expect(() => lossDefinition({ name: 'distillation', temperature: -1 })).toThrow(
    /temperature must be > 0/,
  );
  expect(() => lossDefinition({ name: 'softmax-cross-entropy', labelSmoothing: 1 })).toThrow(
    /\[0, 1\), got 1/,
  );
  expect(() =>
    lossDefinition({ name: 'softmax-cross-entropy', classWeights: [1, 2] }).targets([4, 3]),
  ).toThrow(/2 class weights for 3 classes/);
  expect(() => lossDefinition({ name: 'softmax-cross-entropy' }).targets([4])).toThrow(
    /\[batch, classes\]/,
  );
});

test('a batch in which nothing counts has loss 0 and gradient 0', async () => {
  const options = { name: 'softmax-cross-entropy', ignoreIndex: -1 } as const;
  const targets = { targets: new BigInt64Array(4).fill(-1n) };
  const { loss, gradient } = await lossAt(options, Z, DIMS, targets);
  expect(loss).toBe(0);
  expect(gradient.every((g) => g === 0)).toBe(true);
});

test('labels whose classes weigh nothing give loss 0, smoothed or not; small weights are weights', async () => {
  const of = async (classWeights: number[], labelSmoothing: number): Promise<number[]> => {
    const options = { name: 'softmax-cross-entropy', classWeights, labelSmoothing } as const;
    const { loss, gradient } = await lossAt(options, Z, DIMS, {
      targets: new BigInt64Array(4).fill(2n),
    });
    return [loss, ...gradient];
  };
  expect((await of([1, 1, 0], 0.1)).every((v) => v === 0)).toBe(true);
  const [tiny, whole] = [await of([1e-13, 1e-13, 1e-13], 0), await of([1, 1, 1], 0)];
  for (const [i, v] of whole.entries()) expect(tiny[i]).toBeCloseTo(v, 5);
});

test('where the classes are has to be said, and what does not count is no class', () => {
  const given = (options: object): unknown => {
    const all = { name: 'softmax-cross-entropy', ...options } as { name: 'softmax-cross-entropy' };
    return lossDefinition(all).targets([8, 5, 7]);
  };
  expect(() => given({})).toThrow(
    /the model gives \[8, 5, 7\]: say where its classes are, classAxis: 'last' \(7\) or 'second' \(5\)/,
  );
  expect(given({ classAxis: 'last' })).toMatchObject({ targets: { dims: [8, 5], classes: 7 } });
  expect(given({ classAxis: 'second' })).toMatchObject({ targets: { dims: [8, 7], classes: 5 } });
  expect(() => given({ classAxis: 'last', ignoreIndex: 6 })).toThrow(
    /ignoreIndex 6 is one of the 7 classes; choose another, as -100/,
  );
  expect(() => given({ classWeights: [1, -2] })).toThrow(
    /the weight of class 1 must be a number ≥ 0, got -2/,
  );
  expect(() => given({ classAxis: 'first' })).toThrow(
    /classAxis must be 'last' or 'second', got "first"/,
  );
  expect(() => given({ ignoreIndex: 0.5 })).toThrow(/ignoreIndex must be a whole number, got 0.5/);
  expect(() => given({ ignoreIndex: -1, targets: 'distribution' })).toThrow(
    /ignoreIndex needs targets given as class indices/,
  );
});

test('tokens are classified each by itself; padding counts neither in loss nor in metrics', async () => {
  // Token t of a sample has as scores row x[t] of the embedding: 4 tokens, 5 classes.
  const model = sequential({
    input: [3],
    inputType: 'int64',
    layers: [embedding(4, 5)],
    random: seededRandom(3),
  });
  const trainer = await Trainer.create({
    model,
    loss: { name: 'softmax-cross-entropy', classAxis: 'last', ignoreIndex: -100 },
    optimizer: { name: 'adam', learningRate: 0.1 },
    metrics: ['accuracy', 'top2', 'top9'],
    threads: 1,
  });
  const batch = {
    inputs: BigInt64Array.of(0n, 1n, 2n, 3n, 0n, 1n),
    targets: BigInt64Array.of(4n, 2n, -100n, -100n, 4n, 1n),
    size: 2,
  };
  const { metrics, output } = await trainer.evaluate(batch);
  const ranks = [0, 1, 4, 5].map((place) => {
    const scores = Array.from(output.subarray(place * 5, place * 5 + 5));
    const own = scores[Number(batch.targets[place])] ?? 0;
    return scores.filter((v) => v > own).length;
  });
  expect(metrics['accuracy']).toBeCloseTo(ranks.filter((r) => r < 1).length / 4, 6);
  expect(metrics['top2']).toBeCloseTo(ranks.filter((r) => r < 2).length / 4, 6);
  expect(metrics['top9']).toBe(1);
  for (let i = 0; i < 60; i++) await trainer.step(batch);
  const learned = await trainer.evaluate(batch);
  // Token 1 is of class 2 once and of class 1 once: three of four can be right.
  expect(learned.metrics['accuracy']).toBeCloseTo(0.75, 6);
  expect(learned.metrics['top2']).toBe(1);
  await expect(
    trainer.step({ ...batch, targets: BigInt64Array.of(4n, 2n, 5n, 0n, 0n, 0n) }),
  ).rejects.toThrow(
    /sample 0 of the batch, place 2, has class 5; the model has classes 0 to 4, and -100 is none/,
  );
  await trainer.release();
  const odd = Trainer.create({
    model,
    loss: { name: 'softmax-cross-entropy', classAxis: 'last' },
    optimizer: { name: 'sgd', learningRate: 1 },
    metrics: ['top0'],
  });
  await expect(odd).rejects.toThrow(
    /there is no metric "top0"; choose accuracy, top<k> as in top5/,
  );
});
