import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DIFFERENTIABLE_OPERATORS } from '../differentiate.ts';
import { compareGradients, type OperatorCase } from './finite-differences.ts';

/**
 * Every operator over random shapes and attributes. Special cases, and those that went wrong once, are in
 * `gradients.test.ts`.
 */
const TOLERANCE = 1e-3;
/** The same shapes and values everywhere. */
const SEED = 20_261_122;
const RUNS = 8;

const held = new Set<string>();
const side = fc.integer({ min: 1, max: 4 });
const size = fc.integer({ min: 4, max: 8 });
const flag = fc.constantFrom(0, 1);
const shape = fc.tuple(side, side, side).map(([a, b, c]): number[] => [a, b * 2, c]);
const image = fc.tuple(fc.integer({ min: 1, max: 2 }), side, size, size);

async function expectHeld(cases: fc.Arbitrary<OperatorCase>, numRuns = RUNS): Promise<void> {
  const seeds = fc.integer({ min: 0, max: 1e6 });
  await fc.assert(
    fc.asyncProperty(cases, seeds, async (c, seed) => {
      held.add(c.op);
      const { worst } = await compareGradients(c, seed);
      if (worst >= TOLERANCE) throw new Error(`${JSON.stringify(c)}: off by ${worst}`);
    }),
    { numRuns, seed: SEED },
  );
}

type More = Omit<OperatorCase, 'op' | 'inputs'>;

const UNARY: [string, More?][] = [
  ['Abs'],
  ['Acos', { spread: 1.6 }],
  ['Acosh', { shift: 3 }],
  ['Asin', { spread: 1.6 }],
  ['Asinh'],
  ['Atan'],
  ['Atanh', { spread: 1.6 }],
  ['Celu', { attributes: { alpha: { float: 0.7 } } }],
  ['Cosh'],
  ['Sinh'],
  ['Tan', { spread: 1.6 }],
  ['Shrink', { attributes: { lambd: { float: 0.4 } }, kinks: [-0.4, 0.4] }],
  ['ThresholdedRelu', { attributes: { alpha: { float: 0.3 } }, kinks: [0.3] }],
  ['LpNormalization', { attributes: { axis: 1, p: 1 }, shift: 2 }],
  ['LpNormalization', { attributes: { axis: -1 }, shift: 2 }],
  ['Cast', { attributes: { to: 1 } }],
  ['Cos'],
  ['Elu', { attributes: { alpha: { float: 0.7 } } }],
  ['Erf'],
  ['Exp'],
  ['Gelu', { opset: 20 }],
  ['GlobalAveragePool'],
  ['GlobalMaxPool'],
  ['HardSigmoid', { kinks: [-2.5, 2.5], spread: 8 }],
  ['HardSwish', { kinks: [-3, 3], spread: 8 }],
  ['Identity'],
  ['LeakyRelu'],
  ['Log', { shift: 2 }],
  ['LogSoftmax', { attributes: { axis: 1 } }],
  ['Mish'],
  ['Neg'],
  ['Reciprocal', { shift: 2 }],
  ['Relu'],
  ['Selu'],
  ['Sigmoid'],
  ['Sin'],
  ['Softmax', { attributes: { axis: 1 } }],
  ['Softplus'],
  ['Softsign'],
  ['Sqrt', { shift: 2 }],
  ['Tanh'],
];

test.each(UNARY)('%s', async (op, more = {}) => {
  await expectHeld(shape.map((x) => ({ op, inputs: [x], ...more })));
});

test.each(['Add', 'Sub', 'Mul', 'Div', 'Sum', 'Mean', 'Max', 'Min', 'Pow'])(
  '%s, either side broadcast',
  async (op) => {
    const away = op === 'Div' || op === 'Pow';
    await expectHeld(
      fc
        .tuple(shape, fc.array(flag, { minLength: 3, maxLength: 3 }), flag)
        .map(([x, ones, turn]) => {
          const other = x.map((d, i) => (ones[i] ? 1 : d)).slice(turn);
          const inputs = turn && !away ? [other, x] : [x, other];
          return { op, inputs, shift: away ? 3 : 0, step: op === 'Pow' ? 4e-3 : 1e-3 };
        }),
    );
  },
);

