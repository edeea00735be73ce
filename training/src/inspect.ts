import { isShoalError } from '@shoal/core';
import { differentiate, unsupportedNodes } from './differentiate.ts';
import { constantTensors } from './onnx/from-torch.ts';
import { GraphBuilder } from './onnx/graph-builder.ts';
import { opsetOf, readModel, readModelFile } from './onnx/model-file.ts';
import type { ModelProto, ValueInfoProto } from './onnx/onnx_pb.ts';
import { DATA_TYPE, sizeOf } from './onnx/tensor-data.ts';
import type { TracedGraph } from './onnx/trace.ts';
import { fixedBatch, type Plan, planTraining } from './plan.ts';
import { initialValues, shapePlan } from './shaped-plan.ts';

export interface InspectOptions {
  /** The ONNX file's bytes, or its path. */
  readonly model: Uint8Array | string;
  /** Output training would start from; default the first. */
  readonly output?: string;
  /** Sizes of symbolic dimensions other than the batch; 8 where nothing is said. */
  readonly dimensions?: Readonly<Record<string, number>>;
}

export interface InspectedValue {
  readonly name: string;
  readonly type: string;
  /** Numbers, or the name of a symbolic dimension. */
  readonly dims: readonly (number | string)[];
}

export interface InspectedParameter {
  readonly name: string;
  readonly dims: readonly number[];
  readonly size: number;
  /** Why it cannot be trained; undefined when it can. */
  readonly blockedBy?: string;
}

export interface Inspection {
  readonly producer: string;
  readonly opset: number;
  readonly inputs: readonly InspectedValue[];
  readonly outputs: readonly InspectedValue[];
  /** How often each operator occurs, in order of first occurrence. */
  readonly operators: readonly { readonly name: string; readonly count: number }[];
  readonly nodes: readonly {
    readonly name: string;
    readonly operator: string;
    readonly inputs: readonly string[];
    readonly outputs: readonly string[];
    /** Shape of the first output for a batch of 2, or of the size the model has fixed. */
    readonly dims: readonly number[];
  }[];
  readonly parameters: readonly InspectedParameter[];
  /** Why training would be refused all the same: a form of an operator, an output of integers. */
  readonly refusal?: string;
  /** Float tensors taken for numbers, masks or buffers: not trained. */
  readonly constants: readonly string[];
  /** Nodes without a gradient between a parameter and the output. */
  readonly blockers: readonly {
    readonly node: string;
    readonly operator: string;
    readonly parameters: number;
  }[];
}

const TYPE_NAMES: Readonly<Record<number, string>> = Object.fromEntries(
  Object.entries(DATA_TYPE).map(([name, type]) => [type, name]),
);

function valueOf(info: ValueInfoProto): InspectedValue {
  const tensor = info.type?.value.case === 'tensorType' ? info.type.value.value : undefined;
  return {
    name: info.name,
    type: TYPE_NAMES[tensor?.elemType ?? 0] ?? 'other',
    dims: (tensor?.shape?.dim ?? []).map((d) => {
      if (d.value.case === 'dimValue') return Number(d.value.value);
      return d.value.value === undefined || d.value.value === '' ? '?' : d.value.value;
    }),
  };
}

/** Every symbolic dimension with some size, so that the graph can be traced. */
function sizesFor(
  model: ModelProto,
  given: Readonly<Record<string, number>>,
): Record<string, number> {
  const sizes: Record<string, number> = {};
  for (const input of model.graph?.input ?? []) {
    for (const [i, dim] of valueOf(input).dims.entries()) {
      if (typeof dim === 'number' && dim > 0) continue;
      sizes[`${input.name}.${i}`] = 8;
      if (typeof dim === 'string') sizes[dim] = 8;
    }
  }
  return { ...sizes, ...given };
}

/** As training would begin, whatever the loss. */
function planFor(model: ModelProto, { output, dimensions = {} }: InspectOptions): Plan {
  return planTraining({
    model,
    loss: 'mean-squared-error',
    optimizer: { name: 'sgd', learningRate: 1 },
    dimensions: sizesFor(model, dimensions),
    ...(output === undefined ? {} : { output }),
  });
}

/** What differentiating says beside missing operators; undefined when it works. */
function refusalOf(
  traced: TracedGraph,
  at: { readonly output: string; readonly parameters: readonly string[] },
): string | undefined {
  const { output, parameters } = at;
  const type = traced.facts.get(output)?.elementType ?? 0;
  if (type !== DATA_TYPE.float)
    return `output "${output}" is ${TYPE_NAMES[type] ?? 'of another type'}, a loss needs float32`;
  const builder = new GraphBuilder('shoal/inspect/');
  try {
    differentiate({ forward: traced, seeds: new Map([[output, output]]), parameters, builder });
    return undefined;
  } catch (error) {
    if (!isShoalError(error)) throw error;
    return error.message;
  }
}

/**
 * What a model is made of, what of it can be trained, and which operator would stand in the way.
 *
 * @throws ShoalError as reading and tracing a model do.
 */
export async function inspectModel(options: InspectOptions): Promise<Inspection> {
  const model =
    typeof options.model === 'string' ? readModelFile(options.model) : readModel(options.model);
  const plan = planFor(model, options);
  const values = initialValues(plan);
  const { candidates: parameters } = plan;
  const { traced } = await shapePlan(plan, {
    batch: fixedBatch(plan) ?? 2,
    values,
    parameters: [],
    buffers: [],
  });
  const names = parameters.map((p) => p.name);
  const blockers = unsupportedNodes(traced, names);
  const blockedBy = new Map(
    blockers.flatMap(({ node, parameters: blocked }) => blocked.map((p) => [p, node] as const)),
  );
  const blocked = new Set(blockers.flatMap((b) => b.parameters));
  const refusal = refusalOf(traced, {
    output: plan.output,
    parameters: names.filter((n) => !blocked.has(n)),
  });
  const counts = new Map<string, number>();
  for (const { opType } of model.graph?.node ?? [])
    counts.set(opType, (counts.get(opType) ?? 0) + 1);
  const initialized = new Set(model.graph?.initializer.map((t) => t.name));
  return {
    producer: `${model.producerName} ${model.producerVersion}`.trim(),
    opset: opsetOf(model),
    inputs: model.graph?.input.filter((i) => !initialized.has(i.name)).map(valueOf) ?? [],
    outputs: model.graph?.output.map(valueOf) ?? [],
    operators: [...counts].map(([name, count]) => ({ name, count })),
    nodes: traced.nodes.map((n) => ({
      name: n.name,
      operator: n.opType,
      inputs: n.input,
      outputs: n.output,
      dims: traced.facts.get(n.output[0] ?? '')?.dims ?? [],
    })),
    parameters: parameters.map(({ name, shape }) => {
      const node = blockedBy.get(name);
      return {
        name,
        dims: shape,
        size: sizeOf(shape),
        ...(node ? { blockedBy: `${node.opType} (node "${node.name}")` } : {}),
      };
    }),
    ...(refusal === undefined ? {} : { refusal }),
    constants: [...constantTensors(plan.model)],
    blockers: blockers.map(({ node, parameters: blocked }) => ({
      node: node.name,
      operator: node.opType,
      parameters: blocked.length,
    })),
  };
}
