import type { GraphProto, NodeProto } from './onnx_pb.ts';

/** The graphs inside a node: branches of If, bodies of Loop and Scan. */
export function bodiesOf(node: NodeProto): GraphProto[] {
  return node.attribute.flatMap((a) => [...(a.g ? [a.g] : []), ...a.graphs]);
}

/** What the nodes of a graph read from outside of it. */
function outerReads(graph: GraphProto): Set<string> {
  const own = new Set([
    ...graph.input.map((i) => i.name),
    ...graph.initializer.map((t) => t.name),
    ...graph.node.flatMap((n) => n.output),
  ]);
  const read = [...graph.node.flatMap(readsOf), ...graph.output.map((o) => o.name)];
  return new Set(read.filter((name) => !own.has(name)));
}

/** The values a node reads: its inputs, and what the graphs inside it read of those around them. */
export function readsOf(node: NodeProto): readonly string[] {
  const bodies = bodiesOf(node);
  if (bodies.length === 0) return node.input;
  return [...node.input, ...bodies.flatMap((body) => [...outerReads(body)])];
}
