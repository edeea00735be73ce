import { type Random, seededRandom } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { findBlockSize } from '../block-size.ts';
import { differentiate } from '../differentiate.ts';
import { lower } from '../lower.ts';
import { GraphBuilder, modelOf, type NodeOptions } from '../onnx/graph-builder.ts';
import { writeModel } from '../onnx/model-file.ts';
import type { GraphProto } from '../onnx/onnx_pb.ts';
import { revise } from '../onnx/revise.ts';
import { sizeOf } from '../onnx/tensor-data.ts';
import { trace } from '../onnx/trace.ts';

/** An input of an operator under test. */
export type Operand =
  /** A float tensor that is differentiated. */
  | readonly number[]
  /** A constant: int64 list, or a float scalar or tensor. */
  | { readonly ints: readonly number[]; readonly scalar?: boolean }
  | { readonly float: number }
  | { readonly floats: readonly number[] }
  | { readonly bools: readonly boolean[]; readonly dims: readonly number[] }
  | {
      readonly indices: readonly number[];
      readonly dims: readonly number[];
      readonly asFloat?: boolean;
    }
  | undefined;

export interface OperatorCase {
  readonly op: string;
  readonly inputs: readonly Operand[];
  readonly attributes?: NonNullable<NodeOptions['attributes']>;
  readonly outputs?: number;
  /** Outputs the objective depends on; default all. */
  readonly read?: readonly number[];
  /** Added to every value of each float input. */
  readonly shift?: number;
  /** Values without a derivative: inputs keep off them by two steps. */
  readonly kinks?: readonly number[];
  /** Distance between the smallest and largest value; default 2. */
  readonly spread?: number;
  /** Step of the finite difference. */
  readonly step?: number;
  readonly opset?: number;
  /** Depthwise convolutions in the runtime's own blocked layout, where this machine has one. */
  readonly blocked?: boolean;
}

const MOST_CHECKED = 48;
const THREADS = { intraOpNumThreads: 1, logSeverityLevel: 3 } as const;

function isTensor(operand: Operand): operand is readonly number[] {
  return Array.isArray(operand);
}

/** Writes the operator's node; float inputs are called `x0`, `x1`, … */
function write(builder: GraphBuilder, c: OperatorCase): string[] {
  const inputs = c.inputs.map((operand, i) => {
    if (operand === undefined) return '';
    if (isTensor(operand)) return builder.input(`x${i}`, operand);
    if ('float' in operand) return builder.float(operand.float);
    if ('floats' in operand)
      return builder.floats(Float32Array.from(operand.floats), [operand.floats.length]);
    if ('ints' in operand)
      return operand.scalar ? builder.int(operand.ints[0] ?? 0) : builder.ints(operand.ints);
    const flat = 'bools' in operand ? operand.bools.map(Number) : operand.indices;
    const shaped = builder.node('Reshape', [builder.ints(flat), builder.ints(operand.dims)]);
    if ('bools' in operand) return builder.node('Cast', [shaped], { to: 9 });
    return operand.asFloat ? builder.node('Cast', [shaped], { to: 1 }) : shaped;
  });
  return builder.nodeWithOutputs(c.op, inputs, {
    attributes: c.attributes ?? {},
    outputs: c.outputs ?? 1,
  });
}

type Values = ReadonlyMap<string, Float32Array>;
type Shapes = ReadonlyMap<string, readonly number[]>;

function stepOf(c: OperatorCase): number {
  return c.step ?? 2e-3;
}

/** Values on a grid, all different: kinks and ties are tested by name. */
function gridValues(c: OperatorCase, random: Random): { values: Values; dims: Shapes } {
  const values = new Map<string, Float32Array>();
  const dims = new Map<string, readonly number[]>();
  for (const [i, operand] of c.inputs.entries()) {
    if (!isTensor(operand)) continue;
    const order = random.permutation(sizeOf(operand));
    const place = (k: number): number => {
      const value = ((k + 0.5) / order.length - 0.5) * (c.spread ?? 2) + (c.shift ?? 0) + i * 0.003;
      const apart = 2 * stepOf(c);
      const kink = c.kinks?.find((at) => Math.abs(value - at) < apart);
      return kink === undefined ? value : kink + apart;
    };
    values.set(`x${i}`, Float32Array.from(order, place));
    dims.set(`x${i}`, operand);
  }
  return { values, dims };
}

function tensorsOf(values: Values, dims: Shapes): Record<string, ort.Tensor> {
  return Object.fromEntries(
    [...values].map(([name, v]) => [name, new ort.Tensor('float32', v, dims.get(name) ?? [])]),
  );
}

