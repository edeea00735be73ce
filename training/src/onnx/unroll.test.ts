import { seededRandom } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { expect, test } from 'vitest';
import { Trainer } from '../trainer.ts';
import { GraphBuilder, modelOf } from './graph-builder.ts';
import { writeModel } from './model-file.ts';
import type { GraphProto } from './onnx_pb.ts';
import { floatTensor } from './tensor-data.ts';
import { type Dims, trace } from './trace.ts';
import { unroll } from './unroll.ts';

const [STEPS, BATCH, INPUTS, HIDDEN] = [5, 3, 4, 6];

interface LayerCase {
  readonly op: 'LSTM' | 'GRU' | 'RNN';
  readonly direction?: 'forward' | 'reverse' | 'bidirectional';
  readonly attributes?: Readonly<Record<string, number | { readonly strings: readonly string[] }>>;
  /** Which of B, initial_h and initial_c are given. */
  readonly with?: readonly ('B' | 'h' | 'c')[];
}

const GATES = { LSTM: 4, GRU: 3, RNN: 1 };

/** One layer on `x` `[steps, batch, inputs]`, weights and first states as inputs of the graph. */
function layerGraph(
  c: LayerCase,
  more: readonly string[] = [],
): { graph: GraphProto; feeds: Record<string, ort.Tensor> } {
  const random = seededRandom(3);
  const builder = new GraphBuilder('');
  const feeds: Record<string, ort.Tensor> = {};
  const input = (name: string, dims: Dims): string => {
    const values = Float32Array.from(
      { length: dims.reduce((a, b) => a * b, 1) },
      () => random.normal() * 0.5,
    );
    feeds[name] = new ort.Tensor('float32', values, dims);
    return builder.input(name, dims);
  };
  const { op, direction = 'forward', with: given = ['B', 'h', 'c'] } = c;
  const directions = direction === 'bidirectional' ? 2 : 1;
  const rows = GATES[op] * HIDDEN;
  const state = [directions, BATCH, HIDDEN];
  const optional = (name: 'B' | 'h' | 'c', dims: Dims): string =>
    given.includes(name) ? input(name, dims) : '';
  const inputs = [
    input('x', [STEPS, BATCH, INPUTS]),
    input('w', [directions, rows, INPUTS]),
    input('r', [directions, rows, HIDDEN]),
    optional('B', [directions, 2 * rows]),
    '',
    optional('h', state),
    ...(op === 'LSTM' ? [optional('c', state)] : []),
    ...more.map((name) => input(name, [directions, 3 * HIDDEN])),
  ];
  const outputs = builder.nodeWithOutputs(op, inputs, {
    attributes: { hidden_size: HIDDEN, direction, ...c.attributes },
    outputs: op === 'LSTM' ? 3 : 2,
  });
  for (const [i, name] of outputs.entries())
    builder.output(name, i === 0 ? [STEPS, directions, BATCH, HIDDEN] : state);
  return { graph: builder.graph('layer'), feeds };
}

async function outputsOf(
  graph: GraphProto,
  feeds: Record<string, ort.Tensor>,
): Promise<number[][]> {
  const session = await ort.InferenceSession.create(writeModel(modelOf(graph, 18)), {
    logSeverityLevel: 3,
  });
  const results = await session.run(feeds);
  await session.release();
  return session.outputNames.map((n) => Array.from(results[n]?.data as Float32Array));
}

const CASES: readonly LayerCase[] = [
  { op: 'LSTM' },
  { op: 'LSTM', direction: 'reverse', with: ['B'] },
  { op: 'LSTM', direction: 'bidirectional', with: [] },
  {
    op: 'LSTM',
    direction: 'bidirectional',
    attributes: {
      activations: { strings: ['Sigmoid', 'Relu', 'Tanh', 'Sigmoid', 'Softsign', 'Tanh'] },
    },
  },
  { op: 'GRU' },
  { op: 'GRU', with: [] },
  { op: 'GRU', direction: 'bidirectional', attributes: { linear_before_reset: 1 } },
  { op: 'GRU', direction: 'reverse', with: ['h'], attributes: { linear_before_reset: 1 } },
  { op: 'RNN', direction: 'bidirectional' },
  { op: 'RNN', with: ['h'], attributes: { activations: { strings: ['Relu'] } } },
];

test.each(CASES)('%j written out gives what the runtime gives', async (c) => {
  const { graph, feeds } = layerGraph(c);
  const names = graph.output.map((o) => o.name);
  const { facts } = await trace({ graph, opset: 18, feeds, outputs: names });
  const written = unroll(graph, facts);
  if (!written) throw new Error('nothing was written out');
  expect(written.node.some((n) => n.opType === c.op)).toBe(false);
  const [wanted, got] = [await outputsOf(graph, feeds), await outputsOf(written, feeds)];
  expect(got.length).toBe(wanted.length);
  for (const [i, values] of wanted.entries())
    for (const [k, v] of values.entries()) expect(got[i]?.[k]).toBeCloseTo(v, 5);
});

test('a layer with peepholes stays as it is, and the error says why', async () => {
  const { graph, feeds } = layerGraph({ op: 'LSTM' }, ['peepholes']);
  const { facts } = await trace({
    graph,
    opset: 18,
    feeds,
    outputs: [graph.output[0]?.name ?? ''],
  });
  expect(unroll(graph, facts)).toBeUndefined();
  const builder = new GraphBuilder('');
  const x = builder.input('x', ['batch', 4, 2]);
  const weights = (name: string, dims: readonly number[]): string => {
    const values = new Float32Array(dims.reduce((a, b) => a * b, 1)).fill(0.1);
    builder.initializers.push(floatTensor(name, dims, values));
    return name;
  };
  const turned = builder.node('Transpose', [x], { perm: [1, 0, 2] });
  const [, last = ''] = builder.nodeWithOutputs(
    'LSTM',
    [turned, weights('w', [1, 12, 2]), weights('r', [1, 12, 3])],
    { attributes: { hidden_size: 3, clip: { float: 2 } }, outputs: 2 },
  );
  builder.output(builder.node('Squeeze', [last, builder.ints([0])], {}, 'y'), ['batch', 3]);
  const trainer = Trainer.create({
    model: writeModel(modelOf(builder.graph('clipped'), 17)),
    loss: 'mean-squared-error',
    optimizer: { name: 'sgd', learningRate: 0.1 },
  });
  await expect(trainer).rejects.toThrow(
    /operator LSTM with clip, has no gradient, which blocks parameter "w" and 1 more/,
  );
});
