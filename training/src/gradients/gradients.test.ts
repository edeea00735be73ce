import fc from 'fast-check';
import { expect, test } from 'vitest';
import { differentiate } from '../differentiate.ts';
import { GraphBuilder } from '../onnx/graph-builder.ts';
import { compareGradients, type OperatorCase } from './finite-differences.ts';

const TOLERANCE = 1e-3;
// The same shapes and values everywhere.
fc.configureGlobal({ seed: 20_261_122 });

async function expectGradients(c: OperatorCase, seed: number): Promise<void> {
  const { worst } = await compareGradients(c, seed);
  if (worst >= TOLERANCE) throw new Error(`${JSON.stringify(c)}: off by ${worst}`);
  expect(worst).toBeLessThan(TOLERANCE);
}

const side = fc.integer({ min: 1, max: 4 });
const seeds = fc.integer({ min: 0, max: 1e6 });

async function expectOverShapes(
  make: (shape: [number, number, number]) => OperatorCase,
  numRuns = 6,
): Promise<void> {
  await fc.assert(
    fc.asyncProperty(fc.tuple(side, side, side), seeds, async ([a, b, c], seed) => {
      await expectGradients(make([a, b * 2, c]), seed);
    }),
    { numRuns },
  );
}

test.each(['Add', 'Sub', 'Mul', 'Div', 'Sum', 'Mean', 'Max', 'Min', 'Pow'])(
  '%s with broadcasting agrees with finite differences',
  async (op) => {
    const shapes = fc.tuple(side, side, side).chain(([a, b, c]) =>
      fc.constantFrom(
        [
          [a, b, c],
          [a, b, c],
        ],
        [[a, b, c], [c]],
        [
          [b, 1],
          [a, b, c],
        ],
        [
          [a, 1, c],
          [1, b, 1],
        ],
        [
          [a, b, c],
          [1, 1, 1],
        ],
        [[], [a, b]],
      ),
    );
    await fc.assert(
      fc.asyncProperty(shapes, seeds, async (inputs, seed) => {
        await expectGradients(
          {
            op,
            inputs,
            shift: op === 'Div' || op === 'Pow' ? 3 : 0,
            step: op === 'Pow' ? 4e-3 : 1e-3,
          },
          seed,
        );
      }),
      { numRuns: 12 },
    );
  },
);

const UNARY: [string, Partial<OperatorCase>][] = [
  ['Neg', {}],
  ['Exp', {}],
  ['Log', { shift: 2 }],
  ['Sqrt', { shift: 2 }],
  ['Reciprocal', { shift: 2 }],
  ['Abs', {}],
  ['Erf', {}],
  ['Sin', {}],
  ['Cos', {}],
  ['Identity', {}],
  ['Relu', {}],
  ['LeakyRelu', { attributes: { alpha: { float: 0.2 } } }],
  ['Elu', { attributes: { alpha: { float: 0.7 } } }],
  ['Selu', {}],
  ['Gelu', { opset: 20 }],
  ['Gelu', { opset: 20, attributes: { approximate: 'tanh' } }],
  ['Sigmoid', {}],
  ['Tanh', {}],
  [
    'HardSigmoid',
    { attributes: { alpha: { float: 0.9 }, beta: { float: 0.5 } }, kinks: [-5 / 9, 5 / 9] },
  ],
  ['HardSwish', { shift: 2.43, kinks: [3] }],
  ['HardSwish', { shift: -2.43, kinks: [-3] }],
  ['Softplus', {}],
  ['Softsign', {}],
  ['Mish', {}],
  ['Softmax', { attributes: { axis: -1 } }],
  ['Softmax', { attributes: { axis: 1 } }],
  ['LogSoftmax', { attributes: { axis: -1 } }],
  ['LogSoftmax', { attributes: { axis: 0 } }],
  ['GlobalAveragePool', {}],
  ['GlobalMaxPool', {}],
  ['Flatten', { attributes: { axis: 2 } }],
];

test.each(UNARY)('%s %j agrees with finite differences', async (op, more) => {
  await expectOverShapes((shape) => ({ op, inputs: [shape], step: 1e-3, ...more }));
});

test('PRelu, with a slope per channel and one for all', async () => {
  await expectOverShapes(([a, b, c]) => ({
    op: 'PRelu',
    inputs: [
      [a, b, c],
      [b, 1],
    ],
  }));
  await expectGradients({ op: 'PRelu', inputs: [[3, 4], [1]] }, 1);
});

