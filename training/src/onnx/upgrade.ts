import { Attributes } from './attributes.ts';
import { attribute } from './graph-builder.ts';
import type { GraphProto, NodeProto, TensorProto } from './onnx_pb.ts';
import { bodiesOf } from './reads.ts';
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
/** Whether values are dropped says `trainingForm`, and not who exported the model. */
function inferenceDropout(node: NodeProto): NodeProto {
  return node.input.length > 2 ? revise(node, { input: node.input.slice(0, 2) }) : node;
}

/** Before opset 16 pixels were not centred. */
function cornerRoiAlign(node: NodeProto): NodeProto {
  const mode = attribute('coordinate_transformation_mode', 'output_half_pixel');
  return revise(node, { attribute: [...node.attribute, mode] });
}

function upgradedNode(node: NodeProto, opset: number, constants: TensorProto[]): NodeProto {
  if (node.opType === 'BatchNormalization') return inferenceNormalization(node);
  if (node.opType === 'Dropout') return inferenceDropout(node);
  // It says how Indices are counted, and nothing of the values; without them it has no meaning.
  if (node.opType === 'MaxPool' && node.output.length < 2) return without(node, 'storage_order');
  if (opset < 16 && node.opType === 'RoiAlign') return cornerRoiAlign(node);
  if (opset >= WORKING_OPSET) return node;
  if (REDUCTIONS.has(node.opType)) return axesAsInput(node, constants);
  return node.opType === 'Split' ? countedSplit(node) : node;
}

/** The graphs inside a node, upgraded as well. */
function withBodies(node: NodeProto, opset: number): NodeProto {
  if (bodiesOf(node).length === 0) return node;
  const attributes = node.attribute.map((a) =>
    revise(a, {
      ...(a.g ? { g: upgrade(a.g, opset) } : {}),
      graphs: a.graphs.map((g) => upgrade(g, opset)),
    }),
  );
  return revise(node, { attribute: attributes });
}

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
    const standard = n.domain === 'ai.onnx' ? revise(named, { domain: '' }) : named;
    if (standard.domain !== '') return standard;
    return upgradedNode(withBodies(standard, opset), opset, constants);
  });
  return revise(graph, { node, initializer: [...graph.initializer, ...constants] });
}