interface Prepared {
  readonly forward: ort.InferenceSession;
  readonly backward: ort.InferenceSession;
  /** Outputs the objective reads, with their shapes. */
  readonly read: Shapes;
  /** Name of each input's gradient. */
  readonly gradients: ReadonlyMap<string, string>;
}

/** Compiles the operator and, by the engine, its gradients given those of its outputs. */
async function prepare(c: OperatorCase, values: Values, dims: Shapes): Promise<Prepared> {
  const opset = c.opset ?? 18;
  const forward = new GraphBuilder('f/');
  const ys = write(forward, c);
  const names = (c.read ?? ys.map((_, i) => i)).map((i) => ys[i] ?? '');
  const feeds = tensorsOf(values, dims);
  const traced = await trace({ graph: forward.graph('f'), opset, feeds, outputs: names });
  const read = new Map(names.map((y) => [y, traced.facts.get(y)?.dims ?? []]));
  for (const [y, shape] of read) forward.output(y, shape);
  const builder = new GraphBuilder();
  for (const [name, shape] of dims) builder.input(name, shape);
  const seeds = new Map([...read].map(([y, shape]) => [y, builder.input(`seed/${y}`, shape)]));
  const parameters = [...values.keys()];
  const blockSize = c.blocked ? await findBlockSize() : undefined;
  const found = differentiate({ forward: traced, seeds, parameters, builder, blockSize });
  const { gradients } = found;
  const { nodes, constants } = lower(found.nodes, traced.facts, blockSize);
  for (const [name, g] of gradients) builder.output(g, dims.get(name) ?? []);
  const own = builder.graph('g');
  const merged = revise(own, {
    node: [...nodes, ...own.node],
    initializer: [...traced.constants.values(), ...constants, ...own.initializer],
  });
  const open = (graph: GraphProto): Promise<ort.InferenceSession> =>
    ort.InferenceSession.create(writeModel(modelOf(graph, opset)), THREADS);
  return { forward: await open(forward.graph('f')), backward: await open(merged), read, gradients };
}

/** Σ_k y_k·r_k, summed in float64. */
function weighted(
  results: ort.InferenceSession.OnnxValueMapType,
  weights: ReadonlyMap<string, Float32Array>,
): number {
  let sum = 0;
  for (const [y, r] of weights) {
    const data = results[y]?.data as Float32Array;
    for (const [i, v] of data.entries()) sum += v * (r[i] ?? 0);
  }
  return sum;
}

/** The derivative of Σ_k y_k·r_k with fixed random r, by the engine and by central differences. */
export async function compareGradients(
  c: OperatorCase,
  seed: number,
): Promise<{ worst: number; gradients: Map<string, Float32Array> }> {
  const random = seededRandom(seed);
  const { values, dims } = gridValues(c, random);
  const { forward, backward, read, gradients } = await prepare(c, values, dims);
  const weights = new Map(
    [...read].map(([y, shape]) => [
      y,
      Float32Array.from({ length: sizeOf(shape) }, () => random.normal()),
    ]),
  );
  const seeds = new Map([...weights].map(([y, r]) => [`seed/${y}`, r]));
  const seedDims = new Map([...read].map(([y, shape]) => [`seed/${y}`, shape]));
  const results = await backward.run({
    ...tensorsOf(values, dims),
    ...tensorsOf(seeds, seedDims),
  });
  const objective = async (at: Values): Promise<number> =>
    weighted(await forward.run(tensorsOf(at, dims)), weights);
  const h = stepOf(c);
  const found = new Map<string, Float32Array>();
  let worst = 0;
  for (const [name, value] of values) {
    const gradient = results[gradients.get(name) ?? '']?.data as Float32Array | undefined;
    if (gradient?.length !== value.length)
      throw new Error(`${name} has a gradient of ${gradient?.length} values, not ${value.length}`);
    found.set(name, gradient);
    const scale = gradient.reduce((a, g) => Math.max(a, Math.abs(g)), 1);
    // Every value of small tensors; of larger ones in odd steps, which meet every column of even rows.
    const every =
      gradient.length <= MOST_CHECKED ? 1 : Math.floor(gradient.length / MOST_CHECKED) | 1;
    for (let k = 0; k < gradient.length; k += every) {
      const moved = (d: number): Values => {
        const changed = value.slice();
        changed[k] = (value[k] ?? 0) + d;
        return new Map(values).set(name, changed);
      };
      const numeric = ((await objective(moved(h))) - (await objective(moved(-h)))) / (2 * h);
      worst = Math.max(worst, Math.abs(numeric - (gradient[k] ?? 0)) / scale);
    }
  }
  await Promise.all([forward.release(), backward.release()]);
  return { worst, gradients: found };
}
