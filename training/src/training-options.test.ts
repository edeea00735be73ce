import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { seededRandom } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { expect, test } from 'vitest';
import type { Batch } from './batch.ts';
import { glorotUniform, heNormal, orthogonal } from './initializers.ts';
import {
  add,
  batchNorm,
  chain,
  concatenate,
  conv2d,
  dense,
  dropout,
  embedding,
  flatten,
  functional,
  gelu,
  globalAveragePool,
  layerNorm,
  relu,
  residual,
  sequential,
} from './layers.ts';
import { GraphBuilder, modelOf } from './onnx/graph-builder.ts';
import { readModel, readModelFile, writeModel } from './onnx/model-file.ts';
import { DATA_TYPE } from './onnx/tensor-data.ts';
import { type OptimizerOptions, optimizerNodes } from './optimizers.ts';
import { Trainer, type TrainerOptions } from './trainer.ts';

const random = (): ReturnType<typeof seededRandom> => seededRandom(4);
const LINEAR = sequential({ input: [3], layers: [dense(2)], random: random() });
const BATCH: Batch = {
  inputs: Float32Array.of(0.5, -1, 2, 1, 0.25, -0.5),
  targets: Float32Array.of(1, 0, -1, 2),
  size: 2,
};

function options(over: Partial<TrainerOptions> = {}): TrainerOptions {
  return {
    model: LINEAR,
    loss: 'mean-squared-error',
    optimizer: { name: 'sgd', learningRate: 0.1 },
    threads: 1,
    ...over,
  };
}

type Vector = readonly number[];
type Rule = (g: Vector, theta: Vector, state: Record<string, Vector>, t: number) => Vector;

const zip = (a: Vector, b: Vector, f: (x: number, y: number) => number): number[] =>
  a.map((x, i) => f(x, b[i] ?? 0));
const zeros = (g: Vector): Vector => g.map(() => 0);

/** The optimizers' published update rules, in float64. */
const RULES: readonly (readonly [OptimizerOptions, Rule])[] = [
  [
    { name: 'sgd', learningRate: 0.1, momentum: 0.9, nesterov: true },
    (g, theta, s) => {
      s['v'] = zip(s['v'] ?? zeros(g), g, (v, x) => 0.9 * v + x);
      const direction = zip(g, s['v'], (x, v) => x + 0.9 * v);
      return zip(theta, direction, (p, d) => p - 0.1 * d);
    },
  ],
  [
    { name: 'adamw', learningRate: 0.05, weightDecay: 0.1 },
    (g, theta, s, t) => {
      s['m'] = zip(s['m'] ?? zeros(g), g, (m, x) => 0.9 * m + 0.1 * x);
      s['v'] = zip(s['v'] ?? zeros(g), g, (v, x) => 0.999 * v + 0.001 * x * x);
      const step = zip(
        s['m'],
        s['v'],
        (m, v) => m / (1 - 0.9 ** t) / (Math.sqrt(v / (1 - 0.999 ** t)) + 1e-8),
      );
      return zip(theta, step, (p, d) => p - 0.05 * 0.1 * p - 0.05 * d);
    },
  ],
  [
    { name: 'rmsprop', learningRate: 0.01, momentum: 0.5, alpha: 0.9 },
    (g, theta, s) => {
      s['q'] = zip(s['q'] ?? zeros(g), g, (q, x) => 0.9 * q + 0.1 * x * x);
      s['v'] = zip(
        s['v'] ?? zeros(g),
        zip(g, s['q'], (x, q) => x / (Math.sqrt(q) + 1e-8)),
        (v, d) => 0.5 * v + d,
      );
      return zip(theta, s['v'], (p, v) => p - 0.01 * v);
    },
  ],
  [
    { name: 'adagrad', learningRate: 0.1, weightDecay: 0.01 },
    (g0, theta, s) => {
      const g = zip(g0, theta, (x, p) => x + 0.01 * p);
      s['q'] = zip(s['q'] ?? zeros(g), g, (q, x) => q + x * x);
      return zip(
        theta,
        zip(g, s['q'], (x, q) => x / (Math.sqrt(q) + 1e-10)),
        (p, d) => p - 0.1 * d,
      );
    },
  ],
];

