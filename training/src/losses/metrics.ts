import { ShoalError } from '@shoal/core';
import type { GraphBuilder } from '../onnx/graph-builder.ts';
import { DATA_TYPE } from '../onnx/tensor-data.ts';
import type { MetricName, Ranked } from './loss.ts';

interface Scored {
  readonly builder: GraphBuilder;
  readonly output: string;
  readonly targets: Readonly<Record<string, string>>;
  readonly ranked: Ranked | undefined;
}

/** Share of the rows that count in which something is so. */
function shareOf(builder: GraphBuilder, hits: string, counted: string | undefined): string {
  const floats = builder.node('Cast', [hits], { to: DATA_TYPE.float });
  if (counted === undefined) return builder.node('ReduceMean', [floats], { keepdims: 0 });
  const sum = (value: string): string => builder.node('ReduceSum', [value], { keepdims: 0 });
  const all = builder.node('Max', [sum(counted), builder.float(1)]);
  return builder.node('Div', [sum(builder.node('Mul', [floats, counted])), all]);
}

/** Share of samples whose label is the largest output. */
function accuracy(builder: GraphBuilder, { scores, labels, counted }: Ranked): string {
  const best = builder.node('ArgMax', [scores], { axis: 1, keepdims: 0 });
  return shareOf(builder, builder.node('Equal', [best, labels]), counted);
}

/** Share of samples whose label is among the k largest outputs. */
function topK(
  builder: GraphBuilder,
  { scores, classes, labels, counted }: Ranked,
  k: number,
): string {
  const [, indices = ''] = builder.nodeWithOutputs(
    'TopK',
    [scores, builder.ints([Math.min(k, classes)])],
    { outputs: 2, attributes: { axis: 1 } },
  );
  const label = builder.node('Unsqueeze', [labels, builder.ints([1])]);
  const hits = builder.node('Cast', [builder.node('Equal', [indices, label])], {
    to: DATA_TYPE.float,
  });
  return shareOf(
    builder,
    builder.node('ReduceMax', [hits, builder.ints([1])], { keepdims: 0 }),
    counted,
  );
}

/** Mean absolute error over all elements. */
function mae({ builder, output, targets }: Scored): string {
  const difference = builder.node('Sub', [output, targets['targets'] ?? '']);
  return builder.node('ReduceMean', [builder.node('Abs', [difference])], { keepdims: 0 });
}

/** The k of `top<k>`. @throws ShoalError `invalid_argument` for a metric there is not. */
function rankOf(name: MetricName): number {
  const [, digits = ''] = /^top([1-9]\d*)$/.exec(name) ?? [];
  if (digits !== '') return Number(digits);
  throw new ShoalError(
    'invalid_argument',
    `there is no metric "${name}"; choose accuracy, top<k> as in top5, or mae`,
  );
}

function write(name: MetricName, scored: Scored, suited: readonly MetricName[]): string {
  const { builder, ranked } = scored;
  const k = name === 'accuracy' || name === 'mae' ? undefined : rankOf(name);
  if (name === 'mae' && suited.includes('mae')) return mae(scored);
  if (name !== 'mae' && ranked)
    return k === undefined ? accuracy(builder, ranked) : topK(builder, ranked, k);
  throw new ShoalError(
    'invalid_argument',
    `metric "${name}" does not go with the targets of this loss`,
  );
}

/** Writes the nodes of each metric. @throws ShoalError `invalid_argument` when the targets do not suit it. */
export function writeMetrics(
  names: readonly MetricName[],
  scored: Scored,
  suited: readonly MetricName[],
): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, write(name, scored, suited)]));
}
