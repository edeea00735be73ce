import { create } from '@bufbuild/protobuf';
import {
  type AttributeProto,
  type GraphProto,
  type NodeProto,
  NodeProtoSchema,
  type TensorProto,
} from './onnx_pb.ts';
import { revise } from './revise.ts';
import { numbersOf, type TracedGraph } from './trace.ts';

type Names = ReadonlyMap<string, string>;

function renamed(name: string, names: Names): string {
  return names.get(name) ?? name;
}

function renamedGraph(graph: GraphProto, names: Names): GraphProto {
  return revise(graph, {
    node: graph.node.map((n) => renamedNode(n, names)),
    output: graph.output.map((o) => revise(o, { name: renamed(o.name, names) })),
  });
}

function renamedNode(node: NodeProto, names: Names): NodeProto {
  const inside = (a: AttributeProto): AttributeProto =>
    a.g ? revise(a, { g: renamedGraph(a.g, names) }) : a;
  return revise(node, {
    input: node.input.map((i) => renamed(i, names)),
    output: node.output.map((o) => renamed(o, names)),
    attribute: node.attribute.map(inside),
  });
}

interface Inlined {
  readonly nodes: readonly NodeProto[];
  readonly tensors: readonly TensorProto[];
}

/** The nodes of a branch in the place of its If; what is only of the branch gets names of its own. */
function inlined(node: NodeProto, branch: GraphProto): Inlined {
  const own = [...branch.node.flatMap((n) => n.output), ...branch.initializer.map((t) => t.name)];
  const names = new Map(own.filter((n) => n !== '').map((n) => [n, `${node.name}/${n}`]));
  const results = node.output.map((to, i) =>
    create(NodeProtoSchema, {
      opType: 'Identity',
      name: `${node.name}/result_${i}`,
      input: [renamed(branch.output[i]?.name ?? '', names)],
      output: [to],
    }),
  );
  return {
    nodes: [...branch.node.map((n) => renamedNode(n, names)), ...results],
    tensors: branch.initializer.map((t) => revise(t, { name: renamed(t.name, names) })),
  };
}

/**
 * The graph with the branch that is taken in the place of every If whose condition depends on no data (exporters ask
 * for the rank of a tensor, say); undefined where there is none.
 */
export function inlineBranches(graph: GraphProto, traced: TracedGraph): GraphProto | undefined {
  const tensors: TensorProto[] = [];
  let found = false;
  const node = graph.node.flatMap((n) => {
    const condition = n.opType === 'If' ? numbersOf(traced, n.input[0] ?? '')?.[0] : undefined;
    if (condition === undefined) return [n];
    const wanted = condition === 0 ? 'else_branch' : 'then_branch';
    const branch = n.attribute.find((a) => a.name === wanted)?.g;
    if (!branch) return [n];
    found = true;
    const inside = inlined(n, branch);
    tensors.push(...inside.tensors);
    return [...inside.nodes];
  });
  return found
    ? revise(graph, { node, initializer: [...graph.initializer, ...tensors] })
    : undefined;
}
