import { ShoalError } from '@shoal/core';
import type { TrainingData } from '@shoal/lib';
import { type Batch, inspectModel } from '@shoal/training';

/** One input of a model, as a file of numbers feeds it. */
interface FedInput {
  readonly name: string;
  /** Shape of one sample. */
  readonly shape: readonly number[];
  /** Whether its values are whole numbers: tokens, categories. */
  readonly isWhole: boolean;
}

/** What a model is fed. */
export interface Fed {
  readonly inputs: readonly FedInput[];
  /** Shape of a sample of the data: the input's, or as many values as several inputs have together. */
  readonly shape: readonly number[];
  /** The batch, where the model has it fixed. */
  readonly batch: number | undefined;
}

function valuesOf(shape: readonly number[]): number {
  return shape.reduce((n, d) => n * d, 1);
}

/**
 * @throws ShoalError `unsupported` for an input that a file of numbers cannot feed; `invalid_argument` for one whose
 *   size is not known.
 */
export async function fedOf(
  file: string,
  dimensions: Readonly<Record<string, number>>,
): Promise<Fed> {
  const { inputs: given } = await inspectModel({ model: file, dimensions });
  let batch: number | undefined;
  const inputs = given.map(({ name, type, dims }) => {
    if (type !== 'float' && type !== 'int64')
      throw new ShoalError(
        'unsupported',
        `input "${name}" of ${file} is ${type}; this command feeds float and int64`,
      );
    const [first, ...rest] = dims;
    if (typeof first === 'number' && first > 0) batch = first;
    const shape = rest.map((d, i) => {
      if (typeof d === 'number' && d > 0) return d;
      const place = `${name}.${i + 1}`;
      const size = dimensions[String(d)] ?? dimensions[place];
      if (size !== undefined) return size;
      throw new ShoalError(
        'invalid_argument',
        `dimension ${i + 1} of input "${name}" of ${file} has no fixed size; give it one: --dimension ${typeof d === 'string' && d !== '?' ? d : place}=SIZE`,
      );
    });
    return { name, shape, isWhole: type === 'int64' };
  });
  const [only, ...others] = inputs;
  const together = inputs.reduce((n, i) => n + valuesOf(i.shape), 0);
  return { inputs, shape: only && others.length === 0 ? only.shape : [together], batch };
}

/** Samples, and the inputs their values go to, in this order. */
export interface FedData extends TrainingData {
  readonly fed: Fed;
  /** The class that marks what does not count. */
  readonly ignored?: number | undefined;
}

/** What the mean over a batch is a mean over: its samples, or those of their places that count. */
export function weightOf(
  { targets, targetWidth, ignored }: FedData,
  positions: Uint32Array,
): number {
  if (ignored === undefined) return positions.length;
  let count = 0;
  for (const at of positions)
    for (let k = at * targetWidth; k < (at + 1) * targetWidth; k++)
      if (Math.round(targets[k] ?? ignored) !== ignored) count++;
  return count;
}

/** @throws ShoalError `invalid_argument` when the samples have not as many values as the inputs together. */
export function fedData(data: TrainingData, fed: Fed, path: string): FedData {
  const values = data.inputs.length / data.size;
  const wanted = valuesOf(fed.shape);
  if (fed.inputs.length > 1 && values !== wanted) {
    const parts = fed.inputs.map((i) => `${i.name} ${valuesOf(i.shape)}`).join(', ');
    throw new ShoalError(
      'invalid_argument',
      `a sample of ${path} has ${values} values, the inputs take ${wanted}, in this order: ${parts}`,
    );
  }
  return { ...data, fed };
}

/** The samples at some positions as a batch the trainer takes. */
export function batchOf(data: FedData, positions: Uint32Array, loss: string): Batch {
  const { inputs, targets, size, targetWidth, fed } = data;
  const width = inputs.length / size;
  let from = 0;
  const cut = ({ shape, isWhole }: FedInput): Float32Array | BigInt64Array => {
    const own = fed.inputs.length === 1 ? width : valuesOf(shape);
    const values = new Float32Array(positions.length * own);
    for (const [i, at] of positions.entries()) {
      const start = at * width + from;
      values.set(inputs.subarray(start, start + own), i * own);
    }
    from += own;
    return isWhole ? BigInt64Array.from(values, (v) => BigInt(Math.round(v))) : values;
  };
  const goals = new Float32Array(positions.length * targetWidth);
  for (const [i, at] of positions.entries())
    goals.set(targets.subarray(at * targetWidth, (at + 1) * targetWidth), i * targetWidth);
  return {
    inputs: Object.fromEntries(fed.inputs.map((input) => [input.name, cut(input)])),
    targets:
      loss === 'softmax-cross-entropy'
        ? BigInt64Array.from(goals, (v) => BigInt(Math.round(v)))
        : goals,
    size: positions.length,
  };
}
