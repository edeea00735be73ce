import { ShoalError } from '@shoal/core';
import { type Block, joinBlock, type Member, openBlocks } from './blocks.ts';
import type { Parameter } from './candidates.ts';
import { type Differentiated, differentiate } from './differentiate.ts';
import type { TargetSpec } from './losses/loss.ts';
import { writeMetrics } from './losses/metrics.ts';
import { lower } from './lower.ts';
import { GraphBuilder, modelOf } from './onnx/graph-builder.ts';
import { writeModel } from './onnx/model-file.ts';
import type { GraphProto, NodeProto, TensorProto } from './onnx/onnx_pb.ts';
import { readsOf } from './onnx/reads.ts';
import { revise } from './onnx/revise.ts';
import { DATA_TYPE } from './onnx/tensor-data.ts';
import type { Dims, TracedGraph } from './onnx/trace.ts';
import { type Plan, targetName } from './plan.ts';
import type { ShapedPlan } from './shaped-plan.ts';
import { type TrainingForm, trainingForm } from './training-form.ts';

/** Tensors kept beside each block of parameters that a step reads: the anchor of a penalty, and so on. */
export type Companion = 'anchor' | 'importance' | 'offset';

export function companionName(block: string, companion: Companion): string {
  return `shoal/${companion}/${block}`;
}

/** Name of an optimizer state tensor. */
export function stateName(block: string, slot: string): string {
  return `shoal/state/${slot}/${block}`;
}

export function gradientName(block: string): string {
  return `shoal/gradient/${block}`;
}

/** The companions the plan's steps read. */
export function companionsOf(plan: Plan): Companion[] {
  return [
    ...(plan.penalty ? (['anchor'] as const) : []),
    ...(plan.penalty?.name === 'elastic' ? (['importance'] as const) : []),
    ...(plan.gradientOffset ? (['offset'] as const) : []),
  ];
}

/** The targets a batch must bring, by name. */
export function targetsOf(plan: Plan, facts: TracedGraph['facts']): Record<string, TargetSpec> {
  const { loss, output } = plan;
  if ('write' in loss) return { ...loss.targets(facts.get(output)?.dims ?? []) };
  return Object.fromEntries(
    loss.targets.map(({ name, value }) => {
      const { dims = [], elementType = DATA_TYPE.float } = facts.get(value) ?? {};
      return [name, { dims, elementType }];
    }),
  );
}

export interface TrainingGraph {
  readonly bytes: Uint8Array;
  readonly loss: string;
  readonly metrics: Readonly<Record<string, string>>;
  /** New values (step, apply) or gradient (gradients) by block of parameters; `output` (evaluate). */
  readonly results: ReadonlyMap<string, string>;
  /** Σθ² of the new values (step, apply): finite only when all of them are. */
  readonly size?: string;
  /** New optimizer state and running statistics by name (step, apply). */
  readonly state: ReadonlyMap<string, string>;
  /** Inputs that have another name here than in the other graphs. */
  readonly renamed?: ReadonlyMap<string, string>;
}

interface Draft {
  readonly builder: GraphBuilder;
  readonly forward: TracedGraph;
  readonly loss: string;
  readonly seeds: ReadonlyMap<string, string>;
  readonly metrics: Readonly<Record<string, string>>;
}

