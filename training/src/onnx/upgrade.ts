import { Attributes } from './attributes.ts';
import { attribute } from './graph-builder.ts';
import type { GraphProto, NodeProto, TensorProto } from './onnx_pb.ts';
import { revise } from './revise.ts';
import { int64Tensor } from './tensor-data.ts';

/** Operator set the training graphs are written in, unless the model asks for a newer one. */
export const WORKING_OPSET = 18;

/** Reductions that took their axes as an attribute before opset 18. */
const REDUCTIONS: ReadonlySet<string> = new Set([
  'ReduceMean',
  'ReduceMax',
  'ReduceMin',
  'ReduceL1',
  'ReduceL2',
  'ReduceProd',
  'ReduceSumSquare',
  'ReduceLogSum',
  'ReduceLogSumExp',
]);

function without(node: NodeProto, ...names: string[]): NodeProto {
  return revise(node, { attribute: node.attribute.filter((a) => !names.includes(a.name)) });
}

function axesAsInput(node: NodeProto, constants: TensorProto[]): NodeProto {
  const attributes = new Attributes(node);
  if (!attributes.has('axes')) return node;
  const axes = attributes.ints('axes', []);
  const name = `shoal/axes/${node.output[0]}`;
  constants.push(int64Tensor(name, [axes.length], axes));
  const upgraded = without(node, 'axes');
  upgraded.input = [node.input[0] ?? '', name];
  return upgraded;
}

/** Opset 18 wants to be told into how many parts a Split without sizes goes. */
function countedSplit(node: NodeProto): NodeProto {
  const sized = (node.input[1] ?? '') !== '';
  if (sized || new Attributes(node).has('num_outputs')) return node;
  return revise(node, {
    attribute: [...node.attribute, attribute('num_outputs', node.output.length)],
  });
}

/** The stock runtime only has the inference form; the training form is written by `trainingForm`. */
function inferenceNormalization(node: NodeProto): NodeProto {
  const upgraded = without(node, 'training_mode');
  upgraded.output = node.output.slice(0, 1);
  return upgraded;
}

/**
 * The graph's nodes in opset 18 or newer, with the same meaning; names of values stay.
 * Nodes without a name get one.
 */
export function upgrade(graph: GraphProto, opset: number): GraphProto {
  const constants: TensorProto[] = [];
  const node = graph.node.map((n, i) => {
    const named = n.name === '' ? revise(n, { name: `${n.opType}_${i}` }) : n;
    if (n.opType === 'BatchNormalization') return inferenceNormalization(named);
    if (opset >= WORKING_OPSET) return named;
    if (REDUCTIONS.has(n.opType)) return axesAsInput(named, constants);
    return n.opType === 'Split' ? countedSplit(named) : named;
  });
  return revise(graph, { node, initializer: [...graph.initializer, ...constants] });
}
