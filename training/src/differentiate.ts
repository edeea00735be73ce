import { ShoalError } from '@shoal/core';
import { ACTIVATION } from './gradients/activation.ts';
import { ARITHMETIC } from './gradients/arithmetic.ts';
import { CONVOLUTION } from './gradients/convolution.ts';
import type { GradientRule } from './gradients/gradient.ts';
import { INDEXING } from './gradients/indexing.ts';
import { LINEAR } from './gradients/linear.ts';
import { NORMALIZATION } from './gradients/normalization.ts';
import { POOLING } from './gradients/pooling.ts';
import { REDUCTION } from './gradients/reduction.ts';
import { RESHAPING } from './gradients/reshaping.ts';
import { RESIZING } from './gradients/resizing.ts';
import { TRIGONOMETRY } from './gradients/trigonometry.ts';
import { Attributes } from './onnx/attributes.ts';
import type { GraphBuilder } from './onnx/graph-builder.ts';
import type { NodeProto } from './onnx/onnx_pb.ts';
import { readsOf } from './onnx/reads.ts';
import { revise } from './onnx/revise.ts';
import { DATA_TYPE } from './onnx/tensor-data.ts';
import { type Dims, numbersOf, type TracedGraph } from './onnx/trace.ts';
import { unrollObstacle } from './onnx/unroll.ts';

const RULES: Readonly<Record<string, GradientRule>> = {
  ...ARITHMETIC,
  ...ACTIVATION,
  ...LINEAR,
  ...CONVOLUTION,
  ...POOLING,
  ...NORMALIZATION,
  ...REDUCTION,
  ...RESHAPING,
  ...INDEXING,
  ...RESIZING,
  ...TRIGONOMETRY,
};

/** Operators that can stand between the loss and a trainable parameter, in alphabetical order. */
export const DIFFERENTIABLE_OPERATORS: readonly string[] = Object.keys(RULES).toSorted();

/** Whether an operator can stand between the loss and a trainable parameter. */
export function isDifferentiable(opType: string): boolean {
  return Object.hasOwn(RULES, opType);
}

export interface DifferentiateOptions {
  readonly forward: TracedGraph;
  /** Gradient of the loss with respect to each value it is computed from, by name of the value. */
  readonly seeds: ReadonlyMap<string, string>;
  readonly parameters: readonly string[];
  readonly builder: GraphBuilder;
  /** Channels per block of the runtime's own convolution layout; see `findBlockSize`. */
  readonly blockSize?: number | undefined;
}

export interface Differentiated {
  /** The forward nodes; some give more outputs than before because a gradient wants them. */
  readonly nodes: readonly NodeProto[];
  /** Name of the gradient of each parameter that has one, in the parameter's shape. */
  readonly gradients: ReadonlyMap<string, string>;
}

const FLOATS: ReadonlySet<number> = new Set([
  DATA_TYPE.float,
  DATA_TYPE.double,
  DATA_TYPE.float16,
  DATA_TYPE.bfloat16,
]);

/** Float values on which a parameter has influence: integers and booleans cut the path. */
function influencedBy(forward: TracedGraph, parameters: readonly string[]): Set<string> {
  const active = new Set(parameters);
  for (const node of forward.nodes) {
    if (!readsOf(node).some((i) => active.has(i))) continue;
    for (const o of node.output)
      if (FLOATS.has(forward.facts.get(o)?.elementType ?? 0)) active.add(o);
  }
  return active;
}

/** Operators of finite values with infinite slopes. */
const STEEP: ReadonlySet<string> = new Set(['Sqrt', 'Log', 'Asin', 'Acos', 'Acosh', 'Atanh']);

/** Operators whose results are as long as the data says. */
const SIZED_BY_DATA: ReadonlySet<string> = new Set([
  'NonZero',
  'Compress',
  'Unique',
  'NonMaxSuppression',
]);

/** Values whose shape depends on the data, with the node that makes it so. */
function unsizedValues(forward: TracedGraph): Map<string, string> {
  const unsized = new Map<string, string>();
  for (const node of forward.nodes) {
    const source = SIZED_BY_DATA.has(node.opType)
      ? `${node.opType} (node "${node.name}")`
      : node.input.map((i) => unsized.get(i)).find((s) => s !== undefined);
    if (source === undefined) continue;
    for (const o of node.output)
      if ((forward.facts.get(o)?.dims.length ?? 1) > 0) unsized.set(o, source);
  }
  return unsized;
}