test.each<[string, OperatorCase['inputs'][number], OperatorCase['inputs'][number]]>([
  ['both bounds', { float: -0.51 }, { float: 0.37 }],
  ['low only', { float: -0.51 }, undefined],
  ['high only', undefined, { float: 0.37 }],
])('Clip with %s', async (_what, low, high) => {
  await expectGradients({ op: 'Clip', inputs: [[4, 5], low, high] }, 2);
});

test('Where sends the gradient to the side that was taken', async () => {
  const bools = [true, false, false, true, true, false];
  await expectGradients({ op: 'Where', inputs: [{ bools, dims: [2, 3] }, [2, 3], [3]] }, 3);
});

test.each([
  [0, 0],
  [1, 0],
  [0, 1],
  [1, 1],
])('Gemm with transA=%i transB=%i, α and β', async (transA, transB) => {
  const inputs = [transA ? [3, 4] : [4, 3], transB ? [5, 3] : [3, 5], [5]];
  const attributes = { transA, transB, alpha: { float: 0.5 }, beta: { float: 2 } };
  await expectGradients({ op: 'Gemm', inputs, attributes }, 1);
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
  [
    [
      [3, 4],
      [2, 4, 2],
    ],
  ],
  [[[3], [3, 4]]],
  [[[2, 5, 3], [3]]],
  [[[3], [3]]],
])('MatMul of %j', async (inputs) => {
  await expectGradients({ op: 'MatMul', inputs }, 2);
});

const geometry = fc.record({
  n: side,
  groups: fc.integer({ min: 1, max: 3 }),
  c: fc.integer({ min: 1, max: 2 }),
  m: fc.integer({ min: 1, max: 2 }),
  h: fc.integer({ min: 5, max: 8 }),
  w: fc.integer({ min: 5, max: 8 }),
  kh: fc.integer({ min: 1, max: 3 }),
  kw: fc.integer({ min: 1, max: 3 }),
  s: fc.integer({ min: 1, max: 2 }),
  p: fc.integer({ min: 0, max: 1 }),
  d: fc.integer({ min: 1, max: 2 }),
});

test('Conv agrees for random geometry: kernel, stride, padding, dilation, groups', async () => {
  await fc.assert(
    fc.asyncProperty(geometry, seeds, async (g, seed) => {
      const attributes = {
        kernel_shape: [g.kh, g.kw],
        strides: [g.s, g.s],
        pads: [g.p, 0, 0, g.p],
        dilations: [g.d, g.d],
        group: g.groups,
      };
      const [input, output] = [g.c * g.groups, g.m * g.groups];
      const inputs = [[g.n, input, g.h, g.w], [output, g.c, g.kh, g.kw], [output]];
      await expectGradients({ op: 'Conv', inputs, attributes }, seed);
    }),
    { numRuns: 25 },
  );
});

test('depthwise Conv, one channel per group', async () => {
  const inputs = [[2, 6, 7, 7], [6, 1, 3, 3], [6]];
  for (const s of [1, 2])
    await expectGradients(
      { op: 'Conv', inputs, attributes: { group: 6, pads: [1, 1, 1, 1], strides: [s, s] } },
      5,
    );
});

test.each(['SAME_UPPER', 'SAME_LOWER', 'VALID'])('Conv with auto_pad=%s', async (auto_pad) => {
  const inputs = [
    [1, 2, 6, 7],
    [3, 2, 2, 3],
  ];
  await expectGradients({ op: 'Conv', inputs, attributes: { auto_pad, strides: [2, 2] } }, 6);
});

test('Conv in one and three dimensions', async () => {
  await expectGradients(
    { op: 'Conv', inputs: [[2, 3, 9], [4, 3, 3], [4]], attributes: { strides: [2], pads: [1, 1] } },
    7,
  );
  await expectGradients(
    {
      op: 'Conv',
      inputs: [
        [1, 2, 4, 4, 4],
        [2, 2, 2, 2, 2],
      ],
    },
    8,
  );
});

test('ConvTranspose agrees for random geometry, with output padding', async () => {
  await fc.assert(
    fc.asyncProperty(geometry, fc.integer({ min: 0, max: 1 }), seeds, async (g, op, seed) => {
      const attributes = {
        strides: [g.s, g.s],
        pads: g.kh > 1 && g.kw > 1 ? [g.p, 0, 0, g.p] : [0, 0, 0, 0],
        dilations: [g.d, g.d],
        output_padding: g.s > 1 ? [op, 0] : [0, 0],
        group: g.groups,
      };
      const [input, output] = [g.c * g.groups, g.m * g.groups];
      const inputs = [[g.n, input, g.h - 2, g.w - 2], [input, g.m, g.kh, g.kw], [output]];
      await expectGradients({ op: 'ConvTranspose', inputs, attributes }, seed);
    }),
    { numRuns: 25 },
  );
});

