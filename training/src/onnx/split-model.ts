import { create } from '@bufbuild/protobuf';
import { ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { modelOf, valueInfo } from './graph-builder.ts';
import { opsetOf, readModel, writeModel } from './model-file.ts';
import { type GraphProto, GraphProtoSchema, type NodeProto } from './onnx_pb.ts';
import { DATA_TYPE, ELEMENT_BYTES, sizeOf } from './tensor-data.ts';
import { type TracedGraph, trace } from './trace.ts';

export interface SplitModelOptions {
  /** The ONNX file's bytes; one input of float32 whose first dimension is the batch. */
  readonly model: Uint8Array;
  /** Into how many stages of about the same work it is cut, ≥ 1. */
  readonly stages: number;
  /** Or behind which values it is cut; these make `points.length + 1` stages. */
  readonly points?: readonly string[];
}

/** A part of a model, itself a model. */
export interface ModelStage {
  readonly model: Uint8Array;
  /** Values it is given, from the stages before it. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Float32 multiply-adds of one sample, counted for convolutions and matrix products. */
  readonly work: number;
  readonly parameterBytes: number;
  /** Bytes of one sample that must go on to the next stage, values that only pass through included. */
  readonly bytesOn: number;
}

/** Multiply-adds of a node for one sample: every weight once for each place it is used at. */
function workOf(
  node: NodeProto,
  traced: TracedGraph,
  weights: ReadonlyMap<string, number>,
): number {
  const out = sizeOf(traced.facts.get(node.output[0] ?? '')?.dims ?? []);
  const weight = weights.get(node.input[1] ?? '') ?? 0;
  const dims = traced.facts.get(node.output[0] ?? '')?.dims ?? [];
  if (node.opType === 'Conv' || node.opType === 'ConvTranspose')
    return (out / Math.max(1, dims[1] ?? 1)) * weight;
  if (node.opType === 'Gemm' || node.opType === 'MatMul')
    return (out / Math.max(1, dims.at(-1) ?? 1)) * Math.max(weight, dims.at(-1) ?? 1);
  return out;
}

/** Where the last of several runs over the first `n` nodes begins, so that the heaviest is light. */
function lastRun(
  n: number,
  before: readonly number[],
  weight: (from: number, to: number) => number,
): { heaviest: number; from: number } {
  let best = { heaviest: Number.POSITIVE_INFINITY, from: 0 };
  for (let from = 0; from < n; from++) {
    const heaviest = Math.max(before[from] ?? Number.POSITIVE_INFINITY, weight(from, n));
    if (heaviest < best.heaviest) best = { heaviest, from };
  }
  return best;
}

/** Ends of so many runs of nodes whose heaviest is as light as can be (dynamic programming). */
function balanced(work: readonly number[], stages: number): number[] {
  const sums = [0];
  for (const w of work) sums.push((sums.at(-1) ?? 0) + w);
  const weight = (from: number, to: number): number => (sums[to] ?? 0) - (sums[from] ?? 0);
  // Of one run the heaviest is all; an empty run is none at all.
  let best = sums.map((_, n) => (n === 0 ? Number.POSITIVE_INFINITY : weight(0, n)));
  const begins: number[][] = [];
  for (let k = 2; k <= stages; k++) {
    const before = best;
    const runs = sums.map((_, n) => lastRun(n, before, weight));
    best = runs.map((r) => r.heaviest);
    begins.push(runs.map((r) => r.from));
  }
  const ends = [work.length];
  for (const begin of begins.toReversed()) ends.unshift(begin[ends[0] ?? 0] ?? 0);
  return ends;
}

function endsAtPoints(nodes: readonly NodeProto[], points: readonly string[]): number[] {
  const ends = points.map((point) => {
    const at = nodes.findIndex((n) => n.output.includes(point));
    if (at >= 0) return at + 1;
    const some = nodes.flatMap((n) => n.output).slice(0, 20);
    throw new ShoalError(
      'invalid_argument',
      `the model has no value "${point}" to be cut behind; it has ${some.join(', ')}…`,
    );
  });
  const sorted = [...ends, nodes.length];
  if (sorted.some((e, i) => i > 0 && e <= (sorted[i - 1] ?? 0)))
    throw new ShoalError(
      'invalid_argument',
      `points must follow one another in the model and leave something behind the last: ${points.join(', ')}`,
    );
  return sorted;
}

interface Cutting {
  readonly graph: GraphProto;
  readonly opset: number;
  readonly traced: TracedGraph;
  readonly input: string;
}

async function cutting(bytes: Uint8Array): Promise<Cutting> {
  const model = readModel(bytes);
  const { graph } = model;
  if (!graph) throw new ShoalError('data_corrupt', 'the model has no graph');
  const inner = graph.node.find((n) => n.attribute.some((a) => a.g !== undefined));
  if (inner)
    throw new ShoalError(
      'unsupported',
      `node "${inner.name}" (${inner.opType}) holds a graph of its own; a model with such nodes cannot be cut`,
    );
  const initialized = new Set(graph.initializer.map((t) => t.name));
  const inputs = graph.input.filter((i) => !initialized.has(i.name));
  const [input] = inputs;
  const tensor = input?.type?.value.case === 'tensorType' ? input.type.value.value : undefined;
  if (!input || !tensor || inputs.length > 1)
    throw new ShoalError(
      'unsupported',
      `a model to be cut has one input, this has ${inputs.length}`,
    );
  const dims = (tensor.shape?.dim ?? []).map((d, i) =>
    i === 0 ? 1 : d.value.case === 'dimValue' ? Number(d.value.value) : 1,
  );
  const opset = opsetOf(model);
  const feeds = { [input.name]: new ort.Tensor('float32', new Float32Array(sizeOf(dims)), dims) };
  const outputs = graph.output.map((o) => o.name);
  return { graph, opset, traced: await trace({ graph, opset, feeds, outputs }), input: input.name };
}

/** A value as a stage's input or output: any batch. */
function declared(name: string, traced: TracedGraph): ReturnType<typeof valueInfo> {
  const { dims, elementType } = traced.facts.get(name) ?? { dims: [], elementType: 1 };
  return valueInfo(
    name,
    elementType,
    dims.map((d, i) => (i === 0 && d === 1 ? `${name} batch` : d)),
  );
}

function bytesOf(name: string, traced: TracedGraph): number {
  const { dims = [], elementType = DATA_TYPE.float } = traced.facts.get(name) ?? {};
  return sizeOf(dims) * (ELEMENT_BYTES[elementType] ?? 4);
}

/**
 * Cuts a model into stages that run one after another, each on a machine of its own: the same answers as
 * the whole, bit for bit on one runtime unless it fuses across a cut.
 *
 * @throws ShoalError `invalid_argument` for points that are not there or more stages than nodes,
 *   `unsupported` for nodes with graphs of their own or several inputs.
 */
export async function splitModel(options: SplitModelOptions): Promise<ModelStage[]> {
  const { graph, opset, traced, input } = await cutting(options.model);
  const weights = new Map(graph.initializer.map((t) => [t.name, sizeOf(t.dims)]));
  const work = graph.node.map((n) => workOf(n, traced, weights));
  const { points = [], stages } = options;
  if (points.length === 0 && (stages < 1 || stages > graph.node.length))
    throw new ShoalError(
      'invalid_argument',
      `${graph.node.length} nodes cannot make ${stages} stages`,
    );
  const ends = points.length > 0 ? endsAtPoints(graph.node, points) : balanced(work, stages);
  const stageOf = (node: number): number => ends.findIndex((end) => node < end);
  const results = graph.output.map((o) => o.name);
  const madeIn = new Map<string, number>([[input, -1]]);
  const lastUse = new Map<string, number>(results.map((name) => [name, ends.length]));
  for (const [i, node] of graph.node.entries()) {
    for (const o of node.output) madeIn.set(o, stageOf(i));
    for (const name of node.input) lastUse.set(name, Math.max(lastUse.get(name) ?? -1, stageOf(i)));
  }
  return ends.map((end, s) => {
    const nodes = graph.node.slice(s === 0 ? 0 : ends[s - 1], end);
    const read = new Set(nodes.flatMap((n) => n.input));
    const inputs = [...madeIn].filter(([n, at]) => at < s && read.has(n)).map(([n]) => n);
    const made = [...madeIn]
      .filter(([n, at]) => at === s && (lastUse.get(n) ?? -1) > s)
      .map(([n]) => n);
    // What the whole model answers comes first, in its order.
    const answers = results.filter((r) => made.includes(r));
    const outputs = [...answers, ...made.filter((n) => !answers.includes(n))];
    const initializer = graph.initializer.filter((t) => read.has(t.name));
    const part = create(GraphProtoSchema, {
      name: `${graph.name} stage ${s + 1}`,
      node: nodes,
      initializer,
      input: inputs.map((n) => declared(n, traced)),
      output: outputs.map((n) => declared(n, traced)),
    });
    const onward = [...madeIn].filter(([n, at]) => at <= s && (lastUse.get(n) ?? -1) > s);
    return {
      model: writeModel(modelOf(part, opset)),
      inputs,
      outputs,
      work: nodes.reduce((sum, _, i) => sum + (work[(ends[s - 1] ?? 0) + i] ?? 0), 0),
      parameterBytes: initializer.reduce((n, t) => n + (weights.get(t.name) ?? 0) * 4, 0),
      bytesOn: onward.reduce((n, [name]) => n + bytesOf(name, traced), 0),
    };
  });
}
