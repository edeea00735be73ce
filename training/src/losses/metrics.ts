import { ShoalError } from '@shoal/core';
import type { GraphBuilder } from '../onnx/graph-builder.ts';
import { DATA_TYPE } from '../onnx/tensor-data.ts';
import type { Dims } from '../onnx/trace.ts';
import type { MetricName } from './loss.ts';

interface Scored {
  readonly builder: GraphBuilder;
  readonly output: { readonly name: string; readonly dims: Dims };
  readonly targets: Readonly<Record<string, string>>;
}

function meanOf(builder: GraphBuilder, value: string): string {
  return builder.node('ReduceMean', [value], { keepdims: 0 });
}

/** Share of samples whose label is the largest output. */
function accuracy({ builder, output, targets }: Scored): string {
  const best = builder.node('ArgMax', [output.name], { axis: 1, keepdims: 0 });
  const hit = builder.node('Equal', [best, targets['targets'] ?? '']);
  return meanOf(builder, builder.node('Cast', [hit], { to: DATA_TYPE.float }));
}

/** Share of samples whose label is among the five largest outputs. */
function top5({ builder, output, targets }: Scored): string {
  const k = Math.min(5, output.dims[1] ?? 1);
  const [, indices = ''] = builder.nodeWithOutputs('TopK', [output.name, builder.ints([k])], {
    outputs: 2,
    attributes: { axis: 1 },
  });
  const label = builder.node('Unsqueeze', [targets['targets'] ?? '', builder.ints([1])]);
  const hits = builder.node('Cast', [builder.node('Equal', [indices, label])], {
    to: DATA_TYPE.float,
  });
  const any = builder.node('ReduceMax', [hits, builder.ints([1])], { keepdims: 0 });
  return meanOf(builder, any);
}

/** Mean absolute error over all elements. */
function mae({ builder, output, targets }: Scored): string {
  const difference = builder.node('Sub', [output.name, targets['targets'] ?? '']);
  return meanOf(builder, builder.node('Abs', [difference]));
}

const METRICS: Readonly<Record<MetricName, (scored: Scored) => string>> = { accuracy, top5, mae };

/** Writes the nodes of each metric. @throws ShoalError `invalid_argument` when the targets do not suit it. */
export function writeMetrics(
  names: readonly MetricName[],
  scored: Scored,
  suited: readonly MetricName[],
): Record<string, string> {
  return Object.fromEntries(
    names.map((name) => {
      const fits = suited.includes(name) || (name === 'top5' && suited.includes('accuracy'));
      if (!fits)
        throw new ShoalError(
          'invalid_argument',
          `metric "${name}" does not go with the targets of this loss`,
        );
      return [name, METRICS[name](scored)];
    }),
  );
}
