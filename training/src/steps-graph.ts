import { create } from '@bufbuild/protobuf';
import { checkGraph } from './onnx/check-graph.ts';
import { modelOf, valueInfo } from './onnx/graph-builder.ts';
import { writeModel } from './onnx/model-file.ts';
import {
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type ValueInfoProto,
} from './onnx/onnx_pb.ts';
import { revise } from './onnx/revise.ts';
import type { ShapedPlan } from './shaped-plan.ts';
import {
  companionName,
  companionsOf,
  type TrainingGraph,
  writeSize,
  writeStep,
} from './training-graphs.ts';

/** The leading dimension of what the steps of one run read and give, one after another. */
const STEPS = 'steps';

function outside(name: string): string {
  return `shoal/steps/${name}`;
}

/** The value outside the loop: of the same shape, or one per step. */
function outsideInfo(info: ValueInfoProto, isPerStep: boolean): ValueInfoProto {
  const tensor = info.type?.value.case === 'tensorType' ? info.type.value.value : undefined;
  const dims = (tensor?.shape?.dim ?? []).map((d) => Number(d.value.value ?? 0));
  return valueInfo(outside(info.name), tensor?.elemType ?? 0, isPerStep ? [STEPS, ...dims] : dims);
}

/** Splits a list in two, in order. */
function partition<T>(items: readonly T[], isFirst: (item: T) => boolean): [T[], T[]] {
  return [items.filter(isFirst), items.filter((item) => !isFirst(item))];
}

/** Scan (ONNX operators, "Scan"): the body once per step; what it carries first, then what has one per step. */
function scanNode(body: GraphProto, perStep: number): NodeProto {
  return create(NodeProtoSchema, {
    opType: 'Scan',
    name: 'shoal/steps',
    input: body.input.map((i) => outside(i.name)),
    output: body.output.map((o) => outside(o.name)),
    attribute: [
      create(AttributeProtoSchema, { name: 'body', type: 5, g: body }),
      create(AttributeProtoSchema, { name: 'num_scan_inputs', type: 2, i: BigInt(perStep) }),
    ],
  });
}

/**
 * Any number of steps in one run: batches, targets and per-step numbers, stacked; parameters, optimizer state →
 * losses, metrics and Σθ², one per step; last parameters, last state.
 *
 * Parameters and state go from step to step inside the runtime, which hands out (and copies) only the last.
 */
export function stepsGraph(shaped: ShapedPlan): TrainingGraph {
  const { builder, graph, loss, metrics, results, state } = writeStep(shaped);
  const size = writeSize(builder, results);
  const each = graph();
  checkGraph(each); // puts the nodes in order, which the runtime wants inside of a loop
  const beside = new Set(
    shaped.parameters.flatMap(({ name }) =>
      companionsOf(shaped.plan).map((companion) => companionName(name, companion)),
    ),
  );
  const next = new Map([...results, ...state]);
  const [constant, fed] = partition(each.input, (i) => beside.has(i.name));
  const [carried, perStep] = partition(fed, (i) => next.has(i.name));
  const made = new Map(each.output.map((o) => [o.name, o]));
  const carriedOut = carried.flatMap((i) => made.get(next.get(i.name) ?? '') ?? []);
  const perStepOut = each.output.filter((o) => !carriedOut.includes(o));
  const body = revise(each, {
    name: 'shoal/step',
    input: [...carried, ...perStep],
    output: [...carriedOut, ...perStepOut],
  });
  const last = (names: ReadonlyMap<string, string>): Map<string, string> =>
    new Map([...names].map(([name, value]) => [name, outside(value)]));
  const outer = create(GraphProtoSchema, {
    name: 'shoal/steps',
    node: [scanNode(body, perStep.length)],
    input: [
      ...constant,
      ...carried.map((i) => outsideInfo(i, false)),
      ...perStep.map((i) => outsideInfo(i, true)),
    ],
    output: [
      ...carriedOut.map((o) => outsideInfo(o, false)),
      ...perStepOut.map((o) => outsideInfo(o, true)),
    ],
  });
  return {
    bytes: writeModel(modelOf(outer, shaped.plan.opset)),
    loss: outside(loss),
    metrics: Object.fromEntries(Object.entries(metrics).map(([k, v]) => [k, outside(v)])),
    results: last(results),
    state: last(state),
    size: outside(size),
    renamed: new Map(fed.map((i) => [i.name, outside(i.name)])),
  };
}
