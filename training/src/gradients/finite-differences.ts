import { seededRandom } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import { differentiate } from '../differentiate.ts';
import { GraphBuilder, modelOf, type NodeOptions } from '../onnx/graph-builder.ts';
import { writeModel } from '../onnx/model-file.ts';
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
  | { readonly bools: readonly boolean[]; readonly dims: readonly number[] }
  | { readonly indices: readonly number[]; readonly dims: readonly number[]; readonly asFloat?: boolean }
  | undefined;

export interface OperatorCase {
  readonly op: string;
  readonly inputs: readonly Operand[];
  readonly attributes?: NonNullable<NodeOptions['attributes']>;
  readonly outputs?: number;
  /** Outputs the objective depends on; default all. */
  readonly read?: readonly number[];
  /** Added to every value of each float input, to keep off places without a derivative. */
  readonly shift?: number;
  /** Distance between the smallest and largest value; default 2. */
  readonly spread?: number;
  /** Step of the finite difference. */
  readonly step?: number;
  readonly opset?: number;
}

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

/** The derivative of Σ_k Σ y_k·r_k with fixed random r, by the engine and by central differences. */
export async function compareGradients(
  c: OperatorCase,
  seed: number,
): Promise<{ worst: number; gradients: Map<string, Float32Array> }> {
  const random = seededRandom(seed);
  const forward = new GraphBuilder('f/');
  const ys = write(forward, c);
  const read = (c.read ?? ys.map((_, i) => i)).map((i) => ys[i] ?? '');
  const values = new Map<string, Float32Array>();
  const dims = new Map<string, readonly number[]>();
  for (const [i, operand] of c.inputs.entries()) {
    if (!isTensor(operand)) continue;
    // Values on a grid, all different: kinks and ties are tested by name.
    const order = random.permutation(sizeOf(operand));
    const spread = Float32Array.from(
      order,
      (k) => ((k + 0.5) / order.length - 0.5) * (c.spread ?? 2) + (c.shift ?? 0) + i * 0.003,
    );
    values.set(`x${i}`, spread);
    dims.set(`x${i}`, operand);
  }
  const tensors = (at: ReadonlyMap<string, Float32Array>): Record<string, ort.Tensor> =>
    Object.fromEntries(
      [...at].map(([name, v]) => [name, new ort.Tensor('float32', v, dims.get(name) ?? [])]),
    );
  const opset = c.opset ?? 18;
  const graph = forward.graph('f');
  const traced = await trace({ graph, opset, feeds: tensors(values), outputs: read });
  for (const y of read) forward.output(y, traced.facts.get(y)?.dims ?? []);

  const builder = new GraphBuilder();
  for (const [name, shape] of dims) builder.input(name, shape);
  const seeds = new Map(read.map((y, k) => [y, builder.input(`seed${k}`, traced.facts.get(y)?.dims ?? [])]));
  const { nodes, gradients } = differentiate({
    forward: traced,
    seeds,
    parameters: [...values.keys()],
    builder,
  });
  for (const [name, g] of gradients) builder.output(g, dims.get(name) ?? []);
  const own = builder.graph('g');
  const merged = revise(own, {
    node: [...nodes, ...own.node],
    initializer: [...traced.constants.values(), ...own.initializer],
  });
  const run = await ort.InferenceSession.create(writeModel(modelOf(forward.graph('f'), opset)), THREADS);
  const back = await ort.InferenceSession.create(writeModel(modelOf(merged, opset)), THREADS);
  const weights = read.map((y) =>
    Float32Array.from({ length: sizeOf(traced.facts.get(y)?.dims ?? []) }, () => random.normal()),
  );
  const objective = async (at: ReadonlyMap<string, Float32Array>): Promise<number> => {
    const out = await run.run(tensors(at));
    let sum = 0;
    for (const [k, y] of read.entries()) {
      const data = out[y]?.data as Float32Array;
      for (const [i, v] of data.entries()) sum += v * (weights[k]?.[i] ?? 0);
    }
    return sum;
  };
  const results = await back.run({
    ...tensors(values),
    ...Object.fromEntries(
      read.map((y, k) => [
        `seed${k}`,
        new ort.Tensor('float32', weights[k] ?? new Float32Array(), [
          ...(traced.facts.get(y)?.dims ?? []),
        ]),
      ]),
    ),
  });
  let worst = 0;
  const found = new Map<string, Float32Array>();
  const h = c.step ?? 2e-3;
  for (const [name, value] of values) {
    const gradient = results[gradients.get(name) ?? '']?.data as Float32Array | undefined;
    if (gradient?.length !== value.length)
      throw new Error(`${name} has a gradient of ${gradient?.length} values, not ${value.length}`);
    found.set(name, gradient);
    const scale = gradient.reduce((a, g) => Math.max(a, Math.abs(g)), 1);
    for (let k = 0; k < gradient.length; k += Math.max(1, gradient.length >> 4)) {
      const moved = (d: number): Map<string, Float32Array> =>
        new Map([...values].map(([n, v]) => [n, n === name ? v.map((x, j) => (j === k ? x + d : x)) : v]));
      const numeric = ((await objective(moved(h))) - (await objective(moved(-h)))) / (2 * h);
      worst = Math.max(worst, Math.abs(numeric - (gradient[k] ?? 0)) / scale);
    }
  }
  await Promise.all([run.release(), back.release()]);
  return { worst, gradients: found };
}
