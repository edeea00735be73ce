import { create } from '@bufbuild/protobuf';
import * as ort from 'onnxruntime-node';
import { expect, test } from 'vitest';
import { Trainer, type TrainerOptions } from '../trainer.ts';
import { GraphBuilder, modelOf } from './graph-builder.ts';
import { readModel, writeModel } from './model-file.ts';
import { AttributeProtoSchema, type ModelProto, StringStringEntryProtoSchema } from './onnx_pb.ts';
import { revise } from './revise.ts';
import { floatTensor } from './tensor-data.ts';

const SIGNATURE = 'pkg.torch.export.ExportedProgram.graph_signature';

interface Written {
  readonly builder: GraphBuilder;
  readonly tensor: (name: string, dims: readonly number[], values: readonly number[]) => string;
}

/** A model with input `x` `[batch, 2]` as PyTorch would write it. */
function torchModel(
  write: (w: Written, x: string) => string,
  options: { readonly signature?: string; readonly producer?: string } = {},
): Uint8Array {
  const builder = new GraphBuilder('');
  const x = builder.input('x', ['batch', 2]);
  const tensor: Written['tensor'] = (name, dims, values) => {
    builder.initializers.push(floatTensor(name, dims, Float32Array.from(values)));
    return name;
  };
  builder.output(write({ builder, tensor }, x), ['batch', 2]);
  const graph = builder.graph('torch');
  if (options.signature !== undefined)
    graph.metadataProps.push(
      create(StringStringEntryProtoSchema, { key: SIGNATURE, value: options.signature }),
    );
  const model: ModelProto = modelOf(graph, 18);
  return writeModel(revise(model, { producerName: options.producer ?? 'pytorch' }));
}

async function trained(model: Uint8Array, more: Partial<TrainerOptions> = {}): Promise<Trainer> {
  return await Trainer.create({
    model,
    loss: 'mean-squared-error',
    optimizer: { name: 'sgd', learningRate: 0.1 },
    threads: 1,
    ...more,
  });
}

const BATCH = {
  inputs: Float32Array.of(1, -2, 0.5, 3),
  targets: Float32Array.of(1, 0, -1, 2),
  size: 2,
};

async function namesOf(model: Uint8Array, more: Partial<TrainerOptions> = {}): Promise<string[]> {
  const trainer = await trained(model, more);
  const names = trainer.parameters.map((p) => p.name);
  await trainer.release();
  return names.toSorted();
}

/** y = scale·(x·W + mask) − mean, with everything that is no parameter. */
function withConstants({ builder, tensor }: Written, x: string): string {
  const product = builder.node('MatMul', [x, tensor('val_1', [2, 2], [1, 2, 3, 4])]);
  const masked = builder.node('Max', [
    product,
    tensor('mask', [1, 2], [Number.NEGATIVE_INFINITY, -1e38]),
  ]);
  const scaled = builder.node('Mul', [masked, tensor('val_2', [1], [0.7])]);
  const ones = builder.node('Mul', [scaled, tensor('val_3', [2], [1, 1])]);
  const moved = builder.node('Sub', [ones, tensor('mean', [2], [0.1, 0.2])]);
  return builder.node('Mul', [moved, tensor('gain', [], [1.5])]);
}

test('masks, scales and buffers are told from parameters where the file tells them', async () => {
  const signature =
    "\n# inputs\np_w: PARAMETER target='l.weight'\np_gain: PARAMETER target='gain'\nb_mean: BUFFER target='mean' persistent=True\nx: USER_INPUT\n";
  // l.weight was folded into val_1.
  expect(await namesOf(torchModel(withConstants, { signature }))).toEqual(['gain', 'val_1']);
  // Without a signature a buffer looks like a parameter.
  expect(await namesOf(torchModel(withConstants))).toEqual(['gain', 'mean', 'val_1']);
  // Others write their numbers as named scalars.
  expect(await namesOf(torchModel(withConstants, { producer: 'tf2onnx' }))).toEqual([
    'mean',
    'val_1',
  ]);
  expect(
    await namesOf(torchModel(withConstants, { producer: 'tf2onnx' }), {
      trainable: (n) => n === 'gain' || n === 'val_1',
    }),
  ).toEqual(['gain', 'val_1']);
  const all =
    "\n# inputs\np_gain: PARAMETER target='gain'\nb_mean: BUFFER target='mean' persistent=True\n";
  expect(await namesOf(torchModel(withConstants, { signature: all }))).toEqual(['gain']);
  expect(await namesOf(torchModel(withConstants, { signature: 'in another form' }))).toEqual([
    'gain',
    'mean',
    'val_1',
  ]);
  const trainer = await trained(torchModel(withConstants, { signature }));
  await trainer.step(BATCH);
  await trainer.release();
});