/** Data, targets and parameters as inputs; loss and metrics as outputs. */
function draftOf(shaped: ShapedPlan, forward: TracedGraph): Draft {
  const { plan, parameters, buffers } = shaped;
  const builder = new GraphBuilder();
  const dimsOf = (name: string): Dims => forward.facts.get(name)?.dims ?? [];
  for (const { name, elementType } of plan.inputs) builder.input(name, dimsOf(name), elementType);
  const targets: Record<string, string> = {};
  for (const [name, { dims, elementType }] of Object.entries(targetsOf(plan, forward.facts)))
    targets[name] = builder.input(targetName(name), dims, elementType);
  openBlocks(builder, [...parameters, ...buffers]);
  const output = { name: plan.output, dims: dimsOf(plan.output) };
  const nodes =
    'write' in plan.loss
      ? plan.loss.write(builder, output, targets)
      : { loss: plan.loss.value, gradient: builder.float(1), ranked: undefined };
  const suited = 'write' in plan.loss ? plan.loss.metrics : [];
  const scored = { builder, output: plan.output, targets, ranked: nodes.ranked };
  const metrics = writeMetrics(plan.metrics, scored, suited);
  builder.output(nodes.loss, dimsOf(nodes.loss));
  for (const metric of Object.values(metrics)) builder.output(metric, []);
  const seeded = 'write' in plan.loss ? plan.output : plan.loss.value;
  return {
    builder,
    forward,
    loss: nodes.loss,
    seeds: new Map([[seeded, nodes.gradient]]),
    metrics,
  };
}

/** The model's nodes and constants, followed by ours. */
function assemble(draft: Draft, forward: readonly NodeProto[], shaped: ShapedPlan): GraphProto {
  const graph = draft.builder.graph('shoal');
  const { nodes, constants: own } = lower(forward, draft.forward.facts, shaped.blockSize);
  const read = new Set([...nodes, ...graph.node].flatMap(readsOf));
  const fed = new Set([...graph.input.map((i) => i.name), ...graph.node.flatMap((n) => n.output)]);
  const constants: TensorProto[] = [...draft.forward.constants.values()].filter(
    (t) => read.has(t.name) && !fed.has(t.name),
  );
  return revise(graph, {
    // The runtime sorts the nodes: those that open blocks stand behind what reads them.
    node: [...nodes, ...graph.node],
    initializer: [...constants, ...own, ...graph.initializer],
  });
}

function written(graph: GraphProto, { plan }: ShapedPlan): Uint8Array {
  return writeModel(modelOf(graph, plan.opset));
}

function membersOf(blocks: readonly Block[]): Member[] {
  return blocks.flatMap((b) => b.members);
}

function gradientsOf(shaped: ShapedPlan, draft: Draft): Differentiated {
  return differentiate({
    forward: draft.forward,
    seeds: draft.seeds,
    parameters: membersOf(shaped.parameters).map((p) => p.name),
    builder: draft.builder,
    blockSize: shaped.blockSize,
  });
}

function form(shaped: ShapedPlan): TrainingForm {
  const { plan, traced } = shaped;
  const kept = new Set([plan.output, ...('write' in plan.loss ? [] : [plan.loss.value])]);
  return trainingForm(traced, kept, plan.form);
}

/** g + μ(θ − θ*), or g + λ·F·(θ − θ*) */
function penalized(builder: GraphBuilder, plan: Plan, name: string, gradient: string): string {
  if (!plan.penalty) return gradient;
  const away = builder.node('Sub', [name, companionName(name, 'anchor')]);
  const weighted =
    plan.penalty.name === 'elastic'
      ? builder.node('Mul', [away, companionName(name, 'importance')])
      : away;
  return builder.node('Add', [
    gradient,
    builder.node('Mul', [weighted, builder.float(plan.penalty.strength)]),
  ]);
}

/** Scales all gradients so that their global L2 norm is at most the limit (Pascanu et al. 2013). */
function clipped(
  builder: GraphBuilder,
  gradients: ReadonlyMap<string, string>,
  limit: number,
): { gradients: Map<string, string>; norm: string } {
  const squares = [...gradients.values()].map((g) =>
    builder.node('ReduceSumSquare', [g], { keepdims: 0 }),
  );
  const norm = builder.node('Sqrt', [builder.node('Sum', squares)]);
  const ratio = builder.node('Div', [
    builder.float(limit),
    builder.node('Add', [norm, builder.float(1e-6)]),
  ]);
  const factor = builder.node('Min', [ratio, builder.float(1)]);
  return {
    norm,
    gradients: new Map([...gradients].map(([p, g]) => [p, builder.node('Mul', [g, factor])])),
  };
}

