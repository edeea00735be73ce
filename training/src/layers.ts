import { type Random, ShoalError } from '@shoal/core';
import { heNormal, type Initializer } from './initializers.ts';
import { GraphBuilder, modelOf } from './onnx/graph-builder.ts';
import { writeModel } from './onnx/model-file.ts';
import { DATA_TYPE, floatTensor, sizeOf } from './onnx/tensor-data.ts';

/** A value of a model under construction. */
export interface Value {
  readonly name: string;
  /** Shape of one sample, without the batch. */
  readonly shape: readonly number[];
  readonly model: Scope;
}

interface Scope {
  readonly builder: GraphBuilder;
  readonly random: Random;
  /** Layers made so far; a layer with parameters names them after its number. */
  layers: number;
}

/** One layer: takes a value, gives one. */
export type Layer = (input: Value) => Value;

function parameter(x: Value, kind: string, dims: readonly number[], values: Float32Array): string {
  const name = `layer${x.model.layers}.${kind}`;
  x.model.builder.initializers.push(floatTensor(name, dims, values));
  return name;
}

/** Counts the layer once its parameters are named. */
function done(x: Value, name: string, shape: readonly number[]): Value {
  x.model.layers++;
  return { name, shape, model: x.model };
}

function misfit(layer: string, x: Value, wanted: string): never {
  throw new ShoalError(
    'invalid_argument',
    `${layer} (layer ${x.model.layers}) needs ${wanted}, got a sample of shape [${x.shape.join(', ')}]`,
  );
}

export interface DenseOptions {
  /** Default He normal. */
  readonly initializer?: Initializer;
  /** Default true. */
  readonly bias?: boolean;
}

/** Fully connected layer over the last axis: y = xWᵀ + b. Input `[…, features]`, output `[…, units]`. */
export function dense(units: number, options: DenseOptions = {}): Layer {
  return (x) => {
    const { builder, random } = x.model;
    const features = x.shape.at(-1) ?? 0;
    if (x.shape.length > 2 || x.shape.length === 0)
      misfit('dense', x, 'a flat input; put flatten() before it');
    const make = options.initializer ?? heNormal;
    const dims = [units, features];
    const weight = parameter(x, 'weight', dims, make(random, dims));
    const bias =
      options.bias === false ? '' : parameter(x, 'bias', [units], new Float32Array(units));
    if (x.shape.length === 1) {
      const inputs = bias === '' ? [x.name, weight] : [x.name, weight, bias];
      return done(x, builder.node('Gemm', inputs, { transB: 1 }), [units]);
    }
    const product = builder.node('MatMul', [
      x.name,
      builder.node('Transpose', [weight], { perm: [1, 0] }),
    ]);
    const y = bias === '' ? product : builder.node('Add', [product, bias]);
    return done(x, y, [...x.shape.slice(0, -1), units]);
  };
}

export interface ConvolutionOptions {
  /** Default 1. */
  readonly stride?: number;
  /** Cells of zeros around the input. Default 0. */
  readonly padding?: number;
  /** Distance between cells of the kernel. Default 1. */
  readonly dilation?: number;
  /** Groups of channels convolved apart; as many as channels make it depthwise. Default 1. */
  readonly groups?: number;
  /** Default true. */
  readonly bias?: boolean;
  /** Default He normal. */
  readonly initializer?: Initializer;
}

function convolution(
  axes: number,
  filters: number,
  kernel: number,
  options: ConvolutionOptions,
): Layer {
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
  return (x) => {
    const [channels = 0, ...spatial] = x.shape;
    if (spatial.length !== axes) misfit(`conv${axes}d`, x, `[channels, ${axes} spatial axes]`);
    if (channels % groups !== 0 || filters % groups !== 0)
      misfit(`conv${axes}d`, x, `channels and filters divisible by ${groups} groups`);
    const { builder, random } = x.model;
    const each = (value: number): number[] => spatial.map(() => value);
    const dims = [filters, channels / groups, ...each(kernel)];
    const weight = parameter(x, 'weight', dims, (options.initializer ?? heNormal)(random, dims));
    const inputs = [x.name, weight];
    if (options.bias !== false)
      inputs.push(parameter(x, 'bias', [filters], new Float32Array(filters)));
    const y = builder.node('Conv', inputs, {
      kernel_shape: each(kernel),
      strides: each(stride),
      dilations: each(dilation),
      pads: [...each(padding), ...each(padding)],
      group: groups,
    });
    const reach = (kernel - 1) * dilation + 1;
    const out = spatial.map((n) => Math.floor((n + 2 * padding - reach) / stride) + 1);
    return done(x, y, [filters, ...out]);
  };
}