test.each(RULES)('%j follows its published rule', async (optimizer, rule) => {
  const trainer = await Trainer.create(options({ optimizer }));
  const states = new Map<string, Record<string, Vector>>();
  for (let t = 1; t <= 6; t++) {
    const before = trainer.getParameters();
    const { gradients } = await trainer.gradients(BATCH);
    await trainer.step(BATCH);
    for (const [name, values] of trainer.getParameters()) {
      const state = states.get(name) ?? {};
      states.set(name, state);
      const g = Array.from(gradients.get(name) ?? []);
      const wanted = rule(g, Array.from(before.get(name) ?? []), state, t);
      for (const [i, v] of wanted.entries()) expect(values[i]).toBeCloseTo(v, 5);
    }
  }
  await trainer.release();
});

test('apply with its own gradients is a step; resetOptimizer starts over', async () => {
  const optimizer = { name: 'adam', learningRate: 0.05 } as const;
  const a = await Trainer.create(options({ optimizer }));
  const b = await Trainer.create(options({ optimizer }));
  const start = a.getParameters();
  for (let i = 0; i < 3; i++) {
    await a.step(BATCH);
    await b.apply((await b.gradients(BATCH)).gradients);
  }
  const after = a.getParameters();
  for (const [name, v] of b.getParameters())
    for (const [i, x] of v.entries()) expect(x).toBeCloseTo(after.get(name)?.[i] ?? 0, 6);
  a.setParameters(start);
  a.resetOptimizer();
  for (let i = 0; i < 3; i++) await a.step(BATCH);
  expect(a.getParameters()).toEqual(after);
  expect(a.steps).toBe(3);
  await expect(b.apply(new Map())).rejects.toThrow(
    /"layer0.weight" of shape \[2, 3\] got a gradient of no values/,
  );
  await Promise.all([a.release(), b.release()]);
});

async function movedBy(
  over: Partial<TrainerOptions>,
  prepare?: (t: Trainer) => void,
): Promise<Map<string, number[]>> {
  const trainer = await Trainer.create(options(over));
  prepare?.(trainer);
  const before = trainer.getParameters();
  await trainer.step(BATCH);
  const moved = new Map(
    [...trainer.getParameters()].map(([name, v]) => [
      name,
      Array.from(v, (x, i) => x - (before.get(name)?.[i] ?? 0)),
    ]),
  );
  await trainer.release();
  return moved;
}

test('clipping limits the global norm of the gradient and tells it', async () => {
  const plain = await movedBy({});
  const norm = Math.hypot(...[...plain.values()].flat()) / 0.1;
  const trainer = await Trainer.create(options({ clipNorm: norm / 4 }));
  expect((await trainer.step(BATCH)).metrics['gradientNorm']).toBeCloseTo(norm, 4);
  await trainer.release();
  const clipped = await movedBy({ clipNorm: norm / 4 });
  for (const [name, v] of clipped)
    for (const [i, x] of v.entries()) expect(x).toBeCloseTo((plain.get(name)?.[i] ?? 0) / 4, 5);
  for (const [name, v] of await movedBy({ clipNorm: norm * 2 }))
    for (const [i, x] of v.entries()) expect(x).toBeCloseTo(plain.get(name)?.[i] ?? 0, 6);
});

