import { ShoalError } from '@shoal/core';
import * as ort from 'onnxruntime-node';
import type { TargetSpec } from './losses/loss.ts';
import { DATA_TYPE, sizeOf } from './onnx/tensor-data.ts';
import { type ModelInput, targetName } from './plan.ts';

export type InputValues = Float32Array | BigInt64Array | Int32Array | Uint8Array;

/** One batch. */
export interface Batch {
  /** Flattened input, row-major; one per input, by name, when the model has several. */
  readonly inputs: InputValues | Readonly<Record<string, InputValues>>;
  /**
   * What the loss compares with: class indices for cross-entropy, values for mean squared error;
   * by name for losses that want several (see the loss).
   */
  readonly targets:
    | BigInt64Array
    | Float32Array
    | Readonly<Record<string, BigInt64Array | Float32Array>>;
  /** Number of samples. */
  readonly size: number;
}

export type Feeds = Record<string, ort.Tensor>;

/** What the runtime calls the element types that can be fed. */
export const TYPE_NAMES: Readonly<Record<number, 'float32' | 'int64' | 'int32' | 'bool'>> = {
  [DATA_TYPE.float]: 'float32',
  [DATA_TYPE.int64]: 'int64',
  [DATA_TYPE.int32]: 'int32',
  [DATA_TYPE.bool]: 'bool',
};

/** A float32 tensor over `values`; nothing is copied. */
export function floats(values: Float32Array, dims: readonly number[]): ort.Tensor {
  return new ort.Tensor('float32', values, dims);
}

/** Zeros in the shape of an input. */
export function zeroInput({ elementType, rest }: ModelInput, batch: number): ort.Tensor {
  const dims = [batch, ...rest];
  const size = sizeOf(dims);
  switch (elementType) {
    case DATA_TYPE.int64:
      return new ort.Tensor('int64', new BigInt64Array(size), dims);
    case DATA_TYPE.int32:
      return new ort.Tensor('int32', new Int32Array(size), dims);
    case DATA_TYPE.bool:
      return new ort.Tensor('bool', new Uint8Array(size), dims);
    default:
      return floats(new Float32Array(size), dims);
  }
}

const ARRAY_NAMES = {
  float32: 'Float32Array',
  int64: 'BigInt64Array',
  int32: 'Int32Array',
  bool: 'Uint8Array',
} as const;

/** A tensor to feed, checked against what the graph wants. */
function fed(
  what: string,
  values: InputValues,
  wanted: { readonly elementType: number; readonly dims: readonly number[] },
): ort.Tensor {
  const type = TYPE_NAMES[wanted.elementType] ?? 'float32';
  if (values.constructor.name !== ARRAY_NAMES[type]) {
    throw new ShoalError(
      'invalid_argument',
      `${what} is ${type}; pass a ${ARRAY_NAMES[type]}, not a ${values.constructor.name}`,
    );
  }
  if (values.length !== sizeOf(wanted.dims)) {
    const [size = 0, ...rest] = wanted.dims;
    throw new ShoalError(
      'invalid_argument',
      `the batch has ${values.length} values of ${what}; ${size} samples of shape [${rest.join(', ')}] need ${sizeOf(wanted.dims)}`,
    );
  }
  return new ort.Tensor(type, values as Float32Array, wanted.dims);
}

/** The named array of a batch, or the only one. */
function named<T extends object>(
  given: T | Readonly<Record<string, T>>,
  name: string,
  { only, what }: { readonly only: boolean; readonly what: string },
): T {
  if (ArrayBuffer.isView(given)) {
    if (only) return given as T;
    throw new ShoalError(
      'invalid_argument',
      `there are several ${what}; pass them by name: { ${name}: … }`,
    );
  }
  const found = (given as Readonly<Record<string, T>>)[name];
  if (found) return found;
  const names = Object.keys(given).join(', ') || 'none';
  throw new ShoalError('invalid_argument', `the batch has no ${what} "${name}"; it has: ${names}`);
}

/** A label out of range would count as no label at all. */
function expectClasses(
  values: BigInt64Array | Float32Array,
  { classes, ignored, dims }: TargetSpec,
): void {
  if (classes === undefined || !(values instanceof BigInt64Array)) return;
  const none = ignored === undefined ? undefined : BigInt(ignored);
  const bad = values.findIndex((v) => v !== none && (v < 0n || v >= BigInt(classes)));
  if (bad < 0) return;
  const perSample = sizeOf(dims.slice(1));
  const place = perSample > 1 ? `, place ${bad % perSample},` : '';
  throw new ShoalError(
    'invalid_argument',
    `sample ${Math.floor(bad / perSample)} of the batch${place} has class ${values[bad]}; the model has classes 0 to ${classes - 1}${ignored === undefined ? '' : `, and ${ignored} is none`}`,
  );
}

/**
 * The tensors of a batch, by the names the graphs know them under.
 *
 * @throws ShoalError `invalid_argument` for a missing array, one of another type, or of another length.
 */
export function batchFeeds(
  batch: Batch,
  inputs: readonly ModelInput[],
  targets: Readonly<Record<string, TargetSpec>>,
): Feeds {
  const feeds: Feeds = {};
  for (const { name, elementType, rest } of inputs) {
    const only = inputs.length === 1;
    const values = named<InputValues>(batch.inputs, name, { only, what: 'inputs' });
    const wanted = { elementType, dims: [batch.size, ...rest] };
    feeds[name] = fed(only ? 'inputs' : `input "${name}"`, values, wanted);
  }
  const wanted = Object.entries(targets);
  for (const [name, spec] of wanted) {
    const only = wanted.length === 1;
    const values = named<BigInt64Array | Float32Array>(batch.targets, name, {
      only,
      what: 'targets',
    });
    expectClasses(values, spec);
    feeds[targetName(name)] = fed(name === 'targets' ? name : `target "${name}"`, values, spec);
  }
  return feeds;
}

/** One tensor behind the other, along a new first dimension; what lies so already is not copied. */
function stacked(tensors: readonly ort.Tensor[]): ort.Tensor {
  const [first] = tensors;
  if (!first) throw new Error('nothing to stack');
  const dims = [tensors.length, ...first.dims];
  const { data, type } = first as ort.TypedTensor<'float32'>;
  if (tensors.length === 1) return new ort.Tensor(type, data, dims);
  const lie = ({ data: own }: ort.Tensor, i: number): boolean =>
    ArrayBuffer.isView(own) &&
    own.buffer === data.buffer &&
    own.byteOffset === data.byteOffset + i * data.byteLength;
  if (tensors.every(lie)) {
    const row = data.constructor as new (b: ArrayBufferLike, o: number, n: number) => Float32Array;
    const length = data.length * tensors.length;
    return new ort.Tensor(type, new row(data.buffer, data.byteOffset, length), dims);
  }
  const all = new (data.constructor as Float32ArrayConstructor)(data.length * tensors.length);
  for (const [i, tensor] of tensors.entries())
    all.set(tensor.data as Float32Array, i * data.length);
  return new ort.Tensor(type, all, dims);
}

/** What several steps are fed, as one: equal names and shapes, stacked. */
export function stackFeeds(steps: readonly Feeds[]): Feeds {
  const names = Object.keys(steps[0] ?? {});
  return Object.fromEntries(
    names.map((name) => [name, stacked(steps.flatMap((feeds) => feeds[name] ?? []))]),
  );
}
