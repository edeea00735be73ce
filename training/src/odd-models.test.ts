import { create } from '@bufbuild/protobuf';
import { seededRandom } from '@shoal/core';
import { expect, test } from 'vitest';
import { dense, inspectModel, sequential, Trainer, type TrainerOptions } from './index.ts';
import { GraphBuilder, modelOf, valueInfo } from './onnx/graph-builder.ts';
import { readModel, writeModel } from './onnx/model-file.ts';
import { AttributeProtoSchema, FunctionProtoSchema, NodeProtoSchema } from './onnx/onnx_pb.ts';
import { DATA_TYPE, floatTensor } from './onnx/tensor-data.ts';

/** Models as exporters write them, in forms that are legal and seldom seen. */
const wave = (n: number, phase = 1): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => Math.sin(i * 1.3 + phase));

function parameter(builder: GraphBuilder, name: string, dims: readonly number[]): string {
  const size = dims.reduce((a, b) => a * b, 1);
  builder.initializers.push(floatTensor(name, dims, wave(size, dims.length)));
  return name;
}

/** A model of one float input `x [n, 3]`. */
function model(
  write: (builder: GraphBuilder) => string,
  at: { readonly out?: number; readonly opset?: number; readonly batch?: number } = {},
): Uint8Array {
  const builder = new GraphBuilder('m/');
  builder.inputs.push(valueInfo('x', DATA_TYPE.float, [at.batch ?? 'n', 3]));
  const y = write(builder);
  builder.outputs.push(valueInfo(y, DATA_TYPE.float, [at.batch ?? 'n', at.out ?? 2]));
  return writeModel(modelOf(builder.graph('m'), at.opset ?? 18));
}

const SGD: Pick<TrainerOptions, 'loss' | 'optimizer' | 'threads'> = {
  loss: 'mean-squared-error',
  optimizer: { name: 'sgd', learningRate: 0.1 },
  threads: 1,
};

const BATCH = { inputs: wave(12), targets: wave(8, 4), size: 4 };

/** Holds the gradients of every parameter against differences of the loss. */
async function expectDifferences(bytes: Uint8Array, tolerance = 2e-3): Promise<void> {
  const trainer = await Trainer.create({ model: bytes, ...SGD });
  const { gradients } = await trainer.gradients(BATCH);
  const lossAt = async (name: string, values: Float32Array): Promise<number> => {
    trainer.setParameters(new Map([[name, values]]));
    return (await trainer.evaluate(BATCH)).loss;
  };
  for (const [name, values] of trainer.getParameters())
    for (let k = 0; k < values.length; k++) {
      const moved = (d: number): Float32Array => values.map((v, i) => (i === k ? v + d : v));
      const up = await lossAt(name, moved(0.01));
      const down = await lossAt(name, moved(-0.01));
      await lossAt(name, values);
      expect(Math.abs((up - down) / 0.02 - (gradients.get(name)?.[k] ?? 0))).toBeLessThan(
        tolerance,
      );
    }
  await trainer.release();
}

async function refusal(bytes: Uint8Array, more: Partial<TrainerOptions> = {}): Promise<string> {
  const made = Trainer.create({ model: bytes, ...SGD, ...more });
  return await made.then(
    (trainer) => trainer.release().then(() => 'nothing'),
    (error: unknown) => (error instanceof Error ? error.message : ''),
  );
}

test.each([
  ['float64', DATA_TYPE.double],
  ['int32 beside a float path', DATA_TYPE.int32],
])('a Cast to %s and back does not lose the gradient', async (_what, type) => {
  await expectDifferences(
    model((b) => {
      const z = b.node('MatMul', ['x', parameter(b, 'W', [3, 2])]);
      const there = b.node('Cast', [z], { to: type });
      const back = b.node('Cast', [there], { to: DATA_TYPE.float });
      // Integers have no slope: what they add is a step, far from where it is measured.
      return type === DATA_TYPE.double ? b.node('Add', [z, back]) : b.node('Sub', [z, b.float(1)]);
    }),
  );
  const half = model((b) => {
    const z = b.node('MatMul', ['x', parameter(b, 'W', [3, 2])]);
    const there = b.node('Cast', [z], { to: DATA_TYPE.float16 });
    return b.node('Cast', [b.node('Tanh', [there])], { to: DATA_TYPE.float });
  });
  expect(await refusal(half)).toMatch(/\(Tanh\) computes ".*" in another type than float32/);
});