test('the proximal term pulls towards the anchor, the elastic one by importance, the offset adds', async () => {
  const plain = await movedBy({});
  const anchored = (t: Trainer): void =>
    t.setCompanion('anchor', new Map([['layer0.bias', Float32Array.of(1, -2)]]));
  const proximal = await movedBy({ penalty: { name: 'proximal', strength: 0.5 } }, anchored);
  // bias starts at 0: its gradient grows by μ(0 − θ*)
  const expected = (plain.get('layer0.bias') ?? []).map(
    (v, i) => v - 0.1 * 0.5 * (i === 0 ? -1 : 2),
  );
  for (const [i, v] of expected.entries())
    expect(proximal.get('layer0.bias')?.[i]).toBeCloseTo(v, 6);
  for (const [i, v] of (plain.get('layer0.weight') ?? []).entries())
    expect(proximal.get('layer0.weight')?.[i]).toBeCloseTo(v, 6);
  const elastic = await movedBy({ penalty: { name: 'elastic', strength: 2 } }, (t) => {
    anchored(t);
    t.setCompanion('importance', new Map([['layer0.bias', Float32Array.of(3, 0)]]));
  });
  expect(elastic.get('layer0.bias')?.[0]).toBeCloseTo(
    (plain.get('layer0.bias')?.[0] ?? 0) + 0.1 * 2 * 3,
    5,
  );
  expect(elastic.get('layer0.bias')?.[1]).toBeCloseTo(plain.get('layer0.bias')?.[1] ?? 0, 6);
  const offset = await movedBy({ gradientOffset: true }, (t) =>
    t.setCompanion('offset', new Map([['layer0.bias', Float32Array.of(0.5, 0)]])),
  );
  expect(offset.get('layer0.bias')?.[0]).toBeCloseTo(
    (plain.get('layer0.bias')?.[0] ?? 0) - 0.05,
    6,
  );
  const trainer = await Trainer.create(options());
  expect(() => trainer.setCompanion('offset', new Map())).toThrow(
    /create it with gradientOffset: true/,
  );
  await trainer.release();
});

test('batch normalization trains on the batch, keeps running statistics, and freezes when told', async () => {
  const model = sequential({
    input: [2, 3, 3],
    random: random(),
    layers: [batchNorm({ momentum: 0.8 }), flatten(), dense(2)],
  });
  const inputs = Float32Array.from(
    { length: 4 * 18 },
    (_, i) => Math.sin(i * 1.7) * (i % 2 ? 3 : 1) + 2,
  );
  const batch: Batch = {
    inputs,
    targets: Float32Array.from({ length: 8 }, (_, i) => i % 3),
    size: 4,
  };
  const trainer = await Trainer.create(options({ model }));
  expect(trainer.buffers.map((b) => b.name)).toEqual(['layer0.running_mean', 'layer0.running_var']);
  expect(trainer.parameters.map((p) => p.name)).not.toContain('layer0.running_mean');
  await trainer.step(batch);
  for (const channel of [0, 1]) {
    const values = Array.from(inputs).filter((_, i) => Math.floor((i % 18) / 9) === channel);
    const m = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + (b - m) ** 2, 0) / values.length;
    expect(trainer.getBuffers().get('layer0.running_mean')?.[channel]).toBeCloseTo(0.2 * m, 5);
    expect(trainer.getBuffers().get('layer0.running_var')?.[channel]).toBeCloseTo(
      0.8 + 0.2 * variance,
      4,
    );
  }
  // The gradient with batch statistics, by central differences of the loss on the normalized input.
  const { gradients } = await trainer.gradients(batch);
  const start = trainer.getParameters();
  for (const name of ['layer0.scale', 'layer0.bias', 'layer2.weight']) {
    const value = start.get(name) ?? new Float32Array();
    const at = async (d: number): Promise<number> => {
      const moved = value.slice();
      moved[0] = (value[0] ?? 0) + d;
      trainer.setParameters(new Map([[name, moved]]));
      const { loss } = await trainer.gradients(batch);
      trainer.setParameters(start);
      return loss;
    };
    expect(gradients.get(name)?.[0]).toBeCloseTo(((await at(1e-2)) - (await at(-1e-2))) / 2e-2, 2);
  }
  await trainer.release();
  const frozen = await Trainer.create(options({ model, batchNormalization: 'frozen' }));
  await frozen.step(batch);
  expect(frozen.buffers).toEqual([]);
  const mean = readModel(frozen.deploy()).graph?.initializer.find(
    (t) => t.name === 'layer0.running_mean',
  );
  expect(new Uint8Array(mean?.rawData ?? []).every((b) => b === 0)).toBe(true);
  await frozen.release();
});