/** The values that go on to an operator whose slope can be infinite. */
function steepValues(forward: TracedGraph): Set<string> {
  const steep = new Set<string>();
  for (const node of forward.nodes.toReversed()) {
    const [, exponent = ''] = node.input;
    const isRoot =
      node.opType === 'Pow' && !numbersOf(forward, exponent)?.every((p) => p === 0 || p >= 1);
    if (!STEEP.has(node.opType) && !isRoot && !node.output.some((o) => steep.has(o))) continue;
    for (const i of readsOf(node)) steep.add(i);
  }
  return steep;
}

function standardRule(node: NodeProto): GradientRule | undefined {
  return node.domain === '' || node.domain === 'ai.onnx' ? RULES[node.opType] : undefined;
}

function blockedBy(node: NodeProto, parameters: readonly string[], forward: TracedGraph): string[] {
  return parameters.filter((p) => node.output.some((o) => influencedBy(forward, [p]).has(o)));
}

/** The nodes without a gradient that stand between a parameter and an output, with the parameters each blocks. */
export function unsupportedNodes(
  forward: TracedGraph,
  parameters: readonly string[],
): { readonly node: NodeProto; readonly parameters: readonly string[] }[] {
  const active = influencedBy(forward, parameters);
  return forward.nodes
    .filter((node) => !standardRule(node) && node.output.some((o) => active.has(o)))
    .map((node) => ({ node, parameters: blockedBy(node, parameters, forward) }));
}

function ruleFor(
  node: NodeProto,
  parameters: readonly string[],
  forward: TracedGraph,
): GradientRule {
  const rule = standardRule(node);
  if (rule) return rule;
  const blocked = blockedBy(node, parameters, forward);
  const why = unrollObstacle(node, (value) => forward.facts.get(value)?.dims ?? []);
  throw new ShoalError(
    'unsupported',
    `node "${node.name}": operator ${node.opType}${why === undefined ? '' : ` with ${why},`} has no gradient, which blocks parameter "${blocked[0]}"${blocked.length > 1 ? ` and ${blocked.length - 1} more` : ''}. Freeze it and everything before this node`,
    { details: { node: node.name, operator: node.opType, parameters: blocked } },
  );
}

/** The gradients of each value as they come in, and their sum when they are wanted. */
class Accumulator {
  readonly #parts: Map<string, string[]>;
  readonly #builder: GraphBuilder;

  constructor(builder: GraphBuilder, seeds: ReadonlyMap<string, string>) {
    this.#builder = builder;
    this.#parts = new Map([...seeds].map(([value, seed]) => [value, [seed]]));
  }

  add(value: string, gradient: string): void {
    this.#parts.set(value, [...(this.#parts.get(value) ?? []), gradient]);
  }

  total(value: string): string | undefined {
    const parts = this.#parts.get(value);
    if (!parts) return undefined;
    const [first = '', second = ''] = parts;
    const sum =
      parts.length === 1
        ? first
        : this.#builder.node(
            parts.length === 2 ? 'Add' : 'Sum',
            parts.length === 2 ? [first, second] : parts,
          );
    this.#parts.set(value, [sum]);
    return sum;
  }
}

function dimsIn(forward: TracedGraph): (value: string) => Dims {
  return (value) => {
    const found = forward.facts.get(value);
    if (!found) throw new Error(`the shape of "${value}" is not known`);
    return found.dims;
  };
}

/** Gradients are written in float32; a Cast to another float type and back is all that may lie between. */
function expectSingle(node: NodeProto, forward: TracedGraph, active: ReadonlySet<string>): void {
  if (node.opType === 'Cast') return;
  const other = [...node.input, ...node.output].find(
    (v) => active.has(v) && forward.facts.get(v)?.elementType !== DATA_TYPE.float,
  );
  if (other === undefined) return;
  throw new ShoalError(
    'unsupported',
    `node "${node.name}" (${node.opType}) computes "${other}" in another type than float32, which cannot be trained; export the model in float32`,
  );
}

/** What is known while gradients are written. */
interface Backward {
  readonly active: ReadonlySet<string>;
  readonly sums: Accumulator;
  readonly steep: ReadonlySet<string>;
  /** Values by the operator that gives them a shape of the data's making. */
  readonly unsized: ReadonlyMap<string, string>;
}

