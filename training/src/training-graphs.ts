import { create } from '@bufbuild/protobuf';
import { ShoalError } from '@shoal/core';
import { differentiate } from './differentiate.ts';
import { LOSSES, type LossDefinition, type LossName } from './losses.ts';
import { GraphBuilder, modelOf, type Shape } from './onnx/graph-builder.ts';
import { DATA_TYPE, opsetOf, writeModel } from './onnx/model-file.ts';
import { type GraphProto, GraphProtoSchema, type ModelProto } from './onnx/onnx_pb.ts';
import { declaredShape, inferShapes, type Shapes } from './onnx/shape-inference.ts';
import { type OptimizerNodes, type OptimizerOptions, optimizerNodes } from './optimizers.ts';

export interface PlanOptions {
  readonly model: ModelProto;
  readonly loss: LossName;
  readonly optimizer: OptimizerOptions;
  /** Output the loss is computed from; default the first. */
  readonly output?: string;
  /** Which float initializers are trained; default all. */
  readonly trainable?: (name: string) => boolean;
}

/** A trainable initializer. */
export interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Everything known about a model before any graph is written. */
export interface Plan {
  readonly model: ModelProto;
  readonly forward: GraphProto;
  readonly shapes: Shapes;
  readonly input: { readonly name: string; readonly shape: Shape };
  readonly output: { readonly name: string; readonly shape: Shape };
  readonly parameters: readonly Parameter[];
  readonly loss: LossDefinition;
  readonly optimizer: OptimizerNodes;
}

export const TARGETS = 'shoal/targets';

/** Names of the graph's parts that are not parameters. */
export function stateName(parameter: string, slot: string): string {
  return `shoal/state/${slot}/${parameter}`;
}

function dataInput(forward: GraphProto): { name: string; shape: Shape } {
  const initialized = new Set(forward.initializer.map((t) => t.name));
  const inputs = forward.input.filter((i) => !initialized.has(i.name));
  const [first] = inputs;
  const shape = first && declaredShape(first);
  if (!first || !shape || inputs.length > 1) {
    throw new ShoalError(
      'unsupported',
      `the model must have exactly one input with a declared shape, it has: ${inputs.map((i) => i.name).join(', ') || 'none'}`,
    );
  }
  return { name: first.name, shape };
}

function trainableParameters(
  forward: GraphProto,
  trainable: (name: string) => boolean,
): Parameter[] {
  const used = new Set(forward.node.flatMap((n) => n.input));
  const parameters = forward.initializer
    .filter((t) => t.dataType === DATA_TYPE.float && used.has(t.name) && trainable(t.name))
    .map((t) => ({ name: t.name, shape: t.dims.map(Number) }));
  if (parameters.length === 0) {
    const names = forward.initializer
      .map((t) => t.name)
      .slice(0, 8)
      .join(', ');
    throw new ShoalError(
      'invalid_argument',
      `no trainable parameter: none of the model's initializers (${names || 'it has none'}) is a float tensor selected for training`,
    );
  }
  return parameters;
}

/** Reads a model for training: shapes, parameters, loss, optimizer. */
export function planTraining(options: PlanOptions): Plan {
  const { model } = options;
  const { graph: forward } = model;
  if (!forward) throw new ShoalError('data_corrupt', 'the model has no graph');
  const names = forward.output.map((o) => o.name);
  const name = options.output ?? names[0] ?? '';
  if (!names.includes(name))
    throw new ShoalError(
      'invalid_argument',
      `the model has no output "${name}"; it has: ${names.join(', ')}`,
    );
  const shapes = inferShapes(forward);
  return {
    model,
    forward,
    shapes,
    input: dataInput(forward),
    output: { name, shape: shapes.get(name) ?? [] },
    parameters: trainableParameters(forward, options.trainable ?? (() => true)),
    loss: LOSSES[options.loss],
    optimizer: optimizerNodes(options.optimizer),
  };
}

interface Draft {
  readonly builder: GraphBuilder;
  readonly lossNodes: ReturnType<LossDefinition['write']>;
}