/** One-dimensional convolution. Input `[channels, length]`. */
export function conv1d(filters: number, kernel: number, options: ConvolutionOptions = {}): Layer {
  return convolution(1, filters, kernel, options);
}

/** Two-dimensional convolution. Input `[channels, height, width]`. */
export function conv2d(filters: number, kernel: number, options: ConvolutionOptions = {}): Layer {
  return convolution(2, filters, kernel, options);
}

/** Maximum over non-overlapping `size` × `size` windows. */
export function maxPool2d(size: number): Layer {
  return pool('MaxPool', size);
}

/** Mean over non-overlapping `size` × `size` windows. */
export function averagePool2d(size: number): Layer {
  return pool('AveragePool', size);
}

function pool(op: string, size: number): Layer {
  return (x) => {
    const [channels = 0, ...spatial] = x.shape;
    const window = spatial.map(() => size);
    const y = x.model.builder.node(op, [x.name], { kernel_shape: window, strides: window });
    return done(x, y, [channels, ...spatial.map((n) => Math.floor(n / size))]);
  };
}

/** Mean over all positions of each channel: `[channels, …]` → `[channels]`. */
export function globalAveragePool(): Layer {
  return (x) => {
    const { builder } = x.model;
    const pooled = builder.node('GlobalAveragePool', [x.name]);
    return done(x, builder.node('Flatten', [pooled], { axis: 1 }), x.shape.slice(0, 1));
  };
}

/** Normalizes each channel over the batch (Ioffe & Szegedy 2015); running statistics in use. */
export function batchNorm(
  options: { readonly momentum?: number; readonly epsilon?: number } = {},
): Layer {
  return (x) => {
    const [channels = 0] = x.shape;
    const vector = (kind: string, value: number): string =>
      parameter(x, kind, [channels], new Float32Array(channels).fill(value));
    const inputs = [
      x.name,
      vector('scale', 1),
      vector('bias', 0),
      vector('running_mean', 0),
      vector('running_var', 1),
    ];
    const y = x.model.builder.node('BatchNormalization', inputs, {
      momentum: { float: options.momentum ?? 0.9 },
      epsilon: { float: options.epsilon ?? 1e-5 },
    });
    return done(x, y, x.shape);
  };
}

/** Normalizes the last axis of each sample (Ba et al. 2016). */
export function layerNorm(options: { readonly epsilon?: number } = {}): Layer {
  return (x) => {
    const features = x.shape.at(-1) ?? 0;
    const vector = (kind: string, value: number): string =>
      parameter(x, kind, [features], new Float32Array(features).fill(value));
    const y = x.model.builder.node(
      'LayerNormalization',
      [x.name, vector('scale', 1), vector('bias', 0)],
      { axis: -1, epsilon: { float: options.epsilon ?? 1e-5 } },
    );
    return done(x, y, x.shape);
  };
}

/** Sets values to zero at random while training (Srivastava et al. 2014). @param rate In [0, 1). */
export function dropout(rate: number): Layer {
  if (!(rate >= 0 && rate < 1))
    throw new ShoalError('invalid_argument', `a dropout rate must be in [0, 1), got ${rate}`);
  return (x) =>
    done(x, x.model.builder.node('Dropout', [x.name, x.model.builder.float(rate)]), x.shape);
}

/** Rows of a table by index. Input: int64 indices `[…]`, output `[…, width]`. */
export function embedding(entries: number, width: number, initializer?: Initializer): Layer {
  return (x) => {
    const dims = [entries, width];
    const make: Initializer =
      initializer ??
      ((random) => Float32Array.from({ length: entries * width }, () => random.normal()));
    const table = parameter(x, 'weight', dims, make(x.model.random, dims));
    return done(x, x.model.builder.node('Gather', [table, x.name], { axis: 0 }), [
      ...x.shape,
      width,
    ]);
  };
}

function activation(op: string): () => Layer {
  return () => (x) => done(x, x.model.builder.node(op, [x.name]), x.shape);
}