test('PRelu, Clip and Where', async () => {
  await expectHeld(shape.map((x) => ({ op: 'PRelu', inputs: [x, [x[1] ?? 1, 1]] })));
  await expectHeld(
    shape.map((x) => ({
      op: 'Clip',
      inputs: [x, { float: -0.31 }, { float: 0.57 }],
      kinks: [-0.31, 0.57],
    })),
  );
  await expectHeld(
    fc.tuple(shape, fc.integer()).map(([x, bits]) => ({
      op: 'Where',
      inputs: [
        {
          bools: Array.from({ length: x[2] ?? 1 }, (_, i) => ((bits >> i) & 1) === 1),
          dims: [x[2] ?? 1],
        },
        x,
        [1, x[1] ?? 1, 1],
      ],
    })),
  );
});

test('Gemm and MatMul', async () => {
  await expectHeld(
    fc.tuple(shape, flag, flag, flag).map(([[a = 1, b = 1, c = 1], transA, transB, wide]) => ({
      op: 'Gemm',
      inputs: [transA ? [b, a] : [a, b], transB ? [c, b] : [b, c], wide ? [a, c] : [c]],
      attributes: { transA, transB, alpha: { float: 0.5 }, beta: { float: 2 } },
    })),
  );
  await expectHeld(
    fc.tuple(shape, side, flag, flag).map(([[a = 1, b = 1, c = 1], d, lead, own]) => ({
      op: 'MatMul',
      inputs: [lead ? [d, a, b, c] : [b, c], own ? [a, c, d] : [c, d]],
    })),
  );
});

const window = fc.record({
  groups: fc.integer({ min: 1, max: 3 }),
  k: fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 3 })),
  s: fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 2 })),
  d: fc.integer({ min: 1, max: 2 }),
  p: flag,
});

test('Conv and ConvTranspose', async () => {
  for (const op of ['Conv', 'ConvTranspose'])
    await expectHeld(
      fc.tuple(image, window, side).map(([[n, c, h, w], { groups, k, s, d, p }, m]) => {
        const [kh, kw] = k;
        const pads = kh > 1 && kw > 1 ? [p, 0, 0, p] : [0, 0, 0, 0];
        const [input, output] = [c * groups, m * groups];
        const weight = op === 'Conv' ? [output, c, kh, kw] : [input, m, kh, kw];
        const attributes = { strides: [...s], pads, dilations: [d, d], group: groups };
        return { op, inputs: [[n, input, h, w], weight, [output]], attributes };
      }),
      12,
    );
});

test('depthwise Conv in the blocked layout of the runtime', async () => {
  const channels = fc.constantFrom(4, 8, 16, 24, 32);
  await expectHeld(
    fc.tuple(image, channels, window, flag).map(([[n, , h, w], c, { s, p }, bias]) => ({
      op: 'Conv',
      inputs: [[n, c, h, w], [c, 1, 3, 3], ...(bias ? [[c]] : [])],
      attributes: { group: c, strides: [s[0], s[0]], pads: [p, p, p, p] },
      blocked: true,
    })),
    12,
  );
});

test('MaxPool and AveragePool', async () => {
  for (const op of ['MaxPool', 'AveragePool'])
    await expectHeld(
      fc.tuple(image, window, flag, flag).map(([x, { k, s, p }, ceil_mode, count_include_pad]) => ({
        op,
        inputs: [x],
        attributes: {
          kernel_shape: [...k],
          strides: [...s],
          pads: k[0] > 1 && k[1] > 1 ? [p, 0, 0, p] : [0, 0, 0, 0],
          ceil_mode,
          ...(op === 'AveragePool' ? { count_include_pad } : {}),
        },
      })),
      16,
    );
});

test('BatchNormalization, with statistics kept and of the batch', async () => {
  // Two tensors: the runtime writes its running statistics over those it reads.
  const given = (length: number, first: number): OperatorCase['inputs'][number] => ({
    indices: Array.from({ length }, (_, i) => first + (i % 3)),
    dims: [length],
    asFloat: true,
  });
  await expectHeld(
    shape.map(([a = 1, b = 1, c = 1]) => ({
      op: 'BatchNormalization',
      inputs: [[a, b, c], [b], [b], given(b, 0), given(b, 1)],
    })),
  );
  await expectHeld(
    fc.tuple(image, fc.constantFrom(0.1, 1)).map(([[n, c, h, w], epsilon]) => ({
      op: 'BatchNormalization',
      inputs: [[n, c, h, w], [c], [c], given(c, 0), given(c, 1)],
      // Without momentum the second and third output are the statistics of the batch.
      attributes: { training_mode: 1, momentum: { float: 0 }, epsilon: { float: epsilon } },
      outputs: 3,
      read: [0],
      step: 1e-2,
    })),
  );
});

