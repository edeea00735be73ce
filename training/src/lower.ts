import { fitsBlocks, writeDepthwise } from './gradients/depthwise.ts';
import { Attributes } from './onnx/attributes.ts';
import { GraphBuilder } from './onnx/graph-builder.ts';
import type { NodeProto, TensorProto } from './onnx/onnx_pb.ts';
import type { TracedGraph } from './onnx/trace.ts';
import { windowOf } from './onnx/window.ts';

export interface Lowered {
  readonly nodes: readonly NodeProto[];
  readonly constants: readonly TensorProto[];
}

function isDepthwiseNode(node: NodeProto, channels: number, filters: number): boolean {
  if (node.opType !== 'Conv' || channels <= 1 || filters !== channels) return false;
  return new Attributes(node).int('group', 1) === channels;
}

/** Writes one depthwise convolution in blocks; false when the node is something else. */
function lowerDepthwise(
  builder: GraphBuilder,
  node: NodeProto,
  at: { readonly facts: TracedGraph['facts']; readonly blockSize: number },
): boolean {
  const [x = '', w = '', bias = ''] = node.input;
  const [y = ''] = node.output;
  const dimsOf = (value: string): readonly number[] => at.facts.get(value)?.dims ?? [];
  const [, channels = 0, ...spatial] = dimsOf(x);
  const [filters = 0, , ...kernel] = dimsOf(w);
  if (!isDepthwiseNode(node, channels, filters)) return false;
  if (!fitsBlocks(at.blockSize, { channels, kernel })) return false;
  const out = dimsOf(y).slice(2);
  const window = windowOf(node, { kernel, spatial, out });
  const sum = writeDepthwise(
    builder,
    { ...window, x, w, channels, ...(bias === '' ? { as: y } : {}) },
    at.blockSize,
  );
  if (bias !== '') {
    const perChannel = builder.node('Reshape', [bias, builder.ints([1, channels, 1, 1])]);
    builder.node('Add', [sum, perChannel], {}, y);
  }
  return true;
}

/**
 * Rewrites forward nodes into forms that are faster when weights change from run to run. Runs after
 * differentiation, which knows only standard operators.
 */
export function lower(
  nodes: readonly NodeProto[],
  facts: TracedGraph['facts'],
  blockSize: number | undefined,
): Lowered {
  if (blockSize === undefined) return { nodes, constants: [] };
  const builder = new GraphBuilder('shoal/lower/');
  const lowered: NodeProto[] = [];
  for (const node of nodes) {
    if (lowerDepthwise(builder, node, { facts, blockSize }))
      lowered.push(...builder.nodes.splice(0));
    else lowered.push(node);
  }
  return { nodes: lowered, constants: builder.initializers };
}