/** `if (x[0,0] > −9) W·2 else W`, with W read inside only. */
function branching(): Uint8Array {
  const bytes = model((b) => {
    parameter(b, 'W', [3, 2]);
    const first = b.node('ReduceMin', ['x'], { keepdims: 0 });
    const condition = b.node('Greater', [first, b.float(-9)]);
    const branch = (factor: number): ReturnType<typeof b.graph> => {
      const inner = new GraphBuilder(`branch${factor}/`);
      const y = inner.node('Mul', ['W', inner.float(factor)]);
      inner.outputs.push(valueInfo(y, DATA_TYPE.float, [3, 2]));
      return inner.graph(`branch${factor}`);
    };
    const graphs = { then_branch: branch(2), else_branch: branch(1) };
    b.nodes.push(
      create(NodeProtoSchema, {
        opType: 'If',
        name: 'choose',
        input: [condition],
        output: ['chosen'],
        attribute: Object.entries(graphs).map(([name, g]) =>
          create(AttributeProtoSchema, { name, type: 5, g }),
        ),
      }),
    );
    return b.node('MatMul', ['x', b.node('Add', ['chosen', parameter(b, 'V', [3, 2])])]);
  });
  return bytes;
}

test('what a branch reads of the graph around it counts as read', async () => {
  expect(await refusal(branching())).toMatch(
    /node "choose": operator If has no gradient, which blocks parameter "W"/,
  );
  const trainer = await Trainer.create({ model: branching(), ...SGD, stopGradient: ['W'] });
  const { output } = await trainer.evaluate(BATCH);
  const [w, v] = [wave(6, 2), wave(6, 2)];
  const first = [0, 2, 4].reduce(
    (sum, at, i) => sum + (BATCH.inputs[i] ?? 0) * (2 * (w[at] ?? 0) + (v[at] ?? 0)),
    0,
  );
  expect(output[0]).toBeCloseTo(first, 4);
  await trainer.release();
  const { blockers } = await inspectModel({ model: branching() });
  expect(blockers).toMatchObject([{ operator: 'If', parameters: 1 }]);
});

test('operators that a model brings itself are named', () => {
  const file = readModel(sequential({ input: [3], layers: [dense(2)], random: seededRandom(1) }));
  file.functions.push(create(FunctionProtoSchema, { name: 'MyRelu', domain: 'local' }));
  expect(() => readModel(writeModel(file))).toThrow(/operators of its own \("local:MyRelu"\)/);
});

test.each([
  ['behind a frozen layer', ['W'], false],
  ['behind a trained one', ['none'], false],
  ['written as training by its exporter', ['W'], true],
])(
  'Dropout %s drops in steps, when it is asked to, and never in evaluation',
  async (_w, frozen, training) => {
    const bytes = model((b) => {
      const z = b.node('MatMul', ['x', parameter(b, 'W', [3, 4])]);
      parameter(b, 'none', [1]);
      const inputs = [z, b.float(0.5), ...(training ? [b.bool(true)] : [])];
      return b.node('MatMul', [b.node('Dropout', inputs), parameter(b, 'V', [4, 2])]);
    });
    const lossesOf = async (dropout: boolean): Promise<Set<number>> => {
      const optimizer = { name: 'sgd', learningRate: 1e-12 } as const;
      const options = { ...SGD, optimizer, dropout, stopGradient: frozen };
      const trainer = await Trainer.create({ model: bytes, ...options });
      const losses = new Set<number>();
      for (let i = 0; i < 6; i++) losses.add((await trainer.step(BATCH)).loss);
      const [first, second] = [await trainer.evaluate(BATCH), await trainer.evaluate(BATCH)];
      expect(first.loss).toBe(second.loss);
      await trainer.release();
      return losses;
    };
    expect((await lossesOf(true)).size).toBeGreaterThan(3);
    expect((await lossesOf(false)).size).toBe(1);
  },
);

test.each(['shared', 'behind Identity'])(
  'running statistics that are %s follow the batches',
  async (how) => {
    const bytes = model((b) => {
      let z = b.node('MatMul', ['x', parameter(b, 'W', [3, 2])]);
      b.initializers.push(floatTensor('mean', [2], new Float32Array(2)));
      b.initializers.push(floatTensor('variance', [2], new Float32Array(2).fill(1)));
      for (const k of [1, 2]) {
        const own =
          how === 'shared'
            ? ['mean', 'variance']
            : ['mean', 'variance'].map((v) => b.node('Identity', [v]));
        z = b.node(
          'BatchNormalization',
          [z, parameter(b, `scale${k}`, [2]), parameter(b, `bias${k}`, [2]), ...own],
          { momentum: { float: 0.5 } },
        );
      }
      return z;
    });
    const trainer = await Trainer.create({ model: bytes, ...SGD });
    expect(trainer.buffers.map((v) => v.name)).toEqual(['mean', 'variance']);
    // The mean of the second layer's input is the bias of the first: 0.5·(0.5·m₁) + 0.5·bias₁.
    const bias = wave(2, 1);
    const w = wave(6, 2);
    const means = [0, 1].map((c) =>
      [0, 1, 2, 3].reduce(
        (sum, n) =>
          sum +
          [0, 1, 2].reduce((z, i) => z + (BATCH.inputs[n * 3 + i] ?? 0) * (w[i * 2 + c] ?? 0), 0) /
            4,
        0,
      ),
    );
    await trainer.step(BATCH);
    const mean = trainer.getBuffers().get('mean') ?? new Float32Array();
    for (const c of [0, 1])
      expect(mean[c]).toBeCloseTo(0.25 * (means[c] ?? 0) + 0.5 * (bias[c] ?? 0), 4);
    await trainer.release();
  },
);