test('normalizations where nothing varies, and of one sample', async () => {
  const epsilon = { float: 1 };
  const still = { spread: 0, step: 1e-2 };
  const cases: OperatorCase[] = [
    { op: 'LayerNormalization', inputs: [[2, 5], [5], [5]], attributes: { epsilon }, ...still },
    {
      op: 'InstanceNormalization',
      inputs: [[1, 2, 3, 3], [2], [2]],
      attributes: { epsilon },
      ...still,
    },
    {
      op: 'GroupNormalization',
      inputs: [[1, 4, 3, 3], [4], [4]],
      attributes: { epsilon, num_groups: 2 },
      opset: 21,
      ...still,
    },
    {
      op: 'BatchNormalization',
      inputs: [
        [1, 2, 3, 3],
        [2],
        [2],
        { indices: [0, 1], dims: [2], asFloat: true },
        { indices: [1, 2], dims: [2], asFloat: true },
      ],
      attributes: { training_mode: 1, momentum: { float: 0 }, epsilon },
      outputs: 3,
      read: [0],
      ...still,
    },
  ];
  for (const c of cases) expect((await compareGradients(c, 3)).worst).toBeLessThan(TOLERANCE);
  // With the usual ε the curve is too steep for differences: what matters is that it has a finite slope.
  for (const c of cases) {
    const { gradients } = await compareGradients(
      { ...c, attributes: { ...c.attributes, epsilon: { float: 1e-5 } } },
      3,
    );
    for (const values of gradients.values()) expect(values.every(Number.isFinite)).toBe(true);
  }
});

test('LayerNormalization, InstanceNormalization and GroupNormalization', async () => {
  const epsilon = { float: 0.01 };
  await expectHeld(
    fc.tuple(shape, fc.integer({ min: 1, max: 2 })).map(([x, axis]) => ({
      op: 'LayerNormalization',
      inputs: [x, x.slice(axis), x.slice(axis)],
      attributes: { axis, epsilon },
      step: 4e-3,
    })),
  );
  await expectHeld(
    image.map(([n, c, h, w]) => ({
      op: 'InstanceNormalization',
      inputs: [[n, c, h, w], [c], [c]],
      attributes: { epsilon },
      step: 1e-2,
    })),
  );
  await expectHeld(
    fc.tuple(image, side).map(([[n, c, h, w], num_groups]) => ({
      op: 'GroupNormalization',
      inputs: [[n, c * num_groups, h, w], [c * num_groups], [c * num_groups]],
      attributes: { num_groups, epsilon },
      step: 1e-2,
      opset: 21,
    })),
  );
});

test.each([
  'ReduceL1',
  'ReduceL2',
  'ReduceLogSum',
  'ReduceLogSumExp',
  'ReduceProd',
  'ReduceMax',
  'ReduceMean',
  'ReduceMin',
  'ReduceSum',
  'ReduceSumSquare',
])('%s over any axes', async (op) => {
  const axes = fc.constantFrom([0], [1], [2], [-1, 0], [1, 2], [0, 1, 2], []);
  const sums = op !== 'ReduceMax' && op !== 'ReduceMin';
  await expectHeld(
    fc.tuple(shape, axes, flag).map(([x, over, keepdims]) => ({
      op,
      inputs: over.length === 0 ? [x] : [x, { ints: over }],
      attributes: { keepdims },
      // Sums are large: a small step would drown in the last bit of a float32. Extremes are next to each other.
      ...(sums ? { shift: op === 'ReduceProd' ? 1.5 : 3, step: 0.03 } : {}),
    })),
    12,
  );
});

test('CumSum, Trilu, Softmax over the last axis', async () => {
  await expectHeld(
    fc
      .tuple(shape, fc.integer({ min: -3, max: 2 }), flag, flag)
      .map(([x, axis, exclusive, reverse]) => ({
        op: 'CumSum',
        inputs: [x, { ints: [axis], scalar: true }],
        attributes: { exclusive, reverse },
      })),
  );
  await expectHeld(
    fc.tuple(shape, flag, fc.integer({ min: -1, max: 1 })).map(([x, upper, k]) => ({
      op: 'Trilu',
      inputs: [x, { ints: [k], scalar: true }],
      attributes: { upper },
    })),
  );
  await expectHeld(shape.map((x) => ({ op: 'Softmax', inputs: [x], attributes: { axis: -1 } })));
});