test('dropout drops the same way for the same seed, only while training, and its gradient knows the mask', async () => {
  const model = sequential({ input: [400], random: random(), layers: [dropout(0.25), dense(2)] });
  const batch: Batch = {
    inputs: new Float32Array(400).fill(1),
    targets: Float32Array.of(0, 0),
    size: 1,
  };
  const run = async (seed: number): Promise<Float32Array> => {
    const trainer = await Trainer.create(options({ model, seed }));
    const { gradients } = await trainer.gradients(batch);
    await trainer.release();
    return gradients.get('layer1.weight') ?? new Float32Array();
  };
  const first = await run(1);
  expect(await run(1)).toEqual(first);
  expect(await run(2)).not.toEqual(first);
  // ∂L/∂W = dz·xᵀ, and x here is 0 (dropped) or 1/0.75 (kept): the zeros are the mask.
  const row = first.subarray(0, 400);
  const dropped = row.filter((v) => v === 0).length / 400;
  expect(dropped).toBeGreaterThan(0.15);
  expect(dropped).toBeLessThan(0.35);
  const kept = Array.from(row.filter((v) => v !== 0));
  for (const v of kept) expect(v / (kept[0] ?? 1)).toBeCloseTo(1, 4);
  const trainer = await Trainer.create(options({ model }));
  const a = await trainer.evaluate(batch);
  const b = await trainer.evaluate(batch);
  expect(a.output).toEqual(b.output);
  await trainer.release();
});

test('models with branches, normalization, embeddings and attention-free mixing train', async () => {
  const model = functional({ input: [3, 6, 6], random: random() }, (x) => {
    const a = chain([conv2d(4, 3, { padding: 1 }), batchNorm(), relu()])(x);
    const b = residual(conv2d(4, 3, { padding: 1, groups: 2 }), relu())(a);
    return dense(3)(globalAveragePool()(concatenate([a, add(a, b)])));
  });
  const tokens = sequential({
    input: [5],
    inputType: 'int64',
    random: random(),
    layers: [
      embedding(11, 8),
      layerNorm(),
      residual(dense(8), gelu()),
      flatten(),
      dense(3, { initializer: glorotUniform }),
    ],
  });
  const targets = BigInt64Array.of(0n, 1n, 2n, 1n);
  for (const [bytes, inputs] of [
    [model, Float32Array.from({ length: 4 * 108 }, (_, i) => Math.cos(i))],
    [tokens, BigInt64Array.from({ length: 20 }, (_, i) => BigInt((i * i) % 11))],
  ] as const) {
    const trainer = await Trainer.create(
      options({
        model: bytes,
        loss: 'softmax-cross-entropy',
        optimizer: { name: 'adam', learningRate: 0.02 },
      }),
    );
    const batch: Batch = { inputs, targets, size: 4 };
    const first = await trainer.step(batch);
    let last = first;
    for (let i = 0; i < 60; i++) last = await trainer.step(batch);
    expect(last.loss).toBeLessThan(first.loss / 3);
    expect(last.metrics['accuracy']).toBe(1);
    await trainer.release();
  }
});

test('initializers have the variance of their paper; orthogonal rows are orthonormal', () => {
  const variance = (v: Float32Array): number => v.reduce((s, x) => s + x * x, 0) / v.length;
  expect(variance(heNormal(random(), [100, 50, 3, 3]))).toBeCloseTo(2 / 450, 3);
  expect(variance(glorotUniform(random(), [200, 100]))).toBeCloseTo(2 / 300, 3);
  for (const [rows, columns] of [
    [4, 9],
    [9, 4],
  ] as const) {
    const w = orthogonal(random(), [rows, columns]);
    const short = Math.min(rows, columns);
    const at = (i: number, k: number): number =>
      (rows <= columns ? w[i * columns + k] : w[k * columns + i]) ?? 0;
    const length = Math.max(rows, columns);
    for (let pair = 0; pair < short * short; pair++) {
      const [i, j] = [Math.floor(pair / short), pair % short];
      const dot = Array.from({ length }, (_, k) => at(i, k) * at(j, k)).reduce((a, b) => a + b, 0);
      expect(dot).toBeCloseTo(i === j ? 1 : 0, 5);
    }
  }
});