test('a gradient that is not finite stops before it does harm, and training can go on', async () => {
  // The root of a sum of squares that is 0 for the first batch: its slope is infinite.
  const bytes = model(
    (b) => {
      const z = b.node('MatMul', ['x', parameter(b, 'W', [3, 2])]);
      return b.node('Sqrt', [b.node('Mul', [z, z])]);
    },
    { out: 2 },
  );
  const optimizer = { name: 'adam', learningRate: 0.01 } as const;
  const trainer = await Trainer.create({ model: bytes, ...SGD, optimizer });
  const before = trainer.getParameters();
  const zeros = { inputs: new Float32Array(6), targets: new Float32Array(4), size: 2 };
  await expect(trainer.step(zeros)).rejects.toThrow(/the gradient is not finite.*last good/);
  expect(trainer.getParameters()).toEqual(before);
  const { loss } = await trainer.step(BATCH);
  expect(loss).toBeGreaterThan(0);
  for (const values of trainer.getParameters().values())
    expect(values.every(Number.isFinite)).toBe(true);
  await expect(trainer.step(BATCH, 1e39)).rejects.toThrow(/the step is too large.*last good/);
  await expect(trainer.step(BATCH, Number.NaN)).rejects.toThrow(/learning rate must be a number/);
  const gradients = new Map([['W', new Float32Array(6).fill(Number.NaN)]]);
  await expect(trainer.apply(gradients)).rejects.toThrow(/the gradient is not finite/);
  await trainer.release();
});

test('a model with a fixed batch trains on batches of that size', async () => {
  const bytes = model(
    (b) => {
      const z = b.node('Reshape', ['x', b.ints([4, 3])]);
      return b.node('MatMul', [z, parameter(b, 'W', [3, 2])]);
    },
    { batch: 4 },
  );
  await expectDifferences(bytes);
  const trainer = await Trainer.create({ model: bytes, ...SGD });
  await trainer.apply(new Map([['W', new Float32Array(6)]]));
  await expect(trainer.step({ ...BATCH, size: 2 })).rejects.toThrow(
    /takes batches of 4 samples only/,
  );
  await trainer.release();
  expect((await inspectModel({ model: bytes })).nodes.at(-1)?.dims).toEqual([4, 2]);
});

test('what could only be half true is refused by name', async () => {
  const pooled = model((b) => b.node('MatMul', ['x', parameter(b, 'W', [3, 2])]));
  expect(await refusal(pooled, { stopGradient: ['backbone.*'] })).toMatch(
    /"backbone.\*" freezes nothing/,
  );
  expect(await refusal(pooled, { stopGradient: ['*'] })).toMatch(/not frozen/);
  const epsilon = { name: 'adam', learningRate: 0.1, epsilon: -1 } as const;
  expect(await refusal(pooled, { optimizer: epsilon })).toMatch(/epsilon must be in \(0, 1\)/);
  const normalized = model((b) => {
    const z = b.node('MatMul', ['x', parameter(b, 'W', [3, 2])]);
    const [y = '', mean = ''] = b.nodeWithOutputs(
      'LayerNormalization',
      [z, parameter(b, 's', [2])],
      {
        outputs: 2,
        attributes: { axis: -1 },
      },
    );
    return b.node('Add', [y, mean]);
  });
  expect(await refusal(normalized)).toMatch(/only its first output has a gradient/);
  const twice = readModel(pooled);
  twice.graph?.input.push(valueInfo('x', DATA_TYPE.float, ['n', 3]));
  expect(await refusal(writeModel(twice))).toMatch(/two inputs are called "x"/);
  const cubic = model(
    (b) => {
      const z = b.node('MatMul', ['x', parameter(b, 'W', [3, 2])]);
      const image = b.node('Reshape', [z, b.ints([-1, 1, 1, 2])]);
      const scales = b.floats(Float32Array.of(1, 1, 2, 2), [4]);
      const large = b.node('Resize', [image, '', scales], { mode: 'cubic' });
      return b.node('Reshape', [b.node('ReduceMean', [large, b.ints([2])]), b.ints([-1, 4])]);
    },
    { out: 4 },
  );
  const { refusal: said } = await inspectModel({ model: cubic });
  expect(said).toMatch(/cubic and antialiased resizing cannot be trained/);
});