test.each<[string, NonNullable<OperatorCase['attributes']>, number[]]>([
  ['MaxPool', { kernel_shape: [2, 2], strides: [2, 2] }, [2, 3, 6, 6]],
  ['MaxPool', { kernel_shape: [2, 2], strides: [2, 2] }, [1, 2, 5, 7]],
  ['MaxPool', { kernel_shape: [3, 3], strides: [3, 3] }, [2, 1, 7, 9]],
  ['MaxPool', { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }, [2, 2, 7, 7]],
  ['MaxPool', { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, [1, 2, 5, 5]],
  ['MaxPool', { kernel_shape: [3], strides: [2] }, [2, 2, 9]],
  ['AveragePool', { kernel_shape: [2, 2], strides: [2, 2] }, [2, 3, 6, 7]],
  ['AveragePool', { kernel_shape: [3, 3], strides: [2, 2] }, [1, 2, 7, 7]],
  ['AveragePool', { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }, [1, 2, 7, 7]],
  [
    'AveragePool',
    { kernel_shape: [3, 3], strides: [1, 1], pads: [1, 1, 1, 1], count_include_pad: 1 },
    [1, 2, 5, 6],
  ],
  ['AveragePool', { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, [1, 2, 5, 5]],
  ['AveragePool', { kernel_shape: [4], strides: [2] }, [2, 2, 10]],
  ['GlobalAveragePool', {}, [2, 3, 4, 5]],
  ['GlobalMaxPool', {}, [2, 3, 4, 5]],
  ['Flatten', { axis: 1 }, [2, 3, 2, 2]],
  ['Flatten', { axis: 0 }, [2, 3]],
  ['Transpose', { perm: [2, 0, 1] }, [2, 3, 4]],
  ['Transpose', {}, [2, 3, 4]],
  ['DepthToSpace', { blocksize: 2, mode: 'DCR' }, [1, 8, 2, 3]],
  ['DepthToSpace', { blocksize: 2, mode: 'CRD' }, [2, 8, 2, 3]],
  ['SpaceToDepth', { blocksize: 2 }, [1, 2, 4, 6]],
  ['Cast', { to: 1 }, [2, 3]],
  ['Trilu', { upper: 0 }, [2, 3, 3]],
])('%s %j over %j', async (op, attributes, shape) => {
  await expectGradients({ op, inputs: [shape], attributes }, 4);
});

test('BatchNormalization with frozen statistics', async () => {
  const given = { indices: [1, 2], dims: [2], asFloat: true };
  const inputs = [[3, 2, 4], [2], [2], given, given];
  await expectGradients(
    { op: 'BatchNormalization', inputs, attributes: { epsilon: { float: 0.1 } } },
    1,
  );
});

test.each([
  [[4, 6], [6], -1],
  [[2, 3, 4], [4], -1],
  [[2, 3, 4], [3, 4], 1],
])('LayerNormalization of %j with scale %j over axis %i', async (x, scale, axis) => {
  await expectGradients(
    { op: 'LayerNormalization', inputs: [x, scale, scale], attributes: { axis }, step: 1e-2 },
    1,
  );
  await expectGradients(
    { op: 'LayerNormalization', inputs: [x, scale], attributes: { axis }, step: 1e-2 },
    2,
  );
});

test('InstanceNormalization and GroupNormalization', async () => {
  await expectGradients(
    { op: 'InstanceNormalization', inputs: [[2, 3, 4, 4], [3], [3]], step: 1e-2 },
    1,
  );
  await expectGradients(
    {
      op: 'GroupNormalization',
      inputs: [[2, 6, 3, 3], [3], [3]],
      attributes: { num_groups: 3 },
      step: 1e-2,
    },
    2,
  );
  await expectGradients(
    {
      op: 'GroupNormalization',
      inputs: [[2, 6, 4], [6], [6]],
      attributes: { num_groups: 2 },
      step: 1e-2,
      opset: 21,
    },
    3,
  );
});

const REDUCTIONS = [
  'ReduceSum',
  'ReduceMean',
  'ReduceMax',
  'ReduceMin',
  'ReduceL1',
  'ReduceL2',
  'ReduceSumSquare',
  'ReduceLogSumExp',
];

test.each(REDUCTIONS)('%s over some axes, all, and none', async (op) => {
  for (const keepdims of [0, 1]) {
    await expectGradients(
      { op, inputs: [[2, 3, 4], { ints: [0, -1] }], attributes: { keepdims } },
      1,
    );
    await expectGradients({ op, inputs: [[2, 3, 4], { ints: [1] }], attributes: { keepdims } }, 2);
    await expectGradients({ op, inputs: [[2, 3]], attributes: { keepdims } }, 3);
  }
  await expectGradients(
    { op, inputs: [[2, 3]], attributes: { noop_with_empty_axes: 1 }, shift: 2 },
    4,
  );
});

test.each([
  [0, 0],
  [1, 0],
  [0, 1],
  [1, 1],
])('CumSum with exclusive=%i reverse=%i', async (exclusive, reverse) => {
  await expectGradients(
    {
      op: 'CumSum',
      inputs: [[2, 5], { ints: [1], scalar: true }],
      attributes: { exclusive, reverse },
    },
    1,
  );
});

test('Reshape with an inferred dimension, Squeeze, Unsqueeze, Expand, Tile', async () => {
  await expectGradients({ op: 'Reshape', inputs: [[2, 3, 4], { ints: [0, -1] }] }, 5);
  await expectGradients({ op: 'Squeeze', inputs: [[2, 1, 3, 1], { ints: [1, -1] }] }, 5);
  await expectGradients({ op: 'Unsqueeze', inputs: [[2, 3], { ints: [0, 3] }] }, 5);
  await expectGradients({ op: 'Expand', inputs: [[2, 1], { ints: [3, 2, 4] }] }, 5);
  await expectGradients({ op: 'Expand', inputs: [[3, 1], { ints: [1] }] }, 5);
  await expectGradients({ op: 'Tile', inputs: [[2, 3], { ints: [2, 3] }] }, 5);
});

test('Concat on every axis, and Split with parts nobody reads', async () => {
  for (const axis of [0, 1, -1]) {
    const shapes = [
      [2, 2, 2],
      [2, 2, 2],
    ].map((s, i) => s.map((d, k) => (k === (axis + 3) % 3 ? d + i : d)));
    await expectGradients({ op: 'Concat', inputs: shapes, attributes: { axis } }, 1);
  }
  const parts = {
    op: 'Split',
    inputs: [[2, 6], { ints: [1, 2, 3] }],
    attributes: { axis: 1 },
    outputs: 3,
  };
  await expectGradients(parts, 2);
  await expectGradients({ ...parts, read: [1] }, 3);
});

test('Slice with any start, end, step and axis, also backwards', async () => {
  const range = fc.record({
    start: fc.integer({ min: -8, max: 8 }),
    end: fc.integer({ min: -8, max: 8 }),
    step: fc.constantFrom(-3, -2, -1, 1, 2, 3),
    axis: fc.integer({ min: -2, max: 1 }),
  });
  const taken = (
    { start, end, step }: { start: number; end: number; step: number },
    n: number,
  ): number => {
    const from = start < 0 ? start + n : start;
    const to = end < 0 ? end + n : end;
    const low = step > 0 ? Math.max(from, 0) : Math.min(from, n - 1);
    const high = step > 0 ? Math.min(to, n) : Math.max(to, -1);
    return Math.ceil((high - low) / step);
  };
  await fc.assert(
    fc.asyncProperty(range, seeds, async (r, seed) => {
      fc.pre(taken(r, 6) > 0);
      const inputs = [
        [6, 6],
        { ints: [r.start] },
        { ints: [r.end] },
        { ints: [r.axis] },
        { ints: [r.step] },
      ];
      await expectGradients({ op: 'Slice', inputs }, seed);
    }),
    { numRuns: 40 },
  );
  await expectGradients(
    {
      op: 'Slice',
      inputs: [[5, 6], { ints: [1, 5] }, { ints: [4, -7] }, { ints: [0, 1] }, { ints: [1, -2] }],
    },
    1,
  );
});

test.each(['constant', 'reflect', 'edge', 'wrap'])('Pad in mode %s', async (mode) => {
  const opset = mode === 'wrap' ? 19 : 18;
  await expectGradients(
    { op: 'Pad', inputs: [[3, 4], { ints: [1, 2, 2, 1] }], attributes: { mode }, opset },
    1,
  );
  await expectGradients(
    {
      op: 'Pad',
      inputs: [[2, 4], { ints: [1, 2] }, { float: 0 }, { ints: [-1] }],
      attributes: { mode },
      opset,
    },
    2,
  );
});

test('Gather of one, of many with repeats, from any axis; GatherElements; GatherND', async () => {
  const many = { indices: [0, 2, 2, -1, 1, 0], dims: [2, 3] };
  await expectGradients({ op: 'Gather', inputs: [[4, 3], many] }, 1);
  await expectGradients({ op: 'Gather', inputs: [[2, 4, 3], many], attributes: { axis: 1 } }, 2);
  await expectGradients(
    { op: 'Gather', inputs: [[2, 4], { ints: [-2], scalar: true }], attributes: { axis: 1 } },
    3,
  );
  await expectGradients({ op: 'Gather', inputs: [[3, 4], { ints: [2] }] }, 3);
  await expectGradients(
    { op: 'GatherElements', inputs: [[3, 2], { indices: [0, 2, 2, 0, 2, 1], dims: [3, 2] }] },
    4,
  );
  await expectGradients(
    { op: 'GatherND', inputs: [[3, 2, 2], { indices: [0, 1, 2, 0, 0, 1], dims: [3, 2] }] },
    5,
  );
});

test.each<[string, string]>([
  ['nearest', 'asymmetric'],
  ['nearest', 'half_pixel'],
  ['linear', 'half_pixel'],
  ['linear', 'align_corners'],
  ['linear', 'asymmetric'],
  ['linear', 'pytorch_half_pixel'],
])('Resize %s with %s coordinates, up and down', async (mode, coordinates) => {
  const attributes = { mode, coordinate_transformation_mode: coordinates, nearest_mode: 'floor' };
  const sizes = [
    [1, 2, 6, 9],
    [1, 2, 7, 5],
    [1, 2, 2, 2],
    [1, 2, 3, 6],
  ];
  for (const size of sizes)
    await expectGradients(
      { op: 'Resize', inputs: [[1, 2, 3, 3], undefined, undefined, { ints: size }], attributes },
      1,
    );
});

const NEAREST = ['floor', 'ceil', 'round_prefer_floor', 'round_prefer_ceil'] as const;
const COORDINATES = ['half_pixel', 'pytorch_half_pixel', 'asymmetric', 'align_corners'] as const;

test.each(NEAREST.flatMap((nearest) => COORDINATES.map((c) => [nearest, c] as const)))(
  'Resize to the nearest (%s, %s) copies what the runtime copies, whatever the scale',
  async (nearest, coordinates) => {
    const attributes = {
      mode: 'nearest',
      nearest_mode: nearest,
      coordinate_transformation_mode: coordinates,
    };
    // Ties hang on the last bit: 9 → 3, 20 → 6, 6 → 11; at 3 · 1.2 the size stays, and the copies do not.
    for (const [size, scale] of [
      [9, 1 / 3],
      [20, 0.3],
      [6, 11 / 6],
      [10, 0.7],
      [3, 1.2],
      [5, 0.2],
    ] as const) {
      const scales = { floats: [1, 1, 2, scale] };
      const inputs = [[1, 1, 2, size], undefined, scales];
      await expectGradients({ op: 'Resize', inputs, attributes }, 1);
    }
  },
);

test.each(['nearest', 'linear'])('Resize %s with axes, and with the aspect kept', async (mode) => {
  const x = [1, 2, 4, 3];
  const cases = [
    [{ axes: [-2, -1] }, { ints: [7, 5] }],
    [{ axes: [2, 3], keep_aspect_ratio_policy: 'not_larger' }, { ints: [7, 5] }],
    [{ axes: [2, 3], keep_aspect_ratio_policy: 'not_smaller' }, { ints: [7, 5] }],
  ] as const;
  for (const [attributes, sizes] of cases)
    await expectGradients(
      {
        op: 'Resize',
        inputs: [x, undefined, undefined, sizes],
        attributes: { mode, ...attributes },
      },
      1,
    );
  const scaled = [x, undefined, { floats: [1.2, 1.7] }];
  await expectGradients({ op: 'Resize', inputs: scaled, attributes: { mode, axes: [-2, -1] } }, 1);
});

test.each([
  [{ output_shape: [6, 5] }],
  [{ output_shape: [8, 8], strides: [2, 2] }],
  [{ output_shape: [8, 8], strides: [2, 2], auto_pad: 'SAME_UPPER' }],
  [{ output_shape: [9, 7], strides: [2, 2], auto_pad: 'SAME_LOWER' }],
  [{ strides: [2, 2], auto_pad: 'SAME_UPPER' }],
  [{ strides: [2, 2], auto_pad: 'SAME_LOWER' }],
  [{ strides: [2, 2], auto_pad: 'VALID' }],
  [{ strides: [2, 2], pads: [1, 0, 0, 1], output_padding: [1, 0] }],
])('ConvTranspose %j agrees with finite differences', async (attributes) => {
  await expectGradients(
    { op: 'ConvTranspose', inputs: [[1, 2, 4, 4], [2, 3, 3, 3], [3]], attributes },
    1,
  );
});

test('linear, pooling, normalizing, reducing and indexing operators over random shapes', async () => {
  await expectOverShapes(([a, b, c]) => ({
    op: 'Gemm',
    inputs: [[b, a], [c, a], [c]],
    attributes: { transB: 1, alpha: { float: 0.5 }, beta: { float: 2 } },
  }));
  await expectOverShapes(([a, b, c]) => ({
    op: 'MatMul',
    inputs: [
      [a, b, c],
      [c, a + 1],
    ],
  }));
  await expectOverShapes(([a, b, c]) => ({
    op: 'AveragePool',
    inputs: [[a, b, c + 2, 5]],
    attributes: { kernel_shape: [2, 3], strides: [1, 2], pads: [1, 0, 0, 1] },
  }));
  await expectOverShapes(([a, b, c]) => ({
    op: 'LayerNormalization',
    inputs: [[a, b, c + 2], [c + 2], [c + 2]],
    attributes: { axis: -1 },
  }));
  for (const op of ['ReduceSum', 'ReduceMean', 'ReduceSumSquare', 'ReduceLogSumExp', 'ReduceL2'])
    await expectOverShapes(([a, b, c]) => ({
      op,
      inputs: [[a, b, c], { ints: [-1, 0] }],
      attributes: { keepdims: 0 },
      shift: 3,
      // Sums are large: a small step would drown in the last bit of a float32.
      step: 0.03,
    }));
  await expectOverShapes(([a, b, c]) => ({
    op: 'Pad',
    inputs: [[a, b + 1, c + 1], { ints: [0, 1, 1, 0, 0, 1] }],
    attributes: { mode: 'reflect' },
  }));
  await expectOverShapes(([a, b, c]) => ({
    op: 'Gather',
    inputs: [[a, b, c], { indices: [-1, 0, b - 1, 0], dims: [2, 2] }],
    attributes: { axis: 1 },
  }));
  await expectOverShapes(([a, b, c]) => ({
    op: 'Concat',
    inputs: [
      [a, b, c],
      [a, 2, c],
      [a, 1, c],
    ],
    attributes: { axis: -2 },
  }));
  await expectOverShapes(([a, b, c]) => ({
    op: 'Split',
    inputs: [[a, b + 3, c], { ints: [1, b, 2] }],
    attributes: { axis: 1 },
    outputs: 3,
  }));
  await expectOverShapes(([a, b, c]) => ({
    op: 'Transpose',
    inputs: [[a, b, c]],
    attributes: { perm: [2, 0, 1] },
  }));
});

test.each([
  [{ kernel_shape: [2, 2], strides: [2, 2] }],
  [{ kernel_shape: [2, 2], strides: [1, 1] }],
])('a tie in MaxPool %j gives the gradient once, to the first', async (attributes) => {
  const c = { op: 'MaxPool', inputs: [[1, 1, 2, 2]], attributes, spread: 0 };
  const { gradients } = await compareGradients(c, 1);
  const g = Array.from(gradients.get('x0') ?? []);
  expect(g[0]).not.toBe(0);
  expect(g.slice(1)).toEqual([0, 0, 0]);
});

test('an operator without gradient is named, with the parameter it blocks', () => {
  const forward = new GraphBuilder('f/');
  const x = forward.input('weight', [2, 2]);
  forward.node('Det', [x], {}, 'y');
  const fact = { dims: [2, 2], elementType: 1 };
  const facts = new Map([
    ['weight', fact],
    ['y', fact],
  ]);
  const run = (): unknown =>
    differentiate({
      forward: { nodes: forward.nodes, constants: new Map(), facts },
      seeds: new Map([['y', 's']]),
      parameters: ['weight'],
      builder: new GraphBuilder(),
    });
  expect(run).toThrow(/operator Det has no gradient, which blocks parameter "weight"/);
});