test('any batch size works, more of them than are kept compiled, with the same state', async () => {
  const trainer = await Trainer.create(options());
  for (const size of [1, 2, 3, 4, 5, 6, 1, 6, 2]) {
    const batch = {
      inputs: new Float32Array(3 * size).fill(0.5),
      targets: new Float32Array(2 * size),
      size,
    };
    await trainer.step(batch);
  }
  expect(trainer.steps).toBe(9);
  await expect(trainer.step({ ...BATCH, size: 0 })).rejects.toThrow(/at least one sample, got 0/);
  await trainer.release();
});

test('several inputs and losses with several targets go by name', async () => {
  const builder = new GraphBuilder('');
  const a = builder.input('a', ['n', 2]);
  const b = builder.input('b', ['n', 'length'], DATA_TYPE.int64);
  builder.initializers.push(
    ...(readModel(sequential({ input: [2], layers: [dense(1)], random: random() })).graph
      ?.initializer ?? []),
  );
  const z = builder.node('Gemm', [a, 'layer0.weight', 'layer0.bias'], { transB: 1 });
  const extra = builder.node(
    'ReduceSum',
    [builder.node('Cast', [b], { to: 1 }), builder.ints([1])],
    { keepdims: 1 },
  );
  builder.output(builder.node('Add', [z, extra], {}, 'risk'), ['n', 1]);
  const model = writeModel(modelOf(builder.graph('two'), 17));
  const cox = { model, loss: 'cox-partial-likelihood' } as const;
  await expect(Trainer.create(options(cox))).rejects.toThrow(
    /dimension 1 of input "b" has no fixed size; pass dimensions: { length: … }/,
  );
  const trainer = await Trainer.create(options({ ...cox, dimensions: { length: 3 } }));
  const batch: Batch = {
    inputs: { a: Float32Array.of(1, 2, 3, 4), b: new BigInt64Array(6) },
    targets: { time: Float32Array.of(1, 2), event: Float32Array.of(1, 1) },
    size: 2,
  };
  const first = await trainer.step(batch);
  let last = first;
  for (let i = 0; i < 5; i++) last = await trainer.step(batch);
  expect(last.loss).toBeLessThan(first.loss);
  await expect(trainer.step({ ...batch, inputs: Float32Array.of(1) })).rejects.toThrow(
    /several inputs; pass them by name/,
  );
  await expect(
    trainer.step({ ...batch, inputs: { a: Float32Array.of(1, 2, 3, 4) } }),
  ).rejects.toThrow(/no inputs "b"; it has: a/);
  await expect(
    trainer.step({ ...batch, inputs: { a: Float32Array.of(1, 2, 3, 4), b: new Float32Array(6) } }),
  ).rejects.toThrow(/input "b" is int64; pass a BigInt64Array, not a Float32Array/);
  await trainer.release();
});

test('stopGradient freezes by pattern; a chosen parameter without influence is an error', async () => {
  const model = sequential({ input: [3], layers: [dense(4), relu(), dense(2)], random: random() });
  const trainer = await Trainer.create(options({ model, stopGradient: ['layer0.*'] }));
  expect(trainer.parameters.map((p) => p.name)).toEqual(['layer2.weight', 'layer2.bias']);
  await trainer.release();
  const builder = new GraphBuilder('');
  const x = builder.input('x', ['n', 2]);
  const weight = readModel(LINEAR).graph?.initializer[1];
  if (!weight) throw new Error('no bias');
  builder.initializers.push(weight);
  builder.output(builder.node('Add', [x, 'layer0.bias'], {}, 'y'), ['n', 2]);
  builder.output(builder.node('ArgMax', ['y'], { axis: 1 }, 'label'), ['n', 1], DATA_TYPE.int64);
  const two = writeModel(modelOf(builder.graph('two'), 17));
  await expect(Trainer.create(options({ model: two, output: 'label' }))).rejects.toThrow(
    /output "label" is int64, a loss needs float32; choose another output: y/,
  );
});

