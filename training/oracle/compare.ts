import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Batch, Trainer } from '../src/index.ts';

/** One run of ten steps in PyTorch. */
interface Run {
  readonly losses: readonly number[];
  /** Of the first step, by PyTorch's name. */
  readonly gradients: Readonly<Record<string, string>>;
  /** Parameters after the last step. */
  readonly end: Readonly<Record<string, string>>;
}

/** What PyTorch did with a model: `torch_models.py` writes it. Arrays are base64 of float32. */
interface Trace {
  readonly batch: number;
  readonly loss: 'softmax-cross-entropy' | 'mean-squared-error';
  readonly inputs: string;
  readonly integers: boolean;
  readonly targets: string;
  readonly start: Readonly<Record<string, string>>;
  readonly float32: Run;
  readonly float64: Run;
}

/** Distances from PyTorch in float64, each relative to the largest value of its tensor. */
export interface Distance {
  readonly loss: number;
  readonly gradients: number;
  readonly parameters: number;
}

export interface Comparison {
  readonly model: string;
  readonly optimizer: string;
  readonly tensors: number;
  readonly engine: Distance;
  /** PyTorch's own float32: what rounding alone does to this model. */
  readonly torch: Distance;
  /** Within 1e-4 everywhere, or as close as PyTorch's float32 is (three times its distance). */
  readonly agrees: boolean;
}

const TOLERANCE = 1e-4;

function bytes(text: string): ArrayBuffer {
  return new Uint8Array(Buffer.from(text, 'base64')).buffer;
}

function floats(text: string | undefined): Float32Array {
  return new Float32Array(bytes(text ?? ''));
}

function largest(values: ArrayLike<number>): number {
  return Array.prototype.reduce.call(
    values,
    (a: unknown, v: unknown) => Math.max(Number(a), Math.abs(Number(v))),
    0,
  ) as number;
}

/** Largest difference, relative to the largest wanted value, but to `floor` at least. */
function relative(got: ArrayLike<number>, wanted: ArrayLike<number>, floor: number): number {
  const difference = Float64Array.from(wanted, (v, i) => (got[i] ?? Number.NaN) - v);
  const worst = largest(difference);
  return Number.isNaN(worst) ? Number.POSITIVE_INFINITY : worst / Math.max(floor, largest(wanted));
}

function transposed(values: Float32Array, rows: number): Float32Array {
  const columns = values.length / rows;
  return values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)] ?? 0);
}

interface Source {
  readonly name: string;
  readonly turned: boolean;
}

/** PyTorch's name of a parameter, found by its first values when the exporter renamed it. */
function sourceOf(name: string, first: Float32Array, trace: Trace, rows: number): Source {
  if (name in trace.start) return { name, turned: false };
  for (const [candidate, text] of Object.entries(trace.start)) {
    const values = floats(text);
    if (values.length !== first.length) continue;
    if (relative(first, values, 1) === 0) return { name: candidate, turned: false };
    if (relative(transposed(first, rows), values, 1) === 0)
      return { name: candidate, turned: true };
  }
  throw new Error(`parameter ${name} is none of PyTorch's`);
}

type Tensors = ReadonlyMap<string, ArrayLike<number>>;

function distance(
  run: { losses: readonly number[]; gradients: Tensors; end: Tensors },
  exact: Run,
): Distance {
  const overall = Math.max(...Object.values(exact.gradients).map((g) => largest(floats(g))));
  const worst = (got: Tensors, wanted: Readonly<Record<string, string>>, floor: number): number =>
    Math.max(...[...got].map(([name, values]) => relative(values, floats(wanted[name]), floor)));
  return {
    loss: Math.max(
      ...run.losses.map(
        (l, i) =>
          Math.abs(l - (exact.losses[i] ?? 0)) / Math.max(1e-3, Math.abs(exact.losses[i] ?? 0)),
      ),
    ),
    gradients: worst(run.gradients, exact.gradients, overall * 1e-3),
    parameters: worst(run.end, exact.end, 1e-2),
  };
}

