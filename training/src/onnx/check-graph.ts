import { ShoalError } from '@shoal/core';
import type { GraphProto, NodeProto } from './onnx_pb.ts';
import { readsOf } from './reads.ts';

function called(node: NodeProto): string {
  return `node "${node.name}" (${node.opType})`;
}

function corrupt(message: string): never {
  throw new ShoalError('data_corrupt', `the model contradicts itself: ${message}`);
}

function checkNames(graph: GraphProto): Set<string> {
  const initializers = new Set<string>();
  for (const { name } of graph.initializer) {
    if (initializers.has(name)) corrupt(`two initializers are called "${name}"`);
    initializers.add(name);
  }
  for (const [what, infos] of [
    ['inputs', graph.input],
    ['outputs', graph.output],
  ] as const) {
    const names = infos.map((i) => i.name);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) corrupt(`two ${what} are called "${twice}"`);
  }
  const defined = new Set([...initializers, ...graph.input.map((i) => i.name)]);
  for (const node of graph.node) {
    for (const output of node.output) {
      if (output === '') continue;
      if (defined.has(output)) corrupt(`${called(node)} defines "${output}" a second time`);
      defined.add(output);
    }
  }
  return defined;
}

function firstUnready(nodes: readonly NodeProto[], ready: ReadonlySet<string>): string {
  const [node] = nodes;
  const missing = node && readsOf(node).find((i) => i !== '' && !ready.has(i));
  return node ? `${called(node)} waits for "${missing}"` : '';
}

/**
 * Checks that every value is defined once, that everything read is defined, and that no value
 * depends on itself. Nodes out of order are put in order.
 *
 * @throws ShoalError `data_corrupt` naming node and value.
 */
export function checkGraph(graph: GraphProto): void {
  const defined = checkNames(graph);
  for (const node of graph.node) {
    const missing = readsOf(node).find((i) => i !== '' && !defined.has(i));
    if (missing !== undefined) corrupt(`${called(node)} reads "${missing}", which nothing defines`);
  }
  for (const { name } of graph.output)
    if (!defined.has(name)) corrupt(`output "${name}" is defined by nothing`);
  const ready = new Set([
    ...graph.initializer.map((t) => t.name),
    ...graph.input.map((i) => i.name),
  ]);
  const sorted: NodeProto[] = [];
  let waiting = graph.node;
  while (waiting.length > 0) {
    const blocked = waiting.filter((node) => {
      if (!readsOf(node).every((i) => i === '' || ready.has(i))) return true;
      for (const output of node.output) ready.add(output);
      sorted.push(node);
      return false;
    });
    if (blocked.length === waiting.length)
      corrupt(`its nodes form a cycle; ${firstUnready(blocked, ready)}`);
    waiting = blocked;
  }
  graph.node = sorted;
}