test('Reshape, Flatten, Squeeze, Unsqueeze, Expand, Tile, Transpose', async () => {
  await expectHeld(shape.map((x) => ({ op: 'Reshape', inputs: [x, { ints: [0, -1, 2] }] })));
  await expectHeld(
    fc.tuple(shape, fc.integer({ min: 0, max: 3 })).map(([x, axis]) => ({
      op: 'Flatten',
      inputs: [x],
      attributes: { axis },
    })),
  );
  const place = fc.integer({ min: 0, max: 3 });
  await expectHeld(
    fc.tuple(shape, place).map(([x, at]) => ({
      op: 'Squeeze',
      inputs: [x.toSpliced(at, 0, 1), { ints: [at] }],
    })),
  );
  await expectHeld(
    fc.tuple(shape, place).map(([x, at]) => ({ op: 'Unsqueeze', inputs: [x, { ints: [at - 4] }] })),
  );
  await expectHeld(
    fc.tuple(shape, fc.integer({ min: 0, max: 2 }), side).map(([x, at, times]) => ({
      op: 'Expand',
      inputs: [x.with(at, 1), { ints: [2, ...x.with(at, times)] }],
    })),
  );
  await expectHeld(
    fc.tuple(shape, fc.tuple(side, side, side)).map(([x, times]) => ({
      op: 'Tile',
      inputs: [x, { ints: [...times] }],
    })),
  );
  const perms = fc.constantFrom([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]);
  await expectHeld(
    fc
      .tuple(shape, perms)
      .map(([x, perm]) => ({ op: 'Transpose', inputs: [x], attributes: { perm } })),
  );
});

test('Concat, Split, Slice and Pad', async () => {
  const axis = fc.integer({ min: -3, max: 2 });
  await expectHeld(
    fc.tuple(shape, axis, side, side).map(([x, at, a, b]) => ({
      op: 'Concat',
      inputs: [x, x.with(at, a), x.with(at, b)],
      attributes: { axis: at },
    })),
  );
  await expectHeld(
    fc.tuple(shape, axis, side, side).map(([x, at, a, b]) => ({
      op: 'Split',
      inputs: [x.with(at, a + b), { ints: [a, b] }],
      attributes: { axis: at },
      outputs: 2,
    })),
  );
  await expectHeld(
    fc.tuple(shape, axis, side, fc.integer({ min: 1, max: 3 })).map(([x, at, from, step]) => ({
      op: 'Slice',
      inputs: [
        x.with(at, from + 3),
        { ints: [from - 1] },
        { ints: [2 ** 31] },
        { ints: [at] },
        { ints: [step] },
      ],
    })),
  );
  const pads = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 6, maxLength: 6 });
  await expectHeld(
    fc
      .tuple(shape, pads, fc.constantFrom('constant', 'reflect', 'edge'))
      .map(([x, ints, mode]) => ({
        op: 'Pad',
        inputs: [x.map((d) => d + 2), { ints }],
        attributes: { mode },
      })),
    12,
  );
});

test('Gather, GatherElements and GatherND', async () => {
  const picks = fc.array(fc.integer({ min: 0, max: 999 }), { minLength: 4, maxLength: 4 });
  const within = (numbers: readonly number[], below: number): number[] =>
    numbers.map((v) => v % below);
  await expectHeld(
    fc.tuple(shape, fc.integer({ min: 0, max: 2 }), picks).map(([x, axis, chosen]) => ({
      op: 'Gather',
      inputs: [x, { indices: within(chosen, x[axis] ?? 1), dims: [2, 2] }],
      attributes: { axis },
    })),
  );
  await expectHeld(
    fc.tuple(side, side, picks).map(([rows, columns, chosen]) => ({
      op: 'GatherElements',
      inputs: [[rows, columns + 1], { indices: within(chosen, rows).slice(0, 2), dims: [1, 2] }],
      attributes: { axis: 0 },
    })),
  );
  await expectHeld(
    fc.tuple(shape, picks).map(([x, chosen]) => ({
      op: 'GatherND',
      inputs: [x, { indices: chosen.map((v, i) => v % (x[i % 2] ?? 1)), dims: [2, 2] }],
    })),
  );
});