test('a failed provider does not hide itself behind the release', async () => {
  const bytes = sequential({ input: [3], layers: [dense(2)], random: seededRandom(1) });
  const trainer = await Trainer.create({ model: bytes, ...SGD, providers: ['cuda'] });
  await expect(trainer.step(BATCH)).rejects.toThrow(/cannot run the step graph on cuda/);
  await trainer.release();
});

test('nodes of the domain "ai.onnx" are the standard ones; graphs inside are upgraded with them', async () => {
  const file = readModel(
    model((b) => b.node('Tanh', [b.node('MatMul', ['x', parameter(b, 'W', [3, 2])])])),
  );
  for (const node of file.graph?.node ?? []) node.domain = 'ai.onnx';
  await expectDifferences(writeModel(file));
});

test('scores far apart neither overflow the Cox loss nor its gradient', async () => {
  const bytes = model((b) => b.node('MatMul', ['x', parameter(b, 'W', [3, 1])]), { out: 1 });
  const trainer = await Trainer.create({ model: bytes, ...SGD, loss: 'cox-partial-likelihood' });
  trainer.setParameters(new Map([['W', Float32Array.of(1, 0, 0)]]));
  const inputs = Float32Array.of(120, 0, 0, 3, 0, 0, -5, 0, 0);
  const targets = { time: Float32Array.of(1, 2, 3), event: Float32Array.of(0, 1, 1) };
  const { loss, gradients } = await trainer.gradients({ inputs, targets, size: 3 });
  // −½·(3 − ln(e³ + e⁻⁵)) − ½·(−5 − ln e⁻⁵)
  expect(loss).toBeCloseTo(Math.log1p(Math.exp(-8)) / 2, 6);
  const share = Math.exp(-8) / (1 + Math.exp(-8));
  expect(gradients.get('W')?.[0]).toBeCloseTo((-share * 3 + share * -5) / 2, 4);
  await trainer.release();
});

test('statistics of a normalization that serves another output stay, and the rest trains', async () => {
  const builder = new GraphBuilder('');
  const x = builder.input('x', ['batch', 2]);
  const parameter = (name: string, dims: readonly number[], values: readonly number[]): string => {
    builder.initializers.push(floatTensor(name, dims, Float32Array.from(values)));
    return name;
  };
  const w = parameter('w', [2, 2], [1, 2, 3, 4]);
  const y = builder.node('MatMul', [x, w], {}, 'y');
  const statistics = ['scale', 'bias', 'mean', 'var'].map((n, i) => parameter(n, [2], [1, i]));
  const z = builder.node('BatchNormalization', [x, ...statistics], {}, 'z');
  builder.output(y, ['batch', 2]);
  builder.output(z, ['batch', 2]);
  const trainer = await Trainer.create({
    model: writeModel(modelOf(builder.graph('two'), 17)),
    loss: 'mean-squared-error',
    optimizer: { name: 'sgd', learningRate: 0.1 },
  });
  const buffers = trainer.getBuffers();
  await trainer.step({ inputs: Float32Array.of(1, 2), targets: Float32Array.of(0, 0), size: 1 });
  expect(trainer.getBuffers()).toEqual(buffers);
  expect(trainer.getParameters().get('w')).not.toEqual(Float32Array.of(1, 2, 3, 4));
  await trainer.release();
});

test('steps, and numbers drawn for a shape, pass no gradient and stand in no way', async () => {
  const builder = new GraphBuilder('');
  const x = builder.input('x', ['batch', 2]);
  builder.initializers.push(floatTensor('w', [2, 2], Float32Array.of(1, 2, 3, 4)));
  const z = builder.node('MatMul', [x, 'w']);
  const still = ['Round', 'Floor', 'Ceil', 'Sign'].reduce(
    (sum, op) => builder.node('Add', [sum, builder.node(op, [z])]),
    builder.node('Mul', [builder.node('RandomUniformLike', [z]), builder.float(0)]),
  );
  builder.output(builder.node('Add', [z, still], {}, 'y'), ['batch', 2]);
  const trainer = await Trainer.create({
    model: writeModel(modelOf(builder.graph('steps'), 17)),
    loss: 'mean-squared-error',
    optimizer: { name: 'sgd', learningRate: 0.1 },
  });
  // z = (1.4, 2.2), y = z + (1 + 1 + 2 + 1, 2 + 2 + 3 + 1): d(loss)/dz = y − target.
  const { gradients } = await trainer.gradients({
    inputs: Float32Array.of(0.5, 0.3),
    targets: Float32Array.of(6, 10),
    size: 1,
  });
  const wanted = [0.5 * 0.4, 0.5 * 0.2, 0.3 * 0.4, 0.3 * 0.2];
  for (const [i, v] of wanted.entries()) expect(gradients.get('w')?.[i]).toBeCloseTo(v, 4);
  await trainer.release();
});
