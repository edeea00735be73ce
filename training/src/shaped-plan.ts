import { ShoalError } from '@shoal/core';
import { type Feeds, floats, zeroInput } from './batch.ts';
import { findBlockSize } from './block-size.ts';
import type { Block } from './blocks.ts';
import { Attributes } from './onnx/attributes.ts';
import { inlineBranches } from './onnx/inline-branches.ts';
import type { TensorShapeProto_Dimension } from './onnx/onnx_pb.ts';
import { floatsOf, sizeOf } from './onnx/tensor-data.ts';
import { type TracedGraph, type TraceOptions, trace } from './onnx/trace.ts';
import { unroll } from './onnx/unroll.ts';
import type { Plan } from './plan.ts';

/** A plan for one shape of the batch. */
export interface ShapedPlan {
  readonly plan: Plan;
  readonly traced: TracedGraph;
  readonly batch: number;
  /** What is trained, in a fixed order, and how it is laid out. */
  readonly parameters: readonly Block[];
  readonly buffers: readonly Block[];
  /** Channels per block of the runtime's own convolution layout; only where it would be used. */
  readonly blockSize: number | undefined;
}

/** What the model starts from: the candidates for training and the running statistics. */
export function initialValues(plan: Plan): Feeds {
  const tensors = new Map(plan.forward.initializer.map((t) => [t.name, t]));
  return Object.fromEntries(
    [...plan.candidates, ...plan.buffers].map(({ name, shape }) => {
      const tensor = tensors.get(name);
      return [name, floats(tensor ? floatsOf(tensor) : new Float32Array(sizeOf(shape)), shape)];
    }),
  );
}

/** A dimension of a target behind the batch. */
function targetDim(
  { value: dim }: TensorShapeProto_Dimension,
  { value, i }: { readonly value: string; readonly i: number },
): number {
  if (dim.case === 'dimValue' && dim.value > 0n) return Number(dim.value);
  throw new ShoalError(
    'invalid_argument',
    `dimension ${i + 1} of the loss graph's input "${value.replace(/^shoal\/targets\//, '')}" must be a number`,
  );
}

/** Branches may hold branches, and recurrent layers. */
const MOST_TRACES = 8;

/**
 * Traces a graph; once more where the trace tells which branch is taken, or how long the sequence of a recurrent layer
 * is, with these written out.
 */
async function traceWritten(options: TraceOptions): Promise<TracedGraph> {
  let traced = await trace(options);
  let { graph } = options;
  for (let i = 1; i < MOST_TRACES; i++) {
    const next = inlineBranches(graph, traced) ?? unroll(graph, traced.facts);
    if (!next) return traced;
    graph = next;
    traced = await trace({ ...options, graph });
  }
  return traced;
}

/**
 * Traces the plan's graph for a batch of a given size.
 *
 * @throws ShoalError `invalid_argument` when the runtime refuses the graph or the shape.
 */
export async function shapePlan(
  plan: Plan,
  at: { readonly batch: number; readonly values: Feeds } & Pick<
    ShapedPlan,
    'parameters' | 'buffers'
  >,
): Promise<ShapedPlan> {
  const { batch, values, parameters, buffers } = at;
  const feeds: Feeds = { ...values };
  for (const input of plan.inputs) feeds[input.name] = zeroInput(input, batch);
  if (!('write' in plan.loss)) {
    for (const { value, info } of plan.loss.targets) {
      const tensor = info.type?.value.case === 'tensorType' ? info.type.value.value : undefined;
      const rest = (tensor?.shape?.dim ?? []).slice(1).map((d, i) => targetDim(d, { value, i }));
      feeds[value] = zeroInput({ name: value, elementType: tensor?.elemType ?? 1, rest }, batch);
    }
  }
  const outputs = 'write' in plan.loss ? [plan.output] : [plan.output, plan.loss.value];
  const traced = await traceWritten({ graph: plan.forward, opset: plan.opset, feeds, outputs });
  if (!('write' in plan.loss)) {
    const { dims = [] } = traced.facts.get(plan.loss.value) ?? {};
    if (sizeOf(dims) !== 1)
      throw new ShoalError(
        'invalid_argument',
        `the loss graph gives [${dims.join(', ')}], a loss is one number; end it with ReduceMean`,
      );
  }
  const depthwise = traced.nodes.some(
    (n) => n.opType === 'Conv' && new Attributes(n).int('group', 1) > 1,
  );
  const blockSize = depthwise ? await findBlockSize() : undefined;
  return { plan, traced, batch, parameters, buffers, blockSize };
}
