import { seededRandom } from '@shoal/core';
import fc from 'fast-check';
import * as ort from 'onnxruntime-node';
import { expect, test } from 'vitest';
import { differentiate } from '../differentiate.ts';
import { GraphBuilder, modelOf } from '../onnx/graph-builder.ts';
import { sizeOf, writeModel } from '../onnx/model-file.ts';
import type { NodeProto } from '../onnx/onnx_pb.ts';
import { inferShapes } from '../onnx/shape-inference.ts';

type Attributes = Record<string, number | string | readonly number[] | { readonly float: number }>;

interface Case {
  readonly op: string;
  /** Shapes of the float inputs, in order. */
  readonly inputs: readonly (readonly number[])[];
  readonly attributes?: Attributes;
  /** Constant int64 input after the float ones (Reshape's target). */
  readonly target?: readonly number[];
  /** Keeps inputs off places where the operator has no derivative. */
  readonly shift?: number;
}

const THREADS = { intraOpNumThreads: 1, logSeverityLevel: 3 } as const;

/** Builds y = op(x…), z = Σ y·r with a fixed random r, and ∂z/∂x by the engine. */
function graphsOf(c: Case): {
  forward: Uint8Array;
  gradients: Uint8Array;
  y: string;
  names: string[];
  grads: Map<string, string>;
} {
  const forward = new GraphBuilder('f/');
  const names = c.inputs.map((shape, i) => forward.input(`x${i}`, shape));
  const operands = c.target ? [...names, forward.ints(c.target)] : names;
  const y = forward.node(c.op, operands, c.attributes ?? {}, 'y');
  const graph = forward.graph('f');
  const shapes = inferShapes(graph);
  const shape = shapes.get(y) ?? [];
  forward.output(y, shape);
  const builder = new GraphBuilder();
  for (const [i, s] of c.inputs.entries()) builder.input(`x${i}`, s);
  const seed = builder.input('seed', shape);
  const grads = differentiate({
    forward: graph,
    shapes,
    output: y,
    seed,
    parameters: names,
    builder,
  });
  for (const [name, g] of grads) builder.output(g, shapes.get(name) ?? []);
  const nodes: NodeProto[] = [...graph.node, ...builder.nodes];
  builder.nodes.splice(0, builder.nodes.length, ...nodes);
  builder.initializers.push(...graph.initializer);
  return {
    forward: writeModel(modelOf(forward.graph('f'), 17)),
    gradients: writeModel(modelOf(builder.graph('g'), 17)),
    y,
    names,
    grads,
  };
}

/** Relative error of the engine's gradient against central differences summed in float64. */
async function worstError(c: Case, seed: number): Promise<number> {
  const random = seededRandom(seed);
  const { forward, gradients, y, names, grads } = graphsOf(c);
  const run = await ort.InferenceSession.create(forward, THREADS);
  const back = await ort.InferenceSession.create(gradients, THREADS);
  // Values on a coarse grid, away from each other: kinks and ties are tested by name below.
  const values = c.inputs.map((s) =>
    Float32Array.from(
      seededRandom(seed + 1).permutation(sizeOf(s)),
      (k) => ((k + 0.5) / sizeOf(s) - 0.5) * 2 + (c.shift ?? 0),
    ),
  );
  const feeds = (at: readonly Float32Array[]): Record<string, ort.Tensor> =>
    Object.fromEntries(
      at.map((v, i) => [`x${i}`, new ort.Tensor('float32', v, [...(c.inputs[i] ?? [])])]),
    );
  const first = (await run.run(feeds(values)))[y];
  const r = Float32Array.from({ length: first?.data.length ?? 0 }, () => random.normal());
  const objective = async (at: readonly Float32Array[]): Promise<number> => {
    const out = (await run.run(feeds(at)))[y]?.data as Float32Array;
    return out.reduce((sum, v, i) => sum + v * (r[i] ?? 0), 0);
  };
  const results = await back.run({
    ...feeds(values),
    seed: new ort.Tensor('float32', r, [...(first?.dims ?? [])]),
  });
  let worst = 0;
  for (const [i, name] of names.entries()) {
    const gradient = results[grads.get(name) ?? '']?.data as Float32Array;
    const scale = Math.max(1, ...gradient.map(Math.abs));
    for (let k = 0; k < gradient.length; k += Math.max(1, gradient.length >> 4)) {
      const h = 2e-3;
      const moved = (d: number): Float32Array[] =>
        values.map((v, j) => (j === i ? v.map((x, n) => (n === k ? x + d : x)) : v));
      const numeric = ((await objective(moved(h))) - (await objective(moved(-h)))) / (2 * h);
      worst = Math.max(worst, Math.abs(numeric - (gradient[k] ?? 0)) / scale);
    }
  }
  await Promise.all([run.release(), back.release()]);
  return worst;
}