/** Forward pass and loss, with the parameters as inputs. */
function forwardAndLoss(plan: Plan): Draft {
  const builder = new GraphBuilder();
  const targets = plan.loss.targets(plan.output.shape);
  builder.input(plan.input.name, plan.input.shape);
  builder.input(TARGETS, targets.shape, targets.elementType);
  for (const p of plan.parameters) builder.input(p.name, p.shape);
  const lossNodes = plan.loss.write(builder, plan.output, TARGETS);
  builder.output(lossNodes.loss, []);
  for (const metric of Object.values(lossNodes.metrics)) builder.output(metric, []);
  return { builder, lossNodes };
}

/** The model's own nodes and frozen initializers, followed by ours. */
function assemble(plan: Plan, builder: GraphBuilder): Uint8Array {
  const trained = new Set(plan.parameters.map((p) => p.name));
  const graph = builder.graph('shoal');
  const merged = create(GraphProtoSchema, {
    ...graph,
    node: [...plan.forward.node, ...graph.node],
    initializer: [
      ...plan.forward.initializer.filter((t) => !trained.has(t.name)),
      ...graph.initializer,
    ],
  });
  return writeModel(modelOf(merged, Math.max(opsetOf(plan.model), 17)));
}

export interface TrainingGraph {
  readonly bytes: Uint8Array;
  readonly loss: string;
  readonly metrics: Readonly<Record<string, string>>;
  /** New parameter (step) or gradient (gradients) by parameter name. */
  readonly results: ReadonlyMap<string, string>;
  /** New optimizer state by state name (step only). */
  readonly state: ReadonlyMap<string, string>;
}

function gradientsOf(plan: Plan, draft: Draft): Map<string, string> {
  return differentiate({
    forward: plan.forward,
    shapes: plan.shapes,
    output: plan.output.name,
    seed: draft.lossNodes.gradient,
    parameters: plan.parameters.map((p) => p.name),
    builder: draft.builder,
  });
}

/** batch, targets, parameters, optimizer state, per-step numbers → loss, metrics, new parameters, new state. */
export function stepGraph(plan: Plan): TrainingGraph {
  const draft = forwardAndLoss(plan);
  const { builder, lossNodes } = draft;
  for (const scalar of plan.optimizer.scalars) builder.input(scalar.name, []);
  const gradients = gradientsOf(plan, draft);
  const results = new Map<string, string>();
  const state = new Map<string, string>();
  for (const { name, shape } of plan.parameters) {
    const slots = plan.optimizer.slots.map((slot) => builder.input(stateName(name, slot), shape));
    const update = plan.optimizer.write(builder, {
      name,
      gradient: gradients.get(name) ?? '',
      shape,
      state: slots,
    });
    builder.output(update.parameter, shape);
    results.set(name, update.parameter);
    for (const [i, next] of update.state.entries()) {
      builder.output(next, shape);
      state.set(slots[i] ?? '', next);
    }
  }
  return {
    bytes: assemble(plan, builder),
    loss: lossNodes.loss,
    metrics: lossNodes.metrics,
    results,
    state,
  };
}

/** batch, targets, parameters → loss, metrics, one gradient per parameter. */
export function gradientsGraph(plan: Plan): TrainingGraph {
  const draft = forwardAndLoss(plan);
  const results = gradientsOf(plan, draft);
  for (const { name, shape } of plan.parameters)
    draft.builder.output(results.get(name) ?? '', shape);
  return {
    bytes: assemble(plan, draft.builder),
    loss: draft.lossNodes.loss,
    metrics: draft.lossNodes.metrics,
    results,
    state: new Map(),
  };
}

/** batch, targets, parameters → loss, metrics, the model's output. */
export function evaluateGraph(plan: Plan): TrainingGraph {
  const { builder, lossNodes } = forwardAndLoss(plan);
  builder.output(plan.output.name, plan.output.shape);
  return {
    bytes: assemble(plan, builder),
    loss: lossNodes.loss,
    metrics: lossNodes.metrics,
    results: new Map([['output', plan.output.name]]),
    state: new Map(),
  };
}