/** max(x, 0) */
export const relu: () => Layer = activation('Relu');
/** tanh x */
export const tanh: () => Layer = activation('Tanh');
/** 1/(1 + e⁻ˣ) */
export const sigmoid: () => Layer = activation('Sigmoid');

/** x·Φ(x) (Hendrycks & Gimpel 2016), written with Erf. */
export function gelu(): Layer {
  return (x) => {
    const { builder } = x.model;
    const scaled = builder.node('Mul', [x.name, builder.float(Math.SQRT1_2)]);
    const cdf = builder.node('Add', [builder.node('Erf', [scaled]), builder.float(1)]);
    const half = builder.node('Mul', [x.name, builder.float(0.5)]);
    return done(x, builder.node('Mul', [half, cdf]), x.shape);
  };
}

/** Everything but the batch in one dimension. */
export function flatten(): Layer {
  return (x) => done(x, x.model.builder.node('Flatten', [x.name], { axis: 1 }), [sizeOf(x.shape)]);
}

/** Another shape of the same size, without the batch. */
export function reshape(...shape: number[]): Layer {
  return (x) => {
    if (sizeOf(shape) !== sizeOf(x.shape)) misfit('reshape', x, `${sizeOf(shape)} values`);
    const { builder } = x.model;
    return done(x, builder.node('Reshape', [x.name, builder.ints([-1, ...shape])]), shape);
  };
}

/** x + f(x): the layers around a shortcut (He et al. 2016). */
export function residual(...layers: readonly Layer[]): Layer {
  return (x) => add(x, chain(layers)(x));
}

/** Layers one after another as one. */
export function chain(layers: readonly Layer[]): Layer {
  return (x) => layers.reduce((value, layer) => layer(value), x);
}

/** Sum of two values of one shape. */
export function add(a: Value, b: Value): Value {
  if (a.shape.join() !== b.shape.join())
    misfit('add', b, `the shape of the other operand, [${a.shape.join(', ')}]`);
  return done(a, a.model.builder.node('Add', [a.name, b.name]), a.shape);
}

/** Values joined along an axis of the sample (0 is the first after the batch). */
export function concatenate(values: readonly Value[], axis = 0): Value {
  const [first] = values;
  if (!first) throw new ShoalError('invalid_argument', 'nothing to concatenate');
  const shape = first.shape.map((d, i) =>
    i === axis ? values.reduce((n, v) => n + (v.shape[axis] ?? 0), 0) : d,
  );
  const names = values.map((v) => v.name);
  return done(first, first.model.builder.node('Concat', names, { axis: axis + 1 }), shape);
}

export interface FunctionalOptions {
  /** Shape of one sample, without the batch. */
  readonly input: readonly number[];
  /** Element type of the input: `int64` for indices. Default `float32`. */
  readonly inputType?: 'float32' | 'int64';
  /** Source of the initial weights; the same stream gives the same model. */
  readonly random: Random;
}

/**
 * Builds an ONNX model with input `input` `[batch, …]` and output `output` from a function of
 * values: branches and shortcuts are plain code.
 *
 * @example
 * functional({ input: [3, 32, 32], random: seededRandom(1) }, (x) => {
 *   const a = conv2d(8, 3, { padding: 1 })(x);
 *   return dense(10)(globalAveragePool()(add(a, relu()(a))));
 * })
 */
export function functional(options: FunctionalOptions, make: (input: Value) => Value): Uint8Array {
  const builder = new GraphBuilder('');
  const type = options.inputType === 'int64' ? DATA_TYPE.int64 : DATA_TYPE.float;
  const name = builder.input('input', ['batch', ...options.input], type);
  const model: Scope = { builder, random: options.random, layers: 0 };
  const last = make({ name, shape: options.input, model });
  const output = builder.node('Identity', [last.name], {}, 'output');
  builder.output(output, ['batch', ...last.shape]);
  return writeModel(modelOf(builder.graph('model'), 17));
}

export interface SequentialOptions extends FunctionalOptions {
  readonly layers: readonly Layer[];
}

/**
 * Builds an ONNX model from layers one after another.
 *
 * @example
 * sequential({ input: [1, 28, 28], random: seededRandom(1),
 *   layers: [conv2d(8, 3), relu(), maxPool2d(2), flatten(), dense(10)] })
 */
export function sequential(options: SequentialOptions): Uint8Array {
  return functional(options, chain(options.layers));
}