test('ScatterND, ScatterElements and TopK', async () => {
  const adds = fc.constantFrom('none', 'add');
  await expectHeld(
    fc.tuple(shape, side, adds).map(([[a = 1, b = 1, c = 1], offset, reduction]) => ({
      op: 'ScatterND',
      inputs: [[a + 1, b, c], { indices: [offset % (a + 1), 0], dims: [1, 2] }, [1, c]],
      attributes: { reduction },
    })),
  );
  await expectHeld(
    fc.tuple(side, side, side, adds).map(([rows, columns, offset, reduction]) => ({
      op: 'ScatterElements',
      inputs: [
        [rows + 1, columns + 1],
        { indices: [offset % (rows + 1), (offset + 1) % (rows + 1)], dims: [1, 2] },
        [1, 2],
      ],
      attributes: { axis: 0, reduction },
    })),
  );
  await expectHeld(
    fc.tuple(shape, side, flag).map(([x, k, largest]) => ({
      op: 'TopK',
      inputs: [x, { ints: [Math.min(k, x[1] ?? 1)] }],
      attributes: { axis: 1, largest },
      outputs: 2,
      read: [0],
    })),
  );
});

test('Einsum, Mod and LRN', async () => {
  const equations = fc.constantFrom(
    ['ij,jk->ik', 'ab', 'bc'],
    ['bij,bjk->bik', 'abc', 'acd'],
    ['ij,jk', 'ab', 'bc'],
    ['...ij,...jk->...ik', 'dabc', 'dacb'],
    ['bhqd,bhkd->bhqk', 'abcd', 'abcd'],
    ['i,j->ij', 'a', 'b'],
    ['ij->j', 'ab'],
    ['ijk->', 'abc'],
    ['ij,ij->i', 'ab', 'ab'],
    ['ij,k->j', 'ab', 'c'],
    ['ab,bc,cd->ad', 'ab', 'bc', 'cd'],
  );
  await expectHeld(
    fc
      .tuple(fc.tuple(side, side, side, side), equations)
      .map(([sizes, [equation = '', ...terms]]) => ({
        op: 'Einsum',
        inputs: terms.map((t) => Array.from(t, (l) => sizes['abcd'.indexOf(l)] ?? 1)),
        attributes: { equation },
      })),
    30,
  );
  await expectHeld(
    shape.map((x) => ({
      op: 'Mod',
      inputs: [x, [1]],
      attributes: { fmod: 1 },
      shift: 3,
      spread: 0.5,
    })),
  );
  await expectHeld(
    fc.tuple(image, fc.constantFrom(1, 3, 5)).map(([[n, c, h, w], neighbours]) => ({
      op: 'LRN',
      inputs: [[n, c + 3, h, w]],
      attributes: {
        size: neighbours,
        alpha: { float: 0.8 },
        beta: { float: 0.7 },
        bias: { float: 1.5 },
      },
      step: 4e-3,
    })),
  );
});

test('a product with zeros among its factors, and steps', async () => {
  const zeros: OperatorCase = {
    op: 'ReduceProd',
    inputs: [[2, 3], { ints: [1] }],
    spread: 0,
    step: 1e-2,
  };
  expect((await compareGradients(zeros, 1)).worst).toBeLessThan(TOLERANCE);
  // Constant between their steps, or of the shape alone: no gradient at all.
  for (const op of ['Ceil', 'Floor', 'Round', 'Sign']) held.add(op);
  for (const op of ['EyeLike', 'RandomNormalLike', 'RandomUniformLike']) held.add(op);
});

test('DepthToSpace, SpaceToDepth and Resize', async () => {
  const side2 = fc.integer({ min: 1, max: 3 });
  await expectHeld(
    fc.tuple(side2, side2, side2, fc.constantFrom('DCR', 'CRD')).map(([n, h, w, mode]) => ({
      op: 'DepthToSpace',
      inputs: [[n, 8, h, w]],
      attributes: { blocksize: 2, mode },
    })),
  );
  await expectHeld(
    fc.tuple(side2, side2, side2).map(([n, h, w]) => ({
      op: 'SpaceToDepth',
      inputs: [[n, 2, h * 2, w * 2]],
      attributes: { blocksize: 2 },
    })),
  );
  const coordinates = fc.constantFrom(
    'half_pixel',
    'pytorch_half_pixel',
    'asymmetric',
    'align_corners',
  );
  await expectHeld(
    fc
      .tuple(image, size, size, fc.constantFrom('nearest', 'linear'), coordinates)
      .map(([[n, c, h, w], oh, ow, mode, coordinate_transformation_mode]) => ({
        op: 'Resize',
        inputs: [[n, c, h, w], undefined, undefined, { ints: [n, c, oh, ow] }],
        attributes: { mode, coordinate_transformation_mode },
      })),
    16,
  );
});

test('every operator with a gradient was held over random shapes above', () => {
  held.add('Dropout'); // drops at random: held in trainer.test.ts
  expect(DIFFERENTIABLE_OPERATORS.filter((op) => !held.has(op))).toEqual([]);
});