/** Writes penalty, clipping, offset and the optimizer's update behind the gradients of each block. */
function writeUpdates(
  builder: GraphBuilder,
  shaped: ShapedPlan,
  gradients: ReadonlyMap<string, string>,
): Pick<TrainingGraph, 'results' | 'state'> & { metrics: Record<string, string> } {
  const { plan, parameters } = shaped;
  const companions = companionsOf(plan);
  for (const scalar of plan.optimizer.scalars) builder.input(scalar.name, []);
  for (const { name, size } of parameters)
    for (const companion of companions) builder.input(companionName(name, companion), [size]);
  let ready = new Map([...gradients].map(([name, g]) => [name, penalized(builder, plan, name, g)]));
  const metrics: Record<string, string> = {};
  if (plan.clipNorm !== undefined) {
    const { gradients: limited, norm } = clipped(builder, ready, plan.clipNorm);
    ready = limited;
    metrics['gradientNorm'] = norm;
    builder.output(norm, []);
  }
  const results = new Map<string, string>();
  const state = new Map<string, string>();
  for (const { name, size } of parameters) {
    const slots = plan.optimizer.slots.map((slot) => builder.input(stateName(name, slot), [size]));
    const given = ready.get(name) ?? '';
    const gradient = plan.gradientOffset
      ? builder.node('Add', [given, companionName(name, 'offset')])
      : given;
    const update = plan.optimizer.write(builder, { name, gradient, state: slots });
    builder.output(update.parameter, [size]);
    results.set(name, update.parameter);
    for (const [i, next] of update.state.entries()) {
      builder.output(next, [size]);
      state.set(slots[i] ?? '', next);
    }
  }
  return { results, state, metrics };
}

/** The gradient of each block, given those of its members. */
function blockGradients(
  builder: GraphBuilder,
  shaped: ShapedPlan,
  gradients: ReadonlyMap<string, string>,
): Map<string, string> {
  return new Map(shaped.parameters.map((b) => [b.name, joinBlock(builder, b, gradients)]));
}

/** The rate of an update that is a plain multiple of the gradient; undefined for all others. */
function linearRate(plan: Plan): string | undefined {
  const plain = !plan.penalty && plan.clipNorm === undefined && !plan.gradientOffset;
  return plain ? plan.optimizer.linearIn : undefined;
}

/** The draft with the gradient of the loss multiplied by the learning rate. */
function scaled(draft: Draft, rate: string): Draft {
  const { builder, seeds } = draft;
  return {
    ...draft,
    seeds: new Map([...seeds].map(([value, seed]) => [value, builder.node('Mul', [seed, rate])])),
  };
}

/** θ − g for every block, where g already carries the learning rate. */
function writeSubtractions(
  builder: GraphBuilder,
  shaped: ShapedPlan,
  gradients: ReadonlyMap<string, string>,
): ReturnType<typeof writeUpdates> {
  for (const scalar of shaped.plan.optimizer.scalars) builder.input(scalar.name, []);
  const results = new Map<string, string>();
  for (const { name, size } of shaped.parameters) {
    const next = builder.node('Sub', [name, gradients.get(name) ?? '']);
    builder.output(next, [size]);
    results.set(name, next);
  }
  return { results, state: new Map(), metrics: {} };
}

/** Σθ² over all blocks: one number that tells whether every new value is finite. */
export function writeSize(builder: GraphBuilder, results: ReadonlyMap<string, string>): string {
  const squares = [...results.values()].map((next) =>
    builder.node('ReduceSumSquare', [next], { keepdims: 0 }),
  );
  const [only = ''] = squares;
  const size = squares.length === 1 ? only : builder.node('Sum', squares);
  builder.output(size, []);
  return size;
}

/** A step's nodes, and what they make. */
export interface Step extends Pick<TrainingGraph, 'loss' | 'metrics' | 'results' | 'state'> {
  readonly builder: GraphBuilder;
  /** The graph as written so far. */
  readonly graph: () => GraphProto;
}