test('contradictory graphs are refused by name', () => {
  const broken = (change: (b: GraphBuilder) => void): (() => unknown) => {
    const b = new GraphBuilder('');
    b.input('x', ['n', 2]);
    b.node('Relu', ['x'], {}, 'y');
    b.output('y', ['n', 2]);
    change(b);
    return () => readModel(writeModel(modelOf(b.graph('g'), 17)));
  };
  expect(broken((b) => b.node('Neg', ['x'], {}, 'y'))).toThrow(/\(Neg\) defines "y" a second time/);
  expect(broken((b) => b.node('Neg', ['nowhere'], {}, 'z'))).toThrow(
    /\(Neg\) reads "nowhere", which nothing defines/,
  );
  expect(
    broken((b) => {
      b.node('Add', ['y', 'q'], {}, 'p');
      b.node('Neg', ['p'], {}, 'q');
    }),
  ).toThrow(/form a cycle; node ".*" \(Add\) waits for "q"/);
  expect(broken((b) => b.output('lost', ['n']))).toThrow(/output "lost" is defined by nothing/);
  expect(
    broken((b) => {
      b.floats(Float32Array.of(1), [1]);
      b.initializers.push(...b.initializers);
    }),
  ).toThrow(/two initializers are called/);
});

test('external data is read beside the model, written, and kept inside its folder', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'shoal-external-'));
  try {
    const big = sequential({
      input: [40],
      layers: [dense(30), relu(), dense(2)],
      random: random(),
    });
    const trainer = await Trainer.create(options({ model: big }));
    const path = join(dir, 'model.onnx');
    trainer.deployTo(path, { externalData: true });
    expect(statSync(`${path}.data`).size).toBe(30 * 40 * 4);
    const back = readModelFile(path).graph?.initializer.find((t) => t.name === 'layer0.weight');
    expect(new Float32Array(new Uint8Array(back?.rawData ?? []).buffer)).toEqual(
      trainer.getParameters().get('layer0.weight'),
    );
    const session = await ort.InferenceSession.create(path);
    await session.release();
    const again = await Trainer.create(options({ model: path }));
    expect(again.getParameters()).toEqual(trainer.getParameters());
    await Promise.all([trainer.release(), again.release()]);
    expect(() => readModel(writeModel(readModel(LINEAR)))).not.toThrow();
    writeFileSync(`${path}.data`, 'short');
    expect(() => readModelFile(path)).toThrow(
      /wants bytes 0 to 4800 of .*model.onnx.data \(5 bytes\)/,
    );
    rmSync(`${path}.data`);
    expect(() => readModelFile(path)).toThrow(/external data of initializer "layer0.weight"/);
    const outside = readModel(big);
    const [tensor] = outside.graph?.initializer ?? [];
    if (!tensor) throw new Error('no weight');
    trainerExternal(tensor, '../../etc/passwd');
    writeFileSync(path, writeModel(outside));
    expect(() => readModelFile(path)).toThrow(/outside the folder of the model/);
    await expect(Trainer.create(options({ model: writeModel(outside) }))).rejects.toThrow(
      /keeps its data in .*open the model with readModelFile/,
    );
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

function trainerExternal(
  tensor: { rawData: Uint8Array; dataLocation: number; externalData: unknown[] },
  location: string,
): void {
  tensor.rawData = new Uint8Array();
  tensor.dataLocation = 1;
  tensor.externalData = [
    { $typeName: 'shoal.onnx.StringStringEntryProto', key: 'location', value: location },
  ];
}

test('optimizer numbers out of range and unknown names are refused', () => {
  expect(() => optimizerNodes({ name: 'sgd', learningRate: 0.1, momentum: 1 })).toThrow(
    /momentum must be in \[0, 1\), got 1/,
  );
  expect(() => optimizerNodes({ name: 'adam', learningRate: 0.1, beta2: -1 })).toThrow(
    /beta2 must be in/,
  );
  expect(() => optimizerNodes({ name: 'lion' as 'sgd', learningRate: 0.1 })).toThrow(
    /no optimizer "lion"; choose one of sgd, adam/,
  );
});

test('an execution provider the machine lacks is an error that names it', async () => {
  const trainer = Trainer.create(options({ providers: ['cuda'] })).then((t) => t.step(BATCH));
  await expect(trainer).rejects.toThrow(/cannot run the step graph on cuda/);
});

test('resident memory stays flat over ten thousand steps', { timeout: 60_000 }, async () => {
  const trainer = await Trainer.create(
    options({
      optimizer: { name: 'adam', learningRate: 1e-4 },
      model: sequential({ input: [256], layers: [dense(66)], random: random() }),
    }),
  );
  const batch: Batch = { inputs: new Float32Array(256), targets: new Float32Array(66), size: 1 };
  const resident = (): number => process.memoryUsage.rss() / 2 ** 20;
  for (let i = 0; i < 1_000; i++) await trainer.step(batch);
  const before = resident();
  for (let i = 0; i < 9_000; i++) await trainer.step(batch);
  // A leak of one parameter set (67 KB) per step would be 600 MiB; the collector’s play is tens.
  expect(resident() - before).toBeLessThan(128);
  const batches = Array.from({ length: 1_000 }, () => batch);
  for (let i = 0; i < 10; i++) for await (const _ of trainer.train(batches));
  expect(trainer.steps).toBe(20_000);
  expect(resident() - before).toBeLessThan(128);
  await trainer.release();
});

test('models of opset 13 train: axes as attributes, splits without sizes', async () => {
  const builder = new GraphBuilder('');
  const x = builder.input('x', ['n', 4]);
  builder.initializers.push(
    ...(readModel(sequential({ input: [4], layers: [dense(6)], random: random() })).graph
      ?.initializer ?? []),
  );
  const z = builder.node('Gemm', [x, 'layer0.weight', 'layer0.bias'], { transB: 1 });
  const [a = '', b = ''] = builder.nodeWithOutputs('Split', [z], {
    attributes: { axis: 1 },
    outputs: 2,
  });
  const mean = builder.node('ReduceMean', [a], { axes: [1], keepdims: 1 });
  const top = builder.node('ReduceMax', [b], { axes: [-1], keepdims: 1 });
  builder.output(builder.node('Concat', [mean, top], { axis: 1 }, 'y'), ['n', 2]);
  const trainer = await Trainer.create(
    options({ model: writeModel(modelOf(builder.graph('old'), 13)) }),
  );
  const batch: Batch = {
    inputs: Float32Array.of(1, 2, 3, 4, 4, 3, 2, 1),
    targets: Float32Array.of(1, 2, 3, 4),
    size: 2,
  };
  const { gradients } = await trainer.gradients(batch);
  const start = trainer.getParameters();
  const bias = start.get('layer0.bias') ?? new Float32Array();
  for (const k of [0, 4]) {
    const at = async (d: number): Promise<number> => {
      const moved = bias.slice();
      moved[k] = (bias[k] ?? 0) + d;
      trainer.setParameters(new Map([['layer0.bias', moved]]));
      return (await trainer.evaluate(batch)).loss;
    };
    expect(gradients.get('layer0.bias')?.[k]).toBeCloseTo(
      ((await at(1e-2)) - (await at(-1e-2))) / 2e-2,
      2,
    );
  }
  expect(readModel(trainer.deploy()).opsetImport[0]?.version).toBe(13n);
  await trainer.release();
});

test('a model beyond the 2 GiB of a protobuf file is refused with the way out', () => {
  const model = readModel(LINEAR);
  const [first] = model.graph?.initializer ?? [];
  if (!first) throw new Error('no weight');
  // Only its length is looked at: nobody has to hold two gigabytes to test this.
  first.rawData = Object.defineProperty(new Uint8Array(), 'length', { value: 2 ** 31 });
  expect(() => writeModel(model)).toThrow(
    /holds 214748\d+ bytes of values, a protobuf file at most 2147483647; write it with writeModelFile\(path, model, \{ externalData: true \}\)/,
  );
});