function decoded(record: Readonly<Record<string, string>>): Tensors {
  return new Map(Object.entries(record).map(([name, text]) => [name, floats(text)]));
}

function batchesOf(trace: Trace): Batch[] {
  const inputs = trace.integers ? new BigInt64Array(bytes(trace.inputs)) : floats(trace.inputs);
  const targets =
    trace.loss === 'mean-squared-error'
      ? floats(trace.targets)
      : new BigInt64Array(bytes(trace.targets));
  const steps = trace.float64.losses.length;
  const part = <T extends Float32Array | BigInt64Array>(all: T, step: number): T => {
    const length = all.length / steps;
    return all.slice(step * length, (step + 1) * length) as T;
  };
  return trace.float64.losses.map((_, step) => ({
    inputs: part(inputs, step),
    targets: part(targets, step),
    size: trace.batch,
  }));
}

async function compare(dir: string, model: string, optimizer: string): Promise<Comparison> {
  const trace = JSON.parse(readFileSync(join(dir, `${model}.${optimizer}.json`), 'utf8')) as Trace;
  const trainer = await Trainer.create({
    model: readFileSync(join(dir, `${model}.onnx`)),
    loss: trace.loss,
    optimizer:
      optimizer === 'sgd'
        ? { name: 'sgd', learningRate: 0.02, momentum: 0.9, weightDecay: 0.01 }
        : { name: 'adam', learningRate: 0.002, epsilon: 1e-5 },
  });
  const first = trainer.getParameters();
  const shapes = new Map(trainer.parameters.map((p) => [p.name, p.shape]));
  const asTorch = (tensors: ReadonlyMap<string, Float32Array>): Tensors =>
    new Map(
      [...tensors].map(([name, values]) => {
        const rows = shapes.get(name)?.[0] ?? 1;
        const source = sourceOf(name, first.get(name) ?? values, trace, rows);
        return [source.name, source.turned ? transposed(values, rows) : values];
      }),
    );
  const batches = batchesOf(trace);
  const [head] = batches;
  if (!head) throw new Error(`${model}: the trace has no steps`);
  const { gradients } = await trainer.gradients(head);
  const losses: number[] = [];
  for (const batch of batches) losses.push((await trainer.step(batch)).loss);
  const own = { losses, gradients: asTorch(gradients), end: asTorch(trainer.getParameters()) };
  await trainer.release();
  const { float32, float64 } = trace;
  const engine = distance(own, float64);
  const torch = distance(
    { losses: float32.losses, gradients: decoded(float32.gradients), end: decoded(float32.end) },
    float64,
  );
  const kinds = ['loss', 'gradients', 'parameters'] as const;
  const agrees = kinds.every((k) => engine[k] <= Math.max(TOLERANCE, 3 * torch[k]));
  return { model, optimizer, tensors: first.size, engine, torch, agrees };
}

/** Trains every exported model as PyTorch did and compares losses, gradients and parameters. */
export async function compareAll(dir: string): Promise<Comparison[]> {
  const results: Comparison[] = [];
  for (const file of readdirSync(dir).toSorted()) {
    const [, model = '', optimizer = ''] = /^(.+)\.(\w+)\.json$/.exec(file) ?? [];
    if (model !== '') results.push(await compare(dir, model, optimizer));
  }
  return results;
}

/** One line per model and optimizer, for people. */
export function describe(c: Comparison): string {
  const e = (v: number): string => v.toExponential(1);
  const line = (d: Distance): string => `${e(d.loss)} ${e(d.gradients)} ${e(d.parameters)}`;
  return `${c.model.padEnd(20)} ${c.optimizer.padEnd(5)} ${String(c.tensors).padStart(4)} tensors  engine ${line(c.engine)}  torch float32 ${line(c.torch)}  ${c.agrees ? 'agrees' : 'DIFFERS'}`;
}
