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

/** Writes one depthwise convolution in blocks; false when the node is something else. */
function lowerDepthwise(
  builder: GraphBuilder,
  node: NodeProto,
  at: { readonly facts: TracedGraph['facts']; readonly blockSize: number },
): boolean {
  const [x = '', w = '', bias = ''] = node.input;
  const [y = ''] = node.output;
  const [, channels = 0, ...spatial] = at.facts.get(x)?.dims ?? [];
  const [filters = 0, , ...kernel] = at.facts.get(w)?.dims ?? [];
  const depthwise =
    node.opType === 'Conv' &&
    channels > 1 &&
    filters === channels &&
    new Attributes(node).int('group', 1) === channels;
  if (!depthwise || !fitsBlocks(at.blockSize, { channels, kernel })) return false;
  const out = at.facts.get(y)?.dims.slice(2) ?? [];
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