/** Writes forward pass, loss, backward pass and update. */
export function writeStep(shaped: ShapedPlan): Step {
  const { graph: forward, buffers } = form(shaped);
  const draft = draftOf(shaped, forward);
  const { builder } = draft;
  const rate = linearRate(shaped.plan);
  const { nodes, gradients } = gradientsOf(
    shaped,
    rate === undefined ? draft : scaled(draft, rate),
  );
  const flat = blockGradients(builder, shaped, gradients);
  const { results, state, metrics } =
    rate === undefined
      ? writeUpdates(builder, shaped, flat)
      : writeSubtractions(builder, shaped, flat);
  const next = new Map(state);
  // Statistics of nodes that serve another output stay as they are.
  const values = new Map(membersOf(shaped.buffers).map((b) => [b.name, b.name]));
  for (const { name, next: value } of buffers) values.set(name, value);
  for (const block of shaped.buffers) {
    const joined = joinBlock(builder, block, values);
    next.set(block.name, joined);
    builder.output(joined, [block.size]);
  }
  return {
    builder,
    graph: () => assemble(draft, nodes, shaped),
    loss: draft.loss,
    metrics: { ...draft.metrics, ...metrics },
    results,
    state: next,
  };
}

/** batch, targets, parameters, optimizer state, per-step numbers → loss, metrics, new parameters, new state. */
export function stepGraph(shaped: ShapedPlan): TrainingGraph {
  const { builder, graph, ...made } = writeStep(shaped);
  const size = writeSize(builder, made.results);
  return { ...made, size, bytes: written(graph(), shaped) };
}

/** batch, targets, parameters → loss, metrics, one gradient per block of parameters. */
export function gradientsGraph(shaped: ShapedPlan): TrainingGraph {
  const draft = draftOf(shaped, form(shaped).graph);
  const { nodes, gradients } = gradientsOf(shaped, draft);
  const results = blockGradients(draft.builder, shaped, gradients);
  for (const { name, size } of shaped.parameters)
    draft.builder.output(results.get(name) ?? '', [size]);
  return {
    bytes: written(assemble(draft, nodes, shaped), shaped),
    loss: draft.loss,
    metrics: draft.metrics,
    results,
    state: new Map(),
  };
}

/** gradients, parameters, optimizer state, per-step numbers → new parameters, new state. */
export function applyGraph(shaped: ShapedPlan): TrainingGraph {
  const builder = new GraphBuilder();
  const gradients = new Map<string, string>();
  for (const { name, size } of shaped.parameters) {
    builder.input(name, [size]);
    gradients.set(name, builder.input(gradientName(name), [size]));
  }
  const updates = writeUpdates(builder, shaped, gradients);
  const size = writeSize(builder, updates.results);
  return {
    bytes: writeModel(modelOf(builder.graph('apply'), shaped.plan.opset)),
    loss: '',
    size,
    ...updates,
  };
}

/** batch, targets, parameters → loss, metrics, the model's output. */
export function evaluateGraph(shaped: ShapedPlan): TrainingGraph {
  const { plan, traced } = shaped;
  const draft = draftOf(shaped, traced);
  draft.builder.output(plan.output, traced.facts.get(plan.output)?.dims ?? []);
  return {
    bytes: written(assemble(draft, traced.nodes, shaped), shaped),
    loss: draft.loss,
    metrics: draft.metrics,
    results: new Map([['output', plan.output]]),
    state: new Map(),
  };
}

/**
 * The parameters that influence the loss.
 *
 * @throws ShoalError `invalid_argument` when the user chose one that does not, or none does.
 */
export function influentialParameters(shaped: ShapedPlan): Parameter[] {
  const { plan } = shaped;
  const { gradients } = gradientsOf(shaped, draftOf(shaped, form(shaped).graph));
  const found = plan.candidates.filter((p) => gradients.has(p.name));
  const lost = plan.candidates.find((p) => !gradients.has(p.name));
  if (plan.chosen && lost) {
    throw new ShoalError(
      'invalid_argument',
      `parameter "${lost.name}" was chosen for training but has no influence on output "${plan.output}" that can be differentiated`,
    );
  }
  return found;
}