/** Gradients are written for the shapes of the trace. */
function expectSized(node: NodeProto, unsized: Backward['unsized']): void {
  const source = node.input.map((i) => unsized.get(i)).find((s) => s !== undefined);
  if (source === undefined) return;
  throw new ShoalError(
    'unsupported',
    `node "${node.name}" (${node.opType}): its shape depends on the data, through ${source}; write the model with masks of a fixed shape (a product with the mask, torch.where), or freeze it and everything before it`,
  );
}

/** Writes the gradients of one node's inputs, given that something depends on its outputs. */
function backward(node: NodeProto, options: DifferentiateOptions, at: Backward): void {
  const { forward, builder, parameters } = options;
  const dyOf = (output: number): string | undefined => at.sums.total(node.output[output] ?? '');
  const known = node.output.map((_, i) => dyOf(i));
  if (known.every((g) => g === undefined)) return;
  const rule = ruleFor(node, parameters, forward);
  if (node.opType !== 'Split' && known.slice(1).some((g) => g !== undefined)) {
    throw new ShoalError(
      'unsupported',
      `node "${node.name}" (${node.opType}): only its first output has a gradient, and the loss depends on another`,
    );
  }
  expectSingle(node, forward, at.active);
  expectSized(node, at.unsized);
  const gradients = rule({
    builder,
    node,
    attributes: new Attributes(node),
    dy: known[0] ?? '',
    dyOf,
    dimsOf: dimsIn(forward),
    typeOf: (value) => forward.facts.get(value)?.elementType ?? DATA_TYPE.float,
    numbersOf: (value) => numbersOf(forward, value),
    needs: (input) => at.active.has(node.input[input] ?? ''),
    isSteep: (value) => at.steep.has(value),
    blockSize: options.blockSize,
    extraOutput: (output) => {
      while (node.output.length <= output) node.output.push('');
      const name = node.output[output] || builder.fresh(node.opType);
      node.output[output] = name;
      return name;
    },
  });
  for (const [i, gradient] of gradients.entries()) {
    const input = node.input[i] ?? '';
    if (gradient !== undefined && at.active.has(input)) at.sums.add(input, gradient);
  }
}

/**
 * Reverse-mode differentiation (Griewank & Walther, "Evaluating Derivatives", ch. 3): walks the
 * forward graph backwards and writes, for each node on a path from a parameter to the loss, its
 * vector-Jacobian product. Gradients of a value used several times are summed.
 *
 * @returns The gradient of each parameter that influences the loss.
 * @throws ShoalError `unsupported` naming node, operator and parameter when a gradient is missing.
 */
export function differentiate(options: DifferentiateOptions): Differentiated {
  const { forward, seeds, parameters, builder } = options;
  const active = influencedBy(forward, parameters);
  const sums = new Accumulator(builder, seeds);
  const at = { active, sums, steep: steepValues(forward), unsized: unsizedValues(forward) };
  const nodes = forward.nodes.map((n) => revise(n, { output: [...n.output] }));
  for (const node of nodes.toReversed()) {
    if (node.output.some((o) => active.has(o))) backward(node, options, at);
  }
  const gradients = new Map<string, string>();
  for (const parameter of parameters) {
    const gradient = sums.total(parameter);
    if (gradient !== undefined) gradients.set(parameter, gradient);
  }
  return { nodes: nodes.flatMap((n) => keptDropout(builder, n, forward)), gradients };
}

/**
 * A Dropout that drops, and whose mask no gradient reads, is taken out by the runtime's optimizer (1.27), also
 * where it trains: then the mask is what is read.
 */
function keptDropout(
  builder: GraphBuilder,
  node: NodeProto,
  forward: TracedGraph,
): readonly NodeProto[] {
  const [x = '', ratio = '', training = ''] = node.input;
  const isRead = (node.output[1] ?? '') !== '';
  if (node.opType !== 'Dropout' || isRead || training === '') return [node];
  if (numbersOf(forward, training)?.[0] !== 1) return [node];
  const rate = ratio === '' ? 0.5 : (numbersOf(forward, ratio)?.[0] ?? 0.5);
  const mark = builder.nodes.length;
  const mask = builder.fresh('mask');
  const kept = builder.node('Where', [mask, x, builder.float(0)]);
  builder.node('Mul', [kept, builder.float(1 / (1 - rate))], {}, node.output[0] ?? '');
  const written = builder.nodes.splice(mark);
  return [revise(node, { output: [builder.fresh('dropped'), mask] }), ...written];
}
