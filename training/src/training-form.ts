import { Attributes } from './onnx/attributes.ts';
import { attribute, GraphBuilder, RANDOM } from './onnx/graph-builder.ts';
import type { GraphProto, NodeProto } from './onnx/onnx_pb.ts';
import { bodiesOf } from './onnx/reads.ts';
import { revise } from './onnx/revise.ts';
import type { TracedGraph, ValueFacts } from './onnx/trace.ts';

export interface TrainingFormOptions {
  /** Whether BatchNormalization uses the statistics of the batch and updates the running ones. */
  readonly batchNormalization: 'train' | 'frozen';
  /** Whether Dropout drops. */
  readonly dropout: boolean;
  /** Seed of the dropout masks. */
  readonly seed: number;
}

/** A running statistic: a tensor that a step replaces, though no gradient reaches it. */
export interface BufferUpdate {
  readonly name: string;
  /** The value that replaces it. */
  readonly next: string;
}

export interface TrainingForm {
  readonly graph: TracedGraph;
  readonly buffers: readonly BufferUpdate[];
}

interface Draft {
  readonly builder: GraphBuilder;
  readonly nodes: NodeProto[];
  readonly facts: Map<string, ValueFacts>;
  readonly buffers: BufferUpdate[];
}

/** running·m + batch·(1 − m), ONNX's momentum (1 − PyTorch's). */
function blend(builder: GraphBuilder, at: { running: string; batch: string; m: number }): string {
  return builder.node('Add', [
    builder.node('Mul', [at.running, builder.float(at.m)]),
    builder.node('Mul', [at.batch, builder.float(1 - at.m)]),
  ]);
}

/**
 * Normalizes by the batch, with the runtime's own training mode: momentum 0 makes its running
 * statistics those of the batch. Variance is the population's (divided by m), also in the running
 * one, as ONNX BatchNormalization-15 says; PyTorch's running variance divides by m − 1.
 */
function normalizeByBatch(draft: Draft, node: NodeProto): void {
  const { builder } = draft;
  const [x = '', scale = '', bias = '', mean = '', variance = ''] = node.input;
  // Two nodes may share their statistics: the second goes on from what the first made of them.
  const running = [mean, variance].map(
    (name) => draft.buffers.find((b) => b.name === name)?.next ?? name,
  );
  // The runtime writes its running statistics over those it reads: every node gets copies of its own to write on.
  const scratch = running.map((v) => builder.node('Mul', [v, builder.float(0)]));
  draft.nodes.push(...builder.nodes.splice(0));
  const [batchMean, batchVariance] = [builder.fresh('mean'), builder.fresh('variance')];
  const attributes = new Attributes(node);
  const m = attributes.float('momentum', 0.9);
  draft.nodes.push(
    revise(node, {
      input: [x, scale, bias, ...scratch],
      output: [node.output[0] ?? '', batchMean, batchVariance],
      attribute: [
        attribute('training_mode', 1),
        attribute('momentum', { float: 0 }),
        attribute('epsilon', { float: attributes.float('epsilon', 1e-5) }),
      ],
    }),
  );
  for (const [i, name] of [mean, variance].entries()) {
    const batch = [batchMean, batchVariance][i] ?? '';
    const next = blend(builder, { running: running[i] ?? name, batch, m });
    const before = draft.buffers.findIndex((b) => b.name === name);
    if (before < 0) draft.buffers.push({ name, next });
    else draft.buffers[before] = { name, next };
  }
  draft.nodes.push(...builder.nodes.splice(0));
}

/** Dropout that drops, from a seeded stream. */
function dropping(draft: Draft, node: NodeProto, seed: number): void {
  const { builder } = draft;
  const [x = '', ratio = ''] = node.input;
  draft.nodes.push(
    revise(node, {
      input: [x, ratio, builder.bool(true)],
      attribute: [attribute('seed', seed)],
    }),
  );
}

/** Whether some node gives another result each time. */
export function drawsNumbers({ node }: GraphProto, dropout: boolean): boolean {
  return node.some(
    (n) =>
      (RANDOM.has(n.opType) && (dropout || n.opType !== 'Dropout')) ||
      bodiesOf(n).some((body) => drawsNumbers(body, dropout)),
  );
}

/** Relu nodes whose only reader is a MaxPool, by output. */
function pooledRelus(graph: TracedGraph, kept: ReadonlySet<string>): Map<string, NodeProto> {
  const readers = new Map<string, NodeProto[]>();
  for (const node of graph.nodes)
    for (const i of node.input) readers.set(i, [...(readers.get(i) ?? []), node]);
  const found = new Map<string, NodeProto>();
  for (const node of graph.nodes) {
    const [y = ''] = node.output;
    const [reader, ...others] = readers.get(y) ?? [];
    if (node.opType !== 'Relu' || reader?.opType !== 'MaxPool' || others.length > 0) continue;
    if (!kept.has(y) && reader.output.length === 1) found.set(y, node);
  }
  return found;
}

/**
 * max(relu(x)) = relu(max(x)): pooling first leaves a smaller grid to rectify, and the mask of the
 * gradient too is applied on the smaller grid.
 */
function poolFirst(draft: Draft, relu: NodeProto, pool: NodeProto): void {
  const [x = ''] = relu.input;
  const [y = ''] = pool.output;
  const pooled = draft.builder.fresh('pooled');
  const facts = draft.facts.get(y);
  if (facts) draft.facts.set(pooled, facts);
  draft.nodes.push(
    revise(pool, { input: [x], output: [pooled] }),
    revise(relu, { input: [pooled], output: [y] }),
  );
}

/**
 * The forward graph as a training step runs it: batch statistics, dropout, and rectifiers behind
 * their pooling.
 *
 * @param kept Values that must keep their name: outputs and what the loss reads.
 */
export function trainingForm(
  graph: TracedGraph,
  kept: ReadonlySet<string>,
  options: TrainingFormOptions,
): TrainingForm {
  const builder = new GraphBuilder('shoal/form/');
  const draft: Draft = { builder, nodes: [], facts: new Map(graph.facts), buffers: [] };
  const relus = pooledRelus(graph, kept);
  const moved = new Set(relus.values());
  let dropouts = 0;
  for (const node of graph.nodes) {
    const relu = node.opType === 'MaxPool' ? relus.get(node.input[0] ?? '') : undefined;
    if (relu) poolFirst(draft, relu, node);
    else if (moved.has(node)) continue;
    else if (node.opType === 'BatchNormalization' && options.batchNormalization === 'train')
      normalizeByBatch(draft, node);
    else if (node.opType === 'Dropout' && options.dropout)
      dropping(draft, node, options.seed + ++dropouts);
    else draft.nodes.push(node);
  }
  const constants = new Map(graph.constants);
  for (const tensor of builder.initializers) constants.set(tensor.name, tensor);
  return { graph: { nodes: draft.nodes, constants, facts: draft.facts }, buffers: draft.buffers };
}