const size = fc.integer({ min: 1, max: 4 });

test.each(['Add', 'Sub', 'Mul', 'Div'])(
  '%s with broadcasting agrees with finite differences',
  async (op) => {
    const shapes = fc.tuple(size, size, size).chain(([a, b, c]) =>
      fc.constantFrom(
        [
          [a, b, c],
          [a, b, c],
        ],
        [[a, b, c], [c]],
        [
          [a, b, c],
          [b, 1],
        ],
        [
          [1, b, c],
          [a, 1, 1],
        ],
      ),
    );
    await fc.assert(
      fc.asyncProperty(shapes, fc.integer({ min: 0, max: 1e6 }), async (inputs, seed) => {
        expect(await worstError({ op, inputs, shift: op === 'Div' ? 3 : 0 }, seed)).toBeLessThan(
          2e-3,
        );
      }),
      { numRuns: 12 },
    );
  },
);

test.each<[string, Attributes]>([
  ['Neg', {}],
  ['Exp', {}],
  ['Relu', {}],
  ['LeakyRelu', { alpha: { float: 0.2 } }],
  ['Sigmoid', {}],
  ['Tanh', {}],
  ['Identity', {}],
  ['Softmax', { axis: -1 }],
  ['Softmax', { axis: 1 }],
  ['LogSoftmax', { axis: -1 }],
])('%s %j agrees with finite differences', async (op, attributes) => {
  await fc.assert(
    fc.asyncProperty(
      fc.tuple(size, size, size),
      fc.integer({ min: 0, max: 1e6 }),
      async ([a, b, c], seed) => {
        expect(await worstError({ op, inputs: [[a, b * 2, c]], attributes }, seed)).toBeLessThan(
          2e-3,
        );
      },
    ),
    { numRuns: 8 },
  );
});

test.each([
  [0, 0],
  [1, 0],
  [0, 1],
  [1, 1],
])('Gemm with transA=%i transB=%i, α and β', async (transA, transB) => {
  const inputs = [transA ? [3, 4] : [4, 3], transB ? [5, 3] : [3, 5], [5]];
  const attributes = { transA, transB, alpha: { float: 0.5 }, beta: { float: 2 } };
  expect(await worstError({ op: 'Gemm', inputs, attributes }, 1)).toBeLessThan(2e-3);
});

test.each([
  [
    [
      [2, 3],
      [3, 4],
    ],
  ],
  [
    [
      [5, 2, 3],
      [3, 4],
    ],
  ],
  [
    [
      [2, 2, 3],
      [2, 3, 4],
    ],
  ],
  [
    [
      [2, 1, 2, 3],
      [3, 3, 2],
    ],
  ],
])('MatMul of %j', async (inputs) => {
  expect(await worstError({ op: 'MatMul', inputs }, 2)).toBeLessThan(2e-3);
});

