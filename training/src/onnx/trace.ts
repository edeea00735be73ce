import { create } from '@bufbuild/protobuf';
import { messageOf, ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { modelOf, RANDOM, valueInfo } from './graph-builder.ts';
import { writeModel } from './model-file.ts';
import {
  type GraphProto,
  GraphProtoSchema,
  type NodeProto,
  type TensorProto,
  ValueInfoProtoSchema,
} from './onnx_pb.ts';
import { readsOf } from './reads.ts';
import {
  DATA_TYPE,
  floatsOf,
  integersOf,
  sizeOf,
  type TensorValues,
  tensorOf,
} from './tensor-data.ts';

export type Dims = readonly number[];

/** What is known of one value of a traced graph. */
export interface ValueFacts {
  readonly dims: Dims;
  /** ONNX element type. */
  readonly elementType: number;
}

/**
 * A forward graph for one shape of its inputs: every dimension is a number, everything that does
 * not depend on inputs or parameters is a constant, dead nodes are gone.
 */
export interface TracedGraph {
  readonly nodes: readonly NodeProto[];
  /** Frozen weights and folded values, also those no node reads any more. */
  readonly constants: ReadonlyMap<string, TensorProto>;
  readonly facts: ReadonlyMap<string, ValueFacts>;
}

export interface TraceOptions {
  readonly graph: GraphProto;
  readonly opset: number;
  /** Values of the graph's inputs and of its parameters, of the wanted shapes. */
  readonly feeds: Readonly<Record<string, ort.Tensor>>;
  /** Outputs that must stay; everything that serves none of them is dropped. */
  readonly outputs: readonly string[];
}

const ELEMENT_TYPES: Readonly<Record<string, number>> = {
  float32: DATA_TYPE.float,
  float64: DATA_TYPE.double,
  float16: DATA_TYPE.float16,
  int8: DATA_TYPE.int8,
  uint8: DATA_TYPE.uint8,
  int16: DATA_TYPE.int16,
  uint16: DATA_TYPE.uint16,
  int32: DATA_TYPE.int32,
  uint32: DATA_TYPE.uint32,
  int64: DATA_TYPE.int64,
  uint64: DATA_TYPE.uint64,
  bool: DATA_TYPE.bool,
};

const INTEGERS: ReadonlySet<number> = new Set([DATA_TYPE.int64, DATA_TYPE.int32, DATA_TYPE.bool]);

/** Largest constant that gradient rules may look into. */
const MAX_NUMBERS = 65_536;

/** Runs the graph once, unoptimized, with every value as an output. */
async function runOnce(options: TraceOptions): Promise<Map<string, ort.Tensor>> {
  const { graph, opset, feeds } = options;
  const values = graph.node.flatMap((n) => n.output.filter((o) => o !== ''));
  const probe = create(GraphProtoSchema, {
    name: 'probe',
    node: graph.node,
    initializer: graph.initializer.filter((t) => !(t.name in feeds)),
    input: Object.entries(feeds).map(([name, t]) =>
      valueInfo(name, ELEMENT_TYPES[t.type] ?? DATA_TYPE.float, [...t.dims]),
    ),
    output: values.map((name) => create(ValueInfoProtoSchema, { name })),
  });
  let session: ort.InferenceSession | undefined;
  try {
    session = await ort.InferenceSession.create(writeModel(modelOf(probe, opset)), {
      graphOptimizationLevel: 'disabled',
      intraOpNumThreads: 1,
      logSeverityLevel: 3,
    });
    const results = await session.run(feeds);
    return new Map(Object.entries(results) as [string, ort.Tensor][]);
  } catch (error) {
    const shapes = Object.entries(feeds)
      .filter(([name]) => !graph.initializer.some((t) => t.name === name))
      .map(([name, t]) => `${name} [${t.dims.join(', ')}]`);
    throw new ShoalError(
      'invalid_argument',
      `the model does not run on inputs of shape ${shapes.join(', ')}: ${messageOf(error)}`,
      { cause: error },
    );
  } finally {
    await session?.release();
  }
}

/** Operators whose result depends on the shape of their input alone. */
const SHAPE_ONLY: ReadonlySet<string> = new Set(['Shape', 'Size']);

function varyingValues(graph: GraphProto, sources: Iterable<string>): Set<string> {
  const varying = new Set(sources);
  for (const node of graph.node) {
    const varies =
      (RANDOM.has(node.opType) && node.opType !== 'Dropout') ||
      (!SHAPE_ONLY.has(node.opType) && readsOf(node).some((i) => varying.has(i)));
    if (varies) for (const o of node.output) varying.add(o);
  }
  return varying;
}

function liveNodes(
  nodes: readonly NodeProto[],
  varying: ReadonlySet<string>,
  outputs: readonly string[],
): NodeProto[] {
  const needed = new Set(outputs);
  const live: NodeProto[] = [];
  for (const node of nodes.toReversed()) {
    if (!node.output.some((o) => varying.has(o) && needed.has(o))) continue;
    for (const i of readsOf(node)) needed.add(i);
    live.push(node);
  }
  return live.reverse();
}

/** Values of a small constant as numbers; undefined for what is not constant, or very large. */
export function numbersOf(traced: TracedGraph, name: string): readonly number[] | undefined {
  const tensor = traced.constants.get(name);
  if (!tensor || sizeOf(tensor.dims) > MAX_NUMBERS) return undefined;
  if (tensor.dataType === DATA_TYPE.float) return Array.from(floatsOf(tensor));
  if (tensor.dataType === DATA_TYPE.double)
    return Array.from(new Float64Array(new Uint8Array(tensor.rawData).buffer));
  return INTEGERS.has(tensor.dataType) ? integersOf(tensor) : undefined;
}

/**
 * Finds the shape and type of every value, and the value of everything constant, by running the
 * graph once on the given feeds. That covers every operator the runtime knows, and all the shape
 * arithmetic exporters write.
 *
 * @throws ShoalError `invalid_argument` when the runtime refuses the graph or the shapes.
 */
export async function trace(options: TraceOptions): Promise<TracedGraph> {
  const { graph, feeds, outputs } = options;
  const results = await runOnce(options);
  const facts = new Map<string, ValueFacts>();
  const note = (name: string, t: ort.Tensor): void => {
    facts.set(name, { dims: [...t.dims], elementType: ELEMENT_TYPES[t.type] ?? 0 });
  };
  for (const [name, tensor] of Object.entries(feeds)) note(name, tensor);
  for (const [name, tensor] of results) note(name, tensor);
  const constants = new Map<string, TensorProto>();
  for (const tensor of graph.initializer) {
    if (tensor.name in feeds) continue;
    facts.set(tensor.name, { dims: tensor.dims.map(Number), elementType: tensor.dataType });
    constants.set(tensor.name, tensor);
  }
  const varying = varyingValues(graph, Object.keys(feeds));
  for (const [name, tensor] of results) {
    if (varying.has(name)) continue;
    const elementType = ELEMENT_TYPES[tensor.type] ?? 0;
    constants.set(
      name,
      tensorOf(name, elementType, { dims: tensor.dims, values: tensor.data as TensorValues }),
    );
  }
  return { nodes: liveNodes(graph.node, varying, outputs), constants, facts };
}