test('parameters that only began alike are apart, in training and in the file that comes of it', async () => {
  const model = torchModel(({ builder, tensor }, x) => {
    const first = tensor('n1.weight', [2], [1, 1]);
    const second = builder.node('Identity', [first], {}, 'n2.weight');
    const inner = builder.node('Tanh', [builder.node('Mul', [x, first])]);
    return builder.node('Mul', [inner, second]);
  });
  const trainer = await trained(model);
  expect(trainer.parameters.map((p) => p.name)).toEqual(['n1.weight', 'n2.weight']);
  for (let i = 0; i < 3; i++) await trainer.step(BATCH);
  const { output } = await trainer.evaluate(BATCH);
  const [a, b] = [...trainer.getParameters().values()];
  expect(a).not.toEqual(b);
  const session = await ort.InferenceSession.create(trainer.deploy());
  const served = await session.run({ x: new ort.Tensor('float32', BATCH.inputs, [2, 2]) });
  expect(Object.values(served)[0]?.data).toEqual(output);
  await Promise.all([session.release(), trainer.release()]);
});

test('a tied matrix that was folded into a second one stays tied', async () => {
  const model = torchModel(({ builder, tensor }, x) => {
    const w = tensor(
      'embed.weight',
      [3, 2],
      [1, 2, 3, 4, 5, 6].map((v) => v / 10),
    );
    const folded = tensor(
      'onnx::MatMul_7',
      [2, 3],
      [1, 3, 5, 2, 4, 6].map((v) => v / 10),
    );
    return builder.node('MatMul', [builder.node('Tanh', [builder.node('MatMul', [x, folded])]), w]);
  });
  const trainer = await trained(model);
  expect(trainer.parameters.map((p) => p.name)).toEqual(['embed.weight']);
  for (let i = 0; i < 3; i++) await trainer.step(BATCH);
  const { output } = await trainer.evaluate(BATCH);
  const deployed = trainer.deploy();
  expect(readModel(deployed).graph?.initializer.map((t) => t.name)).toEqual(['embed.weight']);
  const session = await ort.InferenceSession.create(deployed);
  const served = await session.run({ x: new ort.Tensor('float32', BATCH.inputs, [2, 2]) });
  const [result] = Object.values(served);
  if (!(result?.data instanceof Float32Array)) throw new Error('no output');
  for (const [i, v] of result.data.entries()) expect(v).toBeCloseTo(output[i] ?? Number.NaN, 6);
  await Promise.all([session.release(), trainer.release()]);
});

test('branches whose condition depends on no data are taken for what they are, also inside of each other', async () => {
  let branches = 0;
  const branch = (write: (b: GraphBuilder) => string): object => {
    const b = new GraphBuilder(`inner${branches++}/`);
    b.output(write(b), ['n', 2]);
    return { type: 5, g: b.graph('branch') };
  };
  const model = torchModel(({ builder, tensor }, x) => {
    const w = tensor('w', [2, 2], [1, 2, 3, 4]);
    const y = builder.node('MatMul', [x, w]);
    const rank = builder.node('Size', [builder.node('Shape', [y])]);
    const isMatrix = builder.node('Equal', [rank, builder.int(2)], {}, 'is_matrix');
    const [out = ''] = builder.nodeWithOutputs('If', [isMatrix], {});
    const [node] = builder.nodes.slice(-1);
    const choose = (b: GraphBuilder): string => {
      const half = b.node('Mul', [y, b.float(0.5)]);
      const [inner = ''] = b.nodeWithOutputs('If', ['is_matrix'], {});
      const then = branch((c) => c.node('Tanh', [c.node('Add', [half, c.float(0.25)])]));
      const other = branch((c) => c.node('Neg', [half]));
      b.nodes
        .at(-1)
        ?.attribute.push(
          create(AttributeProtoSchema, { name: 'then_branch', ...then }),
          create(AttributeProtoSchema, { name: 'else_branch', ...other }),
        );
      return inner;
    };
    node?.attribute.push(
      create(AttributeProtoSchema, { name: 'then_branch', ...branch(choose) }),
      create(AttributeProtoSchema, { name: 'else_branch', ...branch((b) => b.node('Abs', [y])) }),
    );
    return out;
  });
  const trainer = await trained(model);
  const { gradients } = await trainer.gradients(BATCH);
  const w = [1, 2, 3, 4];
  const lossAt = (at: readonly number[]): number => {
    let sum = 0;
    for (const s of [0, 1])
      for (const k of [0, 1]) {
        const z =
          (BATCH.inputs[s * 2] ?? 0) * (at[k] ?? 0) +
          (BATCH.inputs[s * 2 + 1] ?? 0) * (at[2 + k] ?? 0);
        sum += (Math.tanh(z / 2 + 0.25) - (BATCH.targets[s * 2 + k] ?? 0)) ** 2 / 4;
      }
    return sum;
  };
  for (const [i, g] of (gradients.get('w') ?? []).entries()) {
    const h = 1e-5;
    const numeric =
      (lossAt(w.with(i, (w[i] ?? 0) + h)) - lossAt(w.with(i, (w[i] ?? 0) - h))) / (2 * h);
    expect(g).toBeCloseTo(numeric, 4);
  }
  await trainer.release();
});