test('Conv agrees for random geometry: kernel, stride, padding, dilation', async () => {
  const geometry = fc.record({
    n: size,
    c: size,
    m: size,
    h: fc.integer({ min: 5, max: 8 }),
    w: fc.integer({ min: 5, max: 8 }),
    kh: fc.integer({ min: 1, max: 3 }),
    kw: fc.integer({ min: 1, max: 3 }),
    s: fc.integer({ min: 1, max: 2 }),
    p: fc.integer({ min: 0, max: 1 }),
    d: fc.integer({ min: 1, max: 2 }),
  });
  await fc.assert(
    fc.asyncProperty(geometry, fc.integer({ min: 0, max: 1e6 }), async (g, seed) => {
      const attributes = {
        kernel_shape: [g.kh, g.kw],
        strides: [g.s, g.s],
        pads: [g.p, 0, 0, g.p],
        dilations: [g.d, g.d],
      };
      const inputs = [[g.n, g.c, g.h, g.w], [g.m, g.c, g.kh, g.kw], [g.m]];
      expect(await worstError({ op: 'Conv', inputs, attributes }, seed)).toBeLessThan(3e-3);
    }),
    { numRuns: 15 },
  );
});

test.each<[string, Attributes, number[]]>([
  ['MaxPool', { kernel_shape: [2, 2], strides: [2, 2] }, [2, 3, 6, 6]],
  ['MaxPool', { kernel_shape: [2, 2], strides: [2, 2] }, [1, 2, 5, 7]],
  ['MaxPool', { kernel_shape: [3, 3], strides: [3, 3] }, [2, 1, 7, 9]],
  ['MaxPool', { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }, [2, 2, 7, 7]],
  ['AveragePool', { kernel_shape: [2, 2], strides: [2, 2] }, [2, 3, 6, 7]],
  ['AveragePool', { kernel_shape: [3, 3], strides: [2, 2] }, [1, 2, 7, 7]],
  ['GlobalAveragePool', {}, [2, 3, 4, 5]],
  ['Flatten', { axis: 1 }, [2, 3, 2, 2]],
  ['Transpose', { perm: [2, 0, 1] }, [2, 3, 4]],
])('%s %j over %j', async (op, attributes, shape) => {
  expect(await worstError({ op, inputs: [shape], attributes }, 4)).toBeLessThan(2e-3);
});

test('Reshape, with an inferred dimension', async () => {
  expect(await worstError({ op: 'Reshape', inputs: [[2, 3, 4]], target: [0, -1] }, 5)).toBeLessThan(
    2e-3,
  );
});

test.each([
  [{ kernel_shape: [2, 2], strides: [2, 2] }],
  [{ kernel_shape: [2, 2], strides: [1, 1] }],
])('a tie in MaxPool %j gives the gradient once, to the first', async (attributes) => {
  const c: Case = { op: 'MaxPool', inputs: [[1, 1, 2, 2]], attributes };
  const { gradients, grads } = graphsOf(c);
  const back = await ort.InferenceSession.create(gradients, THREADS);
  const x0 = new ort.Tensor('float32', Float32Array.of(1, 1, 1, 1), [1, 1, 2, 2]);
  const seed = new ort.Tensor('float32', Float32Array.of(5), [1, 1, 1, 1]);
  const results = await back.run({ x0, seed });
  expect(Array.from(results[grads.get('x0') ?? '']?.data as Float32Array)).toEqual([5, 0, 0, 0]);
  await back.release();
});

test('an operator without gradient is named, with the parameter it blocks', () => {
  const forward = new GraphBuilder('f/');
  const x = forward.input('weight', [2, 2]);
  forward.node('Floor', [x], {}, 'y');
  const graph = forward.graph('f');
  const shapes = new Map([
    ['weight', [2, 2]],
    ['y', [2, 2]],
  ]);
  const run = (): unknown =>
    differentiate({
      forward: graph,
      shapes,
      output: 'y',
      seed: 's',
      parameters: ['weight'],
      builder: new GraphBuilder(),
    });
  expect(run).toThrow(/operator Floor has no gradient, which blocks parameter "weight"/);
});