test('a rectifier before a root has the gradient 0 where it is 0, as PyTorch has it', async () => {
  for (const rectify of ['Relu', 'Clip'] as const) {
    const model = torchModel(({ builder, tensor }, x) => {
      const product = builder.node('MatMul', [x, tensor('w', [2, 2], [1, 0, 0, 1])]);
      const bounds = rectify === 'Clip' ? [builder.float(0), builder.float(6)] : [];
      return builder.node('Sqrt', [builder.node(rectify, [product, ...bounds])]);
    });
    const trainer = await trained(model);
    const { gradients } = await trainer.gradients(BATCH);
    expect([...(gradients.get('w') ?? [])].every(Number.isFinite)).toBe(true);
    await trainer.step(BATCH);
    await trainer.release();
  }
});

test('statistics that the graph computes itself are differentiated, also when those of others are frozen', async () => {
  const model = torchModel(({ builder, tensor }, x) => {
    const z = builder.node('MatMul', [x, tensor('w', [2, 2], [1, 2, 3, 5])]);
    const mean = builder.node('ReduceMean', [z, builder.ints([0])], { keepdims: 0 });
    const away = builder.node('Sub', [z, mean]);
    const variance = builder.node(
      'ReduceMean',
      [builder.node('Mul', [away, away]), builder.ints([0])],
      { keepdims: 0 },
    );
    const [scale, bias] = [tensor('g', [2], [1.5, 0.5]), tensor('b', [2], [0.1, 0.2])];
    return builder.node('BatchNormalization', [z, scale, bias, mean, variance], {
      epsilon: { float: 0.1 },
    });
  });
  const trainer = await trained(model, { batchNormalization: 'frozen' });
  const { gradients } = await trainer.gradients(BATCH);
  const start = trainer.getParameters();
  const w = start.get('w') ?? new Float32Array();
  for (const [i, g] of (gradients.get('w') ?? []).entries()) {
    const at = async (d: number): Promise<number> => {
      trainer.setParameters(new Map([['w', w.with(i, (w[i] ?? 0) + d)]]));
      return (await trainer.evaluate(BATCH)).loss;
    };
    expect(g).toBeCloseTo(((await at(1e-2)) - (await at(-1e-2))) / 2e-2, 3);
  }
  await trainer.release();
});

test('a shape that the data decides is refused, with what decides it', async () => {
  const model = torchModel(({ builder, tensor }, x) => {
    const z = builder.node('MatMul', [x, tensor('w', [2, 2], [1, 2, 3, 5])]);
    const places = builder.node(
      'Transpose',
      [builder.node('NonZero', [builder.node('Greater', [z, builder.float(-99)])])],
      { perm: [1, 0] },
    );
    const chosen = builder.node('GatherND', [z, places]);
    return builder.node('Add', [builder.node('ReduceSum', [chosen], { keepdims: 0 }), x]);
  });
  await expect(trained(model)).rejects.toThrow(
    /\(ReduceSum\): its shape depends on the data, through NonZero \(node .*\); write the model with masks of a fixed shape/,
  );
});
